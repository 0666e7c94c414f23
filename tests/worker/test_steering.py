"""Pause, cancel, resume and windows, as worker and ticker carry them out: what is in hand is waited
for, the rest is kept.
"""

import json
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import event, text

from api.http.answers import ApiError
from api.http.auth import Key
from api.http.request import Caller
from api.jobs.actions.control import request_action
from api.jobs.actions.follow_up import follow
from api.jobs.submission import parse
from api.jobs.submit import submit
from shared.broker.wakeups import NOBODY, Wake
from shared.settings import Settings
from shared.states import COUNTS, POSSIBLE_IN, Action, JobState, Outcome
from shared.windows import next_opening, parse_window
from tests.support.jobs import (
    add_campaign,
    add_leads,
    job_row,
    let_leases_expire,
    one_tick,
    outcomes_of_job,
    queue_job,
    remaining_leads,
    work_off,
)
from tests.worker.lives.test_properties import World
from worker.claimer import MAX_ATTEMPTS, claim
from worker.runner import run_chunk, run_next
from worker.setbacks import put_off
from worker.steerer import REQUESTS_A_TURN, carry_out_requests

KEY = Key(uuid4(), "co", None, "write", "tests", None, None)
STEERING = (Action.CANCEL, Action.PAUSE, Action.RESUME)
LEADS = [("a", "+101"), ("b", "+102"), ("c", "+103"), ("d", None)]
FOUR = [("a", None), ("b", None), ("c", None), ("d", None)]
DELETED, CANCELLED = Outcome.DELETED_BY_EXTERNAL_ID, Outcome.CANCELLED


class SteeredWorld(World):
    """A world in which jobs of every kind are submitted and acted on, by the API's own
    functions.
    """

    def submit(self, written, *, chunk_size=1000, **fields):
        job_id = uuid4()
        listed = [{"externalId": e, "phoneNumber": n} for e, n in written]
        submission = parse(json.dumps({"campaignId": "cmp", "leads": listed} | fields).encode())
        caller = Caller(KEY, None, 0, job_id)
        self._runner.run(
            submit(self.api_engine, Settings(chunk_size=chunk_size), caller, submission)
        )
        return job_id

    def act(self, job_id, action, *, chunk_size=1000):
        """What the API answers with, an Accepted. Raises ApiError."""
        if action in STEERING:
            return self._runner.run(
                request_action(self.api_engine, Caller(KEY, None, 0, job_id), job_id, action)
            )
        caller = Caller(KEY, None, 0, uuid4())
        return self._runner.run(
            follow(self.api_engine, Settings(chunk_size=chunk_size), caller, job_id, action)
        )

    def refusal(self, job_id, action):
        """The status and message of the error that the action is answered with."""
        with pytest.raises(ApiError) as refused:
            self.act(job_id, action)
        return refused.value.status, refused.value.message

    def execute(self, statement, **values):
        with self.engine.begin() as connection:
            return connection.execute(text(statement), values)

    def claim(self, queue="jobs"):
        with self.engine.begin() as connection:
            return claim(connection, queue)

    def carry_out(self):
        """The jobs that it was told of."""
        told = []
        carry_out_requests(self.engine, Wake(told.append, lambda _: None))
        return told

    def outcomes_of(self, job_id):
        with self.engine.begin() as connection:
            return outcomes_of_job(connection, job_id)

    def left(self):
        """The external ids that the campaign still has."""
        with self.engine.begin() as connection:
            return {external_id for external_id, _ in remaining_leads(connection)}

    def steps(self, job_id):
        """(state, by whom) of each change in the job's history, whose times never go back."""
        job = self.job(job_id)
        times = [datetime.fromisoformat(change["at"]) for change in job.history]
        assert times == sorted(times)
        assert job.history[-1]["status"] == job.state
        return [(change["status"], change["by"]) for change in job.history]


@pytest.fixture
def world(engine, database_url):
    """A campaign of four leads."""
    with engine.begin() as connection:
        add_campaign(connection)
        add_leads(connection, LEADS)
    world = SteeredWorld(engine, database_url)
    yield world
    world.close()


