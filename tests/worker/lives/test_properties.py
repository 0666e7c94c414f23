"""Any job over any leads ends as the contract says, entry by entry: from the raw bytes of its body
to the leads that stay.

Everything but HTTP and the broker is real: parser, acceptor, claim, decision, database. The second
half is a state machine of what can happen around a job: crashes at every statement, messages
doubled, leases that run out, leads that come and change.
"""

import asyncio
import json
from collections import Counter
from http import HTTPStatus
from itertools import chain, count, repeat
from random import Random
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, event, insert, select, text

from api.http.answers import ApiError
from api.http.auth import Key
from api.http.request import Caller
from api.jobs.actions.follow_up import follow
from api.jobs.results import read_results
from api.jobs.submission import parse
from api.jobs.submit import submit
from api.leads.delete import delete as delete_lead
from api.leads.named import Named
from shared.database.engines import create_api_engine
from shared.database.models import archived_leads, jobs, leads
from shared.settings import Settings
from shared.states import Action, Outcome
from tests.support import oracle
from tests.support.counts import many, ran
from tests.support.jobs import add_campaign, let_leases_expire, one_tick, work_off
from tests.worker.lives.strategies import CAMPAIGNS, READINGS, campaigns_of_leads, copies, entries
from worker.claimer import claim
from worker.runner import run_chunk

KEY = Key(uuid4(), "co", None, "write", "tests", None, None)


@pytest.fixture
def world(engine, database_url):
    """The real code over a fresh database with two campaigns."""
    with engine.begin() as connection:
        for campaign in CAMPAIGNS:
            add_campaign(connection, campaign)
    world = World(engine, database_url)
    yield world
    world.close()


class World:
    """Submits, reads and resets; the calls that are asynchronous in the API run on a loop of their
    own.
    """

    def __init__(self, engine, database_url):
        self.engine = engine
        self._runner = asyncio.Runner()
        self.api_engine = create_api_engine(
            Settings(database_url=database_url), "tests", isolation_level="AUTOCOMMIT"
        )

    def close(self):
        self._runner.run(self.api_engine.dispose())
        self._runner.close()

    def put(self, wanted, archived=()):
        """Leads, and copies in the archive of a job that is not there any more."""
        with self.engine.begin() as connection:
            for table in (jobs, leads, archived_leads):
                connection.execute(delete(table))
            for lead in wanted:
                connection.execute(insert(leads), _row(lead))
            for number, copy in enumerate(archived):
                row = {
                    "id": -number - 1,
                    "metadata": {},
                    "created_at": "2026-01-01T00:00:00Z",
                } | _row(copy)
                connection.execute(
                    insert(archived_leads), {"job_id": uuid4(), "lead_id": row["id"], "lead": row}
                )

    def submit(
        self, written, *, campaign="cmp", chunk_size=1000, phone_fallback=True, rate=None, **fields
    ):
        body = {
            "campaignId": campaign,
            "phoneFallback": phone_fallback,
            "maxLeadsPerSecond": rate,
            "leads": [{"externalId": e, "phoneNumber": n, "note": "ignored"} for e, n in written],
        }
        job_id = uuid4()
        submission = parse(json.dumps(body | fields).encode())
        caller = Caller(KEY, None, 0, job_id)
        self._runner.run(
            submit(self.api_engine, Settings(chunk_size=chunk_size), caller, submission)
        )
        return job_id

    def follow(self, job_id, action):
        """The job that follows."""
        caller = Caller(KEY, None, 0, uuid4())
        return self._runner.run(follow(self.api_engine, Settings(), caller, job_id, action)).job_id

    def delete(self, campaign, external_id, number):
        """As `DELETE /api/v1/leads` does; the number of copies erased, None where there is
        nobody.
        """
        try:
            return self._runner.run(
                delete_lead(self.api_engine, KEY, campaign, Named(external_id, number, None))
            )
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return None

    def work(self):
        """A worker's part."""
        work_off(self.engine)

    def work_in_parts(self, job_id, sizes):
        """A worker's part, one claim at a time: of so many entries, by a pace or as after a cut, as
        long as there are `sizes`. Yields the entries that each has decided.
        """
        left = {i for i, outcome in enumerate(self.outcomes(job_id)) if outcome[0] == "pending"}
        for size, is_paced in chain(sizes, repeat((None, False))):
            with self.engine.begin() as connection:
                pace = {"rate": size * 8 if size and is_paced else None}
                connection.execute(
                    text(
                        "UPDATE jobs SET max_leads_per_second = :rate, paced_at = NULL, part_size"
                        " = NULL"
                    ),
                    pace,
                )
                connection.execute(
                    text("UPDATE chunks SET part_size = :size"),
                    {"size": None if is_paced else size},
                )
                claimed = claim(connection, "jobs")
            if claimed is None:
                assert not left
                return
            run_chunk(self.engine, claimed)
            outcomes = self.outcomes(job_id)
            decided = [i for i in sorted(left) if outcomes[i][0] != "pending"]
            assert decided
            assert size is None or len(decided) <= size
            left -= set(decided)
            yield decided

    def results(self, job_id):
        items, following = self._runner.run(
            read_results(self.api_engine, KEY, job_id, list(Outcome), 0, 10_000)
        )
        assert following is None
        return items

    def outcomes(self, job_id):
        return [
            (item["outcome"], item["matchedBy"], item["reason"]) for item in self.results(job_id)
        ]

    def erased(self, job_id):
        """The entries that erased a copy in the archive."""
        return {item["index"] for item in self.results(job_id) if item["erasedFromArchive"]}

    def archive(self):
        """The copies in the archive by job and lead, None where they are erased, in the order of a
        restoration.
        """
        statement = select(archived_leads).order_by(
            archived_leads.c.job_id, archived_leads.c.lead_id
        )
        with self.engine.begin() as connection:
            rows = connection.execute(statement)
            return {(row.job_id, row.lead_id): row.lead and _lead(row.lead) for row in rows}

    def leads(self):
        with self.engine.begin() as connection:
            rows = connection.execute(
                select(leads.c.campaign_id, leads.c.external_id, leads.c.phone_number)
            )
            return {oracle.Lead(*row) for row in rows}

    def job(self, job_id):
        with self.engine.begin() as connection:
            return connection.execute(select(jobs).where(jobs.c.id == job_id)).one()


