"""The schema goes up, down and up again, and is what the models say."""

import pytest
from alembic import command
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError

from shared import migrations
from tests.jobs import queue_job


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
        "UPDATE jobs SET state = 'completed', finished_at = now(), deleted = 1, not_found = 0, unprocessed = 0",
        "UPDATE jobs SET state = 'failed', finished_at = now(), deleted = 2, not_found = 0, unprocessed = 0",
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
