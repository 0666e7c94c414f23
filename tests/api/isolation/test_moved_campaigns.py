"""A campaign that moves to another company: the record of what was done stays the old company's,
the leads are the new one's.
"""

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from shared.database.sqlstates import is_locked
from tests.api.calls import FORMS
from tests.support.jobs import GATE, HOLD_UP, HOLDS_CAMPAIGN, execute
from tests.support.stack import make_key, until

READS = ("", "/results", "/deliveries")


def move(service, company="other"):
    with service.engine.begin() as connection:
        connection.execute(
            text("UPDATE campaigns SET company_id = :company WHERE id = 'cmp'"),
            {"company": company},
        )


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
    lists = {
        key: (await service.get("/api/v1/jobs", key)).json()["data"]["items"]
        for key in (service.write, *of_campaign)
    }
    assert [len(items) for items in lists.values()] == [1, 1, 0]


async def test_they_are_read_when_the_campaign_is_gone(service):
    job_id = await service.submit({"externalId": "a"})
    await service.work()
    with service.engine.begin() as connection:
        connection.execute(text("DELETE FROM leads WHERE campaign_id = 'cmp'"))
        connection.execute(text("DELETE FROM campaigns WHERE id = 'cmp'"))
    assert [(await service.get(f"/api/v1/jobs/{job_id}{path}")).status_code for path in READS] == [
        200
    ] * 3


async def test_what_was_left_says_so_and_can_be_retried_when_the_campaign_has_come_back(service):
    job_id = await service.submit({"externalId": "a"})
    move(service)
    await service.work()
    job = await service.job(job_id)
    assert (job["status"], job["unprocessed"], job["unprocessedIdentifiers"]) == (
        "failed",
        1,
        ["a"],
    )
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


@pytest.mark.parametrize(
    ("action", "options"), [("execute", {"dryRun": True}), ("restore", {"mode": "archive"})]
)
async def test_nothing_follows_a_job_whose_campaign_has_moved(service, action, options):
    source = await service.submit({"externalId": "a"}, **options)
    await service.work()
    following = await service.act(source, action)
    move(service)
    await service.work()
    assert await service.results(following.json()["data"]["jobId"]) == [
        ("a", "unprocessed", None, "campaignMoved")
    ]
    assert (await service.act(source, action)).status_code == 403
    leads = (await service.get("/api/v1/leads?campaignId=cmp", service.foreign)).json()["data"][
        "leads"
    ]
    assert {lead["externalId"] for lead in leads} == (
        {"a", "b", "c"} if action == "execute" else {"b", "c"}
    )


async def test_no_move_is_committed_while_a_lead_is_being_deleted(service):
    """By the call that deletes one lead: as with workers, whose it is stays so until the lead is
    gone.
    """
    with service.engine.begin() as connection:
        connection.execute(text(HOLD_UP))
    call = {
        "params": {"campaignId": "cmp", "externalId": "a"},
        "headers": {"x-api-key": service.write},
    }
    with service.engine.connect() as gate, service.engine.connect() as mover:
        gate.execute(text(f"SELECT pg_advisory_lock({GATE})"))
        gate.commit()
        deleting = asyncio.create_task(service.http.delete("/api/v1/leads", **call))
        await until(lambda: execute(service.engine, HOLDS_CAMPAIGN) or deleting.done())
        mover.execute(text("SET LOCAL lock_timeout = '100ms'"))
        with pytest.raises(DBAPIError) as refused:
            mover.execute(text("UPDATE campaigns SET company_id = 'other' WHERE id = 'cmp'"))
        mover.rollback()
        gate.execute(text(f"SELECT pg_advisory_unlock({GATE})"))
        gate.commit()
        assert (await deleting).status_code == 200
    assert is_locked(refused.value)
    move(service)
    assert (await service.http.delete("/api/v1/leads", **call)).status_code == 403


