"""Fails unless the migrations, run on an empty database, give exactly the tables of
shared.database.models (`alembic check`), and lead back down to nothing and up again. Uses a
PostgreSQL of its own, thrown away afterwards.
"""

import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.util import CommandError
from leadsweep.terminal.failure import Failure
from sqlalchemy import Connection, inspect, text

from cli.stack.embedded import Embedded
from shared.database import migrations
from shared.database.engines import create_sync_engine
from shared.settings import Settings

_OUR_FUNCTIONS = text("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace")


def main() -> None:
    """Exits with a line that says what is wrong, or says what was checked."""
    with tempfile.TemporaryDirectory() as folder:
        servers = Embedded(Path(folder))
        try:
            servers.start_postgres()
            engine = create_sync_engine(Settings(database_url=servers.database_url), "check")
            with engine.begin() as connection:
                check(connection)
            engine.dispose()
        except CommandError as error:
            sys.exit(
                f"shared.database.models and the migrations differ: {error}; "
                "write a migration, or mend the models"
            )
        except Failure as failure:
            sys.exit(failure.message)
        finally:
            servers.stop()


def check(connection: Connection) -> None:
    """Raises CommandError or Failure for the first thing that is wrong."""
    migrations.upgrade(connection)
    migrations.downgrade(connection, "base")
    left = [*inspect(connection).get_table_names(), *connection.scalars(_OUR_FUNCTIONS)]
    if left != ["alembic_version"]:
        raise Failure(
            f"the way down leaves something behind: {', '.join(left)}", "mend the downgrade"
        )
    migrations.upgrade(connection)
    command.check(migrations.config(connection))


if __name__ == "__main__":
    main()
