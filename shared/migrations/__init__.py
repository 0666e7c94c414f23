"""The schema's history, and how to move along it: `upgrade`, `downgrade`, and which version a database is at."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

# Any number that nothing else uses: two migrations at once take turns.
_MIGRATION_LOCK = 3_141_592_653
# For one table: whoever needs it after us waits behind us. A worker holds rows for 15 s at most.
_PATIENCE = "20s"


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, bound to `connection` where one is given."""
    configuration = Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent))
    configuration.attributes["connection"] = connection
    return configuration


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Moves the schema up to `revision`, in one transaction, which the caller commits.

    Raises DBAPIError, LockNotAvailable where somebody else holds a table for long.
    """
    _take_turn(connection)
    command.upgrade(config(connection), revision)


def downgrade(connection: Connection, revision: str) -> None:
    """Moves the schema down to `revision` (`base`: nothing left), as upgrade does."""
    _take_turn(connection)
    command.downgrade(config(connection), revision)


def _take_turn(connection: Connection) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
    connection.execute(text("SELECT set_config('lock_timeout', :patience, true)"), {"patience": _PATIENCE})


def current_version(connection: Connection) -> str | None:
    """The database's schema version, or None for an empty database."""
    return MigrationContext.configure(connection).get_current_revision()


def newest_version() -> str:
    """The schema version that this code needs."""
    head = ScriptDirectory.from_config(config()).get_current_head()
    if head is None:
        raise RuntimeError("no migrations found")
    return head
