"""Processes that die before and after each statement they send: whatever had been done or not, the
end is the same.
"""

from itertools import product

import httpx2
import pytest

from tests.faults.conftest import mixed
from tests.faults.processes import dying
from tests.support.counts import ran, rounds
from tests.support.invariants import check_against_oracle
from tests.support.stack import free_port, running, running_stack, wait_for

WORKER_STATEMENTS = {
    "claim": "RECURSIVE",
    "lock the chunk": "FOR UPDATE OF chunks",
    "delete by external id": "external_id = ANY",
    "delete by phone number": "phone_number = ANY",
    "write the outcomes and finish the job": "WITH done AS",
    "commit": dying.COMMIT,
}


@pytest.mark.proof("worker statements")
def test_a_worker_may_die_before_and_after_each_of_its_statements(stack):
    for turn, moment in product(rounds("worker statements"), ("before", "after")):
        for name, fragment in WORKER_STATEMENTS.items():
            point = f"{moment} {fragment}"
            pairs = stack.add_leads(25, prefix=f"{moment}-{name}-{turn}")
            before = stack.leads()
            entries = mixed(pairs)
            stack.arm(point)
            job_id = stack.caller.submit(entries)
            stack.fired(point)
            ran()

            def finished(job_id=job_id):
                stack.let_leases_expire()
                return stack.caller.status(job_id)["finishedAt"]

            wait_for(finished)
            after = stack.leads()
            stack.check(stack.caller, {job_id: entries}, before)
            check_against_oracle(
                entries, stack.caller.results(job_id), before, after, campaign="cmp", chunk_size=10
            )
            stack.caller.http.get("/api/health")


def test_a_sign_of_life_does_not_meet_a_fail_point(ground):
    """It comes from the parent of the worker's processes, which nobody here would start anew."""
    with running(
        "tests.faults.processes.dying", ground.points, "worker", "--processes", 1, env=ground.env()
    ) as worker:
        first = wait_for(lambda: beat_of(ground))
        for moment in ("before", "after"):
            ground.arm(f"{moment} {dying.COMMIT}")
        wait_for(lambda: worker.poll() is not None or beat_of(ground) > first)
        assert worker.poll() is None


def beat_of(ground):
    with ground.engine.connect() as connection:
        return connection.exec_driver_sql("SELECT max(beat_at) FROM heartbeats").scalar_one()


@pytest.mark.proof("api")
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("turn", rounds("api"))
def test_an_api_that_dies_around_its_insert_leaves_a_whole_job_or_none(ground, moment, turn):
    """After the statement the job is durable, though nobody was told: it runs to its end without a
    message.
    """
    pairs = ground.add_leads(25)
    before = ground.leads()
    entries = mixed(pairs)
    point = f"{moment} INSERT INTO jobs"
    port = free_port()
    api = ("tests.faults.processes.dying", ground.points, "api", "--port", port)
    caller = ground.caller_of(f"http://127.0.0.1:{port}")
    with running(*api, env=ground.env(LEADSWEEP_CHUNK_SIZE="10")) as process:
        wait_for(lambda: answers(caller))
        ground.arm(point)
        with pytest.raises(httpx2.TransportError):
            caller.submit(entries)
        process.wait(10)
    with running_stack(ground.env(), deliverer=False) as url:
        caller = ground.caller_of(url)
        jobs = caller.jobs()
        assert len(jobs) == (moment == "after")
        ground.check(caller, dict.fromkeys(jobs, entries), before)


@pytest.mark.proof("api")
@pytest.mark.parametrize("turn", rounds("api"))
@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_api_that_dies_while_it_takes_a_key_leaves_one_job_for_it(ground, moment, turn):
    pairs = ground.add_leads(25)
    before = ground.leads()
    entries = mixed(pairs)
    point = f"{moment} INSERT INTO idempotency_keys"
    port = free_port()
    api = ("tests.faults.processes.dying", ground.points, "api", "--port", port)
    caller = ground.caller_of(f"http://127.0.0.1:{port}")
    with running(*api, env=ground.env()) as process:
        wait_for(lambda: answers(caller))
        ground.arm(point)
        with pytest.raises(httpx2.TransportError):
            caller.submit(entries, key="ticket 17")
        process.wait(10)
    with running_stack(ground.env(), deliverer=False) as url:
        caller = ground.caller_of(url)
        made = {caller.submit(entries, key="ticket 17") for _ in range(3)}
        assert made == set(caller.jobs())
        assert len(made) == 1
        ground.check(caller, dict.fromkeys(made, entries), before)


def answers(caller):
    try:
        return caller.http.get("/api/health")
    except httpx2.TransportError:
        return False
