"""The real servers that tests run on: one PostgreSQL and one Redis for each pytest process, a fresh
database for each test.
"""

import gc
import os
import shutil
import tempfile
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
import pytest
import redis

from cli.stack.embedded import Embedded
from shared.credentials import new_secrets_key
from shared.database import migrations
from shared.database.engines import create_sync_engine, create_worker_engine
from shared.destinations import LOOPBACK, parse_networks
from shared.settings import Settings
from tests.support import counts

ROOM = 2 << 30  # bytes, for the servers of all pytest processes

_numbers = count()
_used = []  # the names of databases that no test needs any more


def pytest_configure(config):
    config.addinivalue_line("markers", "proof(kind): proves what tests/support/counts.py lists")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A proof that holds is reported with how much it ran."""
    counts.taken()
    proof = item.get_closest_marker("proof")
    if proof:
        item.user_properties.append(("proof", [proof.args[0], None]))
    result = yield
    if proof:
        item.user_properties[-1] = ("proof", [proof.args[0], counts.taken() or 1])
    return result


def pytest_runtest_logreport(report):
    for name, (kind, number) in report.user_properties:
        if name == "proof" and report.failed:
            counts.failed(kind)
        elif name == "proof" and report.when == "call":
            counts.saw(kind, number, report.duration)


def pytest_collection_finish():
    """What is loaded stays: else each look for garbage would go through it."""
    gc.freeze()


def pytest_sessionfinish(session):
    """The process that has seen all others' reports writes them down."""
    if counts.FILE and not hasattr(session.config, "workerinput"):
        counts.write()


@contextmanager
def _folder_in_memory():
    """A new folder, in memory where there is room. A database is 400 files, and file systems on
    disks search long for places of so many, where as many have just been deleted: that takes the
    processor ten times longer than all else about a database.
    """
    memory = Path("/dev/shm")
    has_room = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM
    with tempfile.TemporaryDirectory(
        prefix="leadsweep-tests-", dir=memory if has_room else None
    ) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def servers():
    """The embedded PostgreSQL and Redis of this pytest process.

    Nobody stops this PostgreSQL at once, so it need not wait for the disk. No database is dropped
    while somebody is logging in, which a test may leave half done. Tests that break servers have
    their own.
    """
    with _folder_in_memory() as folder, Embedded(folder / "servers") as embedded:
        with psycopg.connect(embedded.database_url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("ALTER SYSTEM SET full_page_writes = off")
            connection.execute("ALTER SYSTEM SET authentication_timeout = '10s'")
            connection.execute("SELECT pg_reload_conf()")
        yield embedded


@pytest.fixture(scope="session")
def _template(servers):
    """A migrated database that tests are given copies of."""
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE template")
    url = servers.database_url.removesuffix("leadsweep") + "template"
    engine = create_sync_engine(Settings(database_url=url), "tests")
    with engine.begin() as connection:
        migrations.upgrade(connection)
    engine.dispose()
    return "template"


@contextmanager
def _copy(servers, template):
    """A fresh, migrated database. It is dropped when the next one is made: PostgreSQL waits for a
    tenth of a second where a session has not quite ended.
    """
    name = f"test_{next(_numbers)}"
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        while _used:
            connection.execute(f"DROP DATABASE {_used.pop()} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield servers.database_url.removesuffix("leadsweep") + name
    _used.append(name)


@pytest.fixture
def database_url(servers, _template):
    """A fresh, migrated database."""
    with _copy(servers, _template) as url:
        yield url


@pytest.fixture
def redis_url(servers):
    """An empty Redis."""
    with redis.Redis.from_url(servers.broker_url) as client:
        client.flushall()
    return servers.broker_url


def _settings(database_url, broker_url):
    return Settings(
        database_url=database_url,
        broker_url=broker_url,
        secrets_key=new_secrets_key(),
        webhook_allow=parse_networks(LOOPBACK),
    )


@pytest.fixture
def settings(database_url, redis_url):
    """The settings of this test's database and Redis."""
    return _settings(database_url, redis_url)


@pytest.fixture(scope="module")
def settings_of_module(servers, _template):
    """Those of a database that the tests of a module share, as they share an API that takes long
    to start.
    """
    with _copy(servers, _template) as url:
        yield _settings(url, servers.broker_url)


@pytest.fixture
def engine(database_url):
    """A worker's engine on this test's database."""
    engine = create_worker_engine(Settings(database_url=database_url), "tests")
    yield engine
    engine.dispose()
