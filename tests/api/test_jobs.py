"""What callers are told of an accepted job, from the 202 to its end."""

import asyncio
import time

import pytest
from sqlalchemy import text

from tests.jobs import job_row
from tests.stack import make_key
from worker.claimer import claim
from worker.runner import run_chunk, run_next

SUBMITTED = [
    {"externalId": " a ", "phoneNumber": "(00) 1"},
    {"phoneNumber": "+2"},
    {"externalId": "a"},
    {"externalId": "nobody", "phoneNumber": " "},
    {"externalId": "c", "phoneNumber": "+9"},
]


def work(engine):
    run_next(engine, "jobs", lambda _: None)


async def test_an_accepted_job_is_answered_as_the_contract_has_it(service):
    answer = await service.post({"campaignId": "cmp", "leads": SUBMITTED})
    accepted = answer.json()["data"]
    assert answer.status_code == 202
    assert list(accepted) == ["jobId", "status", "statusUrl", "total", "createdAt", "runAt"]
    assert (accepted["status"], accepted["total"], accepted["runAt"]) == ("queued", 5, None)
    assert accepted["statusUrl"] == answer.headers["location"] == f"/api/v1/jobs/{accepted['jobId']}"
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["success"] is True
    assert answer.json()["error"] is None
    assert len(accepted["createdAt"]) == len("2026-01-01T02:00:00.000Z")
    assert accepted["createdAt"].endswith("Z")


async def test_a_job_tells_its_whole_story(service):
    job_id = await service.submit(*SUBMITTED, clientReference="order 7", phoneFallback=True)
    before = (await service.get(f"/api/v1/jobs/{job_id}")).json()["data"]
    assert list(before) == [
        "jobId", "campaignId", "status", "requested", "clientReference", "mode", "dryRun", "phoneFallback", "sourceJobId",
        "total", "processed", "deleted", "wouldDelete", "restored", "conflict", "notFound", "unprocessed", "invalid", "error",
        "schedule", "callbackUrl", "maxLeadsPerSecond", "createdAt", "runAt", "startedAt", "finishedAt", "identifiersPurgedAt",
        "history", "resultsUrl",
        "deletedIdentifiers", "wouldDeleteIdentifiers", "restoredIdentifiers", "conflictIdentifiers",
        "notFoundIdentifiers", "unprocessedIdentifiers", "invalidIdentifiers", "identifiersOmitted",
    ]  # fmt: skip
    assert (before["status"], before["processed"], before["notFound"]) == ("queued", 1, 1), "the duplicate is known already"
    assert before["notFoundIdentifiers"] == ["a"]
    work(service.engine)
    after = await service.get(f"/api/v1/jobs/{job_id}")
    job = after.json()["data"]
    assert "retry-after" not in after.headers
    assert (job["status"], job["clientReference"], job["error"]) == ("completed", "order 7", None)
    assert (job["total"], job["processed"], job["deleted"], job["notFound"], job["unprocessed"]) == (5, 5, 3, 2, 0)
    assert job["deletedIdentifiers"] == [" a ", "+2", "c"]
    assert job["notFoundIdentifiers"] == ["a", "nobody"]
    assert before["createdAt"] == job["createdAt"] <= job["startedAt"] <= job["finishedAt"]
    assert [(change["status"], change["by"]) for change in job["history"]] == [
        ("queued", "the tests"),
        ("running", None),
        ("completed", None),
    ]
    moments = [change["at"] for change in job["history"]]
    assert moments == sorted(moments)
    assert moments[0] == job["createdAt"]


async def test_results_say_what_became_of_each_entry_as_it_was_written(service):
    job_id = await service.submit(*SUBMITTED)
    pending = (await service.get(f"/api/v1/jobs/{job_id}/results?outcome=pending")).json()["data"]["items"]
    assert [item["index"] for item in pending] == [0, 1, 3, 4]
    work(service.engine)
    page = (await service.get(f"/api/v1/jobs/{job_id}/results")).json()["data"]
    assert page["nextCursor"] is None
    assert page["items"] == [
        result(0, " a ", "(00) 1", "deleted", "externalId", None),
        result(1, None, "+2", "deleted", "phoneNumber", None),
        result(2, "a", None, "notFound", None, "duplicate"),
        result(3, "nobody", None, "notFound", None, "noSuchLead"),
        result(4, "c", "+9", "deleted", "externalId", None),
    ]


def result(index, external_id, number, outcome, matched_by, reason):
    return {
        "index": index,
        "externalId": external_id,
        "phoneNumber": number,
        "identifier": external_id or number,
        "outcome": outcome,
        "matchedBy": matched_by,
        "reason": reason,
    }


