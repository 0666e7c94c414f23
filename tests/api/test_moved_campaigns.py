"""A campaign that moves to another company: the record of what was done stays the old company's, the leads are the
new one's.
"""

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from shared.sqlstates import is_locked
from tests.stack import lock_waits, make_key, until

READS = ("", "/results", "/deliveries")
FORMS = ("application/json", "text/csv", "application/x-ndjson")


def move(service, company="other"):
    with service.engine.begin() as connection:
        connection.execute(text("UPDATE campaigns SET company_id = :company WHERE id = 'cmp'"), {"company": company})


@pytest.fixture
def of_campaign(service):
    """A key of the old company that is limited to the campaign, and one of the new company."""
    with service.engine.begin() as connection:
        old = make_key(connection, "co", campaign="cmp")
        return old, make_key(connection, "other", campaign="cmp")


async def test_jobs_are_read_by_their_own_company_wherever_the_campaign_is(service, of_campaign):
    job_id = await service.submit({"externalId": "a"})
    await service.work()
    move(service)
    old, new = of_campaign
    for path in READS:
        for accept in FORMS:
            place = f"/api/v1/jobs/{job_id}{path}"
            answers = {
                key: await service.http.get(place, headers={"x-api-key": key, "accept": accept})
                for key in (service.write, service.read, old, service.limited, service.foreign, new)
            }
            seen = [answer.status_code for answer in answers.values()]
            assert seen == [200, 200, 200, 404, 404, 404], (path, accept)
    lists = {key: (await service.get("/api/v1/jobs", key)).json()["data"]["items"] for key in (service.write, *of_campaign)}
    assert [len(items) for items in lists.values()] == [1, 1, 0]


async def test_they_are_read_when_the_campaign_is_gone(service):
    job_id = await service.submit({"externalId": "a"})
    await service.work()
    with service.engine.begin() as connection:
        connection.execute(text("DELETE FROM leads WHERE campaign_id = 'cmp'"))
        connection.execute(text("DELETE FROM campaigns WHERE id = 'cmp'"))
    assert [(await service.get(f"/api/v1/jobs/{job_id}{path}")).status_code for path in READS] == [200] * 3


async def test_what_was_left_says_so_and_can_be_retried_when_the_campaign_has_come_back(service):
    job_id = await service.submit({"externalId": "a"})
    move(service)
    await service.work()
    job = await service.job(job_id)
    assert (job["status"], job["unprocessed"], job["unprocessedIdentifiers"]) == ("failed", 1, ["a"])
    assert job["error"] == (
        "1 of 1 leads could not be processed; the results with outcome=unprocessed say why."
        " The campaign has moved to another company"
    )
    assert await service.results(job_id) == [("a", "unprocessed", None, "campaignMoved")]
    assert (await service.act(job_id, "retry")).status_code == 403
    move(service, "co")
    retried = await service.act(job_id, "retry")
    await service.work()
    assert (await service.job(retried.json()["data"]["jobId"]))["deletedIdentifiers"] == ["a"]


@pytest.mark.parametrize(("action", "options"), [("execute", {"dryRun": True}), ("restore", {"mode": "archive"})])
async def test_nothing_follows_a_job_whose_campaign_has_moved(service, action, options):
    source = await service.submit({"externalId": "a"}, **options)
    await service.work()
    following = await service.act(source, action)
    move(service)
    await service.work()
    assert await service.results(following.json()["data"]["jobId"]) == [("a", "unprocessed", None, "campaignMoved")]
    assert (await service.act(source, action)).status_code == 403
    leads = (await service.get("/api/v1/leads?campaignId=cmp", service.foreign)).json()["data"]["leads"]
    assert {lead["externalId"] for lead in leads} == ({"a", "b", "c"} if action == "execute" else {"b", "c"})


HELD_UP = """
    CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_advisory_xact_lock(12); RETURN OLD; END $$;
    CREATE TRIGGER hold_up BEFORE DELETE ON leads FOR EACH ROW EXECUTE FUNCTION hold_up()
"""


async def test_no_move_is_committed_while_a_lead_is_being_deleted(service):
    """By the call that deletes one lead: as with workers, whose it is stays so until the lead is gone."""
    with service.engine.begin() as connection:
        connection.execute(text(HELD_UP))
    call = {"params": {"campaignId": "cmp", "externalId": "a"}, "headers": {"x-api-key": service.write}}
    with service.engine.connect() as gate, service.engine.connect() as mover:
        gate.execute(text("SELECT pg_advisory_lock(12)"))
        gate.commit()
        deleting = asyncio.create_task(service.http.delete("/api/v1/leads", **call))
        await until(lambda: lock_waits(service.engine) or deleting.done())
        mover.execute(text("SET LOCAL lock_timeout = '100ms'"))
        with pytest.raises(DBAPIError) as refused:
            mover.execute(text("UPDATE campaigns SET company_id = 'other' WHERE id = 'cmp'"))
        mover.rollback()
        gate.execute(text("SELECT pg_advisory_unlock(12)"))
        gate.commit()
        assert (await deleting).status_code == 200
    assert is_locked(refused.value)
    move(service)
    assert (await service.http.delete("/api/v1/leads", **call)).status_code == 403
