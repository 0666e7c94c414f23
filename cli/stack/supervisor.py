"""Keeps a whole stack running: the servers that are not given, API, worker, deliverer and ticker.
What dies is restarted.

What runs where stands in `runtime.json` in the data folder, by which the other commands find the
stack. Nothing outlives the supervisor: it stops its children in order, and if it is killed itself
the kernel ends them.
"""

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from leadsweep.terminal.failure import Failure
from leadsweep.terminal.output import remark
from leadsweep.terminal.signals import uninterrupted
from sqlalchemy import Connection

from cli.connection import address, check_database_url, check_schema, check_tables, connected_to
from cli.stack.child import Child, Process
from cli.stack.embedded import Embedded
from cli.stack.folder import secrets_key
from cli.stack.processes import port_of, reserve_port, spawn, stop, write_private
from cli.stack.programs import check_installed, which_postgres, which_redis
from shared.broker.health import broker_flaw
from shared.database.migrations import current_version, newest_version, upgrade
from shared.process.heartbeats import NEWEST_BEATS
from shared.settings import Settings

READY_SECONDS = 90  # until all answer; a healthy stack takes about three
STOP_SECONDS = 9.5  # for all of it; what is not gone by then is killed
_SHARES = {
    "api": 2.5,
    "ticker": 1.0,
    "deliverer": 1.5,
    "worker": 3.0,
}  # of those seconds, in the order of stopping; the servers have the rest
_LOOK_SECONDS = 0.1  # between looks at the children
_BROKER_SECONDS = 2.0  # for an answer of the broker
_FRUITLESS_STARTS = 5  # of one child, before the stack is ready
_ANY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what to call where the operator says so

Result = TypeVar("Result")


class Address(NamedTuple):
    """Where the API listens. Port 0: any that is free."""

    host: str = "127.0.0.1"
    port: int = 8000

    @property
    def url(self) -> str:
        """From this machine, without a slash at the end."""
        host = _ANY_ADDRESS.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


