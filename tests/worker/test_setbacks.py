"""What becomes of a chunk that is slow, locked, refused in part, or met by a database that is not
well: nothing ends wrongly, and nothing holds up what has no part in it.
"""

import json
import time
from contextlib import suppress
from datetime import timedelta
from functools import partial

import psycopg
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from shared.broker.wakeups import NOBODY
from shared.process.heartbeats import beat
from shared.states import Outcome
from tests.support.jobs import (
    add_campaign,
    add_leads,
    execute,
    let_leases_expire,
    one_tick,
    remaining_leads,
    work_off,
)
from tests.support.jobs import job_now as job
from tests.support.jobs import outcomes_now as outcomes
from tests.support.jobs import queue_ids as queue
from worker import runner
from worker.claimer import MAX_ATTEMPTS, claim
from worker.part import LONGEST_PART, PART_SECONDS
from worker.runner import run_chunk, run_next
from worker.setbacks import cut, hold, put_off

BY_ID, BY_PHONE = Outcome.DELETED_BY_EXTERNAL_ID, Outcome.DELETED_BY_PHONE_NUMBER


@pytest.fixture
def campaign(engine):
    with engine.begin() as connection:
        add_campaign(connection)
        add_leads(connection, [(f"crm-{i}", f"+1555{i:04d}") for i in range(100)])
        add_campaign(connection, "quick", "other")
        add_leads(connection, [(f"quick-{i}", None) for i in range(10)], "quick")
    return engine


def claimed_now(engine):
    with engine.begin() as connection:
        return claim(connection, "jobs")


def work(engine, **options):
    """Until nothing can be claimed; how long each claim took, in seconds."""
    seconds = []
    while claimed := claimed_now(engine):
        began = time.monotonic()
        run_chunk(engine, claimed, **options)
        seconds.append(time.monotonic() - began)
    return seconds


def pass_time(engine, seconds):
    """As if so much had gone by for what waits."""
    execute(
        engine,
        "UPDATE chunks SET retry_at = retry_at - :span, locked_since = locked_since - :span,"
        " held_since = held_since - :span"
        " WHERE state = 'pending'",
        span=timedelta(seconds=seconds),
    )
    execute(
        engine,
        (
            "UPDATE jobs SET waiting_since = waiting_since - :span, waiting_until = waiting_until"
            " - :span"
        ),
        span=timedelta(seconds=seconds),
    )


def on_delete(engine, body, when="true"):
    """A trigger on leads, before each is deleted."""
    execute(engine, function_on_delete(body))
    execute(
        engine,
        (
            f"CREATE TRIGGER on_delete BEFORE DELETE ON leads FOR EACH ROW WHEN ({when})"
            " EXECUTE FUNCTION on_delete()"
        ),
    )


def function_on_delete(body):
    return (
        "CREATE OR REPLACE FUNCTION on_delete() RETURNS trigger LANGUAGE plpgsql AS $$"
        f" BEGIN {body}; RETURN OLD; END $$"
    )


def raising(sqlstate):
    return f"RAISE EXCEPTION 'it holds %', OLD.external_id USING ERRCODE = '{sqlstate}'"


# Slow leads


def test_slow_leads_all_go_in_parts_none_of_which_takes_long(campaign):
    on_delete(campaign, "PERFORM pg_sleep(0.1)", "OLD.campaign_id = 'cmp'")
    job_id = queue(campaign, [f"crm-{i}" for i in range(60)])
    seconds = work(campaign)
    assert max(seconds) < PART_SECONDS + 1
    done = job(campaign, job_id)
    assert (done.state, done.deleted) == ("completed", 60)
    assert set(outcomes(campaign, job_id)) == {BY_ID}
    assert len(seconds) > 3


def test_between_the_parts_of_a_slow_chunk_others_have_their_turn(campaign):
    on_delete(campaign, "PERFORM pg_sleep(0.2)", "OLD.campaign_id = 'cmp'")
    queue(campaign, [f"crm-{i}" for i in range(60)])
    run_chunk(campaign, claimed_now(campaign))
    small = queue(campaign, [f"quick-{i}" for i in range(10)], company="other", campaign="quick")
    run_chunk(campaign, claimed_now(campaign))
    assert job(campaign, small).state == "completed"


def test_a_part_grows_again_where_leads_are_quick(campaign):
    on_delete(
        campaign,
        "PERFORM pg_sleep(0.3)",
        (
            "OLD.external_id IN ('crm-0', 'crm-1', 'crm-2', 'crm-3', 'crm-4', 'crm-5', 'crm-6',"
            " 'crm-7')"
        ),
    )
    job_id = queue(campaign, [f"crm-{i}" for i in range(100)])
    sizes = []
    while claimed := claimed_now(campaign):
        run_chunk(campaign, claimed)
        sizes.append(claimed.max_entries)
    assert job(campaign, job_id).deleted == 100
    assert min(size for size in sizes if size) <= 12
    assert sizes[-1] is None or sizes[-1] > 12


def test_what_is_put_off_to_the_commit_takes_the_time_of_its_part(campaign):
    """A deferred constraint that takes 70 ms a lead: 60 and 30 are too many, 15 are not, and stay
    so many.
    """
    execute(
        campaign,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN PERFORM pg_sleep(0.07); RETURN NULL; END $$;"
        " CREATE CONSTRAINT TRIGGER slow AFTER DELETE ON leads"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()",
    )
    job_id = queue(campaign, [f"crm-{i}" for i in range(60)])
    assert len(work(campaign)) == 2 + 4
    assert job(campaign, job_id).deleted == 60


