"""Real PostgreSQL and Redis servers in a data folder, from binaries that pip brings, as children of
this process.

Both servers listen on loopback only, ask for a password that the data folder keeps, and end with
the process that started them, even if that is killed (PR_SET_PDEATHSIG). PostgreSQL refuses to run
as root, so root runs it as nobody; it keeps the one capability to pass through folders that are
closed to others.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import psycopg
from leadsweep.terminal.failure import Failure
from leadsweep.terminal.signals import uninterrupted

from cli.stack import folder, programs
from cli.stack.cluster import prepare
from cli.stack.processes import last_words, port_of, reserve_port, spawn, stop, write_private

Process = subprocess.Popen[bytes]

REDIS_STOP_TIMEOUT = 2  # seconds
START_TIMEOUT = 60  # seconds, for recovery after a crash; a healthy start takes less than one
_LOOK_SECONDS = 0.01  # between looks at a server that starts, which takes it a fifth of a second
_ANSWER_TIMEOUT = 2  # seconds for one answer of a server that starts

# Durability is PostgreSQL's own default: what is committed is on disk.
_POSTGRES_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    # A socket's path may not be longer than 107 bytes; data folders may.
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
}


def free_port() -> int:
    """A port on loopback that nobody listens on now."""
    with reserve_port() as held:
        return port_of(held)


def _reserve(port: int) -> socket.socket:
    """A reserved port on loopback: `port` if it is free, else another."""
    try:
        return reserve_port(port)
    except OSError:
        return reserve_port()


class Embedded:
    """The two servers of one data folder. As a context manager it starts them and stops them.

    Raises Failure if the folder is in use by another stack, or if a server does not start.
    """

    def __init__(self, data_dir: Path) -> None:
        """Makes the folder private, whatever its permissions were, and locks it. Starts nothing."""
        self.data_dir = data_dir.absolute()
        self.logs = self.data_dir / "logs"
        before = os.umask(0o077)  # for the folders above as well
        try:
            folder.claim(self.data_dir)
            self._lock = (self.data_dir / "lock").open("w")
        finally:
            os.umask(before)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise Failure(
                f"{data_dir} is in use by a running stack; stop it, or name another folder: "
                "--data-dir"
            ) from None
        self._password = folder.password(self.data_dir)
        self._held = {role: _reserve(port) for role, port in self._last_ports().items()}
        self.ports = {role: port_of(held) for role, held in self._held.items()}
        write_private(self.data_dir / "ports.json", json.dumps(self.ports))
        self.postgres: Process | None = None
        self.redis: Process | None = None
        self._postgres_log_bytes = 0  # the size of its log when it was started last
        self._redis_wrote = ""  # which Redis wrote what is in its folder; empty if there is nothing

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
            self.spawn_redis()
            self.spawn_postgres()
            self.wait_for_redis()
            self.wait_for_postgres()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stops both."""
        self.stop()

    def start_postgres(self) -> Process:
        """Starts PostgreSQL and waits until it answers."""
        self.spawn_postgres()
        return self.wait_for_postgres()

    def spawn_postgres(self) -> Process:
        """Starts PostgreSQL on its port, and does not wait until it answers."""
        cluster = self.data_dir / "postgres"
        prepare(cluster, self.data_dir / "password", self.logs / "initdb.log")
        command = [
            str(programs.postgres_program("postgres")),
            "-D",
            str(cluster),
            f"--port={self.ports['postgres']}",
            *(f"--{name}={value}" for name, value in _POSTGRES_OPTIONS.items()),
        ]
        log = self.logs / "postgres.log"
        self._postgres_log_bytes = log.stat().st_size if log.exists() else 0
        with uninterrupted():
            self.postgres = spawn(command, log, as_nobody=True)
        return self.postgres

    def wait_for_postgres(self) -> Process:
        """Waits until the PostgreSQL that was started answers. Raises Failure if it ends."""
        deadline = time.monotonic() + START_TIMEOUT
        log = self.logs / "postgres.log"
        while True:
            try:
                return self._wait_for("postgres", self.postgres, self._postgres_answers)
            except Failure:
                # Sessions of a PostgreSQL that was killed go on to the end of their statements, and
                # until then another would ruin the files. They write to the same log, so the reason
                # need not be its last line.
                output = log.read_bytes()[self._postgres_log_bytes :]
                if b"Terminate any old server processes" not in output:
                    raise
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)
            self.spawn_postgres()

    def start_redis(self) -> Process:
        """Starts Redis and waits until it answers."""
        self.spawn_redis()
        return self.wait_for_redis()

    def spawn_redis(self) -> Process:
        """Starts Redis on its port, and does not wait until it answers."""
        path = folder.own_folder(self.data_dir / "redis")
        self._redis_wrote = self._last_redis(path)
        settings = {
            "bind": "127.0.0.1",
            "port": self.ports["redis"],
            "requirepass": self._password,
            "dir": json.dumps(str(path), ensure_ascii=False),  # Redis quotes as JSON does
            "appendonly": "yes",
            "maxmemory-policy": "noeviction",
        }
        lines = "".join(f"{name} {value}\n" for name, value in settings.items())
        command = [str(programs.redis_program().path), "-"]
        with uninterrupted():
            self.redis = spawn(command, self.logs / "redis.log", stdin=lines, as_nobody=True)
        return self.redis

    def wait_for_redis(self) -> Process:
        """Waits until the Redis that was started answers. Raises Failure if it ends.

        Writes down which Redis it was, as another may not be able to read its files.
        """
        ours, note = programs.redis_program().release, self.data_dir / "redis_version"
        try:
            process = self._wait_for("redis", self.redis, self._redis_answers)
        except Failure as failure:
            if self._redis_wrote in {ours, ""}:
                raise
            raise Failure(
                failure.wrong,
                f"{self._redis_wrote} wrote what is in {self.data_dir / 'redis'}, and {ours} runs "
                "now: remove that folder, which holds nothing but messages that are sent anew and "
                "counts of rate limits, or install the former Redis",
            ) from None
        if self._redis_wrote != ours:
            write_private(note, ours)
        return process

    def stop(self) -> None:
        """Stops the servers that run, and releases the folder and the ports."""
        self.stop_servers()
        self.release()

    def stop_servers(self, seconds: float = 10) -> None:
        """Stops the servers that run, Redis first, within `seconds`. A server that takes longer is
        killed, which only makes its next start slower.
        """
        deadline = time.monotonic() + seconds
        stop(self.redis, min(seconds, REDIS_STOP_TIMEOUT))
        stop(self.postgres, max(0, deadline - time.monotonic()), signal.SIGINT)

    def release(self) -> None:
        """Releases the folder and the ports."""
        for held in self._held.values():
            held.close()
        self._lock.close()

    def _last_ports(self) -> dict[str, int]:
        try:
            return dict(json.loads((self.data_dir / "ports.json").read_text()))
        except (FileNotFoundError, ValueError):
            return {"postgres": 0, "redis": 0}

    def _last_redis(self, written: Path) -> str:
        """Which Redis has written to the folder `written`; empty if it is empty."""
        note = self.data_dir / "redis_version"
        if note.exists():
            return note.read_text()
        return "another one" if any(written.iterdir()) else ""

    def _wait_for(self, role: str, process: Process | None, answers: Callable[[], bool]) -> Process:
        log = self.logs / f"{role}.log"
        deadline = time.monotonic() + START_TIMEOUT
        while process is None or not answers():
            if process is None or process.poll() is not None or time.monotonic() > deadline:
                raise Failure(f"{role} did not start: {last_words(log)} (all of it: {log})")
            time.sleep(_LOOK_SECONDS)
        return process

    def _postgres_answers(self) -> bool:
        """Whether PostgreSQL answers; makes the database where it is missing."""
        try:
            with psycopg.connect(
                self.database_url.removesuffix("leadsweep") + "postgres",
                autocommit=True,
                connect_timeout=_ANSWER_TIMEOUT,
            ) as connection:
                query = "SELECT FROM pg_database WHERE datname = 'leadsweep'"
                if connection.execute(query).fetchone() is None:
                    connection.execute("CREATE DATABASE leadsweep")
        except psycopg.OperationalError:
            return False
        return True

    def _redis_answers(self) -> bool:
        """Whether Redis answers. It is asked over a plain socket, as its library takes longer to
        load than Redis to start.
        """
        address = ("127.0.0.1", self.ports["redis"])
        try:
            with (
                socket.create_connection(address, timeout=_ANSWER_TIMEOUT) as connection,
                connection.makefile("rb") as answers,
            ):
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                return [answers.readline() for _ in range(2)] == [b"+OK\r\n", b"+PONG\r\n"]
        except OSError:
            return False
