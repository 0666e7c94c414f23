"""Keys: what a flood of unknown ones may cost, and that one which was revoked while a body arrived
is out.
"""

import asyncio

import pytest
from sqlalchemy import text

from api.http.auth import LOOK_UPS
from tests.support.stack import make_key, until

JOBS = "/api/v1/jobs"
INACTIVE = (401, "Invalid or inactive API key")


def told(answer):
    return answer.status_code, answer.json()["error"]


async def status_of(service, key):
    return (await service.get(JOBS, key)).status_code


def look_ups(service):
    """How many are in flight, and wait for the table."""
    waiting = text("""
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
            AND query LIKE '%FROM api_keys%'
    """)
    with service.engine.connect() as connection:
        return connection.execute(waiting).scalar_one()


async def test_a_flood_of_unknown_keys_leaves_connections_for_those_who_are_known(
    service, monkeypatch
):
    monkeypatch.setattr("api.http.auth.REMEMBERED_FOR", 60)
    monkeypatch.setattr("api.http.auth.LOOK_UP_TIMEOUT", 60)
    assert await status_of(service, service.write) == 200
    with service.engine.connect() as other:
        other.execute(text("LOCK TABLE api_keys"))
        flood = [
            asyncio.create_task(service.get(JOBS, f"unknown-{number}")) for number in range(40)
        ]
        await until(lambda: look_ups(service) == LOOK_UPS)
        for _ in range(5):
            assert await status_of(service, service.write) == 200
        assert look_ups(service) == LOOK_UPS
        other.rollback()
    assert [told(answer) for answer in await asyncio.gather(*flood)] == [INACTIVE] * 40


async def test_who_waits_too_long_for_a_look_up_is_told_to_come_back(service, monkeypatch):
    monkeypatch.setattr("api.http.auth.LOOK_UP_TIMEOUT", 0.1)
    with service.engine.connect() as other:
        other.execute(text("LOCK TABLE api_keys"))
        flood = [
            asyncio.create_task(service.get(JOBS, f"unknown-{number}"))
            for number in range(LOOK_UPS)
        ]
        await until(lambda: look_ups(service) == LOOK_UPS)
        answer = await service.get(JOBS, "one more")
        assert told(answer) == (503, "Service temporarily unavailable")
        assert int(answer.headers["retry-after"]) > 0
        other.rollback()
    assert [told(answer) for answer in await asyncio.gather(*flood)] == [INACTIVE] * LOOK_UPS


async def test_a_key_that_was_valid_is_looked_up_before_those_that_nobody_knows(
    service, monkeypatch
):
    """However many of these have come since."""
    monkeypatch.setattr("api.http.auth.REMEMBERED_FOR", 0)
    monkeypatch.setattr("api.http.auth.LOOK_UP_TIMEOUT", 0.1)
    monkeypatch.setattr("api.http.auth.REMEMBERED_KEYS", 5)
    assert await status_of(service, service.write) == 200
    for number in range(10):
        assert await status_of(service, f"unknown-{number}") == 401
    for _ in range(LOOK_UPS):
        await service.app.state.services.authenticator._turns.acquire()
    assert [await status_of(service, key) for key in ("unknown", service.write, service.read)] == [
        503,
        200,
        503,
    ]
    for _ in range(LOOK_UPS):
        service.app.state.services.authenticator._turns.release()
    with service.engine.begin() as connection:
        connection.execute(text("UPDATE api_keys SET revoked_at = clock_timestamp()"))
    assert [await status_of(service, key) for key in ("unknown", service.write, service.read)] == [
        401,
        401,
        401,
    ]


async def test_calls_with_one_key_share_a_look_up(service):
    with service.engine.connect() as other:
        other.execute(text("LOCK TABLE api_keys"))
        calls = [
            asyncio.create_task(status_of(service, key)) for key in [service.write, "unknown"] * 20
        ]
        await until(lambda: look_ups(service) == 2)
        calls[0].cancel()  # whoever began it
        await asyncio.sleep(0)
        assert look_ups(service) == 2
        other.rollback()
    assert await asyncio.gather(*calls[1:]) == [401, 200] * 19 + [401]


def coming(service, change, *parts):
    """A body during which the key changes."""

    async def body():
        yield parts[0]
        with service.engine.begin() as connection:
            connection.execute(text(f"UPDATE api_keys SET {change} WHERE name = 'slow'"))
        for part in parts[1:]:
            yield part

    return body()


