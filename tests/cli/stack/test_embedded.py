"""The embedded servers, on folders of their own."""

import contextlib
import os
import pwd
import shutil
import stat
import subprocess
import threading
from pathlib import Path

import psycopg
import pytest
import redis
from leadsweep.terminal.failure import Failure

from cli.stack import programs
from cli.stack.embedded import Embedded, free_port
from cli.stack.folder import secrets_key
from cli.stack.processes import spawn
from tests.support.stack import end, wait_for


def connect(servers):
    return psycopg.connect(servers.database_url, autocommit=True)


def test_what_was_written_and_the_ports_outlast_a_stop(tmp_path):
    with Embedded(tmp_path) as servers, connect(servers) as connection:
        connection.execute("CREATE TABLE kept (number int)")
        with redis.Redis.from_url(servers.broker_url) as client:
            client.set("kept", 1)
        ports = servers.ports
    with Embedded(tmp_path) as servers, connect(servers) as connection:
        assert servers.ports == ports
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
        with redis.Redis.from_url(servers.broker_url) as client:
            assert client.get("kept") == b"1"


def test_the_folder_may_be_called_anything(tmp_path):
    with (
        Embedded(tmp_path / ("deep/" * 30) / 'it\'s a "folder" \\ ключ') as servers,
        connect(servers) as connection,
    ):
        assert connection.execute("SHOW data_directory").fetchone() == (
            str(servers.data_dir / "postgres"),
        )


def test_both_run_as_nobody_under_root_and_else_as_the_user(servers):
    expected = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
    for process in (servers.postgres, servers.redis):
        assert Path(f"/proc/{process.pid}").stat().st_uid == expected


def test_both_listen_on_loopback_only_and_ask_for_the_password(servers):
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(
            host="127.0.0.1",
            port=servers.ports["postgres"],
            user="leadsweep",
            dbname="leadsweep",
            password="wrong",
        )
    with (
        redis.Redis(port=servers.ports["redis"]) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()
    with connect(servers) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)
    with redis.Redis.from_url(servers.broker_url) as client:
        assert client.config_get("bind") == {"bind": "127.0.0.1"}


def test_a_folder_in_use_is_refused_in_words(servers):
    with pytest.raises(Failure, match=r"is in use by a running stack; .* --data-dir"):
        Embedded(servers.data_dir)


def test_an_interrupted_set_up_is_made_anew(tmp_path):
    (tmp_path / "postgres.new").mkdir()
    (tmp_path / "postgres.new" / "PG_VERSION").write_text("18\n")
    (tmp_path / "ports.json").write_text("")
    with Embedded(tmp_path) as servers, connect(servers) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_dead_postgres_whose_pid_is_somebody_elses_now_does_not_stop_the_next(tmp_path):
    with Embedded(tmp_path) as servers:
        servers.postgres.kill()
        servers.postgres.wait()
    somebody = spawn(["sleep", "60"], tmp_path / "log", as_nobody=True)
    pid_file = tmp_path / "postgres" / "postmaster.pid"
    pid_file.write_text("\n".join([str(somebody.pid), *pid_file.read_text().split("\n")[1:]]))
    try:
        with Embedded(tmp_path) as servers, connect(servers) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        end(somebody)


def test_a_session_of_a_killed_postgres_is_waited_for_whatever_it_logs_meanwhile(tmp_path):
    def work(connection):
        with contextlib.suppress(psycopg.OperationalError):
            connection.execute(
                "DO $$ BEGIN WHILE clock_timestamp() < now() + interval '1.5 s' LOOP END LOOP;"
                " END $$"
            )

    def log_until(stopped):
        with (tmp_path / "logs" / "postgres.log").open("ab", buffering=0) as log:
            while not stopped.wait(0.001):
                log.write(b"FATAL:  terminating connection due to unexpected postmaster exit\n")

    with Embedded(tmp_path) as servers, connect(servers) as connection:
        worker = threading.Thread(target=work, args=(connection,))
        worker.start()
        with connect(servers) as other:
            wait_for(
                lambda: (
                    other.execute(
                        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO %'"
                    ).fetchone()
                    == (1,)
                )
            )
        servers.postgres.kill()
        servers.postgres.wait()
        stopped = threading.Event()
        logging = threading.Thread(target=log_until, args=(stopped,))
        logging.start()
        try:
            servers.start_postgres()
        finally:
            stopped.set()
            logging.join()
        assert not worker.is_alive() or not worker.join(5)
        with connect(servers) as after:
            assert after.execute("SELECT 1").fetchone() == (1,)
    assert "is still in use" in (tmp_path / "logs" / "postgres.log").read_text()