def test_the_other_chunks_of_a_slow_job_begin_with_small_parts(campaign):
    on_delete(campaign, "PERFORM pg_sleep(0.2)")
    queue(campaign, [f"crm-{i}" for i in range(100)], chunk_size=50)
    run_chunk(campaign, claimed_now(campaign))
    claimed_now(campaign)
    assert claimed_now(campaign).max_entries == 25


@pytest.mark.parametrize(
    ("processes", "tries", "longest"), [(1, [2, 4], 4), (2, [2, 4, 8, 15], 15)]
)
def test_a_lead_that_takes_too_long_even_alone_is_said_to_be_too_slow(
    campaign, processes, tries, longest
):
    execute(
        campaign,
        "CREATE TABLE calls (id int, lead_id bigint CONSTRAINT calls_lead REFERENCES leads)",
    )
    on_delete(campaign, "PERFORM pg_sleep(60)", "OLD.external_id = 'crm-1'")
    job_id = queue(campaign, ["crm-0", "crm-1", "crm-2"])
    seconds = []
    with capture_logs() as logged:
        while claimed := claimed_now(campaign):
            with campaign.begin() as connection:
                beat(connection, "worker", processes)
            began = time.monotonic()
            run_chunk(campaign, claimed)
            if claimed.max_entries == 1:
                seconds.append(time.monotonic() - began)
    assert max(seconds) < longest + 1
    slow = [s for s in seconds if s > 1.5]
    assert all(0.75 * due < s < 1.5 * due for s, due in zip(slow, tries, strict=True)), slow
    assert outcomes(campaign, job_id) == [BY_ID, Outcome.TOO_SLOW, BY_ID]
    assert LONGEST_PART == 15
    done = job(campaign, job_id)
    assert (done.state, done.deleted, done.unprocessed) == ("failed", 2, 1)
    mend = (
        "the foreign key calls_lead of calls has no index: CREATE INDEX CONCURRENTLY ON calls"
        " (lead_id)"
    )
    results = "1 of 3 leads could not be processed; the results with outcome=unprocessed say why."
    assert done.error == f"{results} Leads take long to delete: {mend}"
    [(details,)] = execute(campaign, "SELECT details FROM chunks")
    assert details == {"1": mend}
    assert {line["hint"] for line in logged if line["event"] == "leads take long"} == {mend}


def test_only_one_worker_at_a_time_is_on_a_lead_that_takes_longer_than_a_part(campaign):
    job_id = queue(campaign, ["crm-0", "crm-1"], chunk_size=1)
    execute(campaign, "UPDATE chunks SET part_size = 1, part_seconds = 8")
    with campaign.begin() as holder:
        holder.execute(text("SELECT pg_advisory_xact_lock(3141592653)"))
        assert max(work(campaign)) < 1
        assert outcomes(campaign, job_id) == [0, 0]
    pass_time(campaign, 2)
    work(campaign)
    assert job(campaign, job_id).state == "completed"


@pytest.mark.parametrize("columns", [{"mode": "archive"}, {"dry_run": True}])
def test_other_jobs_go_in_parts_too(campaign, columns):
    if columns.get("dry_run"):
        execute(
            campaign,
            (
                "CREATE FUNCTION slow(text) RETURNS bool LANGUAGE sql AS $$"
                " SELECT pg_sleep(0.1) IS NOT NULL $$"
            ),
        )
        execute(campaign, "ALTER TABLE leads RENAME TO people")
        execute(campaign, "CREATE VIEW leads AS SELECT * FROM people WHERE slow(external_id)")
    else:
        on_delete(campaign, "PERFORM pg_sleep(0.1)")
    job_id = queue(campaign, [f"crm-{i}" for i in range(40)], **columns)
    assert max(work(campaign)) < PART_SECONDS + 1
    assert job(campaign, job_id).state == "completed"


# Locks


def test_one_locked_lead_keeps_nobody_else_and_is_never_looked_up_by_phone(campaign):
    """A dialler that inserts a call holds its lead so. The entry that names it must not take
    somebody else by its number.
    """
    entries = [(f"crm-{i}", None) for i in range(99)] + [
        ("crm-99", "+15550000"),
        (None, "+15550099"),
    ]
    entries[0] = ("nobody", None)
    job_id = queue(campaign, entries)
    with campaign.connect() as holder:
        holder.execute(text("SELECT FROM leads WHERE external_id = 'crm-99' FOR KEY SHARE"))
        assert max(work(campaign)) < 3
        waits = Outcome.WAITS_FOR_LOCK
        assert outcomes(campaign, job_id) == [Outcome.NO_SUCH_LEAD, *[BY_ID] * 98, waits, waits]
        [(locked, since, attempts)] = execute(
            campaign, "SELECT locked, locked_since, attempts FROM chunks"
        )
        assert (locked, attempts) == (2, 0)
        assert since is not None
        with campaign.begin() as connection:
            assert remaining_leads(connection) == {("crm-0", "+15550000"), ("crm-99", "+15550099")}
        pass_time(campaign, 12)
        assert max(work(campaign)) < 1
    pass_time(campaign, 12)
    work(campaign)
    assert outcomes(campaign, job_id)[-2:] == [BY_ID, Outcome.DUPLICATE]
    with campaign.begin() as connection:
        assert remaining_leads(connection) == {("crm-0", "+15550000")}
    assert job(campaign, job_id).state == "completed"


def test_what_stays_locked_is_given_up_after_ten_minutes_and_not_before(campaign):
    job_id = queue(campaign, ["crm-0", "crm-1"])
    with campaign.connect() as holder:
        holder.execute(text("SELECT FROM leads WHERE external_id = 'crm-1' FOR UPDATE"))
        work(campaign)
        pass_time(campaign, 590)
        work(campaign)
        assert outcomes(campaign, job_id) == [BY_ID, Outcome.WAITS_FOR_LOCK]
        pass_time(campaign, 20)
        work(campaign)
    assert outcomes(campaign, job_id) == [BY_ID, Outcome.LOCKED]
    done = job(campaign, job_id)
    assert (done.state, done.deleted, done.unprocessed) == ("failed", 1, 1)


