"""Workers that are killed, frozen or poisoned; messages that are doubled; jobs that get into each
other's way.
"""

import signal
import time

import psutil
import pytest
from sqlalchemy import text

from shared.broker.sender import RUN_NEXT, create_celery
from tests.faults.conftest import batches, mixed
from tests.faults.processes.dying import deaths_at
from tests.support.counts import many, ran, rounds
from tests.support.jobs import add_campaign, add_leads, job_row, queue_job
from tests.support.stack import (
    running_api,
    running_stack,
    running_ticker,
    running_worker,
    wait_for,
)


@pytest.mark.proof("odd workers")
def test_work_in_a_dead_workers_hands_goes_on_within_45_seconds(stack):
    pairs = stack.add_leads(25)
    before = stack.leads()
    stack.arm("after WITH done AS")
    job_id = stack.caller.submit(mixed(pairs))
    stack.fired("after WITH done AS")
    killed = time.monotonic()
    stack.caller.finished(job_id, seconds=45)
    assert time.monotonic() - killed < 45
    stack.check(stack.caller, {job_id: mixed(pairs)}, before)


@pytest.mark.proof("odd workers")
def test_a_poison_chunk_fails_alone_after_five_attempts(stack):
    pairs = stack.add_leads(30)
    before = stack.leads()
    entries = [
        *((e, None) for e, _ in pairs[:10]),
        *((e, None) for e, _ in pairs[10:19]),
        ("poison", None),
        *((e, None) for e, _ in pairs[20:]),
    ]
    stack.arm("always after poison")
    job_id = stack.caller.submit(entries)

    def finished():  # a lease is ended early when its holder is dead, never under a living one
        with stack.engine.begin() as connection:
            end_lease = text(
                "UPDATE chunks SET retry_at = '-infinity' WHERE state = 'pending'"
                " AND attempts = :deaths"
            )
            connection.execute(
                end_lease, {"deaths": deaths_at(stack.points, "always after poison")}
            )
        return stack.caller.status(job_id)["finishedAt"]

    wait_for(finished, 60)
    status = stack.caller.status(job_id)
    assert (status["status"], status["deleted"], status["unprocessed"]) == ("failed", 20, 10)
    assert {r["reason"] for r in stack.caller.results(job_id) if r["outcome"] == "unprocessed"} == {
        "failed"
    }
    assert deaths_at(stack.points, "always after poison") == 5
    stack.check(stack.caller, {job_id: entries}, before)


@pytest.mark.proof("odd workers")
def test_every_message_delivered_three_times_changes_nothing(ground):
    pairs = ground.add_leads(400)
    before = ground.leads()
    four = ("worker", "--processes", 4)
    with running_stack(ground.env(LEADSWEEP_CHUNK_SIZE="5"), four, deliverer=False) as url:
        caller = ground.caller_of(url)
        submitted = {}
        with create_celery(ground.settings.broker_url) as broker:
            for part in batches(pairs, 20):
                entries = mixed(part)
                submitted[caller.submit(entries)] = entries
                for _ in range(3):
                    broker.send_task(RUN_NEXT, args=("jobs",))
        ground.check(caller, submitted, before)


@pytest.mark.proof("odd workers")
def test_a_frozen_worker_keeps_nobody_from_its_work_and_does_none_when_it_wakes(ground):
    """Its transaction is ended by the database, its chunk is done by another, and what it then
    tries comes to nothing.
    """
    pairs = ground.add_leads(20)
    before = ground.leads()
    entries = mixed(pairs)
    with running_api(ground.env()) as url, running_worker(ground.env(), processes=1) as frozen:
        caller = ground.caller_of(url)
        with ground.engine.begin() as holder:  # makes the worker wait inside its transaction
            holder.execute(text("SELECT FROM leads WHERE external_id = 'crm-0' FOR UPDATE"))
            job_id = caller.submit(entries)
            wait_for(lambda: waiting_for_a_lock(ground.engine))
            children = psutil.Process(frozen.pid).children()
            for process in (*children, psutil.Process(frozen.pid)):
                process.send_signal(signal.SIGSTOP)
        with running_worker(ground.env(), processes=1), running_ticker(ground.env()):

            def finished():
                ground.let_leases_expire()
                return caller.status(job_id)["finishedAt"]

            wait_for(finished, 40)
            status, results = caller.status(job_id), caller.results(job_id)
            for process in (psutil.Process(frozen.pid), *children):
                process.send_signal(signal.SIGCONT)
            later = caller.submit([("nobody", None)])
            caller.finished(later)
            assert (caller.status(job_id), caller.results(job_id)) == (status, results)
            ground.check(caller, {job_id: entries}, before)


