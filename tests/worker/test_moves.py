"""A campaign that moves to another company: what the old one's jobs have not decided by then, they
never touch.
"""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from shared.database.sqlstates import is_locked
from shared.states import Outcome
from tests.support.jobs import (
    GATE,
    HOLD_UP,
    HOLDS_CAMPAIGN,
    add_campaign,
    add_leads,
    execute,
    one_tick,
    queue_ids,
    remaining_leads,
    work_off,
)
from tests.support.jobs import job_now as job
from tests.support.jobs import outcomes_now as outcomes
from tests.support.stack import lock_waits, wait_for
from worker.claimer import claim
from worker.runner import run_chunk

BY_ID, MOVED, NO_SUCH_LEAD = (
    Outcome.DELETED_BY_EXTERNAL_ID,
    Outcome.CAMPAIGN_MOVED,
    Outcome.NO_SUCH_LEAD,
)
IDS = [f"crm-{i}" for i in range(6)]
MOVE = "UPDATE campaigns SET company_id = 'new' WHERE id = 'cmp'"
COME_BACK = "UPDATE campaigns SET company_id = 'co' WHERE id = 'cmp'"


@pytest.fixture
def campaign(engine):
    with engine.begin() as connection:
        add_campaign(connection)
        add_leads(connection, [(i, None) for i in IDS])
        add_campaign(connection, "other", "new")
    return engine


def queue(engine, ids=IDS, **options):
    return queue_ids(engine, ids, **options)


def run_one(engine):
    """Claims a chunk and runs it; whether there was any."""
    with engine.begin() as connection:
        claimed = claim(connection, "jobs")
    if claimed:
        run_chunk(engine, claimed)
    return bool(claimed)


def work_on(engine):
    """Until nothing can be claimed, as if no pace or pause were asked for."""
    while run_one(engine):
        execute(engine, "UPDATE jobs SET paced_at = now() WHERE paced_at IS NOT NULL")


def leads_left(engine):
    with engine.begin() as connection:
        return {external_id for external_id, _ in remaining_leads(connection)}


KINDS = {
    "delete": {},
    "archive": {"mode": "archive"},
    "preview": {"dry_run": True},
    "paced": {"max_leads_per_second": 8},
    "of a preview": {"lead_ids": True},
    "of chunks": {"chunk_size": 2},
}


@pytest.mark.parametrize("kind", KINDS)
def test_jobs_of_the_old_company_end_without_touching_the_campaign(campaign, kind):
    options = KINDS[kind].copy()
    knows_leads = options.pop("lead_ids", False)
    job_id = queue(campaign, **options)
    if knows_leads:
        found = "ARRAY(SELECT id FROM leads ORDER BY id)"
        execute(
            campaign,
            (
                f"UPDATE chunks SET lead_ids = {found}, lead_external_ids = external_ids,"
                " lead_phone_numbers = phone_numbers"
            ),
        )
    execute(campaign, MOVE)
    work_on(campaign)
    ended = job(campaign, job_id)
    assert (ended.state, ended.unprocessed, ended.total) == ("failed", 6, 6)
    assert ended.error.endswith(". The campaign has moved to another company")
    assert set(outcomes(campaign, job_id)) == {MOVED}
    assert leads_left(campaign) == set(IDS)
    assert execute(campaign, "SELECT FROM archived_leads") == []


def test_what_was_decided_before_the_move_keeps_its_outcome(campaign):
    job_id = queue(campaign, chunk_size=4)
    run_one(campaign)
    execute(campaign, MOVE)
    work_on(campaign)
    ended = job(campaign, job_id)
    assert outcomes(campaign, job_id) == [BY_ID] * 4 + [MOVED] * 2
    assert (ended.state, ended.deleted, ended.unprocessed) == ("failed", 4, 2)
    assert leads_left(campaign) == set(IDS[4:])


def test_so_it_does_within_a_chunk_that_is_done_in_parts(campaign):
    job_id = queue(campaign, max_leads_per_second=16)
    run_one(campaign)
    execute(campaign, MOVE)
    execute(campaign, "UPDATE jobs SET paced_at = now()")
    run_one(campaign)
    assert outcomes(campaign, job_id) == [BY_ID] * 2 + [MOVED] * 4, (
        "the rest of it at once, whatever the pace"
    )
    assert job(campaign, job_id).state == "failed"


