"""Which chunk is next, and what a claim keeps others from."""

import statistics

import pytest
from psycopg._queries import MAX_CACHED_STATEMENT_LENGTH
from sqlalchemy import event, text

from shared.identifiers.canonical import FORM
from shared.states import Outcome
from tests.support.jobs import add_campaign, job_row, let_leases_expire, pages_read, queue_job
from worker.claimer import claim, lies_idle
from worker.finisher import DecidedChunk, finish
from worker.runner import run_chunk
from worker.setbacks import put_off
from worker.ticker import queues_with_work
from worker.turns import FORGET_EVERY, turns_of

ENTRIES = [(f"crm-{i}", None) for i in range(4)]


@pytest.fixture
def engine(engine):
    """Nothing vacuums its tables by itself: the pages that it reads would count as those of a
    claim.
    """
    with engine.begin() as connection:
        for table in ("jobs", "chunks"):
            connection.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = off)"))
    return engine


def claim_one(engine, queue="jobs"):
    with engine.begin() as connection:
        return claim(connection, queue)


def queue_in(engine, **options):
    with engine.begin() as connection:
        return queue_job(connection, ENTRIES, **options)


def test_nothing_to_do_is_none(engine):
    assert claim_one(engine) is None


def test_a_claim_starts_the_job_and_says_what_is_needed_of_it(engine):
    job_id = queue_in(engine, campaign="c1", phone_fallback_rule="never", phone_region="DE")
    claimed = claim_one(engine)
    assert claimed._replace(lease_end=None) == (
        job_id,
        0,
        1,
        None,
        "c1",
        "never",
        "DE",
        FORM,
        "delete",
        False,
        None,
        None,
        False,
        False,
        "co",
    )
    with engine.begin() as connection:
        job = job_row(connection, job_id)
    assert job.state == "running"
    assert job.started_at >= job.created_at


def test_a_claimed_chunk_is_nobody_elses_until_its_lease_runs_out(engine):
    queue_in(engine)
    first = claim_one(engine)
    assert claim_one(engine) is None
    with engine.begin() as connection:
        assert (
            connection.execute(text("SELECT retry_at - clock_timestamp() FROM chunks"))
            .scalar_one()
            .total_seconds()
            <= 20
        )
        let_leases_expire(connection)
    assert claim_one(engine)._replace(lease_end=None) == first._replace(attempts=2, lease_end=None)


def test_a_chunk_whose_row_is_locked_is_passed_over_however_old_its_lease(engine):
    queue_in(engine, chunk_size=2)
    with engine.begin() as holder:
        holder.execute(text("SELECT FROM chunks WHERE number = 0 FOR UPDATE"))
        assert claim_one(engine).number == 1
        assert claim_one(engine) is None


def test_work_lies_idle_from_when_it_was_queued_not_from_when_its_job_was_made(engine):
    """Else each worker ends that hears nothing for a while and looks just as a scheduled job comes
    due.
    """
    job_id = queue_in(engine)
    set_times = text("""
        UPDATE jobs SET created_at = clock_timestamp() - interval '1 h',
            queued_at = clock_timestamp() - :seconds * interval '1 s'
        WHERE id = :job_id
    """)
    for seconds, is_idle in ((0, False), (10, False), (20, True)):
        with engine.begin() as connection:
            connection.execute(set_times, {"job_id": job_id, "seconds": seconds})
            assert lies_idle(connection, 15) is is_idle


def test_the_chunks_of_a_big_job_go_to_as_many_workers_as_ask(engine):
    queue_in(engine, chunk_size=1)
    assert [claim_one(engine).number for _ in ENTRIES] == [0, 1, 2, 3]


def test_companies_take_turns(engine):
    with engine.begin() as connection:
        for company in ("busy", "busy", "quiet"):
            queue_job(connection, ENTRIES, company=company, campaign=company, chunk_size=1)
    assert {claim_one(engine).campaign_id for _ in range(2)} == {"busy", "quiet"}
    assert {claim_one(engine).campaign_id for _ in range(2)} == {"busy", "quiet"}


def test_a_company_with_nothing_claimable_is_passed_over(engine):
    with engine.begin() as connection:
        queue_job(connection, ENTRIES, company="first")
        second = queue_job(connection, ENTRIES, company="second", chunk_size=2)
    assert [claim_one(engine).job_id == second for _ in range(3)].count(True) == 2
    assert claim_one(engine) is None


def test_a_small_job_does_not_wait_for_the_end_of_a_big_one(engine):
    big = queue_in(engine, chunk_size=1)
    assert claim_one(engine).job_id == big
    small = queue_in(engine)
    assert [claim_one(engine).job_id for _ in range(2)] == [big, small]


def test_the_older_of_two_small_jobs_is_first(engine):
    queued = [queue_in(engine) for _ in range(3)]
    assert [claim_one(engine).job_id for _ in range(3)] == queued