def _row(lead):
    return {
        "campaign_id": lead.campaign,
        "external_id": lead.external_id,
        "phone_number": lead.phone_number,
    }


def _lead(row):
    return oracle.Lead(row["campaign_id"], row["external_id"], row["phone_number"])


PHONE_FALLBACKS = [True, False, "onlyIfUnidentified"]
REGIONS = {None: {}, "DE": READINGS}
ANY_JOB = {
    "present": campaigns_of_leads(),
    "archived": copies,
    "written": st.lists(entries, min_size=1, max_size=14),
    "phone_fallback": st.sampled_from(PHONE_FALLBACKS),
    "region": st.sampled_from(list(REGIONS)),
}
any_database = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.mark.proof("random jobs")
@settings(any_database, max_examples=many("random jobs"))
@given(**ANY_JOB, chunk_size=st.integers(1, 15))
def test_every_entry_of_every_job_ends_as_the_contract_says(
    world, present, archived, written, chunk_size, phone_fallback, region
):
    ran()
    world.put(present, archived)
    options = {"chunk_size": chunk_size, "phone_fallback": phone_fallback}
    job_id = world.submit(written, phoneRegion=region, **options)
    world.work()
    verdict = oracle.judge(
        written, present, campaign="cmp", copies=archived, readings=REGIONS[region], **options
    )
    assert world.outcomes(job_id) == verdict.outcomes
    assert world.erased(job_id) == verdict.erased
    assert world.leads() == verdict.remaining
    assert Counter(world.archive().values()) == Counter(verdict.copies)
    job = world.job(job_id)
    assert job.state == "completed"
    deleted = sum(word == "deleted" for word, _, _ in verdict.outcomes)
    lacks_plus = verdict.outcomes.count(oracle.LACKS_PLUS)
    assert (job.deleted, job.deleted + job.not_found, job.erased) == (
        deleted,
        len(written),
        len(verdict.erased),
    )
    assert (job.lacks_plus, job.other_external_id) == (lacks_plus, 0)