def test_so_it_does_where_entries_wait_for_a_lock(campaign):
    job_id = queue(campaign)
    with campaign.begin() as other:
        other.execute(text("SELECT FROM leads WHERE external_id = 'crm-1' FOR UPDATE"))
        wait_for(lambda: run_one(campaign) and Outcome.WAITS_FOR_LOCK in outcomes(campaign, job_id))
    execute(campaign, MOVE)
    execute(campaign, "UPDATE chunks SET retry_at = '-infinity'")
    work_on(campaign)
    assert outcomes(campaign, job_id) == [BY_ID, MOVED, *[BY_ID] * 4]
    assert leads_left(campaign) == {"crm-1"}


def test_a_chunk_that_killed_its_workers_is_told_of_the_move(campaign):
    job_id = queue(campaign)
    execute(campaign, "UPDATE chunks SET attempts = 5")
    execute(campaign, MOVE)
    work_on(campaign)
    assert set(outcomes(campaign, job_id)) == {MOVED}


def test_a_job_that_waited_for_the_database_is_told_of_the_move_at_once(campaign):
    job_id = queue(campaign, chunk_size=2)
    execute(
        campaign, "UPDATE jobs SET waiting_for = '{}', waiting_since = now(), waiting_until = now()"
    )
    execute(campaign, MOVE)
    work_on(campaign)
    assert set(outcomes(campaign, job_id)) == {MOVED}
    assert job(campaign, job_id).waiting_since is None


def test_scheduled_and_paused_jobs_find_out_when_their_turn_comes(campaign):
    scheduled = queue(campaign, state="scheduled", run_at="2000-01-01T00:00:00Z")
    paused = queue(campaign, state="paused")
    execute(campaign, MOVE)
    one_tick(campaign)
    work_off(campaign)
    assert set(outcomes(campaign, scheduled)) == {MOVED}
    assert job(campaign, paused).state == "paused"
    execute(campaign, "UPDATE jobs SET wanted = 'cancel' WHERE state = 'paused'")
    work_off(campaign)
    assert (job(campaign, paused).state, set(outcomes(campaign, paused))) == (
        "cancelled",
        {Outcome.CANCELLED},
    )


def test_what_was_archived_stays_in_the_archive(campaign):
    archive_id = queue(campaign, IDS[:3], mode="archive")
    work_on(campaign)
    restoration = queue(campaign, IDS[:3], mode="restore", source_job_id=archive_id)
    erasure = queue(campaign, IDS[:3])
    execute(
        campaign,
        (
            "UPDATE chunks SET lead_ids = ARRAY(SELECT lead_id FROM archived_leads"
            " ORDER BY lead_id) WHERE job_id = :id"
        ),
        id=restoration,
    )
    execute(campaign, MOVE)
    work_on(campaign)
    assert set(outcomes(campaign, restoration)) == {MOVED} == set(outcomes(campaign, erasure))
    assert leads_left(campaign) == set(IDS[3:])
    assert execute(campaign, "SELECT count(*) FROM archived_leads WHERE lead IS NOT NULL") == [(3,)]


def test_a_campaign_that_comes_back_is_worked_on_again(campaign):
    job_id = queue(campaign, chunk_size=2)
    run_one(campaign)
    execute(campaign, MOVE)
    run_one(campaign)
    execute(campaign, COME_BACK)
    work_on(campaign)
    assert outcomes(campaign, job_id) == [BY_ID] * 2 + [MOVED] * 2 + [BY_ID] * 2
    assert (job(campaign, job_id).state, leads_left(campaign)) == ("failed", {"crm-2", "crm-3"})


def test_in_a_campaign_that_is_gone_nothing_is_found(campaign):
    job_id = queue(campaign)
    execute(campaign, "DELETE FROM leads")
    execute(campaign, "DELETE FROM campaigns WHERE id = 'cmp'")
    work_on(campaign)
    assert (job(campaign, job_id).state, set(outcomes(campaign, job_id))) == (
        "completed",
        {NO_SUCH_LEAD},
    )