def test_a_lock_is_not_given_up_for_the_time_in_which_the_database_was_not_well(campaign):
    """Nothing was tried meanwhile: ten minutes of tries are what a lead gets."""
    job_id = queue(campaign, ["crm-0", "crm-1"], chunk_size=1)
    with campaign.connect() as holder:
        holder.execute(text("SELECT FROM leads WHERE external_id = 'crm-0' FOR UPDATE"))
        on_delete(campaign, raising("53100"), "OLD.external_id = 'crm-1'")
        work(campaign)
        pass_time(campaign, 3600)
        execute(campaign, function_on_delete("NULL"))
        work(campaign)
        assert outcomes(campaign, job_id) == [Outcome.WAITS_FOR_LOCK, BY_ID]
        pass_time(campaign, 585)
        work(campaign)
        assert outcomes(campaign, job_id) == [Outcome.WAITS_FOR_LOCK, BY_ID]
        pass_time(campaign, 20)
        work(campaign)
    assert outcomes(campaign, job_id) == [Outcome.LOCKED, BY_ID]


def test_a_lock_beside_a_chunk_that_always_fails_is_given_up_all_the_same(campaign):
    """Each of them is tried between two tries of the other, and neither keeps the other from its
    end.
    """
    on_delete(campaign, raising("0A000"), "OLD.external_id = 'crm-1'")
    job_id = queue(campaign, ["crm-0", "crm-1"], chunk_size=1)
    with campaign.connect() as holder:
        holder.execute(text("SELECT FROM leads WHERE external_id = 'crm-0' FOR UPDATE"))
        for _ in range(30):
            work(campaign)
            if outcomes(campaign, job_id)[0] == Outcome.LOCKED:
                break
            execute(
                campaign,
                "UPDATE jobs SET waiting_until = clock_timestamp() WHERE waiting_until IS NOT NULL",
            )
            execute(campaign, "UPDATE chunks SET retry_at = '-infinity' WHERE number = 0")
            work(campaign)
            pass_time(campaign, 60)
    assert outcomes(campaign, job_id) == [Outcome.LOCKED, 0]


def test_how_long_is_a_setting(campaign):
    job_id = queue(campaign, ["crm-0"])
    with campaign.connect() as holder:
        holder.execute(text("SELECT FROM leads WHERE external_id = 'crm-0' FOR UPDATE"))
        work(campaign, lock_wait=timedelta(seconds=30))
        pass_time(campaign, 31)
        work(campaign, lock_wait=timedelta(seconds=30))
    assert outcomes(campaign, job_id) == [Outcome.LOCKED]


def test_of_what_was_locked_only_the_lead_that_was_tried_is_said_to_be_too_slow(campaign):
    """One of ten that were locked is free by now, and slow. Whichever is drawn, it is tried alone,
    with all the time there is.
    """
    waits = Outcome.WAITS_FOR_LOCK
    on_delete(campaign, "PERFORM pg_sleep(60)", "OLD.external_id = 'crm-0'")
    job_id = queue(campaign, [f"crm-{i}" for i in range(10)])
    with campaign.connect() as holder:
        holder.execute(text("SELECT FROM leads WHERE external_id <> 'crm-0' FOR UPDATE"))
        execute(
            campaign,
            "UPDATE chunks SET outcomes = array_fill(CAST(:waits AS smallint), ARRAY[10])",
            waits=waits,
        )
        for _ in range(200):
            execute(
                campaign,
                "UPDATE chunks SET retry_at = '-infinity', part_size = 1, part_seconds = 4",
            )
            run_chunk(campaign, claimed_now(campaign))
            if outcomes(campaign, job_id) != [waits] * 10:
                break
    assert outcomes(campaign, job_id) == [Outcome.TOO_SLOW, *[waits] * 9]


def test_a_locked_row_that_would_go_with_a_lead_keeps_only_that_lead(campaign):
    execute(campaign, "CREATE TABLE calls (lead_id bigint REFERENCES leads ON DELETE CASCADE)")
    execute(campaign, "CREATE INDEX ON calls (lead_id)")
    execute(campaign, "INSERT INTO calls SELECT id FROM leads WHERE external_id = 'crm-7'")
    job_id = queue(campaign, [f"crm-{i}" for i in range(10)])
    with campaign.connect() as holder:
        holder.execute(text("SELECT FROM calls FOR UPDATE"))
        assert max(work(campaign)) < PART_SECONDS + 1
        assert outcomes(campaign, job_id) == [BY_ID] * 7 + [Outcome.WAITS_FOR_LOCK] + [BY_ID] * 2
    pass_time(campaign, 12)
    work(campaign)
    assert job(campaign, job_id).deleted == 10


@pytest.mark.parametrize("table", ["leads", "calls", "archived_leads", "campaigns"])
def test_a_locked_table_is_said(campaign, table):
    execute(campaign, "CREATE TABLE calls (lead_id bigint REFERENCES leads ON DELETE CASCADE)")
    execute(
        campaign,
        (
            "INSERT INTO archived_leads (job_id, lead_id, lead)"
            ' VALUES (gen_random_uuid(), 1, \'{"campaign_id": "cmp"}\')'
        ),
    )
    job_id = queue(campaign, ["crm-0", "crm-1"])
    with campaign.connect() as holder:
        holder.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
        assert max(work(campaign)) < PART_SECONDS + 1
        waiting = job(campaign, job_id)
        assert waiting.waiting_for == {
            "reason": "locked",
            "detail": f"the table {table} is locked",
            "sqlstate": "55P03",
        }
        assert waiting.waiting_since is not None
        holder.rollback()
    pass_time(campaign, 12)
    work(campaign)
    assert job(campaign, job_id).state == "completed"


