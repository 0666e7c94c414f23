"""Keeps a whole stack running: API, worker, deliverer, ticker, and the servers that the settings do
not name. A process that dies is started again.

The file `runtime.json` in the data folder says what runs where; by it the other commands find the
stack. Nothing outlives the supervisor: it stops its children in order, and if it is killed itself
the kernel ends them.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from leadsweep.terminal.failure import Failure
from leadsweep.terminal.output import remark
from leadsweep.terminal.signals import uninterrupted

from cli.stack.address import Address, listens, reserve
from cli.stack.child import Child, Process
from cli.stack.embedded import Embedded
from cli.stack.folder import secrets_key
from cli.stack.processes import port_of, spawn, stop, write_private
from cli.stack.programs import check_installed, which_postgres, which_redis
from shared import database
from shared.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection

READY_TIMEOUT = 90  # seconds until all answer; a healthy stack takes about three
STOP_TIMEOUT = 9.5  # seconds for the whole stack; what still runs then is killed
# How many of those seconds each process has, in the order of stopping; the servers have the rest.
_STOP_SECONDS = {"api": 2.5, "ticker": 1.0, "deliverer": 1.5, "worker": 3.0}
_LOOK_SECONDS = 0.1  # between looks at the children
_START_LOOK_SECONDS = 0.02  # likewise until all are ready
_BROKER_TIMEOUT = 2.0  # seconds for one answer
_FRUITLESS_STARTS = 5  # of one child, before the stack is ready

Result = TypeVar("Result")


class Stack:
    """The stack of one data folder. Inside the `with` block call start_servers, migrate and
    start_processes, in this order.

    Raises Failure, before anything is started, if the folder is in use, the port is taken, the
    address is not this machine's, a server is not installed, or DATABASE_URL is not a database's.
    """

    def __init__(
        self,
        settings: Settings,
        data_dir: Path,
        address: Address,
        workers: int = 2,
        say: Callable[[str], object] = remark,
    ) -> None:
        """Takes the folder and the port. `workers` is the number of pool processes. `say` is called
        with a line for each child that died.
        """
        if settings.database_url:
            from cli.connection import check_database_url

            check_database_url(settings)
        check_installed(postgres=not settings.database_url, redis=not settings.broker_url)
        self._given, self._workers, self._say = settings, workers, say
        self._embedded = Embedded(data_dir)
        self.logs = self._embedded.logs
        self._runtime = self._embedded.data_dir / "runtime.json"
        self._children: dict[str, Child] = {}
        try:
            self._held = reserve(address)
        except Failure:
            self._embedded.stop()
            raise
        self.address = address._replace(port=port_of(self._held))
        self._runtime.unlink(missing_ok=True)  # of one that was killed
        addresses = {
            "database_url": settings.database_url or self._embedded.database_url,
            "broker_url": settings.broker_url or self._embedded.broker_url,
            "secrets_key": settings.secrets_key or secrets_key(self._embedded.data_dir),
        }
        self.settings = settings.model_copy(update=addresses)

    def __enter__(self) -> Self:
        """Everything that is started in the block is stopped at its end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stops the whole stack, within ten seconds."""
        with uninterrupted():
            self._stop()

    @property
    def servers(self) -> list[str]:
        """The versions and places of the servers that are started here."""
        given_urls = {which_redis: self._given.broker_url, which_postgres: self._given.database_url}
        return [which() for which, url in given_urls.items() if not url]

    def start_servers(self) -> None:
        """Starts the servers that the settings do not name, side by side, and waits until they
        answer. Raises Failure if one does not.
        """
        if self._given.broker_url and (flaw := _flaw_of_broker(self._given)):
            raise Failure(*flaw)
        if not self._given.broker_url:
            self._embedded.spawn_redis()
        if not self._given.database_url:
            self._embedded.spawn_postgres()
        # This is needed later. Both servers are ready by the time it is loaded.
        import cli.connection  # noqa: F401 - see above

        if not self._given.broker_url:
            self._add("redis", self._embedded.spawn_redis, self._embedded.wait_for_redis)
        if not self._given.database_url:
            self._add("postgres", self._embedded.spawn_postgres, self._embedded.wait_for_postgres)

    def migrate(self, afterwards: Callable[["Connection"], Result]) -> Result:
        """Brings the schema up to date and calls `afterwards` in the same transaction. Raises
        Failure if the database refuses.
        """
        from cli.connection import check_schema, check_tables, connected_to

        with connected_to(self.settings) as connection, connection.begin():
            check_tables(connection)
            if _version(connection) != _newest_version():
                from shared.database.migrations import upgrade

                if (_version(connection) or "") > _newest_version():
                    check_schema(connection)  # says so
                upgrade(connection)
            return afterwards(connection)

    def start_processes(self) -> None:
        """Starts the four processes, and waits until all of them answer. Raises Failure if they do
        not.
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
        """Restarts processes that die, until a signal raises KeyboardInterrupt."""
        while True:
            self._look_after_children()
            time.sleep(_LOOK_SECONDS)

    def _add(
        self, role: str, start: Callable[[], Process], first: Callable[[], Process] | None = None
    ) -> None:
        self._children[role] = Child(role, start, self._embedded.logs / f"{role}.log", first)

    def _add_role(self, role: str, *options: str) -> None:
        # -P: the operator's working directory may hold folders with the names of ours.
        python = [sys.executable, "-P", "-m", "cli.roles", role, *options]
        environment = {
            "DATABASE_URL": self.settings.database_url,
            "BROKER_URL": self.settings.broker_url,
            "REDIS_URL": self.settings.limiter_url,
            "LEADSWEEP_SECRETS_KEY": self.settings.secrets_key,
            "LEADSWEEP_WEBHOOK_ALLOW": ",".join(map(str, self.settings.webhook_allow)),
        }

        def start() -> Process:
            return spawn(python, self._embedded.logs / f"{role}.log", env=os.environ | environment)

        self._add(role, start)

    def _look_after_children(self) -> None:
        with uninterrupted():
            news = [line for child in self._children.values() if (line := child.look())]
        for line in news:
            self._say(line)
        if news:
            try:
                self._write_runtime()
            except OSError as error:  # such as a full disk, which is no reason to stop the stack
                self._say(
                    f"{self._runtime} could not be written: {error.strerror}; "
                    "until the next restart other commands may not find the stack"
                )

    def _wait_until_ready(self) -> None:
        # It looks at each part itself: calls of /api/health have a rate limit, to which the calls
        # of others count too.
        began = time.monotonic()
        while (finding := self._missing(time.monotonic() - began)) != "":
            self._look_after_children()
            deaths = max(child.deaths for child in self._children.values())
            if deaths >= _FRUITLESS_STARTS or time.monotonic() > began + READY_TIMEOUT:
                flaw = _flaw_of_broker(self.settings)
                and_broker = f", and {flaw[0]}" if flaw else ""
                raise Failure(
                    f"the stack does not get ready: {finding}{and_broker}; "
                    f"its logs are in {self._embedded.logs}"
                )
            time.sleep(_START_LOOK_SECONDS)

    def _missing(self, seconds: float) -> str:
        """What is not up yet, `seconds` after the start; an empty string if everything is."""
        from cli.connection import connected_to
        from shared.process.heartbeats import NEWEST_BEATS

        if not listens(self.address):
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
        given_urls = {"redis": self._given.broker_url, "postgres": self._given.database_url}
        content = {
            "url": self.address.url,
            "pid": os.getpid(),
            "database_url": self.settings.database_url,
            "broker_url": self.settings.broker_url,
            "secrets_key": self.settings.secrets_key,
            "ports": {"api": self.address.port}
            | {role: port for role, port in self._embedded.ports.items() if not given_urls[role]},
            "children": [
                {"role": child.role, "pid": child.process.pid} for child in self._children.values()
            ],
        }
        write_private(self._runtime, json.dumps(content, indent=2) + "\n")

    def _stop(self) -> None:
        deadline = time.monotonic() + STOP_TIMEOUT
        for role, seconds in _STOP_SECONDS.items():
            if role in self._children:
                stop(self._children[role].process, seconds)
        self._held.close()
        self._embedded.stop_servers(deadline - time.monotonic())
        self._runtime.unlink(missing_ok=True)
        self._embedded.release()


def _flaw_of_broker(settings: Settings) -> tuple[str, str] | None:
    """What is wrong with the broker, and how to mend it; None where all is well."""
    from cli.connection import address
    from shared.broker.health import broker_flaw

    flaw = broker_flaw(settings.broker_url, _BROKER_TIMEOUT)
    return flaw and (f"the broker {address(settings.broker_url)} {flaw.finding}", flaw.hint)


def _version(connection: "Connection") -> str | None:
    """The version of the schema; None for an empty database. It is read without Alembic, which
    takes a while to load and is needed only for changes.
    """
    from sqlalchemy import text

    if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    version: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return version


def _newest_version() -> str:
    """The version that this code needs, by the file names of the migrations (0001_the_core.py)."""
    versions = Path(database.__path__[0]) / "migrations" / "versions"
    return max(path.name.partition("_")[0] for path in versions.glob("[0-9]*_*.py"))
