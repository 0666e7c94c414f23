"""The same POST with the same Idempotency-Key is done once and answered twice, whatever comes in
between.
"""

import asyncio
import hashlib
import json
import time
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import text

from tests.support.counts import ran, rounds
from tests.support.stack import make_key

BODY = {"campaignId": "cmp", "leads": [{"externalId": "a"}, {"phoneNumber": "+102"}]}
REUSED = (422, "Idempotency-Key was already used with a different request")


async def post(service, body=BODY, key="k", api_key=None, **options):
    headers = {"idempotency-key": key} | options.pop("headers", {})
    return await service.post(body, api_key, headers=headers, **options)


def replayed(answer):
    return answer.headers.get("idempotency-replayed") == "true"


def count_of_jobs(service):
    with service.engine.begin() as connection:
        return connection.execute(text("SELECT count(*) FROM jobs")).scalar_one()


def same(first, second):
    return (first.status_code, first.content) == (second.status_code, second.content)


async def test_a_repeated_post_is_answered_as_the_first_time_and_does_nothing(service):
    first = await post(service)
    second = await post(service)
    await service.work()
    third = await post(service)
    assert first.status_code == 202
    assert same(first, second)
    assert same(first, third), "as it was then, though the job has ended"
    assert [replayed(answer) for answer in (first, second, third)] == [False, True, True]
    assert first.headers["location"] == third.headers["location"]
    assert count_of_jobs(service) == 1


async def test_the_alias_is_the_same_endpoint(service):
    first = await post(service)
    assert same(first, await post(service, path="/api/v1/records/bulk-delete"))
    assert count_of_jobs(service) == 1


async def test_another_request_with_the_same_key_is_refused(service):
    await post(service)
    bodies = [
        BODY | {"dryRun": True},
        BODY | {"leads": [{"externalId": "a"}]},
        b'{"campaignId":"cmp","leads":[{"externalId":"a"}]} ',
    ]
    for body in bodies:
        answer = await post(service, body)
        assert (answer.status_code, answer.json()["error"]) == REUSED
    job_id = await service.submit({"externalId": "c"})
    answer = await service.act(job_id, "cancel", **{"idempotency-key": "k"})
    assert (answer.status_code, answer.json()["error"]) == REUSED
    assert (await service.job(job_id))["requested"] is None
    assert count_of_jobs(service) == 2


async def test_a_key_is_the_companys(service):
    with service.engine.begin() as connection:
        colleague = make_key(connection, "co")
    first = await post(service)
    assert same(first, await post(service, api_key=colleague)), (
        "another key of the company replays it"
    )
    foreign = await post(
        service, {"campaignId": "foreign", "leads": BODY["leads"]}, api_key=service.foreign
    )
    assert (foreign.status_code, replayed(foreign)) == (202, False), (
        "another company has its own keys"
    )


async def test_who_may_not_do_it_gets_no_replay(service):
    await post(service)
    for key, status in (
        (service.read, 403),
        (service.limited, 403),
        (service.foreign, 403),
        ("unknown", 401),
    ):
        answer = await post(service, api_key=key)
        assert (answer.status_code, answer.json()["data"]) == (status, None)


async def test_errors_are_not_remembered(service):
    assert (await post(service, BODY | {"leads": []})).status_code == 400
    assert (await post(service, BODY | {"campaignId": "nowhere"})).status_code == 403
    assert (await post(service)).status_code == 202
    job_id = await service.submit({"externalId": "c"})
    assert (await service.act(job_id, "retry", **{"idempotency-key": "r"})).status_code == 409
    with service.engine.begin() as connection:
        connection.execute(
            text("UPDATE chunks SET attempts = 5 WHERE job_id = :id"), {"id": job_id}
        )
    await service.work()
    assert (await service.act(job_id, "pause", **{"idempotency-key": "p"})).status_code == 409
    retried = await service.act(job_id, "retry", **{"idempotency-key": "r"})
    assert (retried.status_code, replayed(retried)) == (202, False)
    assert (await post(service, BODY | {"dryRun": True}, key="p")).status_code == 202


async def test_a_key_counts_for_72_hours(service):
    first = await post(service)
    older = text("UPDATE idempotency_keys SET created_at = created_at - :age * interval '1 hour'")
    with service.engine.begin() as connection:
        connection.execute(older, {"age": 71.9})
    assert replayed(await post(service))
    with service.engine.begin() as connection:
        connection.execute(older, {"age": 0.2})
    later = await post(service, BODY | {"dryRun": True})
    assert (later.status_code, replayed(later)) == (202, False)
    assert later.json()["data"]["jobId"] != first.json()["data"]["jobId"]
    assert replayed(await post(service, BODY | {"dryRun": True}))


@pytest.mark.parametrize("key", ["", "x" * 256, "\x7f", "caf\u00e9"])
async def test_a_key_that_cannot_be_is_refused(service, key):
    answer = await post(service, key=key.encode("latin-1"))
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "Idempotency-Key must be 1 to 255 printable ASCII characters",
    )
    assert count_of_jobs(service) == 0