def test_locked_copies_in_the_archive_keep_only_those_who_name_them(campaign):
    source = queue(campaign, [f"crm-{i}" for i in range(4)], mode="archive")
    work(campaign)
    job_id = queue(campaign, [f"crm-{i}" for i in range(8)])
    with campaign.connect() as holder:
        holder.execute(
            text("SELECT FROM archived_leads WHERE lead ->> 'external_id' = 'crm-2' FOR UPDATE")
        )
        work(campaign)
        assert outcomes(campaign, job_id).count(Outcome.WAITS_FOR_LOCK) == 1
        assert outcomes(campaign, job_id)[2] == Outcome.WAITS_FOR_LOCK
    pass_time(campaign, 12)
    work(campaign)
    assert job(campaign, job_id).deleted == 8
    assert job(campaign, source).state == "completed"


def test_what_a_preview_found_and_somebody_locks_is_waited_for(campaign):
    preview = queue(campaign, ["crm-0", "crm-1"], dry_run=True)
    work(campaign)
    found = execute(
        campaign,
        "SELECT lead_ids, lead_external_ids, lead_phone_numbers FROM chunks WHERE job_id = :id",
        id=preview,
    )[0]
    job_id = queue(campaign, ["crm-0", "crm-1"], source_job_id=preview)
    execute(
        campaign,
        "UPDATE chunks SET lead_ids = :a, lead_external_ids = :b, lead_phone_numbers = :c"
        " WHERE job_id = :id",
        id=job_id, a=found[0], b=found[1], c=found[2],
    )  # fmt: skip
    with campaign.connect() as holder:
        holder.execute(text("SELECT FROM leads WHERE external_id = 'crm-1' FOR UPDATE"))
        work(campaign)
        assert outcomes(campaign, job_id) == [BY_ID, Outcome.WAITS_FOR_LOCK]
    pass_time(campaign, 12)
    work(campaign)
    assert outcomes(campaign, job_id) == [BY_ID, BY_ID]


def test_an_execution_that_knows_fewer_leads_than_it_has_entries_ends_and_looks_nobody_up(campaign):
    """Former versions forgot what a part of a preview had found."""
    job_id = queue(campaign, ["crm-0", "crm-1", "crm-2"])
    known = "SELECT id, external_id, phone_number FROM leads WHERE external_id = 'crm-0'"
    execute(
        campaign,
        "UPDATE chunks SET lead_ids = ARRAY[id], lead_external_ids = ARRAY[known.external_id],"
        f" lead_phone_numbers = ARRAY[phone_number], part_size = 1 FROM ({known}) AS known",
    )
    work(campaign)
    done = job(campaign, job_id)
    assert (done.state, done.deleted, done.waiting_for) == ("completed", 1, None)
    assert outcomes(campaign, job_id) == [BY_ID, Outcome.CHANGED, Outcome.CHANGED]


def test_an_archived_lead_that_somebody_locks_is_restored_later(campaign):
    source = queue(campaign, ["crm-0", "crm-1"], mode="archive")
    work(campaign)
    ids = [
        lead_id
        for (lead_id,) in execute(campaign, "SELECT lead_id FROM archived_leads ORDER BY lead_id")
    ]
    job_id = queue(campaign, ["crm-0", "crm-1"], mode="restore", source_job_id=source)
    execute(campaign, "UPDATE chunks SET lead_ids = :ids WHERE job_id = :id", ids=ids, id=job_id)
    with campaign.connect() as holder:
        holder.execute(
            text("SELECT FROM archived_leads WHERE lead_id = :id FOR UPDATE"), {"id": ids[1]}
        )
        work(campaign)
        assert outcomes(campaign, job_id) == [Outcome.RESTORED, Outcome.WAITS_FOR_LOCK]
    pass_time(campaign, 12)
    work(campaign)
    assert outcomes(campaign, job_id) == [Outcome.RESTORED] * 2


def test_a_job_whose_row_is_locked_keeps_nobody_else(campaign):
    locked = queue(campaign, ["crm-0"])
    others = [
        queue(campaign, ["nobody"], company=f"company-{i}", campaign=f"of-{i}") for i in range(3)
    ]
    own = queue(campaign, ["crm-1"])
    with campaign.connect() as holder:
        holder.execute(text("SELECT FROM jobs WHERE id = :id FOR UPDATE"), {"id": locked})
        for _ in range(6):
            with suppress(DBAPIError):
                run_next(campaign, "jobs", NOBODY)
        assert {job(campaign, job_id).state for job_id in (*others, own)} == {"completed"}
    work_off(campaign)
    assert job(campaign, locked).state == "completed"


def test_a_big_job_whose_row_is_locked_keeps_nobody_else(campaign):
    """Much of it is done, of which its session knows nothing yet."""
    locked = queue(campaign, [f"crm-{i}" for i in range(60)], chunk_size=1)
    for _ in range(59):
        run_chunk(campaign, claimed_now(campaign))
    execute(campaign, "UPDATE jobs SET first_pending = 0")
    campaign.dispose()
    other = queue(campaign, ["quick-0"], company="other", campaign="quick")
    with campaign.connect() as holder:
        holder.execute(text("SELECT FROM jobs WHERE id = :id FOR UPDATE"), {"id": locked})
        with suppress(DBAPIError):  # when the locked one has its next turn
            run_next(campaign, "jobs", NOBODY)
        assert job(campaign, other).state == "completed"