def test_jobs_that_keep_coming_do_not_starve_a_big_one(engine):
    big = queue_in(engine, chunk_size=1)
    claimed = []
    for _ in range(8):
        queue_in(engine)
        queue_in(engine)
        claimed.append(claim_one(engine).job_id)
    assert claimed.count(big) >= 2


def test_a_company_that_is_new_is_served_before_those_that_have_been(engine):
    for company in ("a", "b", "c"):
        queue_in(engine, company=company, campaign=company, chunk_size=1)
    assert {claim_one(engine).campaign_id for _ in range(3)} == {"a", "b", "c"}
    queue_in(engine, company="new", campaign="new")
    with engine.begin() as connection:
        turns_of(connection, "jobs").list(connection)
    assert claim_one(engine).campaign_id == "new"


def test_sessions_do_not_serve_companies_in_one_order(engine):
    for n in range(20):
        queue_in(engine, company=f"co-{n}", campaign=f"cmp-{n}", chunk_size=1)
    with engine.connect() as one, engine.connect() as other:
        served = [[claim_in(session).campaign_id for _ in range(10)] for session in (one, other)]
    assert all(len(set(companies)) == 10 for companies in served)
    assert served[0] != served[1]


def claim_in(session):
    with session.begin():
        return claim(session, "jobs")


def test_a_chunk_that_was_given_back_is_first_again_though_many_after_it_are_done(engine):
    job_id = queue_job_of(engine, 200)
    claims = [claim_one(engine) for _ in range(120)]
    with engine.begin() as connection:
        put_off(connection, claims[3], 0)
        for claimed in claims[:3] + claims[4:]:
            finish(connection, job_id, DecidedChunk(claimed.number, bytes([Outcome.NO_SUCH_LEAD])))
    assert [claim_one(engine).number for _ in range(2)] == [3, 120]
    with engine.begin() as connection:
        finish(connection, job_id, DecidedChunk(3, bytes([Outcome.NO_SUCH_LEAD])))
        for number in (120, *range(121, 180)):
            finish(connection, job_id, DecidedChunk(number, bytes([Outcome.NO_SUCH_LEAD])))
    assert [claim_one(engine).number for _ in range(2)] == [180, 181]
    with engine.begin() as connection:
        assert 100 < job_row(connection, job_id).first_pending <= 180, (
            "a session that is new passes over these"
        )
    engine.dispose()
    assert claim_one(engine).number == 182


def queue_job_of(engine, chunks):
    with engine.begin() as connection:
        return queue_job(connection, [(f"crm-{i}", None) for i in range(chunks)], chunk_size=1)


def test_a_job_that_was_committed_late_is_found_among_those_that_are_passed_over(engine):
    queue_in(engine, chunk_size=1)
    claim_one(engine)
    late = queue_in(engine, queued_at="2020-01-01T00:00:00Z")
    with engine.begin() as connection:
        turns = turns_of(connection, "jobs")
        turns.list(connection)
        assert claim(connection, "jobs").job_id != late
        turns._forgotten -= FORGET_EVERY
        turns.list(connection)
        assert late in {claim(connection, "jobs").job_id for _ in range(2)}


def test_a_claim_of_a_job_that_runs_writes_nothing_but_its_chunk(engine):
    job_id = queue_in(engine, chunk_size=1)
    claim_one(engine)
    with engine.begin() as connection:
        version = connection.execute(text("SELECT xmin FROM jobs")).scalar_one()
    assert claim_one(engine).job_id == job_id
    with engine.begin() as connection:
        assert connection.execute(text("SELECT xmin FROM jobs")).scalar_one() == version


def test_the_statements_of_each_chunk_are_short_enough_for_the_driver_to_remember_them(engine):
    """Longer ones it takes to pieces each time, which costs more than a round trip."""
    statements = []
    event.listen(
        engine,
        "before_cursor_execute",
        lambda _c, _cursor, statement, *_: statements.append(statement),
    )
    queue_in(engine)
    run_chunk(engine, claim_one(engine))
    assert len(statements) > 5
    assert max(map(len, statements)) <= MAX_CACHED_STATEMENT_LENGTH


def test_other_queues_and_states_are_left_alone(engine):
    with engine.begin() as connection:
        queue_job(connection, ENTRIES, queue="off-peak")
        queue_job(connection, ENTRIES, state="paused")
        queue_job(connection, ENTRIES, state="scheduled", run_at="2020-01-01T00:00:00Z")
    assert claim_one(engine) is None
    assert claim_one(engine, "off-peak")


def test_a_company_or_campaign_that_is_gone_does_not_strand_its_jobs(engine):
    queue_in(engine, company="gone", campaign="gone")
    assert claim_one(engine).campaign_id == "gone"


