"""Rows that somebody else has locked, as a mover's open transaction has a campaign's: who waits for
one is answered by the database's time-out of locks, which ends the wait on the server too, and long
before the API's own patience.
"""

import asyncio

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from tests.support.stack import lock_waits, until

LATER = {"schedule": {"runAt": "2999-01-01T00:00:00Z"}}
BUSY = (503, "Service temporarily unavailable", "5")
IN_PROGRESS = (409, "Another request is in progress; try again", "1")

NEW_LEAD = {"json": {"campaignId": "cmp", "leads": [{"externalId": "new"}]}}

CALLS = {
    "create leads": ("POST", "leads/bulk", NEW_LEAD, BUSY),
    "delete a lead": (
        "DELETE",
        "leads",
        {"params": {"campaignId": "cmp", "externalId": "a"}},
        BUSY,
    ),
    "create a webhook": ("POST", "webhooks", {"json": {"url": "http://127.0.0.1:9/"}}, BUSY),
    "test a webhook": ("POST", "webhooks/{webhook}/test", {}, BUSY),
    "pause a job": ("POST", "jobs/{job}/pause", {}, IN_PROGRESS),
    "resume a job": ("POST", "jobs/{job}/resume", {}, IN_PROGRESS),
}
LOCK = [
    f"SELECT FROM {table} FOR UPDATE" for table in ("campaigns", "companies", "webhooks", "jobs")
]


def counted(engine):
    tables = ("leads", "webhooks", "deliveries")
    with engine.connect() as connection:
        return [
            connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
            for table in tables
        ]


@pytest.fixture
async def names(service):
    """What stands in the paths."""
    webhook = await service.post({"url": "http://127.0.0.1:9/"}, path="/api/v1/webhooks")
    job_id = await service.submit({"externalId": "a"}, **LATER)
    return {"webhook": webhook.json()["data"]["webhookId"], "job": job_id}


async def test_who_waits_for_a_row_is_told_to_come_back_before_patience_is_at_its_end(
    service, names
):
    before = counted(service.engine)

    async def called(method, path, options):
        place = f"/api/v1/{path.format(**names)}"
        answer = await service.http.request(
            method, place, headers={"x-api-key": service.write}, **options
        )
        return answer.status_code, answer.json()["error"], answer.headers.get("retry-after")

    with service.engine.connect() as other, capture_logs() as logged:
        for statement in LOCK:
            other.execute(text(statement))
        calling = [asyncio.create_task(called(*call)) for *call, _ in CALLS.values()]
        answers = dict(zip(CALLS, await asyncio.gather(*calling), strict=True))
        assert lock_waits(service.engine) == 0
    assert answers == {name: expected for name, (*_, expected) in CALLS.items()}
    told = [line for line in logged if line["event"] == "database not usable"]
    assert {line["error"] for line in told} == {"LockNotAvailable"}, "not the API's patience"
    assert "holds the lock" in told[0]["hint"]
    assert counted(service.engine) == before


async def test_who_waits_for_less_is_answered_as_ever(service):
    with service.engine.connect() as other:
        other.execute(text("SELECT FROM campaigns WHERE id = 'cmp' FOR UPDATE"))
        call = {
            "params": {"campaignId": "cmp", "externalId": "a"},
            "headers": {"x-api-key": service.write},
        }
        calling = asyncio.create_task(service.http.delete("/api/v1/leads", **call))
        await until(lambda: lock_waits(service.engine) == 1)
        other.rollback()
    assert (await calling).status_code == 200