def test_a_cancellation_ends_what_waits_for_a_lock(campaign):
    job_id = queue(campaign, ["crm-0", "crm-1"])
    with campaign.connect() as holder:
        holder.execute(text("SELECT FROM leads WHERE external_id = 'crm-1' FOR UPDATE"))
        work(campaign)
        execute(campaign, "UPDATE jobs SET wanted = 'cancel'")
        one_tick(campaign)
    assert outcomes(campaign, job_id) == [BY_ID, Outcome.CANCELLED]
    assert job(campaign, job_id).state == "cancelled"


# Refusals, and a database that is not well


SICK = [
    "53100",
    "53200",
    "57014",
    "58030",
    "XX000",
    "26000",
    "0A000",
    "28000",
    "55006",
    "HV000",
    "42P01",
    "42501",
    "3F000",
]


@pytest.mark.parametrize("sqlstate", SICK)
def test_what_the_database_says_of_itself_holds_the_job_and_counts_as_no_attempt(
    campaign, sqlstate
):
    raise_always = (
        raising(sqlstate)
        if sqlstate != "42501"
        else "SET LOCAL ROLE pg_monitor; PERFORM count(*) FROM jobs"
    )
    on_delete(campaign, raise_always)
    job_id = queue(campaign, ["crm-0", "crm-1", "crm-2"], chunk_size=2)
    for _ in range(MAX_ATTEMPTS + 2):
        assert len(work(campaign)) <= 3
        assert execute(campaign, "SELECT max(attempts) FROM chunks") == [(0,)]
        waiting = job(campaign, job_id)
        assert waiting.state == "running"
        assert (waiting.waiting_for["reason"], waiting.waiting_for["sqlstate"]) == (
            "database",
            sqlstate,
        )
        assert "crm" not in json.dumps(waiting.waiting_for)
        pass_time(campaign, 32)
    assert outcomes(campaign, job_id) == [0, 0, 0]
    execute(campaign, "DROP TRIGGER on_delete ON leads")
    work(campaign)
    work_off(campaign)
    done = job(campaign, job_id)
    assert (done.state, done.deleted, done.waiting_for, done.waiting_since, done.waiting_until) == (
        "completed",
        3,
        None,
        None,
        None,
    )


def test_the_pause_grows_to_half_a_minute_and_one_chunk_is_tried_after_it(campaign):
    on_delete(campaign, raising("53100"))
    queue(campaign, [f"crm-{i}" for i in range(4)], chunk_size=1)
    pauses = []
    for _ in range(8):
        assert len(work(campaign)) == 1, "while the job waits, nothing of it is claimed"
        [(pause,)] = execute(campaign, "SELECT waiting_until - clock_timestamp() FROM jobs")
        pauses.append(round(pause.total_seconds()))
        pass_time(campaign, pauses[-1] + 1)
    assert pauses[0] == 1
    assert pauses == sorted(pauses)
    assert pauses[-1] == 30


def test_a_probe_that_dies_is_followed_by_another_and_no_second_one_runs_beside_it(campaign):
    on_delete(campaign, raising("53100"))
    queue(campaign, ["crm-0", "crm-1"], chunk_size=1)
    work(campaign)
    pass_time(campaign, 5)
    assert claimed_now(campaign).waited
    assert claimed_now(campaign) is None
    pass_time(campaign, 21)
    assert claimed_now(campaign).waited


def test_a_probe_that_is_cut_is_followed_by_a_smaller_one_at_once(campaign):
    on_delete(campaign, raising("53100"))
    job_id = queue(campaign, [f"crm-{i}" for i in range(60)])
    work(campaign)
    pass_time(campaign, 2)
    execute(campaign, "DROP TRIGGER on_delete ON leads")
    on_delete(campaign, "PERFORM pg_sleep(0.1)")
    run_chunk(campaign, claimed_now(campaign))
    smaller = claimed_now(campaign)
    assert (smaller.max_entries, smaller.waited) == (30, True)
    assert claimed_now(campaign) is None, "one at a time"
    run_chunk(campaign, smaller)
    work(campaign)
    assert job(campaign, job_id).state == "completed"


def test_a_probe_that_may_not_begin_now_is_tried_again_in_a_second(campaign):
    on_delete(campaign, raising("53100"))
    queue(campaign, ["crm-0"])
    work(campaign)
    execute(campaign, "UPDATE chunks SET part_size = 1, part_seconds = 8")
    pass_time(campaign, 2)
    with campaign.begin() as holder:
        holder.execute(text("SELECT pg_advisory_xact_lock(3141592653)"))
        work(campaign)
        assert claimed_now(campaign) is None
    pass_time(campaign, 1.1)
    assert claimed_now(campaign).waited


@pytest.mark.parametrize("late", [partial(put_off, seconds=0), partial(cut, size=1)])
def test_the_late_word_of_one_probe_begins_no_second_one_beside_the_next(campaign, late):
    on_delete(campaign, raising("53100"))
    queue(campaign, ["crm-0", "crm-1"], chunk_size=1)
    work(campaign)
    pass_time(campaign, 5)
    overdue = claimed_now(campaign)
    pass_time(campaign, 21)
    assert claimed_now(campaign).waited
    with campaign.begin() as connection:
        late(connection, overdue)
    pass_time(campaign, 15)
    assert claimed_now(campaign) is None


