"""Jobs with `maxLeadsPerSecond`: no faster, hardly slower, and each entry decided as if they had
none.
"""

import time
from datetime import timedelta

import pytest
from sqlalchemy import text

from shared.broker.sender import JOBS_QUEUE
from tests.support.jobs import (
    add_campaign,
    add_leads,
    job_row,
    outcomes_of_job,
    queue_job,
    remaining_leads,
)
from worker.claimer import claim
from worker.runner import run_chunk
from worker.ticker import SHORTEST_PAUSE, _seconds_until_paced, queues_with_work


def work_for(engine, job_id, seconds, step=0.25):
    """What a busy worker does in `seconds`; the clock is the database's, so the job's own time is
    moved instead, by as much as has not passed by itself. Returns how many leads were decided by
    the end of each step.
    """
    decided = []
    last = time.monotonic()
    for _ in range(int(seconds / step)):
        now = time.monotonic()
        more, last = timedelta(seconds=step - (now - last)), now
        with engine.begin() as connection:
            connection.execute(
                text("UPDATE jobs SET paced_at = paced_at - CAST(:more AS interval)"),
                {"more": more},
            )
        while claimed := claimed_now(engine):
            run_chunk(engine, claimed)
        with engine.connect() as connection:
            decided.append(sum(outcome != 0 for outcome in outcomes_of_job(connection, job_id)))
    return decided


def claimed_now(engine):
    with engine.begin() as connection:
        return claim(connection, JOBS_QUEUE)


@pytest.fixture
def campaign(engine):
    with engine.begin() as connection:
        add_campaign(connection)
        add_leads(connection, [(f"crm-{i}", f"+1{i:06d}") for i in range(4000)])


@pytest.mark.parametrize("rate", [1, 7, 300])
@pytest.mark.parametrize("step", [0.25, 0.9])
def test_within_any_ten_seconds_the_pace_is_kept_within_a_tenth(engine, campaign, rate, step):
    entries = [(f"crm-{i}", None) for i in range(4000)]
    with engine.begin() as connection:
        job_id = queue_job(connection, entries, max_leads_per_second=rate)
    decided = [0, *work_for(engine, job_id, 13, step)]
    window = int(10 / step)
    for start in range(len(decided) - window):
        worked = decided[start + window] - decided[start]
        assert worked <= rate * 10 * 1.1 + 1
        assert start == 0 or worked >= rate * window * step * 0.9 - 1, "from its first entry on"


def test_after_waiting_for_a_worker_it_catches_up_by_less_than_a_second_and_no_more(
    engine, campaign
):
    with engine.begin() as connection:
        job_id = queue_job(
            connection, [(f"crm-{i}", None) for i in range(4000)], max_leads_per_second=100
        )
    began = time.monotonic()
    assert work_for(engine, job_id, 0.25)[-1] >= 12
    with engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET paced_at = paced_at - interval '1 hour'"))
    decided = work_for(engine, job_id, 0.25)[-1]
    assert 12 + 85 <= decided <= 25 + 85 + 12 + (time.monotonic() - began) * 100


@pytest.mark.parametrize("columns", [{}, {"mode": "archive"}, {"dry_run": True}])
def test_a_chunk_that_is_done_in_parts_comes_to_the_same(engine, campaign, columns):
    entries = [
        (f"crm-{i}", None) if i % 3 else (None, f"+1{i:06d}") if i % 2 else (f"nobody-{i}", None)
        for i in range(40)
    ]
    with engine.begin() as connection:
        whole = queue_job(connection, entries, dry_run=True)
    while claimed := claimed_now(engine):
        run_chunk(engine, claimed)
    with engine.begin() as connection:
        parts = queue_job(connection, entries, max_leads_per_second=6, **columns)
    decided = work_for(engine, parts, 30)
    assert 0 < decided[0] < len(entries)
    with engine.connect() as connection:
        row = job_row(connection, parts)
        assert (row.state, row.total) == ("completed", len(entries))
        found = [outcome in {1, 2, 7, 8, 9, 10} for outcome in outcomes_of_job(connection, parts)]
        expected = [outcome in {7, 8} for outcome in outcomes_of_job(connection, whole)]
        assert found == expected
        assert row.deleted + row.would_delete == sum(expected)
        if columns.get("dry_run"):
            known = (
                "SELECT cardinality(lead_ids), cardinality(array_remove(lead_ids, NULL))"
                " FROM chunks WHERE job_id = :id"
            )
            assert tuple(connection.execute(text(known), {"id": parts}).one()) == (
                len(entries),
                sum(expected),
            )
        else:
            assert len(remaining_leads(connection)) == 4000 - sum(expected)


def test_a_part_that_kills_its_worker_five_times_fails_alone(engine, campaign):
    with engine.begin() as connection:
        job_id = queue_job(
            connection, [(f"crm-{i}", None) for i in range(10)], max_leads_per_second=6
        )
        connection.execute(text("UPDATE chunks SET attempts = 5"))
    decided = work_for(engine, job_id, 3)
    assert decided[-1] == 10
    with engine.connect() as connection:
        row = job_row(connection, job_id)
    assert (row.state, row.unprocessed, row.deleted) == ("failed", 1, 9)


def test_the_ticker_sends_for_a_paced_job_only_when_it_may_go_on(engine, campaign):
    with engine.begin() as connection:
        queue_job(connection, [(f"crm-{i}", None) for i in range(10)], max_leads_per_second=1)
        assert queues_with_work(connection) == ["jobs"]
    run_chunk(engine, claimed_now(engine))
    with engine.connect() as connection:
        assert queues_with_work(connection) == []
        assert 0 < _seconds_until_paced(engine, 9) <= 1


@pytest.mark.parametrize(("due", "seconds"), [("5 ms", SHORTEST_PAUSE), ("2 s", 9)])
def test_who_is_due_is_looked_at_again_soon_until_a_worker_has_claimed_it(
    engine, campaign, due, seconds
):
    with engine.begin() as connection:
        queue_job(connection, [(f"crm-{i}", None) for i in range(10)], max_leads_per_second=1)
        connection.execute(
            text("UPDATE jobs SET paced_at = clock_timestamp() - CAST(:due AS interval)"),
            {"due": due},
        )
    assert _seconds_until_paced(engine, 9) == seconds