async def test_results_come_in_pages_over_chunks_and_by_outcome(service):
    service.app.state.settings.chunk_size = 3
    job_id = await service.submit(*({"externalId": f"x{i}"} for i in range(20)), {"externalId": "a"}, {"externalId": "x0"})
    while claimed := claim_next(service.engine):
        run_chunk(service.engine, claimed)
    for outcome, indexes in [("", list(range(22))), ("notFound", [*range(20), 21]), ("deleted", [20]), ("unprocessed", [])]:
        seen, cursor = [], None
        while True:
            query = {"limit": 4} | ({"outcome": outcome} if outcome else {}) | ({"cursor": cursor} if cursor else {})
            page = (await service.get(f"/api/v1/jobs/{job_id}/results", params=query)).json()["data"]
            seen += [item["index"] for item in page["items"]]
            assert len(page["items"]) <= 4
            cursor = page["nextCursor"]
            if cursor is None:
                break
        assert seen == indexes


def claim_next(engine):
    with engine.begin() as connection:
        return claim(connection, "jobs")


async def test_a_running_job_is_counted_chunk_by_chunk_and_asks_for_patience_as_it_ages(service):
    service.app.state.settings.chunk_size = 2
    job_id = await service.submit({"externalId": "a"}, {"externalId": "b"}, {"externalId": "nobody"}, {"externalId": "c"})
    for processed, deleted in [(2, 2), (4, 3)]:
        run_chunk(service.engine, claim_next(service.engine))
        job = (await service.get(f"/api/v1/jobs/{job_id}")).json()["data"]
        assert (job["processed"], job["deleted"], job["total"]) == (processed, deleted, 4)
    assert job["status"] == "completed"
    young = await service.submit({"externalId": "x"})
    for age, seconds in [(0, "1"), (15, "1"), (45, "4"), (99.5, "9"), (5000, "10")]:
        with service.engine.begin() as connection:
            statement = text("UPDATE jobs SET created_at = clock_timestamp() - make_interval(secs => :age) WHERE id = :id")
            connection.execute(statement, {"age": age, "id": young})
        assert (await service.get(f"/api/v1/jobs/{young}")).headers["retry-after"] == seconds


async def test_a_failed_job_says_why_and_names_what_it_left(service):
    with service.engine.begin() as connection:
        connection.execute(text("CREATE TABLE calls (lead_id bigint REFERENCES leads)"))
        connection.execute(text("INSERT INTO calls SELECT id FROM leads WHERE external_id = 'b'"))
    job_id = await service.submit({"externalId": "a"}, {"externalId": "b"})
    work(service.engine)
    job = (await service.get(f"/api/v1/jobs/{job_id}")).json()["data"]
    assert (job["status"], job["deleted"], job["unprocessed"]) == ("failed", 1, 1)
    assert job["unprocessedIdentifiers"] == ["b"]
    assert job["error"].startswith("1 of 2 leads could not be processed")
    assert "b" not in job["error"].split()
    results = (await service.get(f"/api/v1/jobs/{job_id}/results?outcome=unprocessed")).json()["data"]["items"]
    assert results == [result(1, "b", None, "unprocessed", None, "refused")]


async def test_without_phone_fallback_only_what_was_named_first_is_looked_up(service):
    job_id = await service.submit({"externalId": "zz", "phoneNumber": "+1"}, {"phoneNumber": "+2"}, phoneFallback=False)
    work(service.engine)
    job = (await service.get(f"/api/v1/jobs/{job_id}")).json()["data"]
    assert (job["phoneFallback"], job["deletedIdentifiers"], job["notFoundIdentifiers"]) == (False, ["+2"], ["zz"])


async def test_jobs_are_listed_newest_first_and_filtered(service):
    ids = [await service.submit({"externalId": f"x{i}"}, clientReference=f"batch {i % 2}") for i in range(5)]
    work(service.engine)
    queued = await service.submit({"externalId": "x"}, campaignId="second")
    await service.post({"campaignId": "foreign", "leads": [{"externalId": "x"}]}, key=service.foreign)
    everything = (await service.get("/api/v1/jobs")).json()["data"]
    assert [job["jobId"] for job in everything["items"]] == [queued, *reversed(ids)]
    assert everything["nextCursor"] is None
    assert not any("Identifiers" in name for job in everything["items"] for name in job)
    for query, expected in [
        ("status=completed", ids[::-1]),
        ("status=queued", [queued]),
        ("status=paused", []),
        ("campaignId=second", [queued]),
        ("campaignId=foreign", []),
        ("clientReference=batch%201", [ids[3], ids[1]]),
        ("clientReference=batch%201&status=queued", []),
        ("clientReference=%00", []),
    ]:
        found = (await service.get(f"/api/v1/jobs?{query}")).json()["data"]["items"]
        assert [job["jobId"] for job in found] == expected, query
    limited = (await service.get("/api/v1/jobs", service.limited)).json()["data"]["items"]
    assert [job["jobId"] for job in limited] == [queued]