@pytest.mark.parametrize("key", ["x", "x" * 255, "a b", "~!\"#$%&'()*,-./:;<=>?@[]^_`{|}"])
async def test_any_printable_key_will_do(service, key):
    assert same(await post(service, key=key), await post(service, key=key))


@pytest.mark.proof("one key")
@pytest.mark.parametrize("turn", rounds("one key"))
async def test_fifty_parallel_equal_posts_are_one_job_and_fifty_equal_answers(service, turn):
    answers = await asyncio.gather(*(post(service) for _ in range(50)))
    assert {(answer.status_code, answer.content) for answer in answers} == {
        (202, answers[0].content)
    }
    assert sum(not replayed(answer) for answer in answers) == 1
    assert count_of_jobs(service) == 1
    ran(len(answers))


@pytest.mark.proof("one key")
@pytest.mark.parametrize("turn", rounds("one key"))
async def test_fifty_parallel_equal_posts_that_wait_get_fifty_equal_results(service, turn):
    calls = [asyncio.create_task(post(service, headers={"prefer": "wait=30"})) for _ in range(50)]
    while not all(call.done() for call in calls):
        await service.work()
        await asyncio.sleep(0)
    answers = [call.result() for call in calls]
    assert {(answer.status_code, answer.content) for answer in answers} == {
        (200, answers[0].content)
    }
    assert answers[0].json()["data"]["deletedIdentifiers"] == ["a", "+102"]
    assert count_of_jobs(service) == 1
    ran(len(answers))


@pytest.mark.parametrize("again", [None, "wait=0", "wait=60"])
async def test_the_answer_is_the_original_whatever_is_preferred_now(service, again):
    headers = {"prefer": again} if again else {}
    first = asyncio.create_task(post(service, key="waited", headers={"prefer": "wait=30"}))
    while not first.done():
        await service.work()
        await asyncio.sleep(0)
    assert (await first).status_code == 200
    repeated = await post(service, key="waited", headers=headers)
    assert same(await first, repeated)
    assert replayed(repeated)
    at_once = await post(service, BODY | {"clientReference": "x"}, key="at once")
    async with asyncio.timeout(5):
        assert same(
            at_once,
            await post(service, BODY | {"clientReference": "x"}, key="at once", headers=headers),
        )


def holding_the_key(service, body_hash=b"other"):
    """A transaction that has the key `k` in hand, as the first of two equal POSTs would."""
    connection = psycopg.connect(
        service.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    )
    job_id = uuid4()
    connection.execute(
        "INSERT INTO jobs (id, company_id, campaign_id, total) VALUES (%s, 'co', 'cmp', 1)",
        (job_id,),
    )
    connection.execute(
        "INSERT INTO idempotency_keys (company_id, key, request_hash, job_id, state, wait)"
        " VALUES ('co', 'k', %s, %s, 'queued', 0)",
        (body_hash, job_id),
    )
    return connection, str(job_id)


FILE = b'{"externalId":"a"}\n'
STORED = text("SELECT request_hash, media_type FROM idempotency_keys")


async def upload(service, media_type, file=FILE):
    path = "/api/v1/leads/bulk-delete/files?campaignId=cmp"
    return await post(service, file, path=path, headers={"content-type": media_type})


async def test_the_same_bytes_as_another_media_type_are_another_request(service):
    first = await upload(service, "application/x-ndjson")
    assert first.status_code == 202
    again = await upload(service, "Application/X-NDJSON; charset=utf-8")
    assert (again.json(), replayed(again)) == (first.json(), True), "its parameters do not count"
    other = await upload(service, "text/csv")
    assert (other.status_code, other.json()["error"]) == REUSED
    assert count_of_jobs(service) == 1


async def test_an_action_without_a_media_type_is_the_same_request_without_one(service):
    job_id = await service.submit({"externalId": "a"}, schedule={"runAt": "2999-01-01T00:00:00Z"})
    asked = {"path": f"/api/v1/jobs/{job_id}/resume", "key": "r"}
    headers = {"x-api-key": service.write, "idempotency-key": "r"}
    answers = [await service.http.post(asked["path"], headers=headers) for _ in range(2)]
    assert [(answer.status_code, replayed(answer)) for answer in answers] == [
        (200, False),
        (200, True),
    ]
    other = await post(service, b"{}", **asked)
    assert (other.status_code, other.json()["error"]) == REUSED


@pytest.mark.parametrize("media_type", ["application/json", "application/json; charset=utf-8"])
async def test_a_key_that_was_stored_before_the_upgrade_matches_by_its_hash_alone(
    service, media_type
):
    """As it was made of path, query and body then, and of nothing else."""
    body = json.dumps(BODY).encode()
    first = await post(service, body)
    former = hashlib.sha256(b"\0".join((b"/api/v1/leads/bulk-delete", b"", body))).digest()
    with service.engine.begin() as connection:
        connection.execute(
            text("UPDATE idempotency_keys SET request_hash = :hash, media_type = NULL"),
            {"hash": former},
        )
    again = await post(service, body, headers={"content-type": media_type})
    assert (again.content, replayed(again)) == (first.content, True)
    other = await post(service, body + b" ")
    assert (other.status_code, other.json()["error"]) == REUSED