def test_jobs_of_the_new_company_go_on(campaign):
    execute(campaign, MOVE)
    job_id = queue(campaign, company="new")
    work_on(campaign)
    assert (job(campaign, job_id).state, leads_left(campaign)) == ("completed", set())


@pytest.mark.parametrize("workers", [2, 4])
def test_a_move_gets_its_turn_however_many_leads_take_long_to_delete(campaign, workers):
    """Their transactions overlap: there is no moment at which none of them has the campaign."""
    execute(
        campaign,
        (
            "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$"
            " BEGIN PERFORM pg_sleep(0.3); RETURN OLD; END $$"
        ),
    )
    execute(
        campaign,
        "CREATE TRIGGER dawdle BEFORE DELETE ON leads FOR EACH ROW EXECUTE FUNCTION dawdle()",
    )
    ids = [f"slow-{number}" for number in range(100)]
    with campaign.begin() as connection:
        add_leads(connection, [(external_id, None) for external_id in ids])
    for external_id in ids:
        queue(campaign, [external_id])
    ended = Event()

    def work():
        while not ended.is_set():
            run_one(campaign)

    with ThreadPoolExecutor(workers) as pool:
        working = [pool.submit(work) for _ in range(workers)]
        try:
            wait_for(lambda: len(leads_left(campaign)) < len(IDS) + len(ids) - workers)
            execute(campaign, MOVE)
            assert len(leads_left(campaign)) > len(IDS) + len(ids) // 2
        finally:
            ended.set()
        for each in working:
            each.result()


def test_no_move_is_committed_while_leads_are_being_deleted(campaign):
    """Who moves it waits until that transaction is over: what is deleted was still the old
    company's.
    """
    execute(campaign, HOLD_UP)
    queue(campaign)
    with campaign.connect() as gate, campaign.connect() as mover, ThreadPoolExecutor(1) as pool:
        gate.execute(text(f"SELECT pg_advisory_lock({GATE})"))
        gate.commit()
        working = pool.submit(run_one, campaign)
        wait_for(lambda: execute(campaign, HOLDS_CAMPAIGN) or working.done())
        mover.execute(text("SET LOCAL lock_timeout = '100ms'"))
        with pytest.raises(DBAPIError) as refused:
            mover.execute(text(MOVE))
        mover.rollback()
        gate.execute(text(f"SELECT pg_advisory_unlock({GATE})"))
        gate.commit()
        working.result()
    assert is_locked(refused.value)
    work_on(campaign)
    assert leads_left(campaign) == set()
    execute(campaign, MOVE)


@pytest.mark.parametrize("is_committed", [True, False])
def test_while_a_campaign_is_being_moved_nothing_of_it_is_deleted(campaign, is_committed):
    job_id = queue(campaign)
    with campaign.connect() as mover:
        mover.execute(text(MOVE))
        run_one(campaign)
        waits = job(campaign, job_id)
        assert (waits.state, waits.waiting_for["reason"]) == ("running", "locked")
        assert (
            waits.waiting_for["detail"]
            == "the campaign is being moved or deleted, or locked for that"
        )
        assert (set(outcomes(campaign, job_id)), leads_left(campaign)) == (
            {Outcome.PENDING},
            set(IDS),
        )
        (mover.commit if is_committed else mover.rollback)()
    execute(campaign, "UPDATE jobs SET waiting_until = now()")
    execute(campaign, "UPDATE chunks SET retry_at = '-infinity'")
    work_on(campaign)
    expected = ({MOVED}, set(IDS)) if is_committed else ({BY_ID}, set())
    assert (set(outcomes(campaign, job_id)), leads_left(campaign)) == expected


