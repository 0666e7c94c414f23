"""A database that refuses to write: what only reads is answered as ever, what must write is a 503
that says when to come back. So for every route of the application; a new one joins by itself.

It is the API's sessions that are read-only here, by a setting. A standby refuses the same writes
and row locks with the same SQLSTATE; and LISTEN, NOTIFY and locks of tables too, none of which the
API asks for.
"""

import asyncio
from uuid import UUID

import pytest
from sqlalchemy import text

from api.app import create_app
from shared.process.heartbeats import beat
from tests.api.calls import calls, send
from tests.support.stack import until

DELIVERY = UUID(int=3)
LATER = "2999-01-01T00:00:00Z"


async def add_jobs(service):
    """A job for each action that wants one of its own kind, by operation, and one still to come for
    all others.
    """
    failed = await service.submit({"externalId": "nobody"})
    with service.engine.begin() as connection:
        connection.execute(text("UPDATE chunks SET attempts = 5"))
    preview = await service.submit({"externalId": "b"}, dryRun=True)
    archive = await service.submit({"externalId": "c"}, mode="archive")
    await service.work()
    waiting = await service.submit({"externalId": "a"}, schedule={"runAt": LATER})
    return {"retryJob": failed, "executeJob": preview, "restoreJob": archive}, waiting


@pytest.fixture
async def names(service, settings):
    """What stands in the paths, by operation; from then on the service's database is read-only."""
    jobs, waiting = await add_jobs(service)
    webhook = await service.post({"url": "http://127.0.0.1:9/"}, path="/api/v1/webhooks")
    webhook_id = webhook.json()["data"]["webhookId"]
    with service.engine.begin() as connection:
        add = (
            "INSERT INTO deliveries (id, company_id, job_id, webhook_id, event)"
            " VALUES (:id, 'co', :job, :hook, 'job.failed')"
        )
        connection.execute(text(add), {"id": DELIVERY, "job": waiting, "hook": webhook_id})
        for role in ("worker", "deliverer", "ticker"):
            beat(connection, role)
    url = f"{settings.database_url}?options=-c%20default_transaction_read_only%3Don"
    app = create_app(settings.model_copy(update={"database_url": url}))
    async with app.router.lifespan_context(app):
        service.http._transport.app = service.app = app
        yield lambda operation: {
            "jobId": jobs.get(operation, waiting),
            "webhookId": webhook_id,
            "deliveryId": DELIVERY,
            "name": "docs.js",
        }


async def test_what_only_reads_is_answered_and_what_must_write_is_told_to_come_back(service, names):
    wrong, count = [], 0
    for call in calls(service.app):
        answer = await send(service, call, service.write, **names(call.operation))
        reads = call.method == "GET" and call.operation != "getHealth"
        told = answer.status_code, reads or "retry-after" in answer.headers
        read = 304 if "if-none-match" in call.options.get("headers", {}) else 200
        count += 1
        if told != (read if reads else 503, True):
            wrong.append((call, answer.status_code, answer.text[:200]))
    assert not wrong
    assert count > 35


async def test_who_waits_for_a_job_hears_of_its_end_all_the_same(service, names):
    """It is the standby's primary that ends it: here, a session that may write."""
    job_id = names("getJob")["jobId"]
    headers = {"x-api-key": service.write, "prefer": "wait=30"}
    waiting = asyncio.create_task(service.http.get(f"/api/v1/jobs/{job_id}", headers=headers))
    await until(lambda: service.app.state.services.waiter._waiting or waiting.done())
    with service.engine.begin() as connection:
        connection.execute(
            text("UPDATE jobs SET state = 'queued', run_at = now() WHERE state = 'scheduled'")
        )
    await service.work()
    answer = await waiting
    assert (answer.status_code, answer.json()["data"]["status"]) == (200, "completed")
    assert answer.headers["preference-applied"] == "wait=30"


async def test_health_says_that_it_is_read_only(service, names):
    answer = await service.http.get("/api/health")
    assert answer.status_code == 503
    assert answer.json()["data"] == dict.fromkeys(
        ("broker", "worker", "deliverer", "ticker"), "up"
    ) | {"database": "readOnly"}