@pytest.mark.parametrize(
    "sqlstate", ["0A000", "55000", "XX000", "53100", "57014", "28000", "HV000", "26000", "42704"]
)
def test_what_only_some_of_the_leads_raise_is_refused(campaign, sqlstate):
    on_delete(campaign, raising(sqlstate), "OLD.external_id IN ('crm-1', 'crm-3')")
    job_id = queue(campaign, ["crm-0", "crm-1", "crm-2", "crm-3", (None, "+15550004")])
    work(campaign)
    pass_time(campaign, 3)
    work(campaign)
    assert outcomes(campaign, job_id) == [BY_ID, Outcome.REFUSED, BY_ID, Outcome.REFUSED, BY_PHONE]
    [(details,)] = execute(campaign, "SELECT details FROM chunks")
    assert details == {"1": "function on_delete", "3": "function on_delete"}


def test_a_database_that_is_not_well_is_not_mistaken_for_refusals_beside_what_cannot_go(campaign):
    """A lead that is locked says nothing of the database, nor does one that a trigger keeps without
    a word, or a conflict.
    """
    on_delete(
        campaign, "IF OLD.external_id = 'crm-2' THEN RETURN NULL; END IF; " + raising("53100")
    )
    job_id = queue(campaign, ["crm-0", "crm-1", "crm-2"])
    with campaign.connect() as holder:
        holder.execute(text("SELECT FROM leads WHERE external_id = 'crm-1' FOR KEY SHARE"))
        for _ in range(3):
            work(campaign)
            pass_time(campaign, 32)
        assert outcomes(campaign, job_id) == [0, 0, 0]
        assert job(campaign, job_id).waiting_for["sqlstate"] == "53100"


def test_a_restoration_that_meets_a_conflict_while_the_database_is_not_well_waits(campaign):
    source = queue(campaign, ["crm-0", "crm-1"], mode="archive")
    work(campaign)
    ids = [
        lead_id
        for (lead_id,) in execute(campaign, "SELECT lead_id FROM archived_leads ORDER BY lead_id")
    ]
    with campaign.begin() as connection:
        add_leads(connection, [("crm-0", None)])
    on_insert = raising("53100").replace("OLD", "NEW")
    execute(
        campaign,
        "CREATE FUNCTION on_insert() RETURNS trigger LANGUAGE plpgsql AS $$"
        f" BEGIN {on_insert}; END $$;"
        " CREATE TRIGGER on_insert AFTER INSERT ON leads FOR EACH ROW EXECUTE FUNCTION on_insert()",
    )
    job_id = queue(campaign, ["crm-0", "crm-1"], mode="restore", source_job_id=source)
    execute(campaign, "UPDATE chunks SET lead_ids = :ids WHERE job_id = :id", ids=ids, id=job_id)
    for _ in range(3):
        work(campaign)
        pass_time(campaign, 32)
    assert outcomes(campaign, job_id) == [0, 0]
    assert job(campaign, job_id).waiting_for["sqlstate"] == "53100"


def test_a_shortage_that_hits_only_some_of_the_leads_is_waited_for(campaign):
    """As on a disk that is nearly full, where what is small still goes. Here it is the room for a
    sort.
    """
    short = (
        "PERFORM set_config('temp_file_limit', '1', true), set_config('work_mem', '64kB', true);"
    )
    sort = (
        "PERFORM count(*) FROM (SELECT n FROM generate_series(1, 50000) AS n"
        " ORDER BY n DESC OFFSET 1) AS sorted"
    )
    on_delete(campaign, short + sort, "OLD.external_id = 'crm-1'")
    job_id = queue(campaign, ["crm-0", "crm-1", "crm-2"])
    for _ in range(3):
        work(campaign)
        pass_time(campaign, 32)
    assert outcomes(campaign, job_id) == [0, 0, 0]
    assert job(campaign, job_id).waiting_for["sqlstate"] == "53400"
    execute(campaign, "DROP TRIGGER on_delete ON leads")
    work(campaign)
    assert outcomes(campaign, job_id) == [BY_ID] * 3


def test_leads_that_one_pass_cannot_delete_are_refused_where_the_other_pass_can(campaign):
    on_delete(campaign, raising("0A000"), "OLD.external_id = 'crm-1'")
    job_id = queue(campaign, ["crm-1", (None, "+15550004")])
    work(campaign)
    pass_time(campaign, 3)
    work(campaign)
    assert outcomes(campaign, job_id) == [Outcome.REFUSED, BY_PHONE]


def test_after_a_day_without_progress_the_job_fails_with_the_last_word_of_the_database(campaign):
    on_delete(campaign, raising("53100"))
    job_id = queue(campaign, ["crm-0", "crm-1", "crm-2"], chunk_size=2)
    work(campaign)
    pass_time(campaign, 23 * 3600)
    work(campaign)
    one_tick(campaign)
    assert job(campaign, job_id).state == "running"
    pass_time(campaign, 3601)
    work(campaign)
    one_tick(campaign)
    done = job(campaign, job_id)
    assert (done.state, done.unprocessed) == ("failed", 3)
    assert done.error == (
        "3 of 3 leads could not be processed; the results with outcome=unprocessed say why."
        " Nothing could be done for 24 hours: the database answers: disk full (SQLSTATE 53100)"
    )
    assert set(outcomes(campaign, job_id)) == {Outcome.FAILED}


@pytest.mark.parametrize("chunk_size", [1, 2])
def test_a_probe_that_succeeds_when_the_day_is_over_keeps_its_job_from_failing(
    campaign, chunk_size
):
    """A word of before, written late, asks for the end of the job while the probe is in hand."""
    on_delete(campaign, raising("53100"))
    job_id = queue(campaign, ["crm-0", "crm-1"], chunk_size=chunk_size)
    overdue = claimed_now(campaign)
    with campaign.begin() as connection:
        let_leases_expire(connection)
    work(campaign)
    pass_time(campaign, 25 * 3600)
    probe = claimed_now(campaign)
    execute(campaign, "DROP TRIGGER on_delete ON leads")
    with campaign.begin() as connection:
        hold(
            connection,
            overdue,
            "database",
            "the database answers: disk full (SQLSTATE 53100)",
            "53100",
        )
    run_chunk(campaign, probe)
    one_tick(campaign)
    pass_time(campaign, 32)
    work(campaign)
    done = job(campaign, job_id)
    assert (done.state, done.deleted, done.error, done.waiting_for) == ("completed", 2, None, None)


