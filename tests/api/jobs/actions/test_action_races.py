"""Two actions on one job at the same moment, and each action against workers that are deciding: one
of the orders happened.

The calls go through the API on connections of their own. Whoever comes first: no answer is an error
of ours, each job ends in a state that it can have come to, what follows it is there once, and every
lead is where the outcomes say.
"""

import asyncio
import threading
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise, product

import pytest
from sqlalchemy import event, select, text

from api.app import create_app
from shared.broker.wakeups import Announcer, Wake
from shared.database.models import jobs
from shared.settings import Rate
from shared.states import COUNTS, Action, JobState, Outcome
from tests.api.conftest import Service
from tests.support.counts import ran, rounds
from tests.support.jobs import (
    add_leads,
    job_row,
    let_leases_expire,
    one_tick,
    outcomes_of_job,
    remaining_leads,
)
from worker.claimer import MAX_ATTEMPTS, claim
from worker.runner import run_chunk, run_next
from worker.steerer import carry_out_requests

STEERING = {Action.CANCEL, Action.PAUSE, Action.RESUME}
UNFINISHED = ["scheduled", "queued", "running", "paused"]
SITUATIONS = dict.fromkeys(STEERING, UNFINISHED) | {
    Action.RETRY: ["failed", "cancelled"],
    Action.EXECUTE: ["previewed"],
    Action.RESTORE: ["completed", "failed", "cancelled"],
}
FOLLOWING_STATES = {
    "scheduled": {"queued", "paused", "cancelled"},
    "queued": {"running", "scheduled", "paused", "cancelled"},
    "running": {"scheduled", "paused", "completed", "failed", "cancelled"},
    "paused": {"scheduled", "queued", "cancelled"},
}

_NAMES = text("SELECT unnest(external_ids) FROM chunks WHERE job_id = :job_id ORDER BY number")

_fresh = count()


@pytest.fixture
async def service(settings, engine):
    """The API with two entries a chunk."""
    settings = settings.model_copy(
        update={"chunk_size": 2, "rate_limit_submit": Rate(100_000, timedelta(hours=1))}
    )
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        service = Service(app, engine)
        service.announce = Announcer(settings.limiter_url).announce
        service.wake = Wake(service.announce, lambda _: None)
        yield service
        await service.http.aclose()


def execute(service, statement, **values):
    with service.engine.begin() as connection:
        return connection.execute(text(statement), values)


def row_of(service, job_id):
    with service.engine.begin() as connection:
        return job_row(connection, job_id)


def work(service):
    """A worker's part, with the wake-ups that it sends."""
    messages = ["jobs"]
    while messages:
        run_next(service.engine, messages.pop(), Wake(service.announce, messages.append))


def decide_one(service):
    with service.engine.begin() as connection:
        claimed = claim(connection, "jobs")
    run_chunk(service.engine, claimed)


def ask(service, job_id, action):
    """As if the action had been asked for, and carried out."""
    execute(
        service,
        "UPDATE jobs SET wanted = :action, wanted_by = 'tests' WHERE id = :job_id",
        job_id=job_id,
        action=action,
    )
    carry_out_requests(service.engine, service.wake)


async def submitted(service, entries=4, **options):
    """An archive job of leads that no other job names."""
    names = [f"lead-{next(_fresh)}" for _ in range(entries)]
    with service.engine.begin() as connection:
        add_leads(connection, [(name, None) for name in names])
    return await service.submit(
        *({"externalId": name} for name in names), **{"mode": "archive"} | options
    )