@contextmanager
def deciding(world, claimed):
    """Within it, a worker has begun on the claimed chunk and holds it locked; at the end it goes
    on, and is waited for.
    """
    begun, go_on = threading.Event(), threading.Event()

    @event.listens_for(world.engine, "after_cursor_execute")
    def hold(_connection, _cursor, statement, parameters, _context, _many):
        if "FOR UPDATE OF chunks" in statement and threading.current_thread() is worker:
            begun.set()
            assert go_on.wait(8), "longer than its worker may be idle"

    worker = threading.Thread(target=run_chunk, args=(world.engine, claimed))
    worker.start()
    try:
        assert begun.wait(10)
        yield
    finally:
        go_on.set()
        worker.join()
        event.remove(world.engine, "after_cursor_execute", hold)


def window_around(hours):
    """A window of two hours whose middle is `hours` from now."""
    middle = datetime.now(UTC) + timedelta(hours=hours)
    return f"{middle - timedelta(hours=1):%H:%M}-{middle + timedelta(hours=1):%H:%M} mon-sun UTC"


def shut_window(world, job_id, window):
    """As if the job had a window that has just shut."""
    world.execute(
        "UPDATE jobs SET run_window = :window, run_at = clock_timestamp() - interval '1 h',"
        " closes_at = clock_timestamp()"
        " WHERE id = :job_id",
        job_id=job_id,
        window=window,
    )


def test_a_job_that_is_paused_before_it_began_is_left_alone_until_it_is_resumed(world):
    job_id = world.submit(FOUR, chunk_size=2)
    world.act(job_id, Action.PAUSE)
    assert world.job(job_id).wanted == "pause"
    assert world.claim() is None, "nothing is claimed from the request on"
    assert world.carry_out() == [job_id]
    assert (world.job(job_id).state, world.job(job_id).wanted) == ("paused", None)
    assert world.claim() is None
    assert one_tick(world.engine) == []
    work_off(world.engine)
    assert world.left() == {"a", "b", "c", "d"}
    assert world.act(job_id, Action.RESUME).state == "queued"
    work_off(world.engine)
    assert world.left() == set()
    steps = [
        ("queued", "tests"),
        ("paused", "tests"),
        ("queued", "tests"),
        ("running", None),
        ("completed", None),
    ]
    assert world.steps(job_id) == steps


@pytest.mark.parametrize(
    ("action", "state"), [(Action.PAUSE, "paused"), (Action.CANCEL, "cancelled")]
)
def test_a_chunk_that_is_being_decided_is_waited_for_and_stays_done(world, action, state):
    job_id = world.submit(FOUR, chunk_size=1)
    with deciding(world, world.claim()):
        world.act(job_id, action)
        assert world.carry_out() == [], "it is put off"
        assert (world.job(job_id).state, world.job(job_id).wanted) == ("running", action)
        assert world.claim() is None
    world.carry_out()
    assert world.job(job_id).state == state
    assert (
        world.outcomes_of(job_id)
        == [DELETED] + [CANCELLED if action == Action.CANCEL else Outcome.PENDING] * 3
    )
    assert world.left() == {"b", "c", "d"}


@pytest.mark.parametrize("action", [Action.PAUSE, Action.CANCEL])
def test_who_asked_is_told_as_soon_as_it_is_in_force(world, action):
    job_id = world.submit(FOUR, chunk_size=2)
    world.act(job_id, action)
    assert world.carry_out() == [job_id]


@pytest.mark.parametrize("action", [Action.PAUSE, Action.CANCEL])
def test_a_claim_that_was_taken_back_is_void(world, action):
    job_id = world.submit(FOUR, chunk_size=2)
    claimed = world.claim()
    world.act(job_id, action)
    world.carry_out()
    before = world.job(job_id), world.outcomes_of(job_id)
    run_chunk(world.engine, claimed)
    assert (world.job(job_id), world.outcomes_of(job_id)) == before
    assert world.left() == {"a", "b", "c", "d"}


def test_a_claim_that_was_taken_back_is_void_after_the_resumption_too(world):
    job_id = world.submit(FOUR, chunk_size=4)
    void = world.claim()
    world.act(job_id, Action.PAUSE)
    world.carry_out()
    world.act(job_id, Action.RESUME)
    again = world.claim()
    assert (again.number, again.attempts) == (void.number, 1), (
        "at once, and the attempt that never was does not count"
    )
    run_chunk(world.engine, void)
    assert world.left() == {"a", "b", "c", "d"}
    run_chunk(world.engine, again)
    assert world.job(job_id).state == "completed"


