"""The schema goes up, down and up again, and is what the models say."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from shared import states
from shared.database import migrations
from shared.database.engines import create_sync_engine
from tests.support.jobs import (
    add_campaign,
    add_leads,
    job_row,
    outcomes_of_job,
    queue_job,
    work_off,
)
from tests.support.stack import lock_waits, wait_for


def test_the_migrations_give_the_tables_of_the_models(engine):
    with engine.begin() as connection:
        command.check(migrations.config(connection))


def test_the_schema_goes_down_to_nothing_and_up_again(engine):
    with engine.begin() as connection:
        migrations.downgrade(connection, "base")
        assert migrations.current_version(connection) is None
        assert set(inspect(connection).get_table_names()) == {"alembic_version"}
        assert not connection.execute(
            text("SELECT FROM pg_proc WHERE proname LIKE 'leadsweep%'")
        ).all()
        migrations.upgrade(connection)
        assert migrations.current_version(connection) == migrations.newest_version()


def test_migrating_twice_changes_nothing(engine):
    with engine.begin() as connection:
        queue_job(connection, [("a", None)])
        migrations.upgrade(connection)
        assert connection.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 1


@pytest.mark.parametrize(
    "lie",
    [
        "UPDATE jobs SET state = 'completed'",
        (
            "UPDATE jobs SET state = 'completed', finished_at = now(), deleted = 1, not_found = 0,"
            " unprocessed = 0, invalid = 0"
        ),
        (
            "UPDATE jobs SET state = 'failed', finished_at = now(), deleted = 2, not_found = 0,"
            " unprocessed = 0, invalid = 0"
        ),
        "UPDATE jobs SET deleted = 1",
        "UPDATE jobs SET state = 'lost'",
        "UPDATE chunks SET state = 'done'",
        "UPDATE chunks SET state = 'done', deleted = 2",
        "UPDATE chunks SET outcomes = '{1,1}', deleted = 2",
        "UPDATE chunks SET outcomes = '{0}'",
        (
            "INSERT INTO companies VALUES ('co', ''); INSERT INTO campaigns VALUES ('c', 'co', '');"
            " INSERT INTO leads (campaign_id, external_id) VALUES ('c', ' ')"
        ),
    ],
)
def test_the_database_itself_refuses_records_that_do_not_add_up(engine, lie):
    with engine.begin() as connection:
        queue_job(connection, [("a", None), ("b", None)])
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(text(lie))


def test_on_the_way_down_no_job_is_left_that_the_older_code_would_run_wrongly(engine):
    """Previews, archive jobs and those that follow another would be taken for real ones; paused
    ones stay paused.
    """
    with engine.begin() as connection:
        add_campaign(connection)
        add_leads(connection, [("a", None), ("b", None)])
        source = queue_job(connection, [("a", None)], dry_run=True)
        queue_job(connection, [("b", None)], mode="archive")
        done = queue_job(connection, [("nobody", None)], callback_url="https://example.com/")
    work_off(engine)
    with engine.begin() as connection:
        queue_job(connection, [("a", None)], source_job_id=source)
        kept = {
            done,
            queue_job(connection, [("a", None)], state="paused"),
            queue_job(connection, [("a", None)], wanted="cancel"),
        }
        kept.add(
            queue_job(
                connection,
                [("a", None)],
                run_window="22:00-06:00",
                closes_at="2999-01-01T00:00:00Z",
            )
        )
        plain = queue_job(connection, [("a", None)])
        migrations.downgrade(connection, "0001")
        states = dict(map(tuple, connection.execute(text("SELECT id, state FROM jobs"))))
        assert states == {
            job_id: "completed" if job_id == done else "paused" for job_id in kept
        } | {plain: "queued"}
        migrations.upgrade(connection)
        assert (
            connection.execute(
                text("SELECT would_delete FROM jobs WHERE id = :id"), {"id": done}
            ).scalar_one()
            == 0
        )
    work_off(engine)
    with engine.begin() as connection:
        assert job_row(connection, plain).deleted == 1, "and up again, all goes on"


FORMER_JOB = """
    INSERT INTO companies VALUES ('co', ''); INSERT INTO campaigns (id, company_id) VALUES ('cmp',
        'co');
    INSERT INTO leads (campaign_id, external_id, phone_number) VALUES
        ('cmp', E'\\u2003a', NULL), ('cmp', 'b', NULL), ('cmp', NULL, 'N/A'), ('cmp', NULL,
            '+15555550100');
    INSERT INTO jobs (id, company_id, campaign_id, total, phone_fallback)
        VALUES ('00000000-0000-0000-0000-000000000001', 'co', 'cmp', 5, true);
    INSERT INTO chunks (job_id, number, first_index, external_ids, phone_numbers, outcomes) VALUES
        ('00000000-0000-0000-0000-000000000001', 0, 0,
            ARRAY[E'\\u2003a', E'\\u2003b', NULL, NULL, NULL],
            ARRAY[NULL, NULL, 'N/A', 'tel:+15555550100', '155555500000'], '{0,0,0,0,0}');
    UPDATE chunks SET written_phone_numbers = ARRAY[NULL, NULL, 'N/A', 'tel:+15555550100',
        '15555550000.0']
