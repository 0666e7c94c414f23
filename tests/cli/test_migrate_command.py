"""`leadsweep migrate` goes up, stays, and goes down only if one means it."""

import os
import subprocess
import sys

import pytest
from sqlalchemy import inspect, text

from shared.database.migrations import newest_version


@pytest.fixture
def empty(engine, leadsweep):
    """The command, on a database without tables."""
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    return leadsweep


def tables(engine):
    with engine.connect() as connection:
        return set(inspect(connection).get_table_names())


def test_an_empty_database_gets_all_tables_and_a_second_run_changes_nothing(empty, engine):
    head = newest_version()
    assert empty("migrate", "--json").json == {"from": None, "to": head}
    assert {"companies", "campaigns", "leads", "jobs"} <= tables(engine)
    assert empty("migrate") == (0, f"the schema is {head}, as it was\n", "")
    assert empty("companies", "create", "acme").code == 0


def test_what_may_take_long_is_told_before_it_begins(empty, engine):
    told = "changing the schema from {} to {}; with many leads that may take minutes\n"
    assert empty("migrate").err == told.format("empty", "head")
    assert empty("migrate").err == ""
    assert empty("migrate", "--to", "0001", "--yes").err == told.format(newest_version(), "0001")


def test_going_down_needs_a_yes(leadsweep, engine):
    ran = leadsweep("migrate", "--to", "base")
    assert ran.code == 1
    assert ran.error.endswith("; add --yes if you mean it")
    assert "leads" in tables(engine)
    assert leadsweep("migrate", "--to", "base", "--yes", "--json").json == {
        "from": newest_version(),
        "to": None,
    }
    assert tables(engine) == {"alembic_version"}
    assert leadsweep("migrate", "--to", "head").code == 0


def test_going_down_needs_a_yes_where_stdin_is_closed_too(engine, database_url):
    command = [
        sys.executable,
        "-c",
        "from leadsweep.commands.main import main; main()",
        "migrate",
        "--to",
        "base",
    ]
    ran = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command],
        env=os.environ | {"DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr.endswith("; add --yes if you mean it\n")


def test_going_down_to_nothing_from_nothing_is_done_already(empty):
    assert empty("migrate", "--to", "base") == (0, "the schema is empty, as it was\n", "")


def test_a_version_that_nobody_knows_is_one_line(leadsweep, engine):
    assert leadsweep("migrate", "--to", "9999").error.startswith(
        "this Leadsweep knows no schema 9999, only base, 0001"
    )
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    ran = leadsweep("migrate")
    assert ran.code == 1
    assert "knows no schema 9999" in ran.error


def test_a_database_that_cannot_be_reached_is_one_line(leadsweep, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://u@127.0.0.1:1/x")
    ran = leadsweep("migrate")
    assert (ran.code, ran.out) == (1, "")
    assert "Connection refused" in ran.error


def test_a_table_that_somebody_holds_is_not_waited_for_until_all_wait_behind_us(
    leadsweep, engine, monkeypatch
):
    monkeypatch.setattr("shared.database.migrations.RETRY_TIMEOUT", 0)
    assert leadsweep("migrate", "--to", "0006", "--yes").code == 0
    with engine.begin() as connection:
        connection.execute(text("LOCK TABLE campaigns IN ROW EXCLUSIVE MODE"))
        ran = leadsweep("migrate")
    assert ran.code == 1
    assert ran.err.endswith(
        "holds a table or a row; nothing was changed; end its transaction, and run this again\n"
    )
    assert leadsweep("migrate").code == 0