def test_pausing_ever_so_often_uses_up_no_attempts(world):
    job_id = world.submit(FOUR, chunk_size=4)
    for _ in range(MAX_ATTEMPTS + 2):
        assert world.claim().attempts == 1
        world.act(job_id, Action.PAUSE)
        world.carry_out()
        world.act(job_id, Action.RESUME)
    work_off(world.engine)
    assert world.job(job_id).state == "completed"


def test_a_word_that_comes_after_its_claim_was_taken_back_makes_no_pause_early(world):
    """The chunk was given back twice; whoever has it next in hand is waited for all the same."""
    job_id = world.submit(FOUR, chunk_size=4)
    for _ in range(2):
        claimed = world.claim()
        world.act(job_id, Action.PAUSE)
        world.carry_out()
        with world.engine.begin() as connection:
            put_off(connection, claimed, seconds=0)
        world.act(job_id, Action.RESUME)
    with deciding(world, world.claim()):
        world.act(job_id, Action.PAUSE)
        assert world.carry_out() == [], "it is put off"
    world.carry_out()
    assert world.job(job_id).state == "completed"


def test_the_attempt_of_a_worker_that_died_counts_though_the_job_was_paused(world):
    job_id = world.submit(FOUR, chunk_size=4)
    world.claim()
    with world.engine.begin() as connection:
        let_leases_expire(connection)
    world.act(job_id, Action.PAUSE)
    world.carry_out()
    world.act(job_id, Action.RESUME)
    assert world.claim().attempts == 2


def test_a_cancelled_job_is_final_and_says_what_became_of_each_entry(world):
    job_id = world.submit(
        [("a", None), ("nobody", None), ("b", None), ("b", "+102"), ("c", None)], chunk_size=2
    )
    run_chunk(world.engine, world.claim())
    world.act(job_id, Action.CANCEL)
    work_off(world.engine)
    job = world.job(job_id)
    assert (job.state, job.deleted, job.not_found, job.unprocessed, job.total, job.error) == (
        "cancelled",
        1,
        2,
        2,
        5,
        None,
    )
    assert world.outcomes(job_id) == [
        ("deleted", "externalId", None),
        ("notFound", None, "noSuchLead"),
        ("unprocessed", None, "cancelled"),
        ("notFound", None, "duplicate"),
        ("unprocessed", None, "cancelled"),
    ]
    assert world.steps(job_id) == [("queued", "tests"), ("running", None), ("cancelled", "tests")]
    with world.engine.begin() as connection:
        let_leases_expire(connection)
    one_tick(world.engine)
    work_off(world.engine)
    assert world.job(job_id) == job
    assert world.left() == {"b", "c", "d"}


@pytest.mark.parametrize("first", [None, Action.PAUSE])
def test_a_job_that_waits_is_cancelled_as_a_whole(world, first):
    job_id = world.submit(FOUR, chunk_size=3)
    if first:
        world.act(job_id, first)
        world.carry_out()
    world.act(job_id, Action.CANCEL)
    world.carry_out()
    job = world.job(job_id)
    assert (job.state, job.unprocessed, job.started_at) == ("cancelled", 4, None)


@pytest.mark.parametrize("action", [Action.PAUSE, Action.CANCEL])
def test_a_job_whose_last_chunk_ends_meanwhile_is_finished(world, action):
    job_id = world.submit(FOUR, chunk_size=4)
    with deciding(world, world.claim()):
        world.act(job_id, action)
    job = world.job(job_id)
    assert (job.state, job.deleted, job.wanted) == ("completed", 4, None)
    assert world.carry_out() == []
    assert world.job(job_id) == job
    assert world.steps(job_id)[-1] == ("completed", None)


@pytest.mark.parametrize("action", [Action.PAUSE, Action.CANCEL])
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_job_whose_last_worker_died_before_it_could_finish_it_is_finished(world, action, dry_run):
    job_id = world.submit(FOUR, chunk_size=4, dryRun=dry_run)
    claimed = world.claim()
    run_chunk(world.engine, claimed)
    counts = ", ".join(f"{count} = NULL" for count in COUNTS)
    world.execute(f"UPDATE jobs SET state = 'running', finished_at = NULL, {counts}")
    world.act(job_id, action)
    one_tick(world.engine)
    job = world.job(job_id)
    assert job.state == "completed", "nothing was left to pause or cancel"
    assert (job.would_delete if dry_run else job.deleted) == 4


