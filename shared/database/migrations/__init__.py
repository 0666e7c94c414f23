"""The schema's history, and how to move along it: `upgrade`, `downgrade`, and which version a
database is at.
"""

import time
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from shared.database.engines import LOCK_TIMEOUT
from shared.database.sqlstates import is_locked

# Seconds in which a move that met a locked table is tried again; one that took longer is not.
RETRY_TIMEOUT = 30.0
PAUSE = 1.0  # seconds between two tries, for the statements that have queued behind the lock

# Any number that nothing else uses: two migrations at once take turns.
_MIGRATION_LOCK = 3_141_592_653


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, bound to `connection` where one is given."""
    configuration = Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent))
    configuration.attributes["connection"] = connection
    return configuration


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Moves the schema up to `revision`, in one transaction, which the caller commits. Raises
    DBAPIError.
    """
    _move(connection, lambda: command.upgrade(config(connection), revision))


def downgrade(connection: Connection, revision: str) -> None:
    """Moves the schema down to `revision` (`base`: nothing left), as `upgrade` does. Raises
    DBAPIError.
    """
    _move(connection, lambda: command.downgrade(config(connection), revision))


def _move(connection: Connection, move: Callable[[], None]) -> None:
    """Runs `move`, which locks whole tables. While it waits for a lock, every later statement on
    that table waits behind it, even a SELECT. So where somebody's long transaction has the table,
    `move` gives up soon, together with all that it had locked before, and tries again.
    """
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
    connection.execute(
        text("SELECT set_config('lock_timeout', :timeout, true)"), {"timeout": LOCK_TIMEOUT}
    )
    deadline = time.monotonic() + RETRY_TIMEOUT
    while True:
        try:
            with connection.begin_nested():
                return move()
        except DBAPIError as error:
            if not is_locked(error) or time.monotonic() > deadline:
                raise
        time.sleep(PAUSE)


def current_version(connection: Connection) -> str | None:
    """The database's schema version, or None for an empty database."""
    return MigrationContext.configure(connection).get_current_revision()


def newest_version() -> str:
    """The schema version that this code needs."""
    head = ScriptDirectory.from_config(config()).get_current_head()
    if head is None:
        raise RuntimeError("no migrations found")
    return head