def test_a_chunk_that_alone_fails_does_not_keep_the_others_of_its_job(campaign):
    on_delete(campaign, raising("0A000"), "OLD.external_id = 'crm-0'")
    job_id = queue(campaign, [f"crm-{i}" for i in range(4)], chunk_size=1)
    for _ in range(4):
        work(campaign)
        pass_time(campaign, 1.5)
    assert outcomes(campaign, job_id) == [Outcome.PENDING, *[BY_ID] * 3]
    assert job(campaign, job_id).waiting_for["sqlstate"] == "0A000"
    pass_time(campaign, 600)
    work(campaign)
    assert outcomes(campaign, job_id) == [Outcome.REFUSED, *[BY_ID] * 3]
    assert execute(campaign, "SELECT details FROM chunks WHERE number = 0") == [
        ({"0": "function on_delete"},)
    ]


def test_leads_in_many_chunks_that_are_refused_so_cost_their_job_a_pause_each_at_the_most(campaign):
    on_delete(campaign, raising("0A000"), "OLD.external_id ~ '[02468]$'")
    job_id = queue(campaign, [f"crm-{i}" for i in range(12)], chunk_size=2)
    for _ in range(7):
        work(campaign)
        pass_time(campaign, 2.5)
    assert outcomes(campaign, job_id) == [Outcome.REFUSED, BY_ID] * 6


def test_chunks_that_all_fail_do_not_keep_the_good_ones_behind_them(campaign):
    on_delete(campaign, raising("0A000"), "OLD.external_id IN ('crm-0', 'crm-1', 'crm-2')")
    job_id = queue(campaign, [f"crm-{i}" for i in range(6)], chunk_size=1)
    for _ in range(100):  # seconds
        work(campaign)
        pass_time(campaign, 1)
    assert outcomes(campaign, job_id) == [Outcome.PENDING] * 3 + [BY_ID] * 3
    for _ in range(80):
        pass_time(campaign, 10)
        work(campaign)
    assert outcomes(campaign, job_id) == [Outcome.REFUSED] * 3 + [BY_ID] * 3


def test_a_chunk_in_hand_that_goes_after_another_was_held_shows_that_leads_can(campaign):
    on_delete(campaign, raising("0A000"), "OLD.external_id = 'crm-0'")
    job_id = queue(campaign, ["crm-0", "crm-1"], chunk_size=1)
    held, goes = claimed_now(campaign), claimed_now(campaign)
    run_chunk(campaign, held)
    assert job(campaign, job_id).waiting_for["sqlstate"] == "0A000"
    run_chunk(campaign, goes)
    assert job(campaign, job_id).waiting_for is None
    for _ in range(3):
        pass_time(campaign, 400)
        work(campaign)
    assert outcomes(campaign, job_id) == [Outcome.REFUSED, BY_ID]


def test_all_parts_of_a_chunk_that_fails_alone_are_refused_together(campaign):
    on_delete(campaign, raising("0A000"), "OLD.external_id IN ('crm-0', 'crm-1')")
    job_id = queue(campaign, ["crm-0", "crm-1", "crm-2", "crm-3"], chunk_size=2)
    execute(campaign, "UPDATE chunks SET part_size = 1 WHERE number = 0")
    for _ in range(3):
        work(campaign)
        pass_time(campaign, 2)
    assert outcomes(campaign, job_id) == [Outcome.PENDING] * 2 + [BY_ID] * 2
    pass_time(campaign, 600)
    work(campaign)
    assert outcomes(campaign, job_id) == [Outcome.REFUSED] * 2 + [BY_ID] * 2


def test_while_a_job_is_paused_nothing_of_it_fails(campaign):
    on_delete(campaign, raising("0A000"), "OLD.external_id = 'crm-0'")
    job_id = queue(campaign, ["crm-0", "crm-1"], chunk_size=1)
    for _ in range(3):
        work(campaign)
        pass_time(campaign, 2)
    execute(campaign, "UPDATE jobs SET wanted = 'pause', wanted_by = 'me'")
    one_tick(campaign)
    pass_time(campaign, 900)
    execute(campaign, "UPDATE jobs SET state = 'queued'")
    work(campaign)
    assert outcomes(campaign, job_id) == [Outcome.PENDING, BY_ID]
    assert job(campaign, job_id).waiting_for["sqlstate"] == "0A000"


def test_a_job_of_one_chunk_tells_a_sick_database_from_a_lead_by_nothing(campaign):
    on_delete(campaign, raising("0A000"))
    job_id = queue(campaign, ["crm-0"])
    for _ in range(4):
        work(campaign)
        pass_time(campaign, 3600)
    assert outcomes(campaign, job_id) == [Outcome.PENDING]


def test_a_pause_and_what_follows_it_begin_the_day_anew(campaign):
    on_delete(campaign, raising("53100"))
    job_id = queue(campaign, ["crm-0"])
    work(campaign)
    execute(campaign, "UPDATE jobs SET wanted = 'pause'")
    one_tick(campaign)
    waiting = job(campaign, job_id)
    assert (waiting.state, waiting.waiting_since, waiting.waiting_for) == ("paused", None, None)


