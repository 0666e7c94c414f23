"""Workers and tickers that die while they pause, cancel, preview, execute, archive and restore: the
end is the same.
"""

import time
from itertools import product

import pytest
from sqlalchemy import text

from tests.faults.conftest import mixed
from tests.faults.processes import dying
from tests.support.counts import ran, rounds
from tests.support.invariants import FINAL
from tests.support.stack import running, running_api, running_ticker, running_worker, wait_for

MOMENTS = ("before", "after")


def settled(stack, job_id, wanted):
    """The job's status once it is one of `wanted`; leases of dead workers run out at once."""

    def there():
        stack.let_leases_expire()
        status = stack.caller.status(job_id)
        return status["status"] in wanted and status

    return wait_for(there)


def paused_while_scheduled(stack, entries, **options):
    """A job that nobody works on yet."""
    return stack.caller.submit(entries, schedule={"runAt": "2999-01-01T00:00:00Z"}, **options)


def run_now(stack, job_id):
    with stack.engine.begin() as connection:
        connection.execute(
            text("UPDATE jobs SET run_at = clock_timestamp() WHERE id = :id"), {"id": job_id}
        )


REQUESTS = {
    "pause": ["SET state = 'paused'", "attempts - 1", dying.COMMIT],
    "cancel": ["array_replace", "SET state = 'done'", dying.COMMIT],
}


@pytest.mark.proof("worker actions")
@pytest.mark.parametrize("action", REQUESTS)
def test_a_worker_that_dies_while_carrying_out_a_request_leaves_it_to_the_next(stack, action):
    for turn, moment in product(rounds("worker actions"), MOMENTS):
        for fragment in REQUESTS[action]:
            pairs = stack.add_leads(25, prefix=f"{action}{moment}{fragment}{turn}")
            before = stack.leads()
            entries = mixed(pairs)
            job_id = paused_while_scheduled(stack, entries)
            stack.arm(f"{moment} {fragment}")
            assert stack.caller.act(job_id, action).status_code in {200, 202}
            state = "paused" if action == "pause" else "cancelled"
            status = settled(stack, job_id, {state})
            assert (status["requested"], status["processed"] == status["total"]) == (
                None,
                action == "cancel",
            )
            assert stack.leads() == before
            left = list(stack.points.iterdir())
            ran(not left)  # the ticker may have been faster than the worker that was to die
            for point in left:
                point.unlink()
            if action == "pause":
                assert stack.caller.act(job_id, "resume").json()["data"]["status"] == "scheduled"
                run_now(stack, job_id)
            settled(stack, job_id, FINAL)
            stack.check(stack.caller, {job_id: entries}, before)


@pytest.mark.proof("worker actions")
def test_a_worker_may_die_anywhere_in_a_preview_and_in_its_execution(stack):
    points = ["lead_ids = CAST", "PARTITION BY person", "FOR NO KEY UPDATE", dying.COMMIT]
    moments = product(rounds("worker actions"), MOMENTS, points)
    for number, (_, moment, fragment) in enumerate(moments):
        point = f"{moment} {fragment}"
        pairs = stack.add_leads(25, prefix=f"preview{number}")
        before = stack.leads()
        entries = mixed(pairs)
        stack.arm(point)
        preview = stack.caller.submit(entries, dryRun=True)
        stack.fired(point)
        status = settled(stack, preview, FINAL)
        assert stack.leads() == before
        found = status["wouldDelete"]
        execution = f"{('before', 'after')[number % 2]} known ("
        stack.arm(execution)
        executed = stack.caller.act(preview, "execute")
        assert executed.status_code == 202, executed.text
        job_id = executed.json()["data"]["jobId"]
        stack.fired(execution)
        ran(2)
        assert settled(stack, job_id, FINAL)["deleted"] == found == len(before) - len(stack.leads())
        # Entry by entry: what was found is what was deleted, in the same order.
        would = [
            r["identifier"] for r in stack.caller.results(preview) if r["outcome"] == "wouldDelete"
        ]
        assert [r["identifier"] for r in stack.caller.results(job_id)] == would


@pytest.mark.proof("worker actions")
def test_a_worker_may_die_anywhere_while_archiving_and_restoring(stack):
    for turn, moment in product(rounds("worker actions"), MOMENTS):
        pairs = stack.add_leads(25, prefix=f"archive{moment}{turn}")
        before = stack.leads()
        entries = mixed(pairs)
        points = [f"{moment} INSERT INTO archived_leads", f"{moment} json_populate_record"]
        stack.arm(points[0])
        job_id = stack.caller.submit(entries, mode="archive")
        stack.fired(points[0])
        archived = settled(stack, job_id, FINAL)["deleted"]
        stack.check(stack.caller, {job_id: entries}, before)
        stack.arm(points[1])
        restoration = stack.caller.act(job_id, "restore").json()["data"]["jobId"]
        stack.fired(points[1])
        ran(2)
        assert settled(stack, restoration, FINAL)["restored"] == archived
        assert stack.leads() == before
        with stack.engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM archived_leads")).scalar_one() == 0