def test_a_pause_is_taken_back_before_it_is_in_force(world):
    job_id = world.submit(FOUR, chunk_size=2)
    claimed = world.claim()
    world.act(job_id, Action.PAUSE)
    assert world.act(job_id, Action.RESUME).state == "running"
    assert world.carry_out() == []
    run_chunk(world.engine, claimed)
    work_off(world.engine)
    assert world.steps(job_id) == [("queued", "tests"), ("running", None), ("completed", None)]


def test_what_is_being_cancelled_is_neither_paused_nor_resumed(world):
    job_id = world.submit(FOUR, chunk_size=2)
    world.act(job_id, Action.PAUSE)
    world.act(job_id, Action.CANCEL)
    for action in (Action.PAUSE, Action.RESUME):
        assert world.refusal(job_id, action) == (
            409,
            f"Cannot {action} a job that is being cancelled",
        )
    world.carry_out()
    assert world.job(job_id).state == "cancelled"


@pytest.mark.parametrize("action", [Action.PAUSE, Action.CANCEL, Action.RESUME])
def test_an_action_that_is_repeated_changes_nothing(world, action):
    job_id = world.submit(FOUR, chunk_size=2)
    if action == Action.RESUME:
        world.act(job_id, Action.PAUSE)
        world.carry_out()
    for _ in range(2):
        world.act(job_id, action)
    world.carry_out()
    job = world.job(job_id)
    world.act(job_id, action)
    world.carry_out()
    assert world.job(job_id) == job
    assert [state for state, _ in world.steps(job_id)].count(job.state) == (
        2 if action == Action.RESUME else 1
    )


def test_a_scheduled_job_is_paused_and_resumed_to_its_time(world):
    later = datetime.now(UTC) + timedelta(hours=1)
    job_id = world.submit(FOUR, schedule={"runAt": later.isoformat()})
    world.act(job_id, Action.PAUSE)
    world.carry_out()
    assert world.act(job_id, Action.RESUME).state == "scheduled"
    one_tick(world.engine)
    assert world.job(job_id).run_at == later
    states = ["scheduled", "paused", "scheduled"]
    assert [state for state, _ in world.steps(job_id)] == states
    world.execute("UPDATE jobs SET run_at = clock_timestamp()")
    assert one_tick(world.engine) == ["jobs"]
    work_off(world.engine)
    assert [state for state, _ in world.steps(job_id)] == [
        *states,
        "queued",
        "running",
        "completed",
    ]


def test_a_job_that_became_due_while_it_was_paused_is_queued_when_it_is_resumed(world):
    job_id = world.submit(
        FOUR, schedule={"runAt": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}
    )
    world.act(job_id, Action.PAUSE)
    world.carry_out()
    world.execute("UPDATE jobs SET run_at = clock_timestamp()")
    assert one_tick(world.engine) == []
    assert world.act(job_id, Action.RESUME).state == "queued"


def test_a_scheduled_job_is_cancelled(world):
    job_id = world.submit(
        FOUR, schedule={"runAt": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}
    )
    world.act(job_id, Action.CANCEL)
    one_tick(world.engine)
    assert (world.job(job_id).state, world.job(job_id).unprocessed) == ("cancelled", 4)
    world.execute("UPDATE jobs SET run_at = clock_timestamp()")
    assert one_tick(world.engine) == []


def test_what_is_due_and_asked_to_pause_is_paused(world):
    job_id = world.submit(
        FOUR, schedule={"runAt": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}
    )
    world.act(job_id, Action.PAUSE)
    world.execute("UPDATE jobs SET run_at = clock_timestamp()")
    assert one_tick(world.engine) == []
    assert [state for state, _ in world.steps(job_id)] == ["scheduled", "paused"]


