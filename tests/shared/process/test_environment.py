"""A process that cannot begin says why in one line."""

import json

import psycopg
import pytest

from shared.broker.health import CLUSTER
from shared.database.engines import database_url as parsed
from tests.support.brokers import redis_server
from tests.support.stack import Process, wait_for

GOOD = {
    "DATABASE_URL": "postgresql://u@127.0.0.1:1/x",
    "BROKER_URL": "redis://127.0.0.1:1/0",
    "LEADSWEEP_SECRETS_KEY": "A" * 43 + "=",
}


@pytest.mark.parametrize("module", ["api", "worker", "worker.ticker"])
@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "DATABASE_URL is not set"),
        ({"DATABASE_URL": GOOD["DATABASE_URL"]}, "BROKER_URL is not set"),
        (GOOD | {"BROKER_URL": "sqs://key:secret@"}, "BROKER_URL: sqs:// is not supported"),
        (
            GOOD | {"BROKER_URL": "sentinel://:secret@host:26379"},
            "BROKER_URL: sentinel:// is not supported",
        ),
        (GOOD | {"REDIS_URL": "amqp://u:secret@host"}, "REDIS_URL: amqp:// is not supported"),
        (GOOD | {"LEADSWEEP_CHUNK_SIZE": "0"}, "LEADSWEEP_CHUNK_SIZE: "),
        (
            GOOD | {"LEADSWEEP_SECRETS_KEY": "secret"},
            "LEADSWEEP_SECRETS_KEY: must be 32 random bytes in base64",
        ),
        (
            GOOD | {"LEADSWEEP_WEBHOOK_ALLOW": "localhost"},
            "LEADSWEEP_WEBHOOK_ALLOW: write networks as 127.0.0.0/8,::1/128",
        ),
        (
            GOOD | {"LEADSWEEP_OFF_PEAK": "nightly"},
            "LEADSWEEP_OFF_PEAK: write a window as 22:00-06:00 mon-sun Europe/Berlin",
        ),
        (
            GOOD | {"LEADSWEEP_RATE_LIMIT_READ": "often"},
            "LEADSWEEP_RATE_LIMIT_READ: write a rate as 1000/hour",
        ),
    ],
)
def test_what_is_wrong_with_the_environment_is_said_in_one_line(module, environment, said, started):
    code, told = started([module], environment)
    assert code == 1
    assert said in told
    assert len(told.strip().splitlines()) == 1
    assert "secret" not in told


WRITE = "write postgresql://user:password@host:port/name"

URLS = {
    "foo": f"DATABASE_URL is not a URL; {WRITE}",
    "postgresql:/secret": f"DATABASE_URL is not a URL; {WRITE}",
    "mysql://secret@x/y": f"DATABASE_URL must begin with postgresql://, not mysql://; {WRITE}",
    "sqlite:///secret": f"DATABASE_URL must begin with postgresql://, not sqlite://; {WRITE}",
    "postgresql+asyncpg://u:secret@x/y": (
        f"DATABASE_URL must begin with postgresql://, not postgresql+asyncpg://; {WRITE}"
    ),
    "postgres+asyncpg://u:secret@x/y": (
        f"DATABASE_URL must begin with postgresql://, not postgres+asyncpg://; {WRITE}"
    ),
    "postgresql://u:secret@x:port/y": f"DATABASE_URL has a port that is not a number; {WRITE}",
    "postgresql://u:secret@x:99999/y": (
        f"DATABASE_URL has a port that is not between 1 and 65535; {WRITE}"
    ),
    "postgresql://u@x/y?ssl=secret": (
        "DATABASE_URL has an option that PostgreSQL does not know, ssl; leave it out, "
        "or write it as libpq does"
    ),
}
"""Those that no process and no command takes, and what is said of each."""


@pytest.mark.parametrize(
    ("url", "module"), list(zip(URLS, ["api", "worker", "worker.ticker"] * 3, strict=True))
)
def test_a_database_url_that_is_none_is_told_what_to_write(url, module, started):
    assert started([module], GOOD | {"DATABASE_URL": url}) == (1, URLS[url] + "\n")


@pytest.mark.parametrize(
    "url",
    ["postgresql://u@x/y", "postgres://u@x/y", "postgresql+psycopg:///y?host=/tmp&sslmode=disable"],
)
def test_a_url_of_a_postgresql_is_taken(url):
    assert parsed(url).drivername == "postgresql+psycopg"