"""


def test_a_job_of_before_is_read_again_by_todays_rules_over_leads_of_before(engine):
    """Its leads are in the former form as well: what was written alike is found, what is no number
    finds nobody.
    """
    with engine.begin() as connection:
        migrations.downgrade(connection, "0004")
        connection.execute(text(FORMER_JOB))
        migrations.upgrade(connection)
        assert connection.execute(text("SELECT form FROM canonical_forms")).scalar_one() == 1
    work_off(engine)
    with engine.connect() as connection:
        outcomes = connection.execute(text("SELECT outcomes FROM chunks")).scalar_one()
        assert [
            (states.Outcome(outcome).word, states.Outcome(outcome).reason) for outcome in outcomes
        ] == [
            ("deleted", None),
            ("deleted", None),
            ("notFound", "notAPhoneNumber"),
            ("deleted", None),
            ("notFound", "spreadsheetNumber"),
        ]
        assert connection.execute(text("SELECT phone_number FROM leads")).scalars().all() == ["N/A"]


@pytest.mark.parametrize(
    "statement",
    [
        # a worker's claim
        "UPDATE jobs SET state = 'running' WHERE id = gen_random_uuid() RETURNING phone_fallback",
        (
            "INSERT INTO jobs (id, company_id, campaign_id, total, phone_fallback)"
            " VALUES (gen_random_uuid(), 'co', 'cmp', 1, true)"
        ),
        "SELECT phone_fallback FROM jobs",  # the API's answers
    ],
)
def test_what_is_older_than_the_rules_of_phones_is_refused(engine, statement):
    """It would take `onlyIfUnidentified` for a yes."""
    with pytest.raises(ProgrammingError), engine.begin() as connection:
        connection.execute(text(statement))


def test_a_worker_of_before_can_claim_nothing_any_more(engine):
    """It would really delete what a preview only looks at."""
    with engine.begin() as connection:
        assert "company_turns" not in inspect(connection).get_table_names()


def test_on_the_way_down_what_was_left_as_its_campaign_had_moved_has_failed(engine):
    with engine.begin() as connection:
        add_campaign(connection, company="new")
        job_id = queue_job(connection, [("a", None), ("b", None)])
    work_off(engine)
    with engine.begin() as connection:
        assert outcomes_of_job(connection, job_id) == [states.Outcome.CAMPAIGN_MOVED] * 2
        migrations.downgrade(connection, "0006")
        assert outcomes_of_job(connection, job_id) == [states.Outcome.FAILED] * 2
        migrations.upgrade(connection)
        assert job_row(connection, job_id).unprocessed == 2


@pytest.fixture
def operator(settings):
    """An engine as `leadsweep migrate` has it, which waits for a lock as long as it takes."""
    engine = create_sync_engine(settings, "tests")
    yield engine
    engine.dispose()


def migrate(engine):
    with engine.begin() as connection:
        migrations.upgrade(connection)


@pytest.mark.parametrize("table", ["campaigns", "idempotency_keys"])
def test_nobody_waits_for_long_behind_a_migration_that_waits(operator, engine, monkeypatch, table):
    """A report, or a dump, has only read the table. Who comes after the migration queues behind
    it.
    """
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT", "200ms")
    with engine.begin() as connection:
        migrations.downgrade(connection, "0006")
    with operator.connect() as report, operator.connect() as caller, ThreadPoolExecutor(1) as pool:
        report.execute(text(f"SELECT FROM {table}"))
        migrating = pool.submit(migrate, operator)
        try:
            wait_for(lambda: lock_waits(engine) or migrating.done())
            caller.execute(text("SET statement_timeout = '30s'"))
            caller.execute(text("SELECT FROM campaigns, idempotency_keys"))
            caller.rollback()
            assert not migrating.done(), "it is still to come"
        finally:
            report.rollback()
        migrating.result()
    with engine.connect() as connection:
        assert migrations.current_version(connection) == migrations.newest_version()


def test_a_migration_gives_up_where_a_table_does_not_become_free(operator, engine, monkeypatch):
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT", "50ms")
    monkeypatch.setattr(migrations, "RETRY_TIMEOUT", 0.0)
    with engine.begin() as connection:
        migrations.downgrade(connection, "0006")
    with operator.connect() as report:
        report.execute(text("SELECT FROM campaigns"))
        with pytest.raises(OperationalError, match="lock timeout"):
            migrate(operator)
        assert migrations.current_version(report) == "0006"


def waits_long(engine):
    found = text("""
        SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND wait_event = 'advisory' AND clock_timestamp() - query_start > interval '50 ms'
    """)
    with engine.connect() as connection:
        return connection.execute(found).scalar_one()


def test_a_second_migration_waits_for_the_first_however_long_it_takes(
    operator, engine, monkeypatch
):
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT", "1ms")
    with operator.connect() as first, ThreadPoolExecutor(1) as pool:
        migrations.upgrade(first)
        second = pool.submit(migrate, operator)
        wait_for(lambda: waits_long(engine) or second.done())
        first.commit()
        second.result()