async def test_the_archive_goes_with_its_campaign(service):
    """Who has it erases its copies; who had it restores those that are left, once it has come
    back.
    """
    archive = await service.submit({"externalId": "a"}, {"externalId": "b"}, mode="archive")
    await service.work()
    move(service)
    body = {"campaignId": "cmp", "leads": [{"externalId": "a"}]}
    erasing = (await service.post(body, service.foreign)).json()["data"]["jobId"]
    await service.work()
    erased = (await service.get(f"/api/v1/jobs/{erasing}", service.foreign)).json()["data"]
    assert (erased["status"], erased["deletedIdentifiers"]) == ("completed", ["a"])
    lead = {
        "params": {"campaignId": "cmp", "externalId": "b"},
        "headers": {"x-api-key": service.write},
    }
    assert (await service.http.delete("/api/v1/leads", **lead)).status_code == 403
    assert (await service.act(archive, "restore")).status_code == 403
    assert (await service.act(archive, "restore", service.foreign)).status_code == 404
    move(service, "co")
    restoring = (await service.act(archive, "restore")).json()["data"]["jobId"]
    await service.work()
    outcomes = [outcome for _, outcome, *_ in await service.results(restoring)]
    assert sorted(outcomes) == ["notFound", "restored"]
    leads = (await service.get("/api/v1/leads?campaignId=cmp")).json()["data"]["leads"]
    assert {lead["externalId"] for lead in leads} == {"b", "c"}


async def test_a_copy_in_the_archive_is_deleted_at_once_by_who_has_the_campaign(service):
    archive = await service.submit({"externalId": "a"}, mode="archive")
    await service.work()
    move(service)
    call = {
        "params": {"campaignId": "cmp", "externalId": "a"},
        "headers": {"x-api-key": service.foreign},
    }
    assert (await service.http.delete("/api/v1/leads", **call)).status_code == 200
    copies = execute(
        service.engine, "SELECT lead FROM archived_leads WHERE job_id = :id", id=archive
    )
    assert copies == [(None,)]


FILE = b"externalId\na\n"


@pytest.mark.parametrize("kind", ["request", "file"])
async def test_a_repeated_request_is_answered_only_where_the_campaign_is_still_the_companys(
    service, kind
):
    async def submit():
        key = {"idempotency-key": "once"}
        if kind == "request":
            return await service.post(
                {"campaignId": "cmp", "leads": [{"externalId": "a"}]}, headers=key
            )
        path = "/api/v1/leads/bulk-delete/files?campaignId=cmp"
        return await service.post(FILE, path=path, headers=key | {"content-type": "text/csv"})

    first = await submit()
    await service.work()
    move(service)
    again = await submit()
    assert (first.status_code, again.status_code, again.json()["error"]) == (202, 403, "Forbidden")
    move(service, "co")
    replayed = await submit()
    assert (replayed.status_code, replayed.json()["data"]["jobId"]) == (
        202,
        first.json()["data"]["jobId"],
    )
    assert len(execute(service.engine, "SELECT id FROM jobs")) == 1


async def test_so_it_is_of_what_follows_a_job_while_steering_one_goes_on(service):
    """A pause needs no campaign; a job that follows another does."""
    failed = await service.submit({"externalId": "nobody"})
    execute(service.engine, "UPDATE chunks SET attempts = 5")
    await service.work()
    waiting = await service.submit({"externalId": "b"}, schedule={"runAt": "2999-01-01T00:00:00Z"})
    acts = [(failed, "retry", "r"), (waiting, "pause", "p")]
    first = [
        await service.act(job_id, action, **{"idempotency-key": key})
        for job_id, action, key in acts
    ]
    move(service)
    again = [
        await service.act(job_id, action, **{"idempotency-key": key})
        for job_id, action, key in acts
    ]
    assert [answer.status_code for answer in first] == [202, 202]
    assert [answer.status_code for answer in again] == [403, 202]