async def job_in(service, situation):
    """A job that has come to be in it, with a part of its leads archived where that is possible."""
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    options = {"scheduled": {"schedule": {"runAt": later}}, "previewed": {"dryRun": True}}.get(
        situation, {}
    )
    job_id = await submitted(service, **options)
    if situation in {"running", "failed", "cancelled"}:
        decide_one(service)
    if situation == "running":  # the next chunk is in the hands of a worker that died
        with service.engine.begin() as connection:
            assert str(claim(connection, "jobs").job_id) == job_id
    elif situation == "failed":
        execute(
            service, "UPDATE chunks SET attempts = :most WHERE state = 'pending'", most=MAX_ATTEMPTS
        )
        work(service)
    elif situation in {"completed", "previewed"}:
        work(service)
    elif situation in {"paused", "cancelled"}:
        ask(service, job_id, "pause" if situation == "paused" else "cancel")
    assert row_of(service, job_id).state == {"previewed": "completed"}.get(situation, situation)
    return job_id


async def acted(service, job_id, *actions):
    """The answers to actions that are asked for at once, while somebody carries out requests."""
    over = threading.Event()

    def carry_out():
        while not over.is_set():
            carry_out_requests(service.engine, service.wake)
            service.announce(job_id)
        carry_out_requests(service.engine, service.wake)

    carrying_out = asyncio.create_task(asyncio.to_thread(carry_out))
    try:
        return await asyncio.gather(*(service.act(job_id, action) for action in actions))
    finally:
        over.set()
        await carrying_out


def drain(service):
    """Everything that can go on goes on to its end."""
    for _ in range(5):
        execute(
            service,
            "UPDATE jobs SET state = 'queued', history = history"
            " || jsonb_build_object('status', 'queued', 'at', clock_timestamp(), 'by', 'drain')"
            " WHERE state = 'paused'",
        )
        execute(service, "UPDATE jobs SET run_at = clock_timestamp() WHERE state = 'scheduled'")
        with service.engine.begin() as connection:
            let_leases_expire(connection)
        one_tick(service.engine)
        work(service)


def check(service):
    """What must hold of all jobs, drained, and of all leads."""
    with service.engine.begin() as connection:
        rows = connection.execute(select(jobs)).all()
        here = {external_id for external_id, _ in remaining_leads(connection)}
        taken, named = Counter(), set()
        for job in rows:
            outcomes = [Outcome(outcome) for outcome in outcomes_of_job(connection, job.id)]
            names = connection.execute(_NAMES, {"job_id": job.id}).scalars().all()
            named.update(names)
            for name, outcome in zip(names, outcomes, strict=True):
                taken[name] += {"deleted": 1, "archived": 1, "restored": -1}.get(outcome.word, 0)
            check_ended(job, outcomes)
    assert set(taken.values()) <= {0, 1}, "a lead was taken twice"
    assert {name for name in named if not taken[name]} == here & named
    follows = Counter((job.source_job_id, job.mode) for job in rows if job.source_job_id)
    assert set(follows.values()) <= {1}, "one of each kind follows a job"


def check_ended(job, outcomes):
    assert JobState(job.state).final
    counted = Counter(outcome.count for outcome in outcomes)
    assert {name: getattr(job, name) for name in COUNTS} == {name: counted[name] for name in COUNTS}
    assert sum(counted[name] for name in COUNTS) == job.total == len(outcomes)
    states = [change["status"] for change in job.history]
    assert states[-1] == job.state
    for before, after in pairwise(states):
        assert after in FOLLOWING_STATES.get(before, ()), states
    assert (Outcome.CANCELLED in outcomes) == (job.state == "cancelled")


