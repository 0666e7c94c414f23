"""The schema goes up, down and up again, and is what the models say."""

import pytest
from alembic import command
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError

from shared import migrations
from tests.jobs import add_campaign, add_leads, job_row, queue_job, work_off


def test_the_migrations_give_the_tables_of_the_models(engine):
    with engine.begin() as connection:
        command.check(migrations.config(connection))


def test_the_schema_goes_down_to_nothing_and_up_again(engine):
    with engine.begin() as connection:
        migrations.downgrade(connection, "base")
        assert migrations.current_version(connection) is None
        assert set(inspect(connection).get_table_names()) == {"alembic_version"}
        assert not connection.execute(text("SELECT FROM pg_proc WHERE proname LIKE 'leadsweep%'")).all()
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
        "UPDATE jobs SET state = 'completed', finished_at = now(), deleted = 1, not_found = 0, unprocessed = 0, invalid = 0",
        "UPDATE jobs SET state = 'failed', finished_at = now(), deleted = 2, not_found = 0, unprocessed = 0, invalid = 0",
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
    """Previews, archive jobs and those that follow another would be taken for real ones; paused ones stay paused."""
    with engine.begin() as connection:
        add_campaign(connection)
        add_leads(connection, [("a", None), ("b", None)])
        source = queue_job(connection, [("a", None)], dry_run=True)
        queue_job(connection, [("b", None)], mode="archive")
        done = queue_job(connection, [("nobody", None)], callback_url="https://example.com/")
    work_off(engine)
    with engine.begin() as connection:
        queue_job(connection, [("a", None)], source_job_id=source)
        kept = {done, queue_job(connection, [("a", None)], state="paused"), queue_job(connection, [("a", None)], wanted="cancel")}
        kept.add(queue_job(connection, [("a", None)], run_window="22:00-06:00", closes_at="2999-01-01T00:00:00Z"))
        plain = queue_job(connection, [("a", None)])
        migrations.downgrade(connection, "0001")
        states = dict(map(tuple, connection.execute(text("SELECT id, state FROM jobs"))))
        assert states == {job_id: "completed" if job_id == done else "paused" for job_id in kept} | {plain: "queued"}
        migrations.upgrade(connection)
        assert connection.execute(text("SELECT would_delete FROM jobs WHERE id = :id"), {"id": done}).scalar_one() == 0
    work_off(engine)
    with engine.begin() as connection:
        assert job_row(connection, plain).deleted == 1, "and up again, all goes on"


def test_a_worker_of_before_can_claim_nothing_any_more(engine):
    """It would really delete what a preview only looks at."""
    with engine.begin() as connection:
        assert "company_turns" not in inspect(connection).get_table_names()
