"""Which database a command works on: the stack that --data-dir names, else DATABASE_URL, else the
stack in the default folder.
"""

import fcntl
import json
import os
from contextlib import contextmanager

import psycopg
import pytest

from shared.credentials import new_secrets_key
from shared.database.migrations import newest_version
from tests.shared.process.test_environment import STRANGERS, URLS, WAY_OUT, refused_urls, taken  # noqa: F401 - a fixture

NOWHERE = "postgresql://127.0.0.1:1/nowhere"


@contextmanager
def stack_in(folder, database_url):
    """What a running stack shows of itself."""
    runtime = {
        "pid": os.getpid(),
        "database_url": database_url,
        "broker_url": "redis://127.0.0.1:1/0",
        "secrets_key": new_secrets_key(),
    }
    (folder / "runtime.json").write_text(json.dumps(runtime))
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def stack(database_url, tmp_path):
    """The folder of a stack that runs on the test's database."""
    with stack_in(tmp_path, database_url):
        yield tmp_path


def test_a_named_folder_beats_database_url(leadsweep, stack, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", NOWHERE)
    assert leadsweep("keys", "list").code == 1
    assert leadsweep("keys", "list", "--data-dir", stack).code == 0


def test_database_url_beats_the_default_folder(leadsweep, tmp_path, monkeypatch):
    monkeypatch.setenv("LEADSWEEP_DATA_DIR", str(tmp_path))
    with stack_in(tmp_path, NOWHERE):
        assert leadsweep("keys", "list").code == 0


def test_without_either_it_is_the_stack_in_the_default_folder(leadsweep, stack, monkeypatch):
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.delenv("LEADSWEEP_SECRETS_KEY")
    monkeypatch.chdir(stack.parent)
    monkeypatch.setenv("LEADSWEEP_DATA_DIR", stack.name)
    assert leadsweep("companies", "create", "acme").code == 0, "with the key of the stack"
    assert (
        leadsweep("doctor", "--json")
        .json["checks"][-1]["finding"]
        .startswith("redis://127.0.0.1:1/0 does not answer")
    )


COMMANDS = (
    ["migrate"],
    ["companies", "create", "acme"],
    ["keys", "list"],
    ["leads", "count", "--campaign", "x"],
)


@pytest.mark.parametrize("url", URLS)
def test_a_database_url_that_is_none_is_told_what_to_write(leadsweep, monkeypatch, tmp_path, url):
    monkeypatch.setenv("DATABASE_URL", url)
    for command in (*COMMANDS, ["up", "--data-dir", tmp_path / "stack"]):
        assert leadsweep(*command)[::2] == (1, f"Error: {URLS[url]}\n")
    assert not (tmp_path / "stack").exists()
    told, mend = URLS[url].split("; ")
    assert leadsweep("doctor", "--json").json["checks"] == [
        {"name": "settings", "ok": False, "finding": told, "mend": mend}
    ]


def test_a_database_that_is_not_to_be_had_is_one_line(leadsweep, monkeypatch, database_url):
    for url, told in refused_urls(database_url).items():
        monkeypatch.setenv("DATABASE_URL", url)
        for command in COMMANDS:
            error = leadsweep(*command).error
            assert told in error
            assert error.endswith("; start it, create it, or mend DATABASE_URL")
            assert "secret" not in error


@pytest.mark.parametrize("taken", STRANGERS, indirect=True)
def test_what_another_application_has_made_is_left_as_it_is(
    leadsweep,
    taken,  # noqa: F811
    request,
    tmp_path,
    redis_url,
    monkeypatch,
):
    told = STRANGERS[request.node.callspec.params["taken"]]
    before = contents(taken)
    monkeypatch.setenv("BROKER_URL", redis_url)
    up = ["up", "--data-dir", tmp_path / "stack", "--port", "0"]
    for command in (
        *COMMANDS,
        ["migrate", "--to", "0001"],
        ["migrate", "--to", "base", "--yes"],
        up,
    ):
        assert leadsweep(*command)[::2] == (1, f"Error: {told}{WAY_OUT}\n"), command
    checks = {
        check["name"]: check["finding"] for check in leadsweep("doctor", "--json").json["checks"]
    }
    assert checks["schema"] == told
    assert contents(taken) == before


def contents(url):
    """What is in the database, by name and kind."""
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT relname, relkind FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        ).fetchall()


def test_tables_of_other_names_and_an_empty_alembic_version_are_no_hindrance(
    leadsweep, database_url
):
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE TABLE orders (id int)"
        )
        connection.execute("CREATE SCHEMA other; CREATE TABLE other.companies (id int)")
        connection.execute("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
    assert leadsweep("migrate", "--json").json == {"from": None, "to": newest_version()}


def test_without_a_stack_and_without_a_url_both_ways_out_are_told(leadsweep, monkeypatch, tmp_path):
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("LEADSWEEP_DATA_DIR", str(tmp_path))
    for command in COMMANDS:
        error = (
            f"no stack is running in {tmp_path}, and DATABASE_URL is not set; start one: "
            f"leadsweep up, or set DATABASE_URL"
        )
        assert leadsweep(*command).error == error