STRANGERS = {
    "CREATE TABLE companies (id int)": (
        "the database already has companies, which Leadsweep has not made"
    ),
    "CREATE VIEW leads AS SELECT 1; CREATE TYPE jobs AS ENUM ('a')": (
        "the database already has jobs, leads, which Leadsweep has not made"
    ),
    "CREATE TABLE alembic_version AS SELECT 'a1b2' AS version_num": (
        "the database has an alembic_version of another application"
    ),
    "CREATE TABLE alembic_version AS SELECT '0001' AS version_num; CREATE TABLE chunks (n int)": (
        "the database already has chunks, which Leadsweep has not made"
    ),
    "CREATE TABLE alembic_version AS SELECT * FROM (VALUES ('a'), ('b')) AS heads (version_num)": (
        "the database has an alembic_version of another application"
    ),
    "CREATE TABLE alembic_version AS SELECT '0006' AS version_num": (
        "the database has an alembic_version of another application"
    ),
}
"""What another application may have made, and what is said of it."""

WAY_OUT = "; give Leadsweep a database of its own: createdb leadsweep, and name it in DATABASE_URL"


@pytest.fixture
def taken(database_url, request):
    """A database in which another application is at home."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        connection.execute(request.param)
    return database_url


@pytest.mark.parametrize(
    ("taken", "module"),
    list(zip(list(STRANGERS)[::2], ["api", "worker", "worker.ticker"], strict=True)),
    indirect=["taken"],
)
def test_a_database_of_another_application_is_left_alone(taken, module, request, started):
    told = STRANGERS[request.node.callspec.params["taken"]] + WAY_OUT + "\n"
    assert started([module], GOOD | {"DATABASE_URL": taken}) == (1, told)


def refused_urls(url):
    """Those that lead nowhere, made of one that leads to a database; with what is said of each."""
    user, _, rest = url.removeprefix("postgresql://").partition(":")
    password, _, place = rest.partition("@")
    return {
        f"{url}_gone": 'database "test_',
        f"postgresql://{user}:secret@{place}": f'password authentication failed for user "{user}"',
        f"postgresql://{user}:{password}@127.0.0.1:1/x": "Connection refused",
    }


@pytest.mark.parametrize("module", ["api", "worker", "worker.ticker"])
def test_a_database_that_is_not_to_be_had_is_told_at_the_start_and_waited_for(
    database_url, module, tmp_path
):
    for url, told in refused_urls(database_url).items():
        environment = GOOD | {"DATABASE_URL": url, "LEADSWEEP_LOG_FORMAT": "json"}
        process = Process(module, [], environment, tmp_path / "log")
        try:
            wait_for(lambda: b"\n" in (tmp_path / "log").read_bytes())
        finally:
            process.kill()
            process.wait()
        said = json.loads((tmp_path / "log").read_text().splitlines()[0])
        assert (said["event"], said["hint"]) == (
            "database not usable",
            "start it, create it, or mend DATABASE_URL",
        )
        assert told in said["error"]
        assert "secret" not in str(said)


@pytest.fixture
def started(tmp_path):
    """`started(command, environment)`: the exit code of a process, and what it has said."""

    def run(command, environment):
        process = Process(command[0], command[1:], environment, tmp_path / "log")
        try:
            return process.wait(30), process.log.read_text()
        finally:
            process.kill()

    return run


@pytest.mark.parametrize("command", [["api"], ["worker", "--webhooks"]])
def test_who_needs_the_secrets_says_how_to_make_their_key(command, started):
    environment = GOOD.copy()
    del environment["LEADSWEEP_SECRETS_KEY"]
    told = "LEADSWEEP_SECRETS_KEY is not set; make it once with: openssl rand -base64 32\n"
    assert started(command, environment) == (1, told)


@pytest.mark.parametrize(
    "command", [["api"], ["worker"], ["worker", "--webhooks"], ["worker.ticker"]]
)
def test_a_redis_cluster_is_refused_by_name(command, tmp_path, started):
    with redis_server(tmp_path, cluster_enabled="yes") as url:
        environment = GOOD | {"BROKER_URL": "amqp://127.0.0.1:1", "REDIS_URL": url}
        if command != ["api"]:
            environment |= {"BROKER_URL": url, "REDIS_URL": ""}
        name = "REDIS_URL" if command == ["api"] else "BROKER_URL"
        told = f"{name}: {CLUSTER.finding}; {CLUSTER.hint}\n"
        assert started(command, environment) == (1, told)