@pytest.mark.proof("worker actions")
def test_a_worker_may_die_anywhere_while_erasing(stack):
    points = [
        "AND leadsweep_by_index() FOR UPDATE",
        "DELETE FROM leads",
        "SET lead = NULL",
        "WITH done AS",
        dying.COMMIT,
    ]
    for turn, moment in product(rounds("worker actions"), MOMENTS):
        for number, fragment in enumerate(points):
            pairs = stack.add_leads(25, prefix=f"erase{moment}{number}-{turn}")
            before = stack.leads()
            archived, left = pairs[:20], pairs[20:]
            job_id = stack.caller.submit(
                [(external_id, None) for external_id, _ in archived], mode="archive"
            )
            assert stack.caller.finished(job_id)["deleted"] == len(archived)
            entries = [pair if at % 2 else (None, pair[1]) for at, pair in enumerate(pairs)]
            stack.arm(f"{moment} {fragment}")
            deletion = stack.caller.submit(entries)
            stack.fired(f"{moment} {fragment}")
            ran()
            status = settled(stack, deletion, FINAL)
            assert (status["deleted"], status["erasedFromArchive"]) == (len(pairs), len(archived))
            assert {lead.external_id for lead in before - stack.leads()} == {
                external_id for external_id, _ in archived + left
            }
            restoration = stack.caller.act(job_id, "restore").json()["data"]["jobId"]
            status = settled(stack, restoration, FINAL)
            assert (status["restored"], status["notFound"]) == (0, len(archived))
            assert {r["reason"] for r in stack.caller.results(restoration)} == {"erased"}


def test_a_cancelled_job_keeps_what_was_done_and_nothing_is_in_hand_when_it_changes(stack):
    pairs = stack.add_leads(100)
    before = stack.leads()
    entries = [(external_id, None) for external_id, _ in pairs]
    job_id = stack.caller.submit(entries)
    answer = stack.caller.act(job_id, "cancel")
    assert answer.status_code in {200, 202, 409}, "409 where it was done before"
    status = stack.caller.finished(job_id)
    after = stack.leads()
    assert len(before) - len(after) == status["deleted"]
    stack.check(stack.caller, {job_id: entries}, before)
    assert stack.leads() == after, "nothing is deleted once it is final"


def test_a_cancellation_is_in_force_within_a_second_though_a_worker_was_killed_with_a_chunk_in_hand(
    stack,
):
    """A dead worker's lease lasts 20 s; its lock does not."""
    pairs = stack.add_leads(30)
    before = stack.leads()
    entries = [(external_id, None) for external_id, _ in pairs]
    stack.arm("before DELETE FROM leads")
    job_id = stack.caller.submit(entries)
    stack.fired("before DELETE FROM leads")
    began = time.monotonic()
    stack.caller.act(job_id, "cancel")
    status = stack.caller.finished(job_id)
    assert time.monotonic() - began < 2, "a second, and some for a machine under load"
    assert status["status"] == "cancelled"
    stack.check(stack.caller, {job_id: entries}, before)


TICKER_POINTS = [
    "PARTITION BY company_id",
    "wanted = 'close'",
    "INSERT INTO heartbeats",
    "DELETE FROM idempotency_keys",
]


@pytest.mark.proof("ticker")
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("turn", rounds("ticker"))
def test_a_ticker_may_die_at_each_step_and_the_next_one_goes_on(ground, moment, turn):
    pairs = ground.add_leads(10)
    before = ground.leads()
    entries = mixed(pairs)
    with (
        running_api(ground.env(LEADSWEEP_CHUNK_SIZE="5")) as url,
        running_worker(ground.env(), processes=1),
    ):
        ground.caller = ground.caller_of(url)
        job_id = paused_while_scheduled(ground, entries)
        for fragment in TICKER_POINTS:
            ground.arm(f"{moment} {fragment}")
            with running(
                "tests.faults.processes.dying", ground.points, "worker.ticker", env=ground.env()
            ) as ticker:
                assert ticker.wait(20) != 0
            ran()
        run_now(ground, job_id)
        with running_ticker(ground.env()):
            status = settled(ground, job_id, FINAL)
        assert [change["status"] for change in status["history"]] == [
            "scheduled",
            "queued",
            "running",
            "completed",
        ]
        ground.check(ground.caller, {job_id: entries}, before)