def test_jobs_of_other_campaigns_and_companies_go_on_while_one_is_being_moved(campaign):
    """Also where the campaign's were submitted first, and there is but one worker."""
    with campaign.begin() as connection:
        add_campaign(connection, "second")
        add_campaign(connection, "theirs", "third")
        for name in ("second", "other", "theirs"):
            add_leads(connection, [("crm-0", None)], name)
    held = [queue(campaign) for _ in range(3)]
    with campaign.connect() as mover:
        mover.execute(text(MOVE))
        places = {"second": "co", "other": "new", "theirs": "third"}
        going = [
            queue(campaign, IDS[:1], campaign=name, company=company)
            for name, company in places.items()
        ]
        work_on(campaign)
        ended = [(job(campaign, job_id).state, outcomes(campaign, job_id)) for job_id in going]
        assert ended == [("completed", [BY_ID])] * 3
        waits = [job(campaign, job_id) for job_id in held]
        assert [(row.state, row.waiting_for["reason"]) for row in waits] == [
            ("running", "locked")
        ] * 3
        mover.rollback()
    assert leads_left(campaign) == set(IDS)


def test_what_else_is_changed_of_a_campaign_holds_nothing_up(campaign):
    job_id = queue(campaign)
    with campaign.connect() as other:
        other.execute(
            text(
                "UPDATE campaigns SET name = 'x', off_peak = '22:00-06:00 mon-sun UTC',"
                " phone_region = 'DE'"
            )
        )
        other.execute(text("SELECT FROM campaigns FOR NO KEY UPDATE"))
        work_on(campaign)
        assert job(campaign, job_id).state == "completed"
        other.rollback()


@pytest.mark.parametrize("moves", [True, False])
def test_a_chunk_that_somebody_else_has_just_changed_is_asked_whose_it_is_all_the_same(
    campaign, moves
):
    """Its row is looked at again in its new version, and the campaign with it."""
    job_id = queue(campaign)
    with campaign.begin() as connection:
        claimed = claim(connection, "jobs")
    if moves:
        execute(campaign, MOVE)
    with campaign.connect() as other, ThreadPoolExecutor(1) as pool:
        other.execute(text("UPDATE chunks SET held_since = NULL"))
        working = pool.submit(run_chunk, campaign, claimed)
        wait_for(lambda: lock_waits(campaign) or working.done())
        other.commit()
        working.result()
    execute(campaign, "UPDATE chunks SET retry_at = '-infinity' WHERE state = 'pending'")
    work_on(campaign)
    expected = ({MOVED}, set(IDS)) if moves else ({BY_ID}, set())
    assert (set(outcomes(campaign, job_id)), leads_left(campaign)) == expected


BY_TRIGGER = {
    "counts": "UPDATE campaigns SET name = 'x' || name WHERE id = OLD.campaign_id",
    "locks": "PERFORM FROM campaigns WHERE id = OLD.campaign_id FOR NO KEY UPDATE",
    "locks the key": "PERFORM FROM campaigns WHERE id = OLD.campaign_id FOR UPDATE",
}


@pytest.mark.parametrize("body", BY_TRIGGER.values(), ids=BY_TRIGGER)
def test_a_trigger_that_locks_the_campaign_ends_no_job_wrongly(campaign, body):
    """With a lock of the key two workers get in each other's way, and make way: it only takes
    longer.
    """
    execute(
        campaign,
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$"
        f" BEGIN {body}; RETURN NULL; END $$;"
        " CREATE TRIGGER note AFTER DELETE ON leads FOR EACH ROW EXECUTE FUNCTION note()",
    )
    jobs = [queue(campaign, [external_id]) for external_id in IDS]
    ended = Event()

    def work():
        while not ended.is_set():
            run_one(campaign)

    def are_done():
        execute(campaign, "UPDATE jobs SET waiting_until = now() WHERE waiting_until > now()")
        execute(
            campaign,
            "UPDATE chunks SET retry_at = '-infinity' WHERE state = 'pending' AND attempts = 0",
        )
        return all(job(campaign, job_id).finished_at for job_id in jobs)

    with ThreadPoolExecutor(3) as pool:
        working = [pool.submit(work) for _ in range(3)]
        try:
            wait_for(are_done, 120)
        finally:
            ended.set()
        for each in working:
            each.result()
    found = [(job(campaign, job_id).state, outcomes(campaign, job_id)) for job_id in jobs]
    assert found == [("completed", [BY_ID])] * len(IDS)
    assert leads_left(campaign) == set()