def test_a_server_that_cannot_start_says_why(tmp_path):
    with Embedded(tmp_path):
        pass
    (tmp_path / "postgres" / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(
        Failure, match=r"postgres did not start: .*postgresql.conf.* contains errors \(all of it: "
    ):
        Embedded(tmp_path).__enter__()


def test_a_free_port_can_be_listened_on():
    port = free_port()
    assert subprocess.run(
        ["python3", "-c", f"import socket; socket.create_server(('127.0.0.1', {port}))"], check=True
    )


def open_to_others(folder):
    """What of the folder's own things others could read or write, if the folders above let them
    pass.
    """
    paths = [folder, *folder.iterdir(), *(folder / "logs").iterdir()]
    return [path.relative_to(folder) for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o077]


@pytest.mark.parametrize("umask", [0, 0o022])
def test_folder_logs_and_all_that_is_written_are_private_whatever_was_there_before(tmp_path, umask):
    before = os.umask(umask)
    try:
        new, old = tmp_path / "not/there/yet", tmp_path / "there"
        (old / "logs").mkdir(parents=True)
        (old / "redis").mkdir()
        (old / "ports.json").write_text('{"postgres": 0, "redis": 0}')
        for name in ("password", "secrets_key", "logs/api.log", "logs/postgres.log"):
            (old / name).write_text("a")
        for path in (old, *old.rglob("*")):
            path.chmod(0o777)
        for folder in (new, old):
            with Embedded(folder):
                secrets_key(folder)
                assert open_to_others(folder) == []
            assert open_to_others(folder) == []
        assert stat.S_IMODE((tmp_path / "not").stat().st_mode) & 0o077 == 0
    finally:
        os.umask(before)


def test_a_child_writes_what_nobody_else_reads(tmp_path):
    before = os.umask(0)
    try:
        assert spawn(["sh", "-c", f"echo > {tmp_path}/made"], tmp_path / "log").wait() == 0
        assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("made", "log")] == [
            0o600,
            0o600,
        ]
    finally:
        os.umask(before)


def test_a_link_to_a_folder_of_ours_is_followed(tmp_path):
    (tmp_path / "big").mkdir(mode=0o755)
    (tmp_path / "stack").symlink_to("big")
    Embedded(tmp_path / "stack").stop()
    assert open_to_others(tmp_path / "big") == []


@pytest.mark.parametrize(
    "planted", [".", "logs", "password", "logs/api.log", "runtime.json", "lock"]
)
def test_what_belongs_to_somebody_else_is_refused_in_words(tmp_path, monkeypatch, planted):
    folder = tmp_path / "stack"
    (folder / "logs").mkdir(parents=True)
    path = folder / planted
    if not path.exists():
        path.symlink_to(tmp_path / "elsewhere")
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345, follow_symlinks=False)
    else:  # only root can give something away: seen from another user, all of it is somebody else's
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(
        Failure, match=r"belongs to another user \(uid \d+\); name another folder: --data-dir"
    ):
        Embedded(folder)
    assert not (tmp_path / "elsewhere").exists()


def modes(*paths):
    return [stat.S_IMODE(path.stat().st_mode) for path in paths]


def test_what_others_have_in_a_folder_of_ours_stays_as_it_is(tmp_path):
    script, folder, inside, log = (
        tmp_path / name for name in ("backup.sh", "lost+found", "lost+found/a", "logs/app.log")
    )
    Embedded(tmp_path).stop()
    folder.mkdir()
    for path in (script, inside, log):
        path.write_text("#!/bin/sh\n")
    for path in (script, folder, inside, log):
        path.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(folder, 12345, 12345)
        os.chown(script, 12345, 12345)
    Embedded(tmp_path).stop()
    assert modes(script, folder, inside, log) == [0o755] * 4


def test_a_folder_of_something_else_is_refused_before_anything_in_it_changes(tmp_path):
    (tmp_path / "logs").mkdir()
    script = tmp_path / "run.sh"
    script.write_text("#!/bin/sh\n")
    for path in (tmp_path, tmp_path / "logs", script):
        path.chmod(0o755)
    with pytest.raises(
        Failure,
        match=r"is not a stack's folder: it has run.sh; name one that is empty, .*--data-dir",
    ):
        Embedded(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "run.sh"]
    assert modes(tmp_path, tmp_path / "logs", script) == [0o755] * 3


def test_a_disk_of_its_own_need_not_be_empty(tmp_path):
    (tmp_path / "lost+found").mkdir()
    Embedded(tmp_path).stop()


def test_logs_may_be_a_link_and_are_as_private_there(tmp_path):
    there, folder = tmp_path / "there", tmp_path / "stack"
    there.mkdir()
    folder.mkdir()
    (there / "api.log").write_text("a")
    (there / "api.log").chmod(0o644)
    there.chmod(0o755)
    (folder / "logs").symlink_to(there)
    Embedded(folder).stop()
    assert modes(there, there / "api.log") == [0o700, 0o600]