class Stack:
    """A stack of one data folder. Inside the `with` block call the `start_…` methods in the order
    in which they stand here.

    Raises Failure, before anything is started, if the folder is in use, the port taken, the address
    not ours, a server not installed, or DATABASE_URL none.
    """

    def __init__(
        self,
        settings: Settings,
        data_dir: Path,
        address: Address,
        workers: int = 2,
        say: Callable[[str], object] = remark,
    ) -> None:
        """Takes the folder and the port. `workers` are pool processes. `say` is told, in a line
        each, of children that died.
        """
        if settings.database_url:
            check_database_url(settings)
        check_installed(postgres=not settings.database_url, redis=not settings.broker_url)
        self._given, self._workers, self._say = settings, workers, say
        self._embedded = Embedded(data_dir)
        self.logs = self._embedded.logs
        self._runtime = self._embedded.data_dir / "runtime.json"
        self._children: dict[str, Child] = {}
        try:
            self._held = _reserve(address)
        except Failure:
            self._embedded.stop()
            raise
        self.address = address._replace(port=port_of(self._held))
        self._runtime.unlink(missing_ok=True)  # of one that was killed
        given = {
            "database_url": settings.database_url or self._embedded.database_url,
            "broker_url": settings.broker_url or self._embedded.broker_url,
            "secrets_key": settings.secrets_key or secrets_key(self._embedded.data_dir),
        }
        self.settings = settings.model_copy(update=given)

    def __enter__(self) -> Self:
        """What is started from here on is stopped at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stops all of it, within ten seconds."""
        with uninterrupted():
            self._stop()

    @property
    def servers(self) -> list[str]:
        """Which servers are started here: their versions and where they are."""
        given = {which_redis: self._given.broker_url, which_postgres: self._given.database_url}
        return [which() for which, url in given.items() if not url]

    def start_servers(self) -> None:
        """Starts the servers that are not given, and waits until they answer. Raises Failure if one
        does not.
        """
        if not self._given.broker_url:
            self._add("redis", self._embedded.spawn_redis, self._embedded.start_redis)
        elif flaw := broker_flaw(self._given.broker_url, _BROKER_SECONDS):
            wrong = f"the broker {address(self._given.broker_url)} {flaw.finding}"
            raise Failure(wrong, flaw.mend)
        if not self._given.database_url:
            self._add("postgres", self._embedded.spawn_postgres, self._embedded.start_postgres)

    def migrate(self, afterwards: Callable[[Connection], Result]) -> Result:
        """Brings the schema up to date and calls `afterwards` in the same transaction. Raises
        Failure if the database refuses.
        """
        with connected_to(self.settings) as connection, connection.begin():
            check_tables(connection)
            if (current_version(connection) or "") > newest_version():
                check_schema(connection)  # says so
            upgrade(connection)
            return afterwards(connection)

    def start_processes(self) -> None:
        """Starts the four processes, and waits until the API says that all is well. Raises Failure
        if it never does.
        """
        host, port = self.address
        with uninterrupted():
            self._add_role("api", "--host", host, "--port", str(port))
            self._add_role("worker", "--processes", str(self._workers))
            self._add_role("deliverer")
            self._add_role("ticker")
        self._write_runtime()
        self._wait_until_ready()

    def watch(self) -> None:
        """Restarts what dies, until a signal raises KeyboardInterrupt."""
        while True:
            self._look_after_children()
            time.sleep(_LOOK_SECONDS)

    def _add(
        self, role: str, start: Callable[[], Process], first: Callable[[], Process] | None = None
    ) -> None:
        self._children[role] = Child(role, start, self._embedded.logs / f"{role}.log", first)

    def _add_role(self, role: str, *options: str) -> None:
        # -P: the operator's working directory may hold folders that are called as ours are.
        python = [sys.executable, "-P", "-m", "cli.roles", role, *options]
        given = {
            "DATABASE_URL": self.settings.database_url,
            "BROKER_URL": self.settings.broker_url,
            "REDIS_URL": self.settings.limiter_url,
            "LEADSWEEP_SECRETS_KEY": self.settings.secrets_key,
            "LEADSWEEP_WEBHOOK_ALLOW": ",".join(map(str, self.settings.webhook_allow)),
        }

        def start() -> Process:
            return spawn(python, self._embedded.logs / f"{role}.log", env=os.environ | given)

        self._add(role, start)

    def _look_after_children(self) -> None:
        with uninterrupted():
            news = [line for child in self._children.values() if (line := child.look())]
        for line in news:
            self._say(line)
        if news:
            try:
                self._write_runtime()
            except OSError as error:  # a full disk, say: no reason to stop what runs
                self._say(
                    f"{self._runtime} could not be written: {error.strerror}; it does not tell the truth until the next restart"
                )

    def _wait_until_ready(self) -> None:
        # By its own look at each part, since calls of /api/health are counted, and those of others
        # too.
        began = time.monotonic()
        while (finding := self._missing(time.monotonic() - began)) != "":
            self._look_after_children()
            for child in self._children.values():
                if child.deaths >= _FRUITLESS_STARTS or time.monotonic() > began + READY_SECONDS:
                    flaw = broker_flaw(self.settings.broker_url, _BROKER_SECONDS)
                    broker = (
                        f", and the broker {address(self.settings.broker_url)} {flaw.finding}"
                        if flaw
                        else ""
                    )
                    raise Failure(
                        f"the stack does not get ready: {finding}{broker}; its logs are in {self._embedded.logs}"
                    )
            time.sleep(_LOOK_SECONDS)

    def _missing(self, seconds: float) -> str:
        """What is not up yet, `seconds` after the start; an empty string where all is."""
        if not _listens(self.address):
            return "the API does not answer"
        try:
            with connected_to(self.settings) as connection:
                ages = {row.role: row.age_seconds for row in connection.execute(NEWEST_BEATS)}
        except Failure as failure:
            return failure.wrong
        silent = [
            role for role in ("worker", "deliverer", "ticker") if ages.get(role, seconds) >= seconds
        ]
        return f"no sign of life from the {' and the '.join(silent)}" if silent else ""

    def _write_runtime(self) -> None:
        given = {"redis": self._given.broker_url, "postgres": self._given.database_url}
        content = {
            "url": self.address.url,
            "pid": os.getpid(),
            "database_url": self.settings.database_url,
            "broker_url": self.settings.broker_url,
            "secrets_key": self.settings.secrets_key,
            "ports": {"api": self.address.port}
            | {role: port for role, port in self._embedded.ports.items() if not given[role]},
            "children": [
                {"role": child.role, "pid": child.process.pid} for child in self._children.values()
            ],
        }
        write_private(self._runtime, json.dumps(content, indent=2) + "\n")

    def _stop(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        for role, seconds in _SHARES.items():
            if role in self._children:
                stop(self._children[role].process, seconds)
        self._held.close()
        self._embedded.stop_servers(deadline - time.monotonic())
        self._runtime.unlink(missing_ok=True)
        self._embedded.release()


def _reserve(address: Address) -> socket.socket:
    try:
        return reserve_port(address.port, address.host)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Failure(
                f"port {address.port} is taken",
                "stop what listens there, or choose another: --port 0 is any",
            ) from None
        raise Failure(
            f"cannot listen on {address.host}, port {address.port}: {error.strerror}"
        ) from None


def _listens(address: Address) -> bool:
    try:
        socket.create_connection(
            (_ANY_ADDRESS.get(address.host, address.host), address.port), timeout=2
        ).close()
    except OSError:
        return False
    return True