@pytest.mark.parametrize("begun", [False, True], ids=["queued", "running"])
def test_a_job_whose_window_shuts_is_put_back_to_its_next_opening(world, begun):
    job_id = world.submit(FOUR, chunk_size=1)
    if begun:
        run_chunk(world.engine, world.claim())
    window = window_around(3)
    shut_window(world, job_id, window)
    assert world.claim() is None, "nothing is claimed once it is shut, whether or not a ticker runs"
    now = datetime.now(UTC)
    assert one_tick(world.engine) == []
    job = world.job(job_id)
    assert (job.state, job.wanted) == ("scheduled", None)
    assert (job.run_at, job.closes_at) == next_opening(parse_window(window), now)
    assert world.steps(job_id)[-1] == ("scheduled", None)
    assert one_tick(world.engine) == []
    assert world.job(job_id) == job
    world.execute(
        "UPDATE jobs SET run_at = clock_timestamp(), closes_at = clock_timestamp() + interval '1 h'"
    )
    one_tick(world.engine)
    work_off(world.engine)
    assert world.outcomes_of(job_id) == [DELETED] * 4
    middle = [("running", None)] if begun else []
    steps = [
        ("queued", "tests"),
        *middle,
        ("scheduled", None),
        ("queued", None),
        ("running", None),
        ("completed", None),
    ]
    assert world.steps(job_id) == steps


def make_sick(world, when="true"):
    """From now on the leads for which `when` is true cannot be deleted, as the disk is full."""
    world.execute("""
        CREATE FUNCTION sick() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'no room' USING ERRCODE = '53100';
        END $$
    """)
    world.execute(
        f"CREATE TRIGGER sick BEFORE DELETE ON leads FOR EACH ROW WHEN ({when})"
        " EXECUTE FUNCTION sick()"
    )


def pass_time(world, **span):
    """As if so much had gone by for what waits."""
    span = timedelta(**span)
    world.execute(
        (
            "UPDATE chunks SET retry_at = retry_at - :span, locked_since = locked_since - :span"
            " WHERE state = 'pending'"
        ),
        span=span,
    )
    world.execute(
        "UPDATE jobs SET waiting_since = waiting_since - :span, waiting_until = waiting_until -"
        " :span,"
        " run_at = run_at - :span, closes_at = closes_at - :span",
        span=span,
    )


def open_window(world, job_id):
    """As if the time had come at which its window opens next."""
    opens = world.job(job_id).run_at - datetime.now(UTC)
    pass_time(world, seconds=opens.total_seconds())
    assert one_tick(world.engine) == ["jobs"]


def test_a_job_whose_database_is_never_well_within_its_window_fails_in_the_end(world):
    make_sick(world)
    job_id = world.submit(FOUR)
    work_off(world.engine)
    for _ in range(13):
        shut_window(world, job_id, window_around(3))
        one_tick(world.engine)
        assert world.job(job_id).state == "scheduled"
        open_window(world, job_id)
        work_off(world.engine)
        assert world.job(job_id).state == "running"
    pass_time(world, minutes=11)
    work_off(world.engine)
    one_tick(world.engine)
    job = world.job(job_id)
    assert (job.state, job.unprocessed) == ("failed", 4)
    assert job.error.endswith(
        "Nothing could be done for 24 hours: the database answers: disk full (SQLSTATE 53100)"
    )


def test_a_setback_at_the_end_of_a_window_and_another_as_the_next_one_opens_a_week_later_end_no_job(
    world,
):
    make_sick(world)
    job_id = world.submit(FOUR)
    work_off(world.engine)
    shut_window(world, job_id, window_around(3))
    one_tick(world.engine)
    pass_time(world, days=7)
    world.execute(
        "UPDATE jobs SET run_at = clock_timestamp(), closes_at = clock_timestamp() + interval '2 h'"
    )
    one_tick(world.engine)
    work_off(world.engine)
    world.execute("DROP TRIGGER sick ON leads")
    pass_time(world, seconds=32)
    one_tick(world.engine)
    work_off(world.engine)
    assert (world.job(job_id).state, world.job(job_id).deleted) == ("completed", 4)


def test_a_lock_is_given_up_after_ten_minutes_within_the_window(world):
    job_id = world.submit(FOUR)
    waits = [Outcome.WAITS_FOR_LOCK] + [DELETED] * 3
    with world.engine.connect() as holder:
        holder.execute(text("SELECT FROM leads WHERE external_id = 'a' FOR UPDATE"))
        work_off(world.engine)
        pass_time(world, minutes=5)
        work_off(world.engine)
        shut_window(world, job_id, window_around(3))
        one_tick(world.engine)
        open_window(world, job_id)
        pass_time(world, minutes=4)
        work_off(world.engine)
        assert world.outcomes_of(job_id) == waits
        pass_time(world, minutes=2)
        work_off(world.engine)
    assert world.outcomes_of(job_id) == [Outcome.LOCKED] + [DELETED] * 3