def test_what_belongs_to_somebody_else_is_refused_before_anything_changes(tmp_path, monkeypatch):
    Embedded(tmp_path).stop()
    tmp_path.chmod(0o755)
    planted = tmp_path / "runtime.json"
    planted.touch()
    if os.geteuid() == 0:
        os.chown(planted, 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(Failure, match="belongs to another user"):
        Embedded(tmp_path)
    assert modes(tmp_path) == [0o755]


def program(folder, name, said):
    """A server of another version on PATH, which does nothing but say so."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho '{said}'\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("on_path", "bundled", "runs"),
    [
        ({"redis-server": "Redis server v=7.0.15 sha=0"}, True, "bundled"),
        ({"redis-server": "Redis server v=99.0.0 sha=0"}, True, "Redis 99.0.0, "),
        (
            {"valkey-server": "Valkey server v=99.0.0 sha=0"},
            True,
            "bundled",
        ),  # cannot read what a Redis has written
        (
            {"redis-server": "Valkey server v=99.0.0 sha=0"},
            True,
            "bundled",
        ),  # as some systems call it
        (
            {
                "redis-server": "Redis server v=7.0.15",
                "valkey-server": "Valkey server v=8.1.0 sha=0",
            },
            False,
            "Redis 7.0.15, ",
        ),
        (
            {
                "redis-server": "Redis server v=5.0.7 sha=0",
                "valkey-server": "Valkey server v=8.1.0 sha=0",
            },
            False,
            "Valkey 8.1.0, ",
        ),
        ({"redis-server": "not a server"}, True, "bundled"),
        ({}, True, "bundled"),
    ],
)
def test_the_bundled_redis_is_preferred_to_all_but_a_newer_one(
    tmp_path, monkeypatch, on_path, bundled, runs
):
    bundled_one = programs.which_redis()
    for name, said in on_path.items():
        program(tmp_path / "programs", name, said)
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    if not bundled:
        monkeypatch.setattr(programs, "_package_file", lambda *_: None)
    assert programs.which_redis().startswith(
        bundled_one if runs == "bundled" else f"{runs}{tmp_path}/programs/"
    )


def test_a_server_is_asked_for_its_version_once_and_not_for_ever(tmp_path, monkeypatch):
    on_path = tmp_path / "programs"
    program(
        on_path, "redis-server", f"Redis server v=99.0.0 sha=0'; echo asked >> '{tmp_path}/asked"
    )
    program(on_path, "valkey-server", "'; exec sleep '600")
    monkeypatch.setenv("PATH", f"{on_path}:{os.environ['PATH']}")
    monkeypatch.setattr(programs, "_VERSION_TIMEOUT", 0.5)
    assert [programs.which_redis() for _ in range(3)] == [
        f"Redis 99.0.0, {on_path}/redis-server"
    ] * 3
    assert (tmp_path / "asked").read_text() == "asked\n"


@pytest.mark.parametrize("former", ["Valkey 99.0.0", "Redis 99.0.0", None])
def test_files_that_another_redis_wrote_and_this_one_cannot_read_are_told_of_with_what_to_do(
    tmp_path, former
):
    with Embedded(tmp_path) as servers, redis.Redis.from_url(servers.broker_url) as client:
        client.set("kept", 1)
    ours = (tmp_path / "redis_version").read_text()
    assert programs.which_redis().startswith(f"{ours}, ")
    make_newer(tmp_path / "redis")
    (tmp_path / "redis_version").unlink()  # as of a stack of before
    if former:
        (tmp_path / "redis_version").write_text(former)
    for _ in range(2):
        with pytest.raises(Failure) as told, Embedded(tmp_path):
            pass
        assert told.value.wrong.startswith("redis did not start: ")
        expected = (
            f"{former or 'another one'} wrote what is in {tmp_path}/redis, "
            f"and {ours} runs now: remove that folder, "
        )
        assert told.value.mend.startswith(expected)
    shutil.rmtree(tmp_path / "redis")
    with Embedded(tmp_path):
        assert (tmp_path / "redis_version").read_text() == ours


def test_files_of_this_redis_that_are_broken_are_not_said_to_be_of_another(tmp_path):
    with Embedded(tmp_path):
        pass
    make_newer(tmp_path / "redis")
    with pytest.raises(Failure, match=r"^redis did not start: [^;]*$"), Embedded(tmp_path):
        pass


def test_files_that_another_redis_wrote_and_this_one_can_read_are_read(tmp_path):
    with Embedded(tmp_path) as servers, redis.Redis.from_url(servers.broker_url) as client:
        client.set("kept", 1)
    ours = (tmp_path / "redis_version").read_text()
    (tmp_path / "redis_version").write_text("Redis 6.2.0")
    with Embedded(tmp_path) as servers, redis.Redis.from_url(servers.broker_url) as client:
        assert client.get("kept") == b"1"
    assert (tmp_path / "redis_version").read_text() == ours


def make_newer(folder):
    """Gives the files of Redis the number of a form that none knows yet."""
    for path in folder.glob("appendonlydir/*.base.rdb"):
        path.write_bytes(b"REDIS9999" + path.read_bytes()[9:])


def test_files_of_another_postgresql_are_refused_in_words(tmp_path):
    with Embedded(tmp_path):
        pass
    (tmp_path / "postgres/PG_VERSION").write_text("17\n")
    with pytest.raises(
        Failure,
        match=r"are of PostgreSQL 17, and the one that is installed is 18; dump them .* --data-dir",
    ):
        Embedded(tmp_path).__enter__()