@pytest.mark.proof("two actions")
@pytest.mark.parametrize(("first", "second"), list(product(Action, Action)))
async def test_two_actions_at_once_are_as_one_after_the_other(service, first, second):
    situations = dict.fromkeys(SITUATIONS[first] + SITUATIONS[second])
    for situation, _ in product(situations, rounds("two actions")):
        ran()
        job_id = await job_in(service, situation)
        before = row_of(service, job_id)
        answers = await acted(service, job_id, first, second)
        after = row_of(service, job_id)
        told = (
            f"{situation}: {[(answer.status_code, answer.text) for answer in answers]}, then"
            f" {after.state}"
        )
        for action, other, answer in zip((first, second), (second, first), answers, strict=True):
            possible = situation in SITUATIONS[action] or (action, situation) == (
                Action.CANCEL,
                "cancelled",
            )
            outdone = other == Action.CANCEL and action in {Action.PAUSE, Action.RESUME}
            # What is cancelled by then can be retried, and its archived leads restored.
            follows = other == Action.CANCEL and action in {Action.RETRY, Action.RESTORE}
            allowed = {200, 202, 409} if outdone or follows else {200, 202}
            expected = allowed if possible or (follows and situation in UNFINISHED) else {409}
            assert answer.status_code in expected, told
        if situation not in UNFINISHED:
            assert after == before, f"final is final; {told}"
        assert after.state in may_become(situation, {first, second}), told
        follow = [
            a.json()["data"]["jobId"]
            for a in answers
            if a.status_code == 202 and a.json()["data"]["jobId"] != job_id
        ]
        if first == second:
            assert len(set(follow)) <= 1, told
        drain(service)
        assert row_of(service, job_id).history[: len(after.history)] == after.history
    check(service)


def may_become(situation, actions):
    if situation not in UNFINISHED:
        return {"completed" if situation == "previewed" else situation}
    if Action.CANCEL in actions:
        return {"cancelled"}
    if Action.PAUSE not in actions:
        return {"queued"} if situation == "paused" and Action.RESUME in actions else {situation}
    return (
        {"paused", situation, situation if situation == "scheduled" else "queued"}
        if Action.RESUME in actions
        else {"paused"}
    )


@asynccontextmanager
async def working(service, workers=2):
    """Within it, workers run what there is; at the end they are waited for. Yields what waits until
    the n-th chunk is begun.
    """
    begun, changed = count(), threading.Condition()
    so_far = 0

    @event.listens_for(service.engine, "after_cursor_execute")
    def look(_connection, _cursor, statement, _parameters, _context, _many):
        nonlocal so_far
        if "FOR UPDATE OF chunks" in statement:
            with changed:
                so_far = next(begun) + 1
                changed.notify_all()

    def reached(number):
        with changed:
            assert changed.wait_for(lambda: so_far >= number, 20)

    tasks = [asyncio.create_task(asyncio.to_thread(work, service)) for _ in range(workers)]
    try:
        yield reached
    finally:
        await asyncio.gather(*tasks)
        event.remove(service.engine, "after_cursor_execute", look)


@pytest.mark.proof("action and workers")
@pytest.mark.parametrize("action", Action)
async def test_an_action_meets_workers_that_are_deciding(service, action):
    for begun, _ in product(range(1, 12, 2), rounds("action and workers")):
        ran()
        job_id = await submitted(service, entries=24, dryRun=action == Action.EXECUTE)
        if action == Action.RETRY:
            execute(
                service,
                "UPDATE chunks SET attempts = :most WHERE state = 'pending' AND number = 3",
                most=MAX_ATTEMPTS,
            )
        async with working(service) as reached:
            await asyncio.to_thread(reached, begun)
            if action == Action.RESUME:
                execute(
                    service,
                    (
                        "UPDATE jobs SET wanted = 'pause', wanted_by = 'tests'"
                        " WHERE finished_at IS NULL"
                    ),
                )
            answer = await service.act(job_id, action)
            while action not in STEERING and answer.status_code == 409:  # an eager caller
                answer = await service.act(job_id, action)
        after = row_of(service, job_id)
        told = f"{answer.status_code} {answer.text}, then {after.state}"
        if answer.status_code == 409:
            assert after.state == "completed", told
        else:
            assert answer.status_code in {200, 202}, told
        assert after.state in MEANWHILE[action], told
        drain(service)
        if JobState(after.state).final:
            assert row_of(service, job_id) == after, "final is final"
    check(service)


MEANWHILE = {
    Action.CANCEL: {"running", "completed", "cancelled"},
    Action.PAUSE: {"running", "completed", "paused"},
    Action.RESUME: {"queued", "running", "completed"},
    Action.RETRY: {"failed"},
    Action.EXECUTE: {"completed"},
    Action.RESTORE: {"completed"},
}
