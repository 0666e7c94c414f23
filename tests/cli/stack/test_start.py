"""What makes a start short: nothing is loaded that is not needed, and Alembic only where the schema
changes.
"""

import os
import subprocess
import sys

import pytest
from sqlalchemy import NullPool

from cli.stack.supervisor import _newest_version, _version
from shared.database import migrations
from shared.database.engines import create_sync_engine
from shared.settings import Settings


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        (
            "cli.stack.up, cli.stack.supervisor, cli.settings",
            {"sqlalchemy", "alembic", "kombu", "redis", "cryptography", "fastapi"},
        ),
        ("worker.tasks", {"sqlalchemy.orm", "alembic", "fastapi", "uvicorn"}),
        ("worker.ticker", {"sqlalchemy.orm", "alembic", "fastapi", "uvicorn"}),
        ("api.__main__", {"alembic", "cli"}),
    ],
)
def test_a_process_loads_nothing_heavy_that_it_does_not_need(modules, heavy):
    servers = {"DATABASE_URL": "postgresql://127.0.0.1/x", "BROKER_URL": "redis://127.0.0.1:1/0"}
    code = f"import sys, {modules}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | servers,
        capture_output=True,
        text=True,
        check=True,
    )
    assert heavy & set(loaded.stdout.split()) == set()


def test_the_version_is_the_one_that_alembic_finds(engine):
    with engine.connect() as connection:
        assert _version(connection) == migrations.current_version(connection)
        assert _newest_version() == migrations.newest_version() == _version(connection)


def test_an_empty_database_has_no_version(servers):
    database = servers.database_url.removesuffix("leadsweep") + "postgres"
    engine = create_sync_engine(Settings(database_url=database), "tests", poolclass=NullPool)
    with engine.connect() as connection:
        assert _version(connection) is None