def test_a_lock_is_not_given_up_for_a_window_that_was_missed(world):
    """No ticker ran while it was open, so nothing was tried."""
    job_id = world.submit(FOUR)
    with world.engine.connect() as holder:
        holder.execute(text("SELECT FROM leads WHERE external_id = 'a' FOR UPDATE"))
        work_off(world.engine)
        shut_window(world, job_id, window_around(3))
        one_tick(world.engine)
        pass_time(world, hours=5)
        one_tick(world.engine)
        assert world.job(job_id).state == "scheduled"
        open_window(world, job_id)
        work_off(world.engine)
    assert world.outcomes_of(job_id) == [Outcome.WAITS_FOR_LOCK] + [DELETED] * 3


def test_a_job_that_is_resumed_tries_what_is_locked_for_ten_minutes_more(world):
    job_id = world.submit(FOUR)
    with world.engine.connect() as holder:
        holder.execute(text("SELECT FROM leads WHERE external_id = 'a' FOR UPDATE"))
        work_off(world.engine)
        world.act(job_id, Action.PAUSE)
        world.carry_out()
        pass_time(world, hours=1)
        world.act(job_id, Action.RESUME)
        work_off(world.engine)
        pass_time(world, minutes=9)
        work_off(world.engine)
        assert world.outcomes_of(job_id) == [Outcome.WAITS_FOR_LOCK] + [DELETED] * 3
        pass_time(world, minutes=2)
        work_off(world.engine)
    assert world.outcomes_of(job_id) == [Outcome.LOCKED] + [DELETED] * 3


def test_a_pause_that_is_asked_for_before_a_failed_day_has_ended_the_job_pauses_it(world):
    make_sick(world)
    job_id = world.submit(FOUR)
    work_off(world.engine)
    pass_time(world, hours=25)
    run_chunk(world.engine, world.claim())
    with world.engine.connect() as holder:
        holder.execute(text("SELECT FROM chunks FOR UPDATE"))
        ending = threading.Thread(target=world.carry_out)
        ending.start()
        with world.engine.connect() as watching:
            while not watching.execute(
                text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            ).scalar_one():
                watching.rollback()
        world.act(job_id, Action.PAUSE)
    ending.join()
    world.carry_out()
    assert (world.job(job_id).state, world.outcomes_of(job_id)) == ("paused", [Outcome.PENDING] * 4)


def test_a_chunk_in_hand_when_the_window_shuts_is_finished_first(world):
    job_id = world.submit(FOUR, chunk_size=1)
    first, second = world.claim(), world.claim()
    with deciding(world, first):
        shut_window(world, job_id, window_around(3))
        one_tick(world.engine)
        assert world.job(job_id).state == "running"
    one_tick(world.engine)
    assert world.job(job_id).state == "scheduled"
    run_chunk(world.engine, second)
    assert world.outcomes_of(job_id) == [DELETED] + [Outcome.PENDING] * 3
    assert world.left() == {"b", "c", "d"}


def test_a_job_that_ends_as_its_window_shuts_is_finished(world):
    job_id = world.submit(FOUR, chunk_size=4)
    with deciding(world, world.claim()):
        shut_window(world, job_id, window_around(3))
        one_tick(world.engine)
    assert world.job(job_id).state == "completed"
    one_tick(world.engine)
    assert world.steps(job_id)[-1] == ("completed", None)


def test_a_job_that_missed_its_whole_window_waits_for_the_next(world):
    job_id = world.submit(FOUR)
    shut_window(world, job_id, window_around(3))
    world.execute("UPDATE jobs SET state = 'scheduled', history = '[]'")
    assert one_tick(world.engine) == []
    job = world.job(job_id)
    assert job.state == "scheduled"
    assert job.run_at > datetime.now(UTC)
    assert job.history == [], "it is what it was"