async def test_a_listing_goes_on_where_it_stopped_though_jobs_came_meanwhile(service):
    ids = [await service.submit({"externalId": f"x{i}"}) for i in range(7)]
    with service.engine.begin() as connection:  # several within one microsecond
        connection.execute(text("UPDATE jobs SET created_at = '2026-01-01T00:00:00.000001Z'"))
    seen, cursor = [], None
    while True:
        page = (await service.get("/api/v1/jobs", params={"limit": 3} | ({"cursor": cursor} if cursor else {}))).json()["data"]
        seen += [job["jobId"] for job in page["items"]]
        await service.submit({"externalId": "later"})
        cursor = page["nextCursor"]
        if cursor is None:
            break
    assert sorted(seen) == sorted(ids)


async def test_a_key_that_only_reads_sees_jobs_but_submits_none(service):
    job_id = await service.submit({"externalId": "a"})
    assert (await service.get(f"/api/v1/jobs/{job_id}", service.read)).status_code == 200
    assert (await service.get("/api/v1/jobs", service.read)).status_code == 200
    assert (await service.post({"campaignId": "cmp", "leads": [{"externalId": "a"}]}, key=service.read)).status_code == 403


async def test_a_job_remembers_which_key_submitted_it(service):
    with service.engine.begin() as connection:
        key = make_key(connection, "co")
        key_id = connection.execute(text("SELECT id FROM api_keys ORDER BY created_at DESC LIMIT 1")).scalar_one()
    answer = await service.post({"campaignId": "cmp", "leads": [{"externalId": "a"}]}, key=key)
    with service.engine.begin() as connection:
        assert job_row(connection, answer.json()["data"]["jobId"]).key_id == key_id


async def test_two_hundred_submissions_at_once_are_all_accepted(service):
    leads = [{"externalId": str(i)} for i in range(100)]
    answers = await asyncio.gather(*(service.post({"campaignId": "cmp", "leads": leads}) for _ in range(200)))
    assert {answer.status_code for answer in answers} == {202}
    with service.engine.connect() as connection:
        assert connection.execute(text("SELECT sum(total) FROM jobs")).scalar_one() == 20_000


async def change(service, job_id, body, key=None):
    sent = {"x-api-key": key or service.write}
    return await service.http.patch(f"/api/v1/jobs/{job_id}", json=body, headers=sent)


async def test_the_pace_of_a_job_can_be_changed_until_it_has_ended(service):
    job_id = await service.submit(*SUBMITTED, maxLeadsPerSecond=2)
    assert (await service.job(job_id))["maxLeadsPerSecond"] == 2
    faster = await change(service, job_id, {"maxLeadsPerSecond": 5000})
    assert (faster.status_code, faster.json()["data"]["maxLeadsPerSecond"]) == (200, 5000)
    unpaced = await change(service, job_id, {"maxLeadsPerSecond": None})
    assert unpaced.json()["data"]["maxLeadsPerSecond"] is None
    await service.work()
    ended = await change(service, job_id, {"maxLeadsPerSecond": 1})
    assert (ended.status_code, ended.json()["error"]) == (409, "Cannot change a job that is completed")


async def test_a_new_pace_counts_from_now_and_saying_it_again_lets_nothing_more_through(service):
    job_id = await service.submit(*({"externalId": f"x{i}"} for i in range(1000)), maxLeadsPerSecond=1)
    began = time.monotonic()
    for _ in range(20):
        await change(service, job_id, {"maxLeadsPerSecond": 1})
        await service.work()
    assert 1 <= (await service.job(job_id))["processed"] <= 2 + time.monotonic() - began
    await change(service, job_id, {"maxLeadsPerSecond": 100_000})
    await service.work()
    assert (await service.job(job_id))["status"] == "completed", "what was owed at one lead a second is not waited for"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "maxLeadsPerSecond is required"),
        ({"maxLeadsPerSecond": 0}, "maxLeadsPerSecond must be an integer from 1 to 1000000"),
        ({"maxLeadsPerSecond": 1.5}, "maxLeadsPerSecond must be an integer from 1 to 1000000"),
        ({"maxLeadsPerSecond": True}, "maxLeadsPerSecond must be an integer from 1 to 1000000"),
        ({"maxLeadsPerSecond": 1, "mode": "archive"}, "Unknown field: mode"),
    ],
)
async def test_a_change_that_makes_no_sense_is_refused(service, body, error):
    job_id = await service.submit(*SUBMITTED)
    answer = await change(service, job_id, body)
    assert (answer.status_code, answer.json()["error"]) == (400, error)


async def test_only_who_may_write_changes_a_job_that_it_sees(service):
    job_id = await service.submit(*SUBMITTED)
    statuses = [(await change(service, job_id, {"maxLeadsPerSecond": 1}, key)).status_code for key in
                (service.read, service.limited, service.foreign)]  # fmt: skip
    assert statuses == [403, 404, 404]
