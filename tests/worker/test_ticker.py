"""What the ticker makes up for."""

from sqlalchemy import text

from tests.support.jobs import add_campaign, add_leads, job_row, one_tick, queue_job
from worker.claimer import claim
from worker.runner import run_chunk


def test_work_that_nobody_was_told_of_is_seen_and_work_in_hand_is_not(engine):
    with engine.begin() as connection:
        queue_job(connection, [("a", None)])
        queue_job(connection, [("b", None)], queue="off-peak")
        queue_job(connection, [("c", None)], queue="later", state="paused")
    assert one_tick(engine) == ["jobs", "off-peak"]
    with engine.begin() as connection:
        claim(connection, "jobs")
    assert one_tick(engine) == ["off-peak"]


def test_a_job_whose_worker_died_before_finishing_it_is_finished_once(engine):
    with engine.begin() as connection:
        add_campaign(connection)
        add_leads(connection, [("a", None)])
        job_id = queue_job(connection, [("a", None)])
        claimed = claim(connection, "jobs")
    run_chunk(engine, claimed)
    with (
        engine.begin() as connection
    ):  # as it stands between the last chunk's commit and the finish
        connection.execute(
            text(
                """UPDATE jobs SET state = 'running', finished_at = NULL, deleted = NULL,
                    would_delete = NULL,
    restored = NULL,
                conflict = NULL, not_found = NULL, unprocessed = NULL, invalid = NULL"""
            )
        )
    one_tick(engine)
    with engine.begin() as connection:
        finished = job_row(connection, job_id)
    one_tick(engine)
    with engine.begin() as connection:
        assert job_row(connection, job_id) == finished
    assert (finished.state, finished.deleted) == ("completed", 1)


def test_a_finished_job_never_changes(engine):
    with engine.begin() as connection:
        job_id = queue_job(connection, [("a", None)])
        claimed = claim(connection, "jobs")
    run_chunk(engine, claimed)
    with engine.begin() as connection:
        before = job_row(connection, job_id)
    run_chunk(engine, claimed)
    one_tick(engine)
    with engine.begin() as connection:
        assert job_row(connection, job_id) == before


def test_the_ticker_says_that_it_is_alive_and_forgets_who_long_is_not(engine):
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO heartbeats VALUES ('worker', 'gone:1', clock_timestamp() - interval"
                " '25 hours')"
            )
        )
    one_tick(engine)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT array_agg(role) FROM heartbeats")).scalar_one() == [
            "ticker"
        ]
