"""Whatever is asked of jobs, in whatever order, among workers, crashes and windows: each is what a
small pure model says it is.

The model knows nothing of locks or statements: a job is its entries, in chunks, and what was asked
of it last. Which chunk is claimed next is for the claimer to choose; that it may be, and what
becomes of it, is for the model to say.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from api.http.answers import ApiError
from shared.states import Action, Outcome
from tests.support.counts import many, ran
from tests.support.jobs import add_campaign, add_leads, let_leases_expire, one_tick
from tests.worker.test_steering import SteeredWorld, shut_window, window_around
from worker.claimer import MAX_ATTEMPTS
from worker.runner import run_chunk

LEADS = {"a": "+101", "b": "+102", "c": "+103", "d": "+104", "e": "+105"}
LEAD_OF = {(name, None): name for name in LEADS} | {
    (None, number): name for name, number in LEADS.items()
}
ENTRIES = [*LEAD_OF, ("nobody", None)]

PENDING, DUPLICATE, ABSENT = "pending", "notFound duplicate", "notFound noSuchLead"
CANCELLED, FAILED = "unprocessed cancelled", "unprocessed failed"
FOLLOWING = [Action.RETRY, Action.EXECUTE, Action.RESTORE]
FINAL = {"completed", "failed", "cancelled"}

SUBMISSIONS = st.fixed_dictionaries(
    {
        "entries": st.lists(st.sampled_from(ENTRIES), min_size=1, max_size=6),
        "chunk_size": st.integers(1, 3),
        "mode": st.sampled_from(["delete", "archive"]),
        "dry_run": st.booleans(),
        "later": st.sampled_from([False, False, True]),
    }
)


@dataclass
class Chunk:
    """`indexes` of its entries; `lease` is the end of the claim that is in force."""

    indexes: list
    done: bool = False
    attempts: int = 0
    lease: object = None


@dataclass
class Job:
    """`known`: its entries stand for the leads of a preview or an archive, and are not looked
    up.
    """

    entries: list
    outcomes: list
    chunks: list
    mode: str
    dry_run: bool
    known: bool
    state: str
    due: bool
    window: str | None = None  # shut, or open once the job is due
    wanted: str | None = None
    states: list = field(default_factory=list)
    followers: dict = field(default_factory=dict)

    def become(self, state):
        if state != self.state:
            self.state = state
            self.states.append(state)

    def claimable(self):
        if self.state not in {"queued", "running"} or self.wanted or self.window == "shut":
            return []
        return [
            number
            for number, chunk in enumerate(self.chunks)
            if not chunk.done and chunk.lease is None
        ]

    def take_back_claims(self):
        for chunk in self.chunks:
            if not chunk.done and chunk.lease is not None:
                chunk.attempts, chunk.lease = chunk.attempts - 1, None

    def finish(self, *, cancelled=False):
        if not all(chunk.done for chunk in self.chunks):
            return
        if self.dry_run:
            found = set()
            for i, outcome in enumerate(self.outcomes):
                if outcome == "wouldDelete":
                    if LEAD_OF[self.entries[i]] in found:
                        self.outcomes[i] = DUPLICATE
                    found.add(LEAD_OF[self.entries[i]])
        failed = any(outcome.startswith("unprocessed") for outcome in self.outcomes)
        self.wanted = None
        self.become("cancelled" if cancelled else "failed" if failed else "completed")


class Model:
    """The leads that are present, those that are archived, by whose job, the jobs whose copies were
    erased, and all jobs.
    """

    def __init__(self):
        self.present, self.archived, self.erased, self.jobs = set(LEADS), {}, [], {}

    def run(self, job_id, number, lease):
        job = self.jobs[job_id]
        chunk = job.chunks[number]
        if chunk.done or chunk.lease != lease:
            return
        chunk.done = True
        open_ = [i for i in chunk.indexes if job.outcomes[i] == PENDING]
        if chunk.attempts > MAX_ATTEMPTS:
            job.outcomes = [
                FAILED if i in open_ else outcome for i, outcome in enumerate(job.outcomes)
            ]
        elif job.known:
            self._run_known(job, open_)
        else:
            self._look_up(job, open_)
        job.finish()

    def _run_known(self, job, open_):
        for i in open_:
            lead = LEAD_OF.get(job.entries[i])
            if job.mode == "restore" and lead not in self.archived:
                job.outcomes[i] = "notFound erased"
            elif job.mode == "restore":
                job.outcomes[i] = "restored"
                del self.archived[lead]
                self.present.add(lead)
            elif self._finds(job, lead):
                self._take(job, i, lead)
            else:
                job.outcomes[i] = "notFound changed"

    def _look_up(self, job, open_):
        taken = set()
        for i in sorted(open_, key=lambda i: (job.entries[i][0] is None, i)):  # by externalId first
            lead = LEAD_OF.get(job.entries[i])
            if lead in taken:
                job.outcomes[i] = DUPLICATE
            elif self._finds(job, lead):
                taken.add(lead)
                self._take(job, i, lead)
            else:
                job.outcomes[i] = ABSENT

    def _finds(self, job, lead):
        """A deletion finds archived leads too."""
        return lead in self.present or (job.mode == "delete" and lead in self.archived)

    def _take(self, job, i, lead):
        job.outcomes[i] = (
            "wouldDelete" if job.dry_run else "archived" if job.mode == "archive" else "deleted"
        )
        if not job.dry_run and lead in self.archived:
            self.erased.append(self.archived.pop(lead))
        elif not job.dry_run:
            self.present.remove(lead)
            if job.mode == "archive":
                self.archived[lead] = next(
                    job_id for job_id, other in self.jobs.items() if other is job
                )

    def carry_out_requests(self, opens_now):
        for job_id, job in self.jobs.items():
            if job.wanted == "pause":
                job.take_back_claims()
                job.wanted = None
                job.become("paused")
            elif job.wanted == "close":
                job.take_back_claims()
                job.wanted = None
                job.due, job.window = opens_now[job_id], "open"
                job.become("scheduled")
            elif job.wanted == "cancel":
                job.outcomes = [
                    CANCELLED if outcome == PENDING else outcome for outcome in job.outcomes
                ]
                for chunk in job.chunks:
                    chunk.done = True
                job.finish(cancelled=True)

    def tick(self, opens_now):
        for job in self.jobs.values():
            if job.state == "scheduled" and job.due and not job.wanted and job.window != "shut":
                job.become("queued")
        for job in self.jobs.values():
            if (
                job.window == "shut"
                and not job.wanted
                and job.state in {"scheduled", "queued", "running"}
            ):
                job.wanted = "close"
        self.carry_out_requests(opens_now)

    def steer(self, job, action):
        """Whether it is possible, and what it changes."""
        if action == Action.CANCEL:
            if job.state not in FINAL:
                job.wanted = "cancel"
            return job.state not in {"completed", "failed"}
        if job.state in FINAL or job.wanted == "cancel":
            return False
        if action == Action.PAUSE and job.state != "paused":
            job.wanted = "pause"
        elif action == Action.RESUME and job.state == "paused":
            job.become("queued" if job.due and job.window != "shut" else "scheduled")
        elif action == Action.RESUME and job.wanted == "pause":
            job.wanted = None
        return True

    def following(self, job_id, action):
        """The entries of the job that follows; none where that is impossible."""
        job = self.jobs[job_id]
        if action == Action.RESTORE:
            possible = job.state in FINAL and job.mode == "archive" and not job.dry_run
            archived = [
                (lead, LEADS[lead])
                for lead, whose in self.archived.items()
                if possible and whose == job_id
            ]
            return archived + [(None, None)] * (self.erased.count(job_id) if possible else 0)
        possible = (
            job.state in {"failed", "cancelled"}
            if action == Action.RETRY
            else job.state == "completed" and job.dry_run
        )
        word = "unprocessed" if action == Action.RETRY else "wouldDelete"
        return [
            e
            for e, outcome in zip(job.entries, job.outcomes, strict=True)
            if possible and outcome.startswith(word)
        ]


class Life(RuleBasedStateMachine):
    """Everything is done to the world and to the model; after each step the two are compared."""

    world: SteeredWorld
    jobs = Bundle("jobs")
    claims = Bundle("claims")

    @initialize(target=jobs, submissions=st.lists(SUBMISSIONS, min_size=2, max_size=4))
    def begin(self, submissions):
        ran()
        for table in ("archived_leads", "jobs", "leads"):
            self.world.execute(f"DELETE FROM {table}")
        with self.world.engine.begin() as connection:
            add_leads(connection, list(LEADS.items()))
        self.model = Model()
        self.opens_now = {}
        return multiple(*(self._submit(**options) for options in submissions))

    @rule(target=jobs, options=SUBMISSIONS)
    def submit(self, options):
        return self._submit(**options)

    def _submit(self, entries, chunk_size, mode, dry_run, later):
        schedule = (
            {"runAt": (datetime.now(UTC) + timedelta(hours=1)).isoformat()} if later else None
        )
        job_id = self.world.submit(
            entries, chunk_size=chunk_size, mode=mode, dryRun=dry_run, schedule=schedule
        )
        self._add(
            job_id,
            mode=mode,
            dry_run=dry_run,
            known=False,
            state="scheduled" if later else "queued",
            due=not later,
        )
        assert self.model.jobs[job_id].entries == entries
        repeated = [DUPLICATE if e in entries[:i] else PENDING for i, e in enumerate(entries)]
        assert self.model.jobs[job_id].outcomes == repeated
        return job_id

    @rule()
    def work(self):
        if claimed := self._claim():
            self._run(claimed)

    @rule()
    def work_until_there_is_nothing_to_do(self):
        while claimed := self._claim():
            self._run(claimed)

    @rule(target=claims)
    def claim_without_running(self):
        claimed = self._claim()
        return claimed or multiple()

    @rule(claimed=claims)
    def run_what_was_claimed_before(self, claimed):
        self._run(claimed)

    @rule()
    def leases_run_out(self):
        with self.world.engine.begin() as connection:
            let_leases_expire(connection)
        for job in self.model.jobs.values():
            for chunk in job.chunks:
                chunk.lease = None

    @rule(job_id=jobs)
    def its_workers_died(self, job_id):
        values = {"job_id": job_id, "attempts": MAX_ATTEMPTS}
        self.world.execute(
            (
                "UPDATE chunks SET attempts = :attempts, retry_at = '-infinity'"
                " WHERE job_id = :job_id AND state = 'pending'"
            ),
            **values,
        )
        for chunk in self.model.jobs[job_id].chunks:
            chunk.attempts, chunk.lease = MAX_ATTEMPTS, None

    @rule()
    def requests_are_carried_out(self):
        self.world.carry_out()
        self.model.carry_out_requests(self.opens_now)

    @rule()
    def the_ticker_ticks(self):
        one_tick(self.world.engine)
        self.model.tick(self.opens_now)

    @rule(job_id=jobs, opens_now=st.booleans())
    def its_window_shuts(self, job_id, opens_now):
        job = self.model.jobs[job_id]
        if job.state not in FINAL:
            shut_window(self.world, job_id, window_around(0 if opens_now else 3))
            job.due, job.window = True, "shut"
            self.opens_now[job_id] = opens_now

    @rule(job_id=jobs)
    def it_becomes_due(self, job_id):
        job = self.model.jobs[job_id]
        if job.state not in FINAL:
            self.world.execute(
                "UPDATE jobs SET run_at = clock_timestamp() - interval '1 s',"
                " closes_at = CASE WHEN run_window IS NOT NULL THEN clock_timestamp() + interval"
                " '1 h' END WHERE id = :job_id",
                job_id=job_id,
            )
            job.due, job.window = True, job.window and "open"

    @rule(
        job_id=jobs,
        action=st.sampled_from([Action.CANCEL, Action.PAUSE, Action.PAUSE, Action.RESUME]),
    )
    def steer(self, job_id, action):
        assert (self._act(job_id, action) is not None) == self.model.steer(
            self.model.jobs[job_id], action
        )

    @rule(target=jobs, job_id=jobs, action=st.sampled_from(FOLLOWING))
    def follow(self, job_id, action):
        return self._follow(job_id, action)

    @rule(target=jobs, number=st.integers(0, 5))
    def follow_one_that_can_be(self, number):
        possible = [
            (job_id, action)
            for job_id in self.model.jobs
            for action in FOLLOWING
            if self.model.following(job_id, action)
        ]
        return self._follow(*possible[number % len(possible)]) if possible else multiple()

    def _follow(self, job_id, action):
        source = self.model.jobs[job_id]
        expected = self.model.following(job_id, action)
        accepted = self._act(job_id, action)
        if action in source.followers:
            assert accepted.job_id == source.followers[action], "it is made once"
            return multiple()
        assert (accepted is not None) == bool(expected)
        if accepted is None:
            return multiple()
        source.followers[action] = new_id = accepted.job_id
        mode = "restore" if action == Action.RESTORE else source.mode
        dry_run = source.dry_run and action == Action.RETRY
        self._add(
            new_id,
            mode=mode,
            dry_run=dry_run,
            known=action != Action.RETRY or source.known,
            state="queued",
            due=True,
        )
        new = self.model.jobs[new_id]
        assert Counter(new.entries) == Counter((e, None if e else n) for e, n in expected)
        assert set(new.outcomes) == {PENDING}
        return new_id

    @invariant()
    def leads_are_where_the_model_has_them(self):
        if hasattr(self, "model"):
            rows = self.world.execute(
                "SELECT lead ->> 'external_id', job_id FROM archived_leads"
            ).all()
            archived = [tuple(row) for row in rows if row[0]]
            assert self.world.left() == self.model.present
            assert dict(archived) == self.model.archived
            assert len(archived) == len(self.model.archived)
            assert Counter(job_id for lead, job_id in rows if not lead) == Counter(
                self.model.erased
            )

    @invariant()
    def jobs_are_as_the_model_has_them(self):
        for job_id, expected in self.model.jobs.items() if hasattr(self, "model") else ():
            job = self.world.job(job_id)
            assert (job.state, job.wanted) == (expected.state, expected.wanted)
            assert self._outcomes(job_id) == expected.outcomes
            assert [change["status"] for change in job.history] == expected.states
            assert (job.finished_at is not None) == (job.state in FINAL)
            if job.finished_at:
                counted = Counter(_COLUMN[outcome.split()[0]] for outcome in expected.outcomes)
                assert {name: getattr(job, name) for name in _COLUMN.values()} == {
                    n: counted[n] for n in _COLUMN.values()
                }
                assert counted.total() == job.total

    def teardown(self):
        if not hasattr(self, "model"):
            return
        for job_id in self.model.jobs:
            self.it_becomes_due(job_id)
            if self.model.jobs[job_id].state not in FINAL:
                self.steer(job_id, Action.RESUME)
        self.leases_run_out()
        self.the_ticker_ticks()
        self.work_until_there_is_nothing_to_do()
        assert {job.state for job in self.model.jobs.values()} <= FINAL
        self.jobs_are_as_the_model_has_them()
        self.leads_are_where_the_model_has_them()

    def _act(self, job_id, action):
        """The answer, or None for a 409."""
        try:
            return self.world.act(job_id, action, chunk_size=2)
        except ApiError as error:
            if error.status != 409:
                raise
            return None

    def _claim(self):
        """Any claim is fine that the model allows; none only where it allows none."""
        claimable = {
            (job_id, number)
            for job_id, job in self.model.jobs.items()
            for number in job.claimable()[:1]
        }
        claimed = self.world.claim()
        if claimed is None:
            assert not claimable
            return None
        assert (claimed.job_id, claimed.number) in claimable
        job = self.model.jobs[claimed.job_id]
        chunk = job.chunks[claimed.number]
        chunk.attempts, chunk.lease = chunk.attempts + 1, claimed.lease_end
        assert claimed.attempts == chunk.attempts
        job.become("running")
        return claimed

    def _run(self, claimed):
        run_chunk(self.world.engine, claimed)
        self.model.run(claimed.job_id, claimed.number, claimed.lease_end)

    def _add(self, job_id, **values):
        """How the entries were cut into chunks is read, not modelled. One that stands for a lead is
        written by its id.
        """
        rows = self.world.execute(
            "SELECT external_ids, phone_numbers FROM chunks WHERE job_id = :job_id ORDER BY number",
            job_id=job_id,
        ).all()
        entries, chunks = [], []
        for external_ids, numbers in rows:
            chunks.append(Chunk(list(range(len(entries), len(entries) + len(external_ids)))))
            entries += [(e, None if e else n) for e, n in zip(external_ids, numbers, strict=True)]
        self.model.jobs[job_id] = Job(
            entries, self._outcomes(job_id), chunks, states=[values["state"]], **values
        )

    def _outcomes(self, job_id):
        outcomes = map(Outcome, self.world.outcomes_of(job_id))
        return [f"{outcome.word} {outcome.reason or ''}".strip() for outcome in outcomes]


_COLUMN = {
    "deleted": "deleted",
    "archived": "deleted",
    "wouldDelete": "would_delete",
    "restored": "restored",
    "notFound": "not_found",
    "unprocessed": "unprocessed",
}


@pytest.fixture
def world(engine, database_url):
    """A campaign; the machine brings its leads. Nothing here is to survive a crash of the
    server.
    """
    with engine.begin() as connection:
        add_campaign(connection)
        connection.execute(
            text(f"ALTER DATABASE {engine.url.database} SET synchronous_commit = off")
        )
    engine.dispose()
    world = SteeredWorld(engine, database_url)
    yield world
    world.close()


@pytest.mark.proof("actions")
def test_whatever_is_asked_of_jobs_they_are_what_the_model_says(world):
    machine = type("LifeOf", (Life,), {"world": world})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=many("actions"),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