def test_a_job_whose_next_opening_is_now_goes_on_at_once(world):
    job_id = world.submit(FOUR)
    shut_window(world, job_id, window_around(0))
    one_tick(world.engine)
    one_tick(world.engine)
    assert [state for state, _ in world.steps(job_id)] == ["queued", "scheduled", "queued"]
    work_off(world.engine)
    assert world.job(job_id).state == "completed"


def test_a_paused_job_stays_paused_when_its_window_shuts_and_is_resumed_to_the_next(world):
    job_id = world.submit(FOUR)
    world.act(job_id, Action.PAUSE)
    world.carry_out()
    shut_window(world, job_id, window_around(3))
    one_tick(world.engine)
    assert world.job(job_id).state == "paused"
    assert world.act(job_id, Action.RESUME).state == "scheduled"
    assert one_tick(world.engine) == []
    job = world.job(job_id)
    assert job.state == "scheduled"
    assert job.run_at > datetime.now(UTC)


@pytest.mark.parametrize(
    ("action", "state"), [(Action.PAUSE, "paused"), (Action.CANCEL, "cancelled")]
)
def test_what_a_caller_asks_for_comes_before_the_end_of_the_window(world, action, state):
    job_id = world.submit(FOUR, chunk_size=1)
    with deciding(world, world.claim()):
        shut_window(world, job_id, window_around(3))
        one_tick(world.engine)
        assert world.job(job_id).wanted == "close"
        world.act(job_id, action)
        assert world.job(job_id).wanted == action
    one_tick(world.engine)
    assert world.job(job_id).state == state
    assert [state for state, _ in world.steps(job_id)] == ["queued", "running", state]


def test_resuming_does_not_keep_a_window_open(world):
    job_id = world.submit(FOUR, chunk_size=1)
    with deciding(world, world.claim()):
        shut_window(world, job_id, window_around(3))
        one_tick(world.engine)
        world.act(job_id, Action.RESUME)
    one_tick(world.engine)
    assert world.job(job_id).state == "scheduled"


def test_a_chunk_that_takes_long_holds_up_no_other_jobs_request(world):
    stuck, other = world.submit(FOUR, chunk_size=4), world.submit(FOUR, chunk_size=4)
    claimed = world.claim()
    assert claimed.job_id == stuck
    with deciding(world, claimed):
        world.act(stuck, Action.CANCEL)
        world.act(other, Action.PAUSE)
        assert world.carry_out() == [other]
    assert world.job(stuck).state == "completed"


def test_a_preview_that_is_cancelled_counts_what_it_found_twice_once(world):
    job_id = world.submit([("a", None), (None, "+101"), ("b", None)], chunk_size=1, dryRun=True)
    for _ in range(2):
        run_chunk(world.engine, world.claim())
    world.act(job_id, Action.CANCEL)
    world.carry_out()
    job = world.job(job_id)
    assert (job.state, job.would_delete, job.not_found, job.unprocessed) == ("cancelled", 1, 1, 1)
    assert world.refusal(job_id, Action.EXECUTE) == (409, "Cannot execute a job that is cancelled")


def test_the_leads_that_a_cancelled_job_archived_can_be_restored(world):
    job_id = world.submit(FOUR, chunk_size=1, mode="archive")
    run_chunk(world.engine, world.claim())
    world.act(job_id, Action.CANCEL)
    world.carry_out()
    assert world.left() == {"b", "c", "d"}
    restoration = world.act(job_id, Action.RESTORE).job_id
    assert world.act(job_id, Action.RESTORE).job_id == restoration
    work_off(world.engine)
    assert world.job(restoration).restored == 1
    assert world.left() == {"a", "b", "c", "d"}


def job_in(world, state):
    """A job of four entries that has come to be in `state`."""
    if state == JobState.SCHEDULED:
        return world.submit(
            FOUR, schedule={"runAt": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}
        )
    job_id = world.submit(FOUR, chunk_size=2)
    if state == JobState.RUNNING:
        world.claim()
    elif state in {JobState.PAUSED, JobState.CANCELLED}:
        world.act(job_id, Action.PAUSE if state == JobState.PAUSED else Action.CANCEL)
        world.carry_out()
    elif state == JobState.COMPLETED:
        work_off(world.engine)
    elif state == JobState.FAILED:
        world.execute("UPDATE chunks SET attempts = :attempts", attempts=MAX_ATTEMPTS)
        work_off(world.engine)
    assert world.job(job_id).state == state
    return job_id


