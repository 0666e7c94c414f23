"""What a chunk's transaction does, and what it does when the database says no."""

import threading
import time

import pytest
from psycopg import OperationalError
from sqlalchemy import event, text

from shared.broker.wakeups import NOBODY, Wake
from shared.states import Outcome
from tests.support.jobs import (
    add_campaign,
    add_former_leads,
    add_leads,
    job_row,
    let_leases_expire,
    outcomes_of_job,
    queue_job,
    remaining_leads,
)
from worker import runner
from worker.claimer import MAX_ATTEMPTS, claim
from worker.runner import run_chunk, run_next

LEADS = [("a", "+101"), ("b", "+102"), ("c", None), (None, "+104")]


@pytest.fixture
def campaign(engine):
    with engine.begin() as connection:
        add_campaign(connection)
        add_campaign(connection, "other")
        add_leads(connection, LEADS)
        add_leads(connection, LEADS, campaign="other")
    return engine


def queue_in(engine, entries, **options):
    with engine.begin() as connection:
        return queue_job(connection, entries, **options)


def claim_and_run(engine):
    with engine.begin() as connection:
        claimed = claim(connection, "jobs")
    run_chunk(engine, claimed)


def test_a_job_runs_to_its_end_and_touches_nothing_else(campaign, monkeypatch):
    monkeypatch.setattr(runner, "TURN", 60.0)  # however busy the machine is
    job_id = queue_in(campaign, [("a", None), (None, "+102"), ("nobody", "+109"), ("c", "+104")])
    sent = []
    run_next(campaign, "jobs", Wake(lambda _: None, sent.append))
    with campaign.begin() as connection:
        job = job_row(connection, job_id)
        assert outcomes_of_job(connection, job_id) == [1, 2, 3, 1]
        assert remaining_leads(connection) == {(None, "+104")}
        assert remaining_leads(connection, "other") == set(LEADS)
    assert (job.state, job.deleted, job.not_found, job.unprocessed, job.error) == (
        "completed",
        3,
        1,
        0,
        None,
    )
    assert job.created_at <= job.started_at <= job.finished_at
    assert sent == [], "with nothing left to do, no message is due"


def test_a_turn_that_ends_with_work_left_sends_exactly_one_message(campaign):
    queue_in(campaign, [(f"x{i}", None) for i in range(2000)], chunk_size=1)
    sent = []
    run_next(campaign, "jobs", Wake(lambda _: None, sent.append))
    assert sent == ["jobs"]


def test_doubled_messages_change_nothing(campaign):
    job_id = queue_in(campaign, [("a", None), ("b", None)], chunk_size=1)
    for _ in range(3):
        run_next(campaign, "jobs", NOBODY)
    with campaign.begin() as connection:
        assert outcomes_of_job(connection, job_id) == [1, 1]
        assert connection.execute(text("SELECT array_agg(attempts) FROM chunks")).scalar_one() == [
            1,
            1,
        ]


def test_a_chunk_that_two_workers_hold_is_decided_once(campaign):
    job_id = queue_in(campaign, [("a", None)])
    with campaign.begin() as connection:
        first = claim(connection, "jobs")
        let_leases_expire(connection)
        second = claim(connection, "jobs")
    run_chunk(campaign, first)  # whose lease is over, and the chunk another's
    with campaign.begin() as connection:
        assert ("a", "+101") in remaining_leads(connection)
    run_chunk(campaign, second)
    with campaign.begin() as connection:
        add_leads(
            connection, [("a", None)]
        )  # as if the campaign had got it back: it is not this job's any more
    for claimed in (first, second):
        run_chunk(campaign, claimed)
    with campaign.begin() as connection:
        assert ("a", None) in remaining_leads(connection)
        assert job_row(connection, job_id).deleted == 1