async def test_what_is_stored_now_is_understood_by_an_api_of_before(service):
    """During an upgrade, a call may be repeated to either: who knows of no media type finds the
    hash that it makes.
    """
    body = json.dumps(BODY).encode()
    await post(service, body)
    with service.engine.begin() as connection:
        stored = connection.execute(STORED).one()
    assert (
        bytes(stored.request_hash)
        == hashlib.sha256(b"\0".join((b"/api/v1/leads/bulk-delete", b"", body))).digest()
    )
    assert stored.media_type == "application/json"


async def test_a_key_that_has_expired_takes_the_media_type_of_its_new_request(service):
    assert (await upload(service, "application/x-ndjson")).status_code == 202
    with service.engine.begin() as connection:
        connection.execute(text("UPDATE idempotency_keys SET created_at = now() - interval '73 h'"))
    taken_over = await upload(service, "text/csv", b"externalId\na\n")
    assert (taken_over.status_code, replayed(taken_over)) == (202, False)
    assert (await upload(service, "application/x-ndjson", b"externalId\na\n")).status_code == 422
    assert replayed(await upload(service, "text/csv", b"externalId\na\n"))


async def test_a_parallel_post_waits_two_seconds_for_the_first_and_then_gives_up(service):
    holder, _ = holding_the_key(service)
    took = []
    with holder:
        while len(took) < 3 and min(took, default=4) >= 4:  # a busy machine has pauses of its own
            began = time.monotonic()
            answer = await post(service)
            took.append(time.monotonic() - began)
            assert (answer.status_code, answer.json()["error"]) == (
                409,
                "Another request is in progress; try again",
            )
        assert 1.9 < min(took) < 4
        holder.rollback()
    assert (await post(service)).status_code == 202


async def test_a_parallel_post_gets_the_answer_of_the_first_once_that_is_committed(service):
    first = await post(service)
    with service.engine.begin() as connection:
        request_hash = connection.execute(
            text("DELETE FROM idempotency_keys RETURNING request_hash")
        ).scalar_one()
    holder, job_id = holding_the_key(service, bytes(request_hash))
    with holder:
        waiting = asyncio.create_task(post(service))
        await waits_for_a_lock(service)
        holder.commit()
    answer = await waiting
    assert (answer.status_code, answer.json()["data"]["jobId"]) == (202, job_id)
    assert replayed(answer)
    assert job_id != first.json()["data"]["jobId"]


async def waits_for_a_lock(service):
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + 10
    with service.engine.connect() as connection:
        while not connection.execute(waiting).scalar_one():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
            connection.rollback()


async def test_an_action_that_is_repeated_with_its_key_is_not_done_again(service):
    job_id = await service.submit({"externalId": "a"}, schedule={"runAt": "2999-01-01T00:00:00Z"})
    pausing = asyncio.create_task(service.act(job_id, "pause", **{"idempotency-key": "p"}))
    while not pausing.done():
        await service.work()
        await asyncio.sleep(0)
    paused = await pausing
    assert paused.json()["data"]["status"] == "paused"
    resumed = await service.act(job_id, "resume", **{"idempotency-key": "q"})
    again = await service.act(job_id, "pause", **{"idempotency-key": "p"})
    assert (again.content, replayed(again)) == (paused.content, True)
    await service.work()
    assert (await service.job(job_id))["status"] == "scheduled"
    with service.engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET run_at = now(), state = 'queued'"))
    await service.work()
    assert (await service.job(job_id))["status"] == "completed"
    again = await service.act(job_id, "resume", **{"idempotency-key": "q"})
    assert (again.content, replayed(again)) == (resumed.content, True), (
        "though it would be impossible now"
    )


@pytest.mark.parametrize("action", ["execute", "restore", "retry"])
async def test_following_jobs_are_made_once_with_any_key_or_none(service, action):
    options = {"execute": {"dryRun": True}, "restore": {"mode": "archive"}, "retry": {}}[action]
    source = await service.submit({"externalId": "a"}, **options)
    if action == "retry":
        with service.engine.begin() as connection:
            connection.execute(text("UPDATE chunks SET attempts = 5"))
    await service.work()
    answers = await asyncio.gather(
        *(
            service.act(source, action, **headers)
            for headers in ({}, {"idempotency-key": "x"}, {"idempotency-key": "y"})
            for _ in "123"
        )
    )
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["data"]["jobId"] for answer in answers}) == 1
    assert count_of_jobs(service) == 2
    assert replayed(await service.act(source, action, **{"idempotency-key": "x"}))