@pytest.mark.parametrize("state", JobState)
def test_an_action_that_is_impossible_is_refused_and_changes_nothing(world, state):
    job_id = job_in(world, state)
    job = world.job(job_id)
    for action in Action:
        if state not in POSSIBLE_IN[action]:
            assert world.refusal(job_id, action) == (409, f"Cannot {action} a job that is {state}")
    world.carry_out()
    assert world.job(job_id) == job
    assert world.execute("SELECT count(*) FROM jobs").scalar_one() == 1


@pytest.mark.parametrize("state", sorted(set(JobState) - {JobState.COMPLETED, JobState.FAILED}))
def test_from_every_state_that_is_not_final_a_job_can_be_cancelled(world, state):
    job_id = job_in(world, state)
    world.act(job_id, Action.CANCEL)
    one_tick(world.engine)
    job = world.job(job_id)
    assert (job.state, job.unprocessed, job.finished_at is None) == ("cancelled", 4, False)
    assert world.left() == {"a", "b", "c", "d"}


def test_a_failed_job_is_retried_once_however_often_that_is_asked(world):
    job_id = job_in(world, JobState.FAILED)
    retries = {world.act(job_id, Action.RETRY).job_id for _ in range(3)}
    work_off(world.engine)
    assert len({world.act(job_id, Action.RETRY).job_id, *retries}) == 1
    assert world.job(retries.pop()).deleted == 4


def test_a_claim_that_a_request_forestalled_leaves_nothing_behind(world):
    job_id = world.submit(FOUR, chunk_size=4)
    claims = []
    with world.engine.begin() as requesting, world.engine.connect() as watching:
        requesting.execute(text("UPDATE jobs SET wanted = 'pause', wanted_by = 'tests'"))
        worker = threading.Thread(target=lambda: claims.append(world.claim()))
        worker.start()
        while not watching.execute(
            text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        ).scalar_one():
            watching.rollback()
    worker.join()
    assert claims == [None]
    world.act(job_id, Action.RESUME)  # before the pause was in force
    again = world.claim()
    assert again, "its chunk is in nobody's hands"
    assert again.attempts == 1


def test_a_worker_whose_claim_was_forestalled_takes_the_next_job(world):
    first = world.submit(FOUR, chunk_size=4)
    second = world.submit(FOUR, chunk_size=4)
    claims = []
    with world.engine.begin() as requesting, world.engine.connect() as watching:
        requesting.execute(
            text("UPDATE jobs SET wanted = 'pause', wanted_by = 'tests' WHERE id = :id"),
            {"id": first},
        )
        worker = threading.Thread(target=lambda: claims.append(world.claim()))
        worker.start()
        while not watching.execute(
            text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        ).scalar_one():
            watching.rollback()
    worker.join()
    assert [claimed.job_id for claimed in claims] == [second]


def test_a_window_that_shuts_on_many_jobs_does_not_keep_a_worker_from_its_work(engine):
    """It carries out a few requests in each turn; the ticker does the rest."""
    with engine.begin() as connection:
        for _ in range(3 * REQUESTS_A_TURN):
            queue_job(
                connection,
                [("a", None)],
                queue="off-peak",
                run_window="22:00-06:00",
                closes_at="2020-01-01T00:00:00Z",
            )
        ordinary = queue_job(connection, [("a", None)])
        connection.execute(text("UPDATE jobs SET wanted = 'close' WHERE queue = 'off-peak'"))
        caller = queue_job(connection, [("a", None)], state="queued", wanted="pause")
    run_next(engine, "jobs", NOBODY)
    with engine.begin() as connection:
        assert job_row(connection, ordinary).state == "completed"
        assert job_row(connection, caller).state == "paused", "what somebody waits for comes first"
        assert (
            connection.execute(
                text("SELECT count(*) FROM jobs WHERE wanted = 'close'")
            ).scalar_one()
            == 2 * REQUESTS_A_TURN + 1
        )
    one_tick(engine)
    with engine.begin() as connection:
        assert (
            connection.execute(
                text("SELECT count(*) FROM jobs WHERE wanted IS NOT NULL")
            ).scalar_one()
            == 0
        )