def test_a_chunk_that_used_up_its_attempts_is_failed_and_the_rest_is_done(campaign):
    job_id = queue_in(campaign, [("a", None), ("b", None)], chunk_size=1)
    for _ in range(MAX_ATTEMPTS):
        with campaign.begin() as connection:
            assert claim(connection, "jobs").number == 0
            connection.execute(text("UPDATE chunks SET retry_at = '-infinity' WHERE number = 0"))
    run_next(campaign, "jobs", NOBODY)
    with campaign.begin() as connection:
        job = job_row(connection, job_id)
        assert outcomes_of_job(connection, job_id) == [
            Outcome.FAILED,
            Outcome.DELETED_BY_EXTERNAL_ID,
        ]
        assert ("a", "+101") in remaining_leads(connection)
    assert (job.state, job.deleted, job.unprocessed) == ("failed", 1, 1)
    assert job.error.startswith("1 of 2 leads could not be processed")


@pytest.mark.parametrize(
    "constraint", ["", "DEFERRABLE INITIALLY DEFERRED"], ids=["immediate", "deferred"]
)
def test_a_foreign_key_that_forbids_one_lead_leaves_only_that_one(campaign, constraint):
    with campaign.begin() as connection:
        connection.execute(
            text(f"CREATE TABLE calls (lead_id bigint REFERENCES leads (id) {constraint})")
        )
        connection.execute(
            text(
                "INSERT INTO calls SELECT id FROM leads WHERE external_id = 'b'"
                " AND campaign_id = 'cmp'"
            )
        )
    job_id = queue_in(
        campaign, [("a", None), ("b", None), (None, "+104"), (None, "+102"), ("c", None)]
    )
    claim_and_run(campaign)
    with campaign.begin() as connection:
        job = job_row(connection, job_id)
        assert outcomes_of_job(connection, job_id) == [1, Outcome.REFUSED, 2, Outcome.DUPLICATE, 1]
        assert remaining_leads(connection) == {("b", "+102")}
    assert (job.state, job.deleted, job.not_found, job.unprocessed) == ("failed", 3, 1, 1)


def test_a_trigger_that_raises_refuses_as_a_foreign_key_does(campaign):
    with campaign.begin() as connection:
        connection.execute(
            text("""
                CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql
                    AS $$ BEGIN RAISE 'kept by law'; END $$;
                CREATE TRIGGER keep BEFORE DELETE ON leads FOR EACH ROW
                    WHEN (OLD.phone_number = '+104') EXECUTE FUNCTION keep()
            """)
        )
    job_id = queue_in(campaign, [("a", None), (None, "+104")])
    claim_and_run(campaign)
    with campaign.begin() as connection:
        assert outcomes_of_job(connection, job_id) == [1, Outcome.REFUSED]


def test_a_lost_connection_gives_the_work_another_try_at_once(campaign):
    job_id = queue_in(campaign, [("a", None)])
    with campaign.begin() as connection:
        claimed = claim(connection, "jobs")
    cut = cut_connection_once(campaign, "DELETE FROM leads")
    run_chunk(campaign, claimed)
    assert cut.is_set()
    with campaign.begin() as connection:
        assert job_row(connection, job_id).state == "completed"


def test_a_commit_that_reported_an_error_but_happened_is_not_repeated(campaign, monkeypatch):
    job_id = queue_in(campaign, [("a", None)])
    with campaign.begin() as connection:
        claimed = claim(connection, "jobs")
    lied = lie_about_one_commit(campaign, monkeypatch)
    run_chunk(campaign, claimed)
    assert lied.is_set()
    with campaign.begin() as connection:
        job = job_row(connection, job_id)
        assert outcomes_of_job(connection, job_id) == [1]
    assert (job.state, job.deleted) == ("completed", 1)


def test_a_lock_that_is_held_too_long_gives_the_attempt_back_and_the_worker_free(campaign):
    job_id = queue_in(campaign, [("a", None)])
    with campaign.begin() as holder:
        holder.execute(text("SELECT FROM leads WHERE external_id = 'a' FOR UPDATE"))
        began = time.monotonic()
        claim_and_run(campaign)
        assert time.monotonic() - began < 8, "two tries of two seconds"
    with campaign.begin() as connection:
        assert connection.execute(text("SELECT attempts FROM chunks")).scalar_one() == 0
        let_leases_expire(connection)
    claim_and_run(campaign)
    with campaign.begin() as connection:
        assert job_row(connection, job_id).state == "completed"