@pytest.mark.proof("opposite order")
def test_jobs_over_the_same_leads_in_opposite_order_never_get_stuck(ground):
    """Deadlocks may happen and are retried, no attempt is lost to them, and each lead
    is deleted once.
    """
    pairs = ground.add_leads(400)
    before = ground.leads()
    four = ("worker", "--processes", 4)
    with running_stack(ground.env(LEADSWEEP_CHUNK_SIZE="100"), four, deliverer=False) as url:
        caller = ground.caller_of(url)
        submitted = {}
        for turn in range(many("opposite order")):
            order = pairs if turn % 2 else pairs[::-1]
            entries = [(e, None) if (i + turn) % 3 else (None, n) for i, (e, n) in enumerate(order)]
            submitted[caller.submit(entries)] = entries
        ground.check(caller, submitted, before)
        assert all(caller.status(job_id)["status"] == "completed" for job_id in submitted)
        ran(len(submitted))
    with ground.engine.connect() as connection:
        assert (
            connection.execute(text("SELECT count(*) FROM chunks WHERE attempts > 1")).scalar_one()
            == 0
        )


@pytest.mark.proof("odd workers")
def test_three_tickers_do_no_more_than_one(ground):
    pairs = ground.add_leads(200)
    before = ground.leads()
    with running_api(ground.env(LEADSWEEP_CHUNK_SIZE="5")) as url, running_worker(ground.env()):
        tickers = [running_ticker(ground.env()) for _ in range(3)]
        with tickers[0], tickers[1], tickers[2]:
            caller = ground.caller_of(url)
            submitted = {}
            for part in batches(pairs, 20):
                entries = mixed(part)
                submitted[caller.submit(entries)] = entries
            ground.check(caller, submitted, before)
    with ground.engine.connect() as connection:
        assert connection.execute(text("SELECT max(attempts) FROM chunks")).scalar_one() == 1


def waiting_for_a_lock(engine):
    with engine.connect() as connection:
        return connection.execute(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND query LIKE '%DELETE FROM leads%'"
            )
        ).scalar_one()


@pytest.mark.proof("beside slow jobs")
@pytest.mark.parametrize("turn", rounds("beside slow jobs"))
@pytest.mark.parametrize(
    "slow",
    ["PERFORM pg_sleep(0.02)", "PERFORM pg_sleep(60 * (right(OLD.external_id, 2) = '-1')::int)"],
    ids=["each", "one"],
)
def test_beside_two_slow_jobs_another_companys_small_ones_end_within_five_seconds(
    ground, slow, turn
):
    """Whether every lead takes a little longer, or one takes for ever: some worker is free in
    time.
    """
    ground.execute(SLOW.replace("SLOW", slow))
    ground.add_leads(1000, "first")
    ground.add_leads(1000, "second")
    with ground.engine.begin() as connection:
        add_campaign(connection, "quick", "quick")
        add_leads(connection, [(f"quick-{i}", None) for i in range(100)], "quick")
        for prefix in ("first", "second"):
            queue_job(connection, [(f"{prefix}-{i}", None) for i in range(1000)])
    with running_worker(ground.env(), processes=2), running_ticker(ground.env()):
        for number in range(6):
            entries = [(f"quick-{i}", None) for i in range(number * 10, number * 10 + 10)]
            with ground.engine.begin() as connection:
                job_id = queue_job(connection, entries, company="quick", campaign="quick")

            def ended(job_id=job_id):
                with ground.engine.begin() as connection:
                    return job_row(connection, job_id).finished_at

            assert wait_for(ended, 5 if number else 10), (
                "the first waits for the worker's start too"
            )
            wait_for(lambda: slow_parts_begun(ground) >= 2, 30)
            ran()


SLOW = """
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN SLOW; RETURN OLD; END $$;
    CREATE TRIGGER slow BEFORE DELETE ON leads FOR EACH ROW WHEN (OLD.campaign_id = 'cmp')
        EXECUTE FUNCTION slow()
"""


def slow_parts_begun(ground):
    """How many slow chunks are in hand."""
    with ground.engine.begin() as connection:
        return len(
            connection.exec_driver_sql(
                "SELECT FROM chunks WHERE state = 'pending' AND retry_at > clock_timestamp()"
            ).all()
        )