KEEP = """
    CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN BODY; END $$;
    CREATE TRIGGER keep_it BEFORE DELETE ON leads FOR EACH ROW WHEN (OLD.external_id = 'crm-1')
        EXECUTE FUNCTION keep()
"""
REFER = """
    CREATE TABLE calls (lead_id bigint CONSTRAINT keeps_its_lead
        REFERENCES leads); CREATE INDEX ON calls (lead_id);
    INSERT INTO calls SELECT id FROM leads WHERE external_id = 'crm-1'
"""
REFUSALS = {
    "constraint": (REFER, "constraint keeps_its_lead of calls"),
    "function": (KEEP.replace("BODY", "RAISE 'lead % is kept', OLD.external_id"), "function keep"),
    "privilege": (KEEP.replace("BODY", "RAISE insufficient_privilege"), "function keep"),
    "trigger": (KEEP.replace("BODY", "RETURN NULL"), "trigger keep_it"),
}


@pytest.mark.parametrize(("ground", "detail"), REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("mode", ["delete", "archive"])
def test_a_refusal_says_by_name_what_refused(campaign, ground, detail, mode):
    execute(campaign, ground)
    job_id = queue(campaign, ["crm-0", "crm-1"], mode=mode)
    work(campaign)
    assert outcomes(campaign, job_id)[1] == Outcome.REFUSED
    assert execute(campaign, "SELECT details FROM chunks") == [({"1": detail},)]


def test_a_job_all_of_whose_leads_a_constraint_keeps_is_refused_at_once(campaign):
    execute(campaign, REFUSALS["constraint"][0])
    job_id = queue(campaign, ["crm-1"])
    work(campaign)
    assert (job(campaign, job_id).state, outcomes(campaign, job_id)) == (
        "failed",
        [Outcome.REFUSED],
    )


def test_a_deferred_constraint_that_a_trigger_satisfies_refuses_nobody(campaign):
    """The trigger comes after the check would, were that made at once."""
    execute(
        campaign,
        "CREATE TABLE calls (lead_id bigint REFERENCES leads (id) DEFERRABLE INITIALLY DEFERRED);"
        " INSERT INTO calls SELECT id FROM leads;"
        " CREATE FUNCTION tidy() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN DELETE FROM calls WHERE lead_id = OLD.id"
        " AND OLD.external_id <> 'crm-2'; RETURN NULL; END $$;"
        " CREATE TRIGGER tidy AFTER DELETE ON leads FOR EACH ROW EXECUTE FUNCTION tidy()",
    )
    on_delete(campaign, raising("23514"), "OLD.external_id = 'crm-0'")
    job_id = queue(campaign, ["crm-0", "crm-1", "crm-2", (None, "+15550003")])
    work(campaign)
    assert outcomes(campaign, job_id) == [Outcome.REFUSED, BY_ID, Outcome.REFUSED, BY_PHONE]
    [(details,)] = execute(campaign, "SELECT details FROM chunks")
    assert details == {"0": "function on_delete", "2": "constraint calls_lead_id_fkey of calls"}


def test_a_session_that_is_ended_between_two_transactions_holds_no_job(campaign, database_url):
    job_id = queue(campaign, ["crm-0"])
    claimed = claimed_now(campaign)
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    with psycopg.connect(database_url) as connection:
        connection.execute(
            f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {others}"
        )
    with capture_logs() as logged:
        run_chunk(campaign, claimed)
    assert job(campaign, job_id).state == "completed"
    assert [line["event"] for line in logged] == ["part tried again", "job finished"]


def test_a_fault_of_ours_holds_the_job_as_well(campaign, monkeypatch):
    """The attempt does not count, and what is said has no identifier in it."""
    job_id = queue(campaign, ["crm-0"])

    @event.listens_for(campaign, "before_cursor_execute")
    def _(_connection, _cursor, statement, *_):
        if "DELETE FROM leads" in statement:
            raise KeyError("crm-0")

    work(campaign)
    waiting = job(campaign, job_id)
    assert waiting.state == "running"
    assert waiting.waiting_for["detail"].startswith(
        "the worker met KeyError in test_setbacks.py, line "
    )
    assert execute(campaign, "SELECT attempts FROM chunks") == [(0,)]


def test_a_word_that_cannot_be_written_is_kept_until_it_can(campaign, monkeypatch):
    """A database that refuses all writes for half a minute: else the lease would run out, and
    count.
    """
    monkeypatch.setattr(runner, "GIVE_BACK_TIMEOUT", 0.0)
    job_id = queue(campaign, ["crm-0"])
    claimed = claimed_now(campaign)
    execute(
        campaign,
        "ALTER DATABASE " + campaign.url.database + " SET default_transaction_read_only = on",
    )
    campaign.dispose()
    run_chunk(campaign, claimed)
    with campaign.begin() as connection:
        connection.execute(text("SET TRANSACTION READ WRITE"))
        connection.execute(
            text(
                "ALTER DATABASE "
                + campaign.url.database
                + " SET default_transaction_read_only = off"
            )
        )
    campaign.dispose()
    with campaign.begin() as connection:
        let_leases_expire(connection)
    work_off(campaign)
    assert execute(campaign, "SELECT attempts FROM chunks") == [(0,)]
    assert job(campaign, job_id).waiting_for["sqlstate"] == "25006"


# What counts


def test_a_word_takes_its_own_attempt_back_but_not_the_lease_of_the_next(campaign):
    queue(campaign, ["crm-0"])
    mine = claimed_now(campaign)
    with campaign.begin() as connection:
        let_leases_expire(connection)
    assert claimed_now(campaign).attempts == 2
    with campaign.begin() as connection:
        put_off(connection, mine, 10)
    assert execute(campaign, "SELECT attempts FROM chunks") == [(1,)]
    assert claimed_now(campaign) is None