def test_a_chunk_lets_go_of_its_locks_when_its_worker_freezes(campaign):
    queue_in(campaign, [("a", None)])
    limits = []

    @event.listens_for(campaign, "after_cursor_execute")
    def _(connection, _cursor, statement, _parameters, _context, _many):
        if "DELETE FROM leads" in statement:
            with connection.connection.cursor() as cursor:
                names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
                limits.extend(cursor.execute(f"SHOW {name}").fetchone()[0] for name in names)

    claim_and_run(campaign)
    assert limits == ["500ms", "2s", "10s"]


def test_the_last_two_chunks_committed_together_still_finish_their_job(campaign):
    """Neither sees the other's chunk as done inside its transaction; the check after the commit is
    what finishes.
    """
    job_id = queue_in(campaign, [("a", None), ("b", None)], chunk_size=1)
    with campaign.begin() as connection:
        claims = [claim(connection, "jobs"), claim(connection, "jobs")]
    both_there = threading.Barrier(2, timeout=20)

    @event.listens_for(campaign, "commit")
    def _(connection):
        if connection.info.pop("decided", False):
            both_there.wait()

    @event.listens_for(campaign, "after_cursor_execute")
    def _(connection, _cursor, statement, _parameters, _context, _many):
        if "FOR UPDATE OF chunks" in statement:
            connection.info["decided"] = True

    workers = [threading.Thread(target=run_chunk, args=(campaign, claimed)) for claimed in claims]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    with campaign.begin() as connection:
        assert job_row(connection, job_id).state == "completed"


def cut_connection_once(engine, fragment):
    """Closes the connection under the first statement that contains `fragment`."""
    cut = threading.Event()

    @event.listens_for(engine, "before_cursor_execute")
    def _(connection, _cursor, statement, _parameters, _context, _many):
        if fragment in statement and not cut.is_set():
            cut.set()
            pid = connection.connection.dbapi_connection.info.backend_pid
            with engine.connect() as other:
                other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})

    return cut


def lie_about_one_commit(engine, monkeypatch):
    """Makes one COMMIT happen and then report a lost connection, as a network cut at the wrong
    moment does.
    """
    lied = threading.Event()
    commit = engine.dialect.do_commit

    def commit_and_lie(connection):
        commit(connection)
        if not lied.is_set():
            lied.set()
            connection.dbapi_connection.close()
            raise OperationalError("the connection is lost")

    monkeypatch.setattr(engine.dialect, "do_commit", commit_and_lie)
    return lied


def test_a_trigger_that_silently_keeps_a_lead_refuses_too(campaign):
    """A BEFORE DELETE trigger that returns NULL raises nothing: the lead is there still, and must
    not be called not found.
    """
    with campaign.begin() as connection:
        connection.execute(
            text("""
                CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql
                    AS $$ BEGIN RETURN NULL; END $$;
                CREATE TRIGGER keep BEFORE DELETE ON leads FOR EACH ROW
                    WHEN (OLD.phone_number IN ('+102', '+104'))
                EXECUTE FUNCTION keep()
            """)
        )
    deleting = queue_in(
        campaign, [("a", None), ("b", None), (None, "+104"), ("nobody", "+102"), ("no", "+109")]
    )
    claim_and_run(campaign)
    with campaign.begin() as connection:
        assert outcomes_of_job(connection, deleting) == [
            1,
            Outcome.REFUSED,
            Outcome.REFUSED,
            Outcome.DUPLICATE,
            3,
        ]
        assert remaining_leads(connection) == {("b", "+102"), ("c", None), (None, "+104")}