async def test_keys_of_any_length_take_up_little_memory(service):
    for number in range(20):
        key = f"{number}".ljust(60_000, "x")
        assert told(await service.get("/api/v1/jobs", key)) == INACTIVE
    authenticator = service.app.state.services.authenticator
    assert sum(map(len, (*authenticator._unknown, *authenticator._valid))) < 10_000


LEADS = (b'{"campaignId": "cmp", ', b'"leads": [{"externalId": "new"}]}')
WHILE_IT_ARRIVES = [
    ("POST", "/api/v1/leads/bulk-delete", LEADS),
    ("POST", "/api/v1/leads/bulk", LEADS),
    ("POST", "/api/v1/webhooks", (b'{"url": ', b'"http://127.0.0.1:9/"}')),
    ("PATCH", "/api/v1/jobs/JOB", (b'{"maxLeadsPerSecond"', b": 7}")),
    ("POST", "/api/v1/jobs/JOB/cancel", (b"{", b"}")),
]


@pytest.mark.parametrize(
    ("method", "path", "parts"), WHILE_IT_ARRIVES, ids=[path for _, path, _ in WHILE_IT_ARRIVES]
)
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("revoked_at = clock_timestamp()", INACTIVE),
        ("expires_at = clock_timestamp()", INACTIVE),
        ("scope = 'read'", (403, "Forbidden")),
        ("name = 'slow still'", None),
    ],
)
async def test_a_key_that_changes_while_a_body_arrives_counts_as_it_is_then(
    service, monkeypatch, method, path, parts, change, error
):
    monkeypatch.setattr("api.http.auth.REMEMBERED_FOR", 0)
    job_id = await service.submit({"externalId": "a"}, schedule={"runAt": "2999-01-01T00:00:00Z"})
    with service.engine.begin() as connection:
        key = make_key(connection, "co", name="slow")
        before = everything(connection)
    headers = {"x-api-key": key, "content-type": "application/json"}
    answer = await service.http.request(
        method,
        path.replace("JOB", job_id),
        headers=headers,
        content=coming(service, change, *parts),
    )
    assert told(answer) == error if error else answer.is_success
    with service.engine.connect() as connection:
        assert (everything(connection) == before) == bool(error)


def everything(connection):
    """How many there are, and how the jobs stand."""
    counts = (
        "SELECT (SELECT count(*) FROM leads), (SELECT count(*)"
        " FROM webhooks), state, wanted, max_leads_per_second FROM jobs"
    )
    return connection.execute(text(counts)).all()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("revoked_at = clock_timestamp()", INACTIVE),
        ("campaign_id = 'second'", (404, "Job not found")),
        ("name = 'still there'", (200, None)),
    ],
)
async def test_a_key_that_changes_while_its_call_waits_for_a_job_reads_what_it_may_then(
    service, monkeypatch, change, error
):
    monkeypatch.setattr("api.http.auth.REMEMBERED_FOR", 0)
    job_id = await service.submit({"externalId": "a"})
    headers = {"x-api-key": service.read, "prefer": "wait=30"}
    waiting = asyncio.create_task(service.http.get(f"{JOBS}/{job_id}", headers=headers))
    await until(lambda: service.app.state.services.waiter._waiting)
    with service.engine.begin() as connection:
        connection.execute(text(f"UPDATE api_keys SET {change} WHERE scope = 'read'"))
    await service.work()
    assert told(await waiting) == error


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ("revoked_at = clock_timestamp()", 202),
        ("campaign_id = 'second'", 202),
        ("name = 'still there'", 200),
    ],
)
async def test_a_key_that_changes_while_its_submission_waits_is_told_of_no_results(
    service, monkeypatch, change, status
):
    """It has been accepted, so that is what the answer says."""
    monkeypatch.setattr("api.http.auth.REMEMBERED_FOR", 0)
    with service.engine.begin() as connection:
        key = make_key(connection, "co", name="slow")
    body = {"campaignId": "cmp", "leads": [{"externalId": "a"}]}
    headers = {"x-api-key": key, "prefer": "wait=30"}
    waiting = asyncio.create_task(
        service.http.post("/api/v1/leads/bulk-delete", json=body, headers=headers)
    )
    await until(lambda: number_of_jobs(service.engine))
    with service.engine.begin() as connection:
        connection.execute(text(f"UPDATE api_keys SET {change} WHERE name = 'slow'"))
    await service.work()
    answer = await waiting
    assert (answer.status_code, "deletedIdentifiers" in answer.json()["data"]) == (
        status,
        status == 200,
    )


def number_of_jobs(engine):
    with engine.connect() as connection:
        return connection.execute(text("SELECT count(*) FROM jobs")).scalar_one()