@pytest.mark.proof("random previews")
@settings(any_database, max_examples=many("random previews") // 2)
@given(**ANY_JOB)
def test_a_preview_says_what_a_job_would_do_and_its_execution_does_it(
    world, present, archived, written, phone_fallback, region
):
    ran()
    world.put(present, archived)
    preview = world.submit(written, phoneRegion=region, phone_fallback=phone_fallback, dryRun=True)
    world.work()
    verdict = oracle.judge(
        written,
        present,
        campaign="cmp",
        copies=archived,
        readings=REGIONS[region],
        phone_fallback=phone_fallback,
    )
    assert world.outcomes(preview) == [
        _would(i, outcome, verdict) for i, outcome in enumerate(verdict.outcomes)
    ]
    assert world.job(preview).other_external_id == len(verdict.others & _by_phone(verdict))
    assert (world.leads(), Counter(world.archive().values())) == (present, Counter(archived)), (
        "it changes nothing"
    )
    taken = [outcome for outcome in verdict.outcomes if outcome[0] == "deleted"]
    if not taken:
        return
    execution = world.follow(preview, Action.EXECUTE)
    world.work()
    assert world.outcomes(execution) == taken
    assert world.leads() == verdict.remaining


CHANGED = ("notFound", None, "changed")


@pytest.mark.proof("random previews")
@settings(any_database, max_examples=many("random previews") // 2)
@example(
    present={oracle.Lead("cmp", "a", "+101")},
    archived=[oracle.Lead("cmp", "a", "+102")],
    written=[(None, "+102"), ("a", None)],
    phone_fallback=True,
    region=None,
    chunk_size=2,
    is_broken=False,
    sizes=[(1, False)],
    sizes_of_execution=[],
    pick=Random(0),
)
@given(
    **ANY_JOB,
    chunk_size=st.integers(2, 15),
    is_broken=st.booleans(),
    sizes=st.lists(st.tuples(st.sampled_from([None, 1, 2, 3]), st.booleans()), max_size=8),
    sizes_of_execution=st.lists(
        st.tuples(st.sampled_from([None, 1, 2, 3]), st.booleans()), max_size=8
    ),
    pick=st.randoms(use_true_random=False),
)
def test_a_preview_in_parts_is_executed_on_whom_each_part_found(
    world,
    present,
    archived,
    written,
    phone_fallback,
    region,
    chunk_size,
    is_broken,
    sizes,
    sizes_of_execution,
    pick,
):
    """Each part is judged by itself; who was found twice goes once. Chunks may begin with what is
    settled already, such as a row that is broken; and of those found, one may have got another
    number since.
    """
    ran()
    world.put(present, archived)
    preview = world.submit(
        written,
        phoneRegion=region,
        phone_fallback=phone_fallback,
        chunk_size=chunk_size,
        dryRun=True,
    )
    if is_broken:
        with world.engine.begin() as connection:
            breaking = (
                "UPDATE chunks SET outcomes[1] = :broken, invalid = 1 WHERE outcomes[1] = 0"
                " AND 0 = ANY(outcomes[2:])"
            )
            connection.execute(text(breaking), {"broken": Outcome.UNREADABLE})
    options = {"campaign": "cmp", "phone_fallback": phone_fallback, "readings": REGIONS[region]}
    expected = {
        i: outcome for i, outcome in enumerate(world.outcomes(preview)) if outcome[0] != "pending"
    }
    remaining = present
    for decided in world.work_in_parts(preview, sizes):
        verdict = oracle.judge([written[i] for i in decided], present, copies=archived, **options)
        expected |= {i: _would(at, verdict.outcomes[at], verdict) for at, i in enumerate(decided)}
        remaining = remaining & verdict.remaining
    outcomes = world.outcomes(preview)
    settled = {
        i
        for i, outcome in enumerate(outcomes)
        if outcome == oracle.DUPLICATE and expected[i][0] == "wouldDelete"
    }
    assert outcomes == [
        expected[i] if i not in settled else oracle.DUPLICATE for i in range(len(written))
    ]
    found = [i for i, outcome in enumerate(outcomes) if outcome[0] == "wouldDelete"]
    if not found:
        assert remaining == present
        return
    gone = sorted(present - remaining, key=str)
    changed = pick.choice(gone) if gone and not archived else None
    if changed:
        with world.engine.begin() as connection:
            condition = [
                leads.c[name].is_not_distinct_from(value) for name, value in _row(changed).items()
            ]
            connection.execute(leads.update().where(*condition).values(phone_number="+99"))
    execution = world.follow(preview, Action.EXECUTE)
    for _ in world.work_in_parts(execution, sizes_of_execution):
        pass
    results = dict(zip(found, world.outcomes(execution), strict=True))
    left_alone = {i for i, outcome in results.items() if outcome == CHANGED}
    assert results == {
        i: CHANGED if i in left_alone else ("deleted", outcomes[i][1], None) for i in found
    }
    assert [_names(written[i], changed, options) for i in left_alone] == [True] * bool(changed)
    assert world.leads() == remaining | (
        {oracle.Lead("cmp", changed.external_id, "+99")} if changed else set()
    )
    assert world.job(execution).state == "completed"


def _by_phone(verdict):
    return {
        i for i, outcome in enumerate(verdict.outcomes) if outcome == oracle.DELETED_BY_PHONE_NUMBER
    }


def _would(i, outcome, verdict):
    word, matched_by, reason = outcome
    if word != "deleted":
        return outcome
    other = i in verdict.others and matched_by == "phoneNumber"
    return ("wouldDelete", matched_by, "otherExternalId" if other else reason)


@pytest.mark.proof("locked leads")
@settings(
    any_database, max_examples=many("locked leads"), phases=(Phase.explicit, Phase.generate)
)  # each lock is waited for: no time to shrink
@given(
    **ANY_JOB,
    locks=st.lists(st.integers(0, 20), min_size=1, max_size=3, unique=True),
    part_size=st.sampled_from([None, 1, 3]),
)
def test_what_somebody_has_locked_waits_and_nobody_else_is_taken_for_it(
    world, present, archived, written, phone_fallback, region, locks, part_size
):
    """While it is locked, the others are decided as the contract says; afterwards, those that have
    waited.
    """
    ran()
    world.put(present, archived)
    ground = sorted((lead for lead in present if lead.campaign == "cmp"), key=str)
    locked = {ground[i % len(ground)] for i in locks} if ground else set()
    job_id = world.submit(written, phoneRegion=region, phone_fallback=phone_fallback)
    options = {"campaign": "cmp", "phone_fallback": phone_fallback, "readings": REGIONS[region]}
    duplicates = {i for i, outcome in enumerate(world.outcomes(job_id)) if outcome[0] != "pending"}
    with world.engine.begin() as connection:
        connection.execute(text("UPDATE chunks SET part_size = :size"), {"size": part_size})
    with world.engine.connect() as holder:
        for lead in locked:
            conditions = [
                leads.c[name].is_not_distinct_from(value) for name, value in _row(lead).items()
            ]
            holder.execute(
                select(leads.c.id).where(*conditions).with_for_update(key_share=True, read=True)
            )
        world.work()
        outcomes, left = world.outcomes(job_id), world.leads()
        waiting = [i for i, outcome in enumerate(outcomes) if outcome[0] == "pending"]
        assert all(outcomes[i] == ("pending", None, "locked") for i in waiting)
        assert locked <= left
    assert bool(waiting) == any(
        _names(written[i], lead, options) for i in waiting for lead in locked
    )
    if part_size is None:
        decided = [i for i in range(len(written)) if i not in duplicates and i not in waiting]
        verdict = oracle.judge([written[i] for i in decided], present, copies=archived, **options)
        assert [outcomes[i] for i in decided] == verdict.outcomes
        assert left == verdict.remaining
        after = oracle.judge(
            [written[i] for i in waiting],
            left,
            copies=[copy or NOBODY for copy in verdict.copies],
            **options,
        )
    with world.engine.begin() as connection:
        let_leases_expire(connection)
    world.work()
    assert world.job(job_id).state == "completed"
    if part_size is None:
        assert [world.outcomes(job_id)[i] for i in waiting] == after.outcomes
        assert world.leads() == after.remaining


def _names(entry, lead, options):
    external_id = oracle.canonical_external_id(entry[0])
    numbers = {
        oracle.canonical_phone_number(entry[1]),
        options["readings"].get(oracle.bare_phone_number(entry[1])),
    } - {None}
    return external_id == lead.external_id or lead.phone_number in numbers


SICKNESS = """
    CREATE OR REPLACE FUNCTION sick() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'not well' USING ERRCODE = 'SQLSTATE';
    END $$;
    CREATE TRIGGER sick BEFORE DELETE OR INSERT ON leads FOR EACH ROW EXECUTE FUNCTION sick()
"""


class Crash(BaseException):
    """Stands for `kill -9`: nothing catches it, and the connection is gone."""


class Life(RuleBasedStateMachine):
    """Chunks are run one at a time, and what is decided of each, all or the part that the job's
    pace allows, is judged by the oracle over the leads and the archive as they stood then.
    """

    world: World

    @initialize(present=campaigns_of_leads())
    def begin(self, present):
        ran()
        self.world.put(present)
        self.present = set(present)
        self.archive = {}  # as World.archive has it
        self.submitted = {}
        self.waited = set()
        self.judged = {}
        self.most_processed = {}

    @rule(
        written=st.lists(entries, min_size=1, max_size=8),
        campaign=st.sampled_from(CAMPAIGNS),
        chunk_size=st.integers(1, 4),
        phone_fallback=st.sampled_from(PHONE_FALLBACKS),
        rate=st.sampled_from([None, None, 2, 4]),
        mode=st.sampled_from(["delete", "delete", "archive"]),
    )
    def submit(self, **options):
        job_id = self.world.submit(**options)
        self.submitted[job_id] = options
        self.judged[job_id] = _duplicates(options["written"])
        self.most_processed[job_id] = 0

    @rule(pick=st.randoms(use_true_random=False))
    def restore(self, pick):
        archived = {
            job_id: [place for place in self.archive if place[0] == job_id]
            for job_id, options in self.submitted.items()
            if options["mode"] == "archive" and self.world.job(job_id).finished_at
        }
        possible = sorted(job_id for job_id, places in archived.items() if places)
        if not possible:
            return
        source = pick.choice(possible)
        job_id = self.world.follow(source, Action.RESTORE)
        if job_id not in self.submitted:  # caller again, it is the same job
            of_source = {
                "campaign": self.submitted[source]["campaign"],
                "written": archived[source],
            }
            self.submitted[job_id] = of_source | {
                "mode": "restore",
                "rate": None,
                "chunk_size": 1000,
            }
            self.judged[job_id] = set()
            self.most_processed[job_id] = 0

    @rule(entry=entries, campaign=st.sampled_from(CAMPAIGNS))
    def somebody_is_deleted_by_hand(self, entry, campaign):
        verdict = self._verdict([entry], campaign=campaign)
        erased = self.world.delete(campaign, *entry)
        assert (erased is not None) == (verdict.outcomes[0][0] == "deleted")
        assert erased in {
            None,
            verdict.copies.count(None) - list(self.archive.values()).count(None),
        }
        self._take_over(verdict)

    @rule()
    def work(self):
        if claimed := self._claim():
            run_chunk(self.world.engine, claimed)
            self._judge_what_is_done()

    @rule(size=st.integers(1, 3), of_job=st.booleans())
    def parts_get_small(self, size, of_job):
        """As if leads had taken long."""
        with self.world.engine.begin() as connection:
            if of_job:
                connection.execute(
                    text("UPDATE jobs SET part_size = :size WHERE finished_at IS NULL"),
                    {"size": size},
                )
            else:
                connection.execute(
                    text("UPDATE chunks SET part_size = :size WHERE state = 'pending'"),
                    {"size": size},
                )

    @rule(sqlstate=st.sampled_from(["53100", "0A000", "XX000", "57014"]))
    def the_database_is_not_well(self, sqlstate):
        """Whoever names a lead waits; who names none is told so."""
        with self.world.engine.begin() as connection:
            connection.execute(text(SICKNESS.replace("SQLSTATE", sqlstate)))
        for _ in range(2):
            if claimed := self._claim():
                run_chunk(self.world.engine, claimed)
                self._judge_what_is_done()
        with self.world.engine.begin() as connection:
            connection.execute(text("DROP TRIGGER sick ON leads"))
        self.waited |= {job_id for job_id in self.submitted if self.world.job(job_id).waiting_since}

    @rule(campaign=st.sampled_from(CAMPAIGNS))
    def a_campaign_is_another_companys_for_a_while(self, campaign):
        """What is decided meanwhile is left alone, and told so."""
        with self.world.engine.begin() as connection:
            connection.execute(
                text("INSERT INTO companies (id) VALUES ('away') ON CONFLICT DO NOTHING")
            )
            connection.execute(
                text("UPDATE campaigns SET company_id = 'away' WHERE id = :id"), {"id": campaign}
            )
        for _ in range(2):
            if claimed := self._claim():
                run_chunk(self.world.engine, claimed)
                self._judge_what_is_done(moved=campaign)
        with self.world.engine.begin() as connection:
            connection.execute(
                text("UPDATE campaigns SET company_id = 'co' WHERE id = :id"), {"id": campaign}
            )

    @rule()
    def two_workers_hold_one_chunk(self):
        first = self._claim()
        if first is None:
            return
        self._expire()
        second = self._claim()
        for claimed in (first, second, first):
            if claimed:
                run_chunk(self.world.engine, claimed)
                self._judge_what_is_done()

    @rule(statement=st.integers(0, 12), after=st.booleans())
    def crash_at(self, statement, after):
        claimed = self._claim()
        if claimed is None:
            return
        with dying_at(self.world.engine, statement, after=after):
            try:
                run_chunk(self.world.engine, claimed)
            except Crash:
                self.world.engine.dispose()
        self._judge_what_is_done()

    @rule()
    def crash_after_the_claim(self):
        self._claim()

    @rule()
    def leases_run_out(self):
        self._expire()

    @rule()
    def the_ticker_ticks(self):
        one_tick(self.world.engine)

    @rule(lead=campaigns_of_leads().filter(bool).map(lambda found: min(found, key=str)))
    def a_lead_is_inserted(self, lead):
        if not any(_clash(lead, other) for other in self.present):
            with self.world.engine.begin() as connection:
                connection.execute(insert(leads), _row(lead))
            self.present.add(lead)

    @rule(pick=st.randoms(use_true_random=False))
    def a_lead_gets_another_number(self, pick):
        if not self.present:
            return
        old = pick.choice(sorted(self.present, key=str))
        new = oracle.Lead(old.campaign, old.external_id or "z", f"+90{next(_fresh):03}")
        if any(
            new.campaign == other.campaign and new.external_id == other.external_id
            for other in self.present - {old}
        ):
            return
        with self.world.engine.begin() as connection:
            condition = [
                leads.c[name].is_not_distinct_from(value) for name, value in _row(old).items()
            ]
            connection.execute(leads.update().where(*condition).values(_row(new)))
        self.present = self.present - {old} | {new}

    @invariant()
    def leads_and_copies_are_those_that_the_oracle_left(self):
        if hasattr(self, "present"):
            assert self.world.leads() == self.present
            assert self.world.archive() == self.archive

    @invariant()
    def counts_never_fall_and_finished_jobs_add_up(self):
        for job_id, options in getattr(self, "submitted", {}).items():
            outcomes = [outcome for outcome, _, _ in self.world.outcomes(job_id)]
            processed = len(outcomes) - outcomes.count("pending")
            assert processed >= self.most_processed[job_id]
            self.most_processed[job_id] = processed
            job = self.world.job(job_id)
            if job.finished_at:
                assert job.state == ("failed" if job.unprocessed else "completed")
                counted = (
                    job.deleted + job.not_found + job.unprocessed + job.restored + job.conflict
                )
                assert processed == len(options["written"]) == counted

    def teardown(self):
        if not hasattr(self, "submitted"):
            return
        for _ in range(200):
            self._expire()
            claimed = self._claim()
            if claimed is None:
                break
            run_chunk(self.world.engine, claimed)
            self._judge_what_is_done()
        one_tick(self.world.engine)
        assert all(self.world.job(job_id).finished_at for job_id in self.submitted)

    def _claim(self):
        with self.world.engine.begin() as connection:
            return claim(connection, "jobs")

    def _expire(self):
        # Attempts start anew with the lease: how they run out has a test of its own.
        with self.world.engine.begin() as connection:
            let_leases_expire(connection)
            connection.execute(text("UPDATE chunks SET attempts = 0 WHERE state = 'pending'"))
            connection.execute(
                text(
                    "UPDATE jobs SET paced_at = paced_at - interval '1 hour', waiting_until ="
                    " waiting_until - interval '1 hour'"
                )
            )

    def _judge_what_is_done(self, moved=None):
        """At most one chunk, or a part of one, has been decided since the last look; if its
        campaign `moved`, all.
        """
        for job_id, options in self.submitted.items():
            outcomes = self.world.outcomes(job_id)
            decided = [
                i
                for i, outcome in enumerate(outcomes)
                if outcome[0] != "pending" and i not in self.judged[job_id]
            ]
            if not decided:
                continue
            if options["campaign"] == moved:
                assert {outcomes[i] for i in decided} == {CAMPAIGN_MOVED}
                self.judged[job_id] |= set(decided)
                return
            paced = (
                options["rate"] is not None and job_id not in self.waited
            )  # after waiting, one part is tried that is bigger
            most = (
                min(options["chunk_size"], options["rate"] // 2) if paced else options["chunk_size"]
            )
            assert len(decided) <= most
            if options["mode"] == "restore":
                assert [outcomes[i] for i in decided] == [
                    self._restored(options["written"][i]) for i in decided
                ]
            else:
                self._judge_taken(job_id, options, decided, outcomes)
            assert all(
                outcomes[i] == oracle.DUPLICATE
                for i in self.judged[job_id] & _duplicates_of(options)
            )
            self.judged[job_id] |= set(decided)
            return

    def _judge_taken(self, job_id, options, decided, outcomes):
        archives = options["mode"] == "archive"
        verdict = self._verdict(
            [options["written"][i] for i in decided],
            campaign=options["campaign"],
            phone_fallback=options["phone_fallback"],
            archives=archives,
        )
        if not archives:
            assert [outcomes[i] for i in decided] == verdict.outcomes
            assert self.world.erased(job_id) & set(decided) == {
                decided[at] for at in verdict.erased
            }
            self._take_over(verdict)
            return
        assert [outcomes[i] for i in decided] == [
            ("archived" if o[0] == "deleted" else o[0], *o[1:]) for o in verdict.outcomes
        ]
        new = {
            place: copy for place, copy in self.world.archive().items() if place not in self.archive
        }
        assert {job for job, _ in new} <= {job_id}
        assert Counter(new.values()) == Counter(self.present - verdict.remaining)
        self.archive = dict(sorted((self.archive | new).items()))
        self.present = verdict.remaining

    def _verdict(self, written, *, archives=False, **options):
        """Of what happens now."""
        copies = [] if archives else [copy or NOBODY for copy in self.archive.values()]
        verdict = oracle.judge(written, self.present, copies=copies, **options)
        verdict.copies = [None if copy == NOBODY else copy for copy in verdict.copies]
        return verdict

    def _take_over(self, verdict):
        self.present = verdict.remaining
        self.archive = dict(zip(self.archive, verdict.copies, strict=True))

    def _restored(self, place):
        """What becomes of an entry of a restoration, and makes it so."""
        copy = self.archive[place]
        if copy is None:
            return oracle.ERASED
        if any(_clash(copy, lead) for lead in self.present):
            return oracle.CONFLICT
        self.present = self.present | {copy}
        del self.archive[place]
        return oracle.RESTORED


NOBODY = oracle.Lead("nowhere", None, None)
CAMPAIGN_MOVED = ("unprocessed", None, "campaignMoved")


def _clash(one, other):
    """Whether a campaign cannot have both."""
    same_id = one.external_id and one.external_id == other.external_id
    same_number = one.phone_number and one.phone_number == other.phone_number
    return one.campaign == other.campaign and (same_id or same_number)


_fresh = count()


def _duplicates(written):
    outcomes = oracle.judge(written, set(), campaign="none").outcomes
    return {i for i, outcome in enumerate(outcomes) if outcome == oracle.DUPLICATE}


def _duplicates_of(options):
    return set() if options["mode"] == "restore" else _duplicates(options["written"])


class dying_at:  # noqa: N801 - it reads as a statement
    """Within it, the n-th statement (commits count) of the engine raises Crash and takes its
    connection with it.
    """

    def __init__(self, engine, statement, *, after):
        self._engine, self._left, self._after = engine, statement, after
        self._watched = [
            ("before_cursor_execute", self._before_statement),
            ("after_cursor_execute", self._after_statement),
            ("commit", self._before_commit),
        ]

    def __enter__(self):
        for name, watcher in self._watched:
            event.listen(self._engine, name, watcher)

    def __exit__(self, *_):
        for name, watcher in self._watched:
            event.remove(self._engine, name, watcher)

    def _before_statement(self, connection, *_):
        self._pass(connection, dies=not self._after, counts=not self._after)

    def _after_statement(self, connection, *_):
        self._pass(connection, dies=self._after, counts=self._after)

    def _before_commit(self, connection):
        self._pass(connection, dies=True, counts=True)

    def _pass(self, connection, *, dies, counts):
        if dies and self._left == 0:
            self._left = -1
            connection.connection.dbapi_connection.close()
            raise Crash
        self._left -= counts


@pytest.mark.proof("random lives")
def test_whatever_happens_around_a_job_each_entry_is_decided_once_and_right(world):
    machine = type("LifeOf", (Life,), {"world": world})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=many("random lives"),
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