def test_a_trigger_that_silently_keeps_a_lead_refuses_an_execution(campaign):
    with campaign.begin() as connection:
        ids = (
            connection.execute(
                text("SELECT id FROM leads WHERE campaign_id = 'cmp' ORDER BY external_id")
            )
            .scalars()
            .all()
        )
        connection.execute(
            text("""
                CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql
                    AS $$ BEGIN RETURN NULL; END $$;
                CREATE TRIGGER keep BEFORE DELETE ON leads FOR EACH ROW WHEN (OLD.external_id = 'b')
                    EXECUTE FUNCTION keep()
            """)
        )
        job_id = queue_job(connection, [("a", None), ("b", None)], mode="archive")
        connection.execute(
            text(
                "UPDATE chunks SET lead_ids = :ids, lead_external_ids = '{a,b}',"
                " lead_phone_numbers = '{+101,+102}'"
            ),
            {"ids": ids[:2]},
        )
    claim_and_run(campaign)
    with campaign.begin() as connection:
        assert outcomes_of_job(connection, job_id) == [
            Outcome.ARCHIVED_BY_EXTERNAL_ID,
            Outcome.REFUSED,
        ]


def test_an_ordinary_chunk_takes_no_more_statements_than_it_must(campaign):
    with campaign.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO archived_leads (job_id, lead_id, lead)"
                " VALUES (gen_random_uuid(), 1, '{}')"
            )
        )
    queue_in(campaign, [("a", "+101"), ("nobody", "+109"), (None, "+102")])
    statements = []
    event.listen(
        campaign,
        "before_cursor_execute",
        lambda _c, _cursor, statement, *_: statements.append(statement),
    )
    claim_and_run(campaign)
    expected = [
        "RECURSIVE known",
        "chosen",
        "FOR UPDATE OF chunks",
        "external_id = ANY",
        "phone_number = ANY",
        "WITH done AS",
    ]
    assert len(statements) == len(expected)
    assert all(
        fragment in statement for fragment, statement in zip(expected, statements, strict=True)
    )


FORMER = ("\u200bold", "+1\u20095550001")


def written_as(engine, written):
    """What was written for the entries of the only chunk."""
    external_ids, phone_numbers = zip(*written, strict=True)
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE chunks SET written_external_ids = :external_ids, written_phone_numbers ="
                " :phone_numbers"
            ),
            {"external_ids": list(external_ids), "phone_numbers": list(phone_numbers)},
        )


@pytest.mark.parametrize(
    ("entry", "written", "outcome"),
    [
        (("old", None), (FORMER[0], None), Outcome.DELETED_BY_EXTERNAL_ID),
        ((None, "+15550001"), (None, FORMER[1]), Outcome.DELETED_BY_PHONE_NUMBER),
        (("old", None), ("old ", None), Outcome.NO_SUCH_LEAD),
    ],
    ids=["id", "number", "written otherwise"],
)
def test_until_leads_are_in_todays_form_they_are_looked_up_in_the_former_one_too(
    campaign, entry, written, outcome
):
    with campaign.begin() as connection:
        add_former_leads(connection, [FORMER])
    job_id = queue_in(campaign, [entry])
    written_as(campaign, [written])
    claim_and_run(campaign)
    with campaign.begin() as connection:
        assert outcomes_of_job(connection, job_id) == [outcome]
        assert (FORMER in remaining_leads(connection)) == (outcome == Outcome.NO_SUCH_LEAD)


def test_a_job_that_waited_while_the_rules_changed_is_read_by_those_of_today(campaign):
    with campaign.begin() as connection:
        add_leads(connection, [("old", None), (None, "+15550001"), (None, "155555500000")])
    entries = [
        ("old\u200b", None),
        (None, FORMER[1]),
        (None, "155555500000"),
        ("\u200bold", None),
        ("a", None),
    ]
    job_id = queue_in(campaign, entries, form=1)
    written_as(campaign, [*entries[:2], (None, "15555550000.0"), *entries[3:]])
    claim_and_run(campaign)
    with campaign.begin() as connection:
        assert outcomes_of_job(connection, job_id) == [
            Outcome.DELETED_BY_EXTERNAL_ID,
            Outcome.DELETED_BY_PHONE_NUMBER,
            Outcome.SPREADSHEET_NUMBER,
            Outcome.DUPLICATE,
            Outcome.DELETED_BY_EXTERNAL_ID,
        ]
        assert (None, "155555500000") in remaining_leads(connection)