def test_distinct_companies_are_found_without_reading_all_their_jobs(engine):
    """The claim must not slow down with the number of queued jobs; the plan shows that it does not
    sort or scan them.
    """
    with engine.begin() as connection:
        add_campaign(connection)
        connection.execute(
            text("""
                WITH many AS (
                    INSERT INTO jobs (id, company_id, campaign_id, total)
                    SELECT gen_random_uuid(), 'company-' || n % 3, 'cmp', 1 FROM generate_series(1,
                        3000) AS n RETURNING id
                )
                INSERT INTO chunks (job_id, number, first_index, external_ids, phone_numbers,
                    outcomes)
                SELECT id, 0, 0, '{x}', '{NULL}', '{0}' FROM many
            """)
        )
    with engine.connect() as connection:
        with connection.begin():
            connection.execute(text("ANALYZE"))
        claimed, pages = measured(connection, lambda connection: claim(connection, "jobs"))
        assert claimed
        assert 0 < pages < 500


def test_a_company_all_of_whose_jobs_wait_costs_others_nothing(engine):
    """Their rows are walked at most once every tenth of a second."""
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO jobs (id, company_id, campaign_id, total, waiting_for, waiting_since,
                    waiting_until)
                SELECT gen_random_uuid(), 'waits', 'waits', 1, '{}', now(), now() + interval '1 h'
                    FROM generate_series(1, 3000)
            """)
        )
        queue_job(connection, ENTRIES * 5, company="works", campaign="works", chunk_size=1)
    with engine.connect() as connection:
        with connection.begin():
            turns = turns_of(connection, "jobs")
            turns.list(connection)
        turns.companies = dict(sorted(turns.companies.items()))  # that waits is first
        turns._listed = float("inf")
        claims = [
            measured(connection, lambda connection: claim(connection, "jobs")) for _ in range(20)
        ]
    assert {claimed.campaign_id for claimed, _ in claims} == {"works"}
    assert max(pages for _, pages in claims[1:]) < 100, claims


def test_claims_beside_an_old_snapshot_read_no_more_after_thousands_of_them(engine):
    """Nothing that was written meanwhile can be removed: neither the versions of rows nor their
    entries in indexes.
    """
    with engine.begin() as connection:
        for company, jobs, chunks in (("big", 1, 3000), ("some", 20, 100), ("small", 1500, 1)):
            connection.execute(
                text("""
                    WITH job AS (
                        INSERT INTO jobs (id, company_id, campaign_id, total)
                        SELECT gen_random_uuid(), :company, :company, :chunks
                            FROM generate_series(1, :jobs) RETURNING id
                    )
                    INSERT INTO chunks (job_id, number, first_index, external_ids, phone_numbers,
                        outcomes)
                    SELECT id, number, number, '{x}', '{NULL}', '{0}' FROM job, generate_series(0,
                        :chunks - 1) AS number
                """),
                {"company": company, "jobs": jobs, "chunks": chunks},
            )
    with (
        engine.connect().execution_options(isolation_level="REPEATABLE READ") as old,
        engine.connect() as connection,
    ):
        old.execute(text("SELECT count(*) FROM jobs"))

        def decide(claimed):
            decided = DecidedChunk(claimed.number, bytes([Outcome.NO_SUCH_LEAD]))
            return lambda connection: finish(connection, claimed.job_id, decided)

        def work_off(most):
            for _ in range(0, most, 20):
                with connection.begin():
                    for _ in range(20):
                        assert claim(connection, "jobs")
                    connection.execute(text(DECIDE_ALL))

        _, first_look = measured(connection, queues_with_work)
        claimed, first_claim = measured(connection, lambda connection: claim(connection, "jobs"))
        _, first_finish = measured(connection, decide(claimed))
        work_off(5000)
        claims = [
            measured(connection, lambda connection: claim(connection, "jobs")) for _ in range(9)
        ]
        assert statistics.median(pages for _, pages in claims) <= 2 * first_claim
        finishes = [measured(connection, decide(claimed))[1] for claimed, _ in claims]
        assert statistics.median(finishes) <= 2 * first_finish, (first_finish, finishes)
        assert measured(connection, queues_with_work)[1] <= 2 * first_look
        assert {claimed.campaign_id for claimed, _ in claims} == {"big", "some"}, (
            "all small ones are done"
        )


DECIDE_ALL = """
    WITH decided AS (
        UPDATE chunks SET state = 'done', outcomes = '{4}', not_found = 1
        WHERE state = 'pending' AND attempts > 0 AND retry_at > clock_timestamp() RETURNING job_id
    )
    UPDATE jobs SET state = 'completed', finished_at = clock_timestamp(), deleted = 0,
        would_delete = 0, restored = 0,
        conflict = 0, not_found = total, unprocessed = 0, invalid = 0, erased = 0, lacks_plus = 0,
            other_external_id = 0
    WHERE id IN (SELECT job_id FROM decided) AND NOT EXISTS (
        SELECT FROM chunks WHERE job_id = jobs.id AND state = 'pending' AND attempts = 0
    )
"""


def measured(connection, step):
    """What `step` returns, and how many pages its transaction read."""
    before = pages_read(connection)
    with connection.begin():
        result = step(connection)
    return result, pages_read(connection) - before
