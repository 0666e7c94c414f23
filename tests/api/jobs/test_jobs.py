"""What callers are told of an accepted job, from the 202 to its end."""

import asyncio
import time
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from api.http.paging import after_cursor, page_of
from shared.broker.wakeups import Wake
from tests.support.jobs import add_leads, job_row
from tests.support.stack import make_key
from worker.claimer import claim
from worker.runner import run_chunk, run_next

SUBMITTED = [
    {"externalId": " a ", "phoneNumber": "(00) 1"},
    {"phoneNumber": "+102"},
    {"externalId": "a"},
    {"externalId": "nobody", "phoneNumber": " "},
    {"externalId": "c", "phoneNumber": "+109"},
]


def work(engine):
    """Until nothing is left to be done."""
    more = [True]
    wake = Wake(lambda _: None, lambda _: more.append(True))
    while more:
        more.clear()
        run_next(engine, "jobs", wake)


async def test_an_accepted_job_is_answered_as_the_contract_has_it(service):
    answer = await service.post({"campaignId": "cmp", "leads": SUBMITTED})
    accepted = answer.json()["data"]
    assert answer.status_code == 202
    assert list(accepted) == ["jobId", "status", "statusUrl", "total", "createdAt", "runAt"]
    assert (accepted["status"], accepted["total"], accepted["runAt"]) == ("queued", 5, None)
    assert (
        accepted["statusUrl"] == answer.headers["location"] == f"/api/v1/jobs/{accepted['jobId']}"
    )
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["success"] is True
    assert answer.json()["error"] is None
    assert len(accepted["createdAt"]) == len("2026-01-01T02:00:00.000Z")
    assert accepted["createdAt"].endswith("Z")


async def test_a_job_tells_its_whole_story(service):
    job_id = await service.submit(*SUBMITTED, clientReference="order 7", phoneFallback=True)
    before = (await service.get(f"/api/v1/jobs/{job_id}")).json()["data"]
    assert list(before) == [
        "jobId", "campaignId", "status", "requested", "clientReference", "phoneFallback",
        "phoneRegion", "mode", "dryRun", "schedule", "callbackUrl", "maxLeadsPerSecond",
        "sourceJobId", "total", "processed", "deleted", "wouldDelete", "restored", "conflict",
        "notFound", "unprocessed", "invalid", "erasedFromArchive", "lacksPlus", "otherExternalId",
        "waitingFor", "error", "createdAt", "runAt", "startedAt", "finishedAt",
        "identifiersPurgedAt", "history", "resultsUrl", "deletedIdentifiers",
        "wouldDeleteIdentifiers", "restoredIdentifiers", "conflictIdentifiers",
        "notFoundIdentifiers", "unprocessedIdentifiers", "invalidIdentifiers", "identifiersOmitted",
    ]  # fmt: skip
    assert (before["status"], before["processed"], before["notFound"]) == ("queued", 1, 1), (
        "the duplicate is known already"
    )
    assert before["notFoundIdentifiers"] == ["a"]
    work(service.engine)
    after = await service.get(f"/api/v1/jobs/{job_id}")
    job = after.json()["data"]
    assert "retry-after" not in after.headers
    assert (job["status"], job["clientReference"], job["error"]) == ("completed", "order 7", None)
    assert (
        job["total"],
        job["processed"],
        job["deleted"],
        job["notFound"],
        job["unprocessed"],
    ) == (5, 5, 3, 2, 0)
    assert job["deletedIdentifiers"] == [" a ", "+102", "c"]
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
    pending = (await service.get(f"/api/v1/jobs/{job_id}/results?outcome=pending")).json()["data"][
        "items"
    ]
    assert [item["index"] for item in pending] == [0, 1, 3, 4]
    work(service.engine)
    page = (await service.get(f"/api/v1/jobs/{job_id}/results")).json()["data"]
    assert page["nextCursor"] is None
    assert page["items"] == [
        result(0, " a ", "(00) 1", "deleted", "externalId", None),
        result(1, None, "+102", "deleted", "phoneNumber", None),
        result(2, "a", None, "notFound", None, "duplicate"),
        result(3, "nobody", None, "notFound", None, "noSuchLead"),
        result(4, "c", "+109", "deleted", "externalId", None),
    ]


def result(index, external_id, number, outcome, matched_by, reason, detail=None):
    return {
        "index": index,
        "externalId": external_id,
        "phoneNumber": number,
        "identifier": external_id or number,
        "outcome": outcome,
        "matchedBy": matched_by,
        "reason": reason,
        "detail": detail,
        "erasedFromArchive": False,
    }


async def test_a_job_that_a_ticker_of_before_has_ended_is_counted_like_any_other(service):
    with service.engine.begin() as connection:
        add_leads(connection, [(None, "+15555550100")])
    job_id = await service.submit({"phoneNumber": "15555550100"})
    work(service.engine)
    with service.engine.begin() as connection:
        connection.execute(
            text("UPDATE jobs SET erased = NULL, lacks_plus = NULL, other_external_id = NULL")
        )
    job = (await service.get(f"/api/v1/jobs/{job_id}")).json()["data"]
    assert (job["status"], job["notFound"], job["lacksPlus"], job["erasedFromArchive"]) == (
        "completed",
        1,
        1,
        0,
    )
    (listed,) = (await service.get("/api/v1/jobs")).json()["data"]["items"]
    assert listed["lacksPlus"] == 1


async def test_results_come_in_pages_over_chunks_and_by_outcome(service):
    service.app.state.services.settings.chunk_size = 3
    job_id = await service.submit(
        *({"externalId": f"x{i}"} for i in range(20)), {"externalId": "a"}, {"externalId": "x0"}
    )
    while claimed := claim_next(service.engine):
        run_chunk(service.engine, claimed)
    for outcome, indexes in [
        ("", list(range(22))),
        ("notFound", [*range(20), 21]),
        ("deleted", [20]),
        ("unprocessed", []),
    ]:
        seen, cursor = [], None
        while True:
            query = (
                {"limit": 4}
                | ({"outcome": outcome} if outcome else {})
                | ({"cursor": cursor} if cursor else {})
            )
            page = (await service.get(f"/api/v1/jobs/{job_id}/results", params=query)).json()[
                "data"
            ]
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
    service.app.state.services.settings.chunk_size = 2
    job_id = await service.submit(
        {"externalId": "a"}, {"externalId": "b"}, {"externalId": "nobody"}, {"externalId": "c"}
    )
    for processed, deleted in [(2, 2), (4, 3)]:
        run_chunk(service.engine, claim_next(service.engine))
        job = (await service.get(f"/api/v1/jobs/{job_id}")).json()["data"]
        assert (job["processed"], job["deleted"], job["total"]) == (processed, deleted, 4)
    assert job["status"] == "completed"
    young = await service.submit({"externalId": "x"})
    for age, seconds in [(0, "1"), (15, "1"), (45, "4"), (99.5, "9"), (5000, "10")]:
        with service.engine.begin() as connection:
            statement = text(
                "UPDATE jobs SET created_at = clock_timestamp() - make_interval(secs => :age)"
                " WHERE id = :id"
            )
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
    results = (await service.get(f"/api/v1/jobs/{job_id}/results?outcome=unprocessed")).json()[
        "data"
    ]["items"]
    assert results == [
        result(
            1, "b", None, "unprocessed", None, "refused", "constraint calls_lead_id_fkey of calls"
        )
    ]


async def test_without_phone_fallback_only_what_was_named_first_is_looked_up(service):
    job_id = await service.submit(
        {"externalId": "zz", "phoneNumber": "+101"}, {"phoneNumber": "+102"}, phoneFallback=False
    )
    work(service.engine)
    job = (await service.get(f"/api/v1/jobs/{job_id}")).json()["data"]
    assert (job["phoneFallback"], job["deletedIdentifiers"], job["notFoundIdentifiers"]) == (
        False,
        ["+102"],
        ["zz"],
    )


async def test_jobs_are_listed_newest_first_and_filtered(service):
    ids = [
        await service.submit({"externalId": f"x{i}"}, clientReference=f"batch {i % 2}")
        for i in range(5)
    ]
    work(service.engine)
    queued = await service.submit({"externalId": "x"}, campaignId="second")
    await service.post(
        {"campaignId": "foreign", "leads": [{"externalId": "x"}]}, key=service.foreign
    )
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
        page = (
            await service.get(
                "/api/v1/jobs", params={"limit": 3} | ({"cursor": cursor} if cursor else {})
            )
        ).json()["data"]
        seen += [job["jobId"] for job in page["items"]]
        await service.submit({"externalId": "later"})
        cursor = page["nextCursor"]
        if cursor is None:
            break
    assert sorted(seen) == sorted(ids)


async def jobs_an_hour_apart(service, hours):
    """Ids of jobs that were created half a millisecond after 00:00, 01:00, … on 2026-01-01, from
    the first to the last.
    """
    ids = [
        await service.submit({"externalId": f"x{i}"}, clientReference=f"batch {i % 2}")
        for i in range(hours)
    ]
    with service.engine.begin() as connection:
        for hour, job_id in enumerate(ids):
            moment = datetime(2026, 1, 1, hour, 0, 0, 500, tzinfo=UTC)
            connection.execute(
                text("UPDATE jobs SET created_at = :at WHERE id = :id"),
                {"at": moment, "id": job_id},
            )
    return ids


async def listed(service, key=None, **query):
    """The ids of all jobs that `query` finds, page by page."""
    found, cursor = [], {}
    while cursor is not None:
        page = (
            await service.get("/api/v1/jobs", key or service.read, params=query | cursor)
        ).json()["data"]
        found += [job["jobId"] for job in page["items"]]
        cursor = page["nextCursor"] and {"cursor": page["nextCursor"]}
    return found


async def test_jobs_are_filtered_by_the_time_at_which_they_were_created(service):
    ids = await jobs_an_hour_apart(service, 6)
    two = (await service.job(ids[2]))["createdAt"]
    assert two == "2026-01-01T02:00:00.000Z"
    for query, expected in [
        ({"createdAfter": two}, ids[2:]),
        ({"createdBefore": two}, ids[:2]),
        ({"createdAfter": "2026-01-01T02:00:00.0005Z"}, ids[2:]),
        ({"createdAfter": "2026-01-01T02:00:00.000501Z"}, ids[3:]),
        ({"createdBefore": "2026-01-01T02:00:00.0005Z"}, ids[:2]),
        ({"createdBefore": "2026-01-01T02:00:00.000501Z"}, ids[:3]),
        (
            {
                "createdAfter": "2026-01-01T02:00+01:00",
                "createdBefore": "2026-01-01 03:00:00-01:00",
            },
            ids[1:4],
        ),
        ({"createdAfter": two, "createdBefore": two}, []),
        ({"createdAfter": "2026-01-01T04:00Z", "createdBefore": "2026-01-01T01:00Z"}, []),
        ({"createdAfter": "0001-01-01T00:00Z", "createdBefore": "9999-12-31T23:59Z"}, ids),
        ({"createdAfter": two, "clientReference": "batch 1"}, [ids[3], ids[5]]),
        ({"createdBefore": two, "status": "queued", "campaignId": "cmp"}, ids[:2]),
    ]:
        assert await listed(service, **query) == expected[::-1], query
        assert await listed(service, limit=1, **query) == expected[::-1], query
    assert await listed(service, service.limited, createdAfter="2026-01-01T00:00Z") == []


async def test_a_plus_in_a_time_may_be_written_as_it_is(service):
    ids = await jobs_an_hour_apart(service, 3)
    answer = await service.get(
        "/api/v1/jobs?createdAfter=2026-01-01T02:00:00+01:00&createdBefore=2026-01-01+03:00:00+01:00"
    )
    assert [job["jobId"] for job in answer.json()["data"]["items"]] == [ids[1]]


async def test_a_cursor_and_a_time_both_count_wherever_the_cursor_came_from(service):
    ids = await jobs_an_hour_apart(service, 6)
    page = (await service.get("/api/v1/jobs", params={"limit": 2})).json()["data"]
    assert [job["jobId"] for job in page["items"]] == [ids[5], ids[4]]
    cursor = page["nextCursor"]
    assert await listed(service, cursor=cursor, createdBefore="2026-01-01T02:00Z") == ids[1::-1]
    assert (
        await listed(service, cursor=cursor, createdBefore="2026-01-01T04:00:00.0005Z")
        == ids[3::-1]
    )
    assert await listed(service, cursor=cursor, createdBefore="2026-01-01T05:00Z") == ids[3::-1]
    assert await listed(service, cursor=cursor, createdAfter="2026-01-01T03:00Z") == [ids[3]]


@pytest.mark.parametrize("name", ["createdAfter", "createdBefore"])
async def test_a_time_without_its_offset_and_what_is_none_are_refused_by_name(service, name):
    for written in [
        "",
        "2h",
        "yesterday",
        "2026-01-31",
        "2026-01-31T22:00:00",
        "2026-01-31 22:00",
        "2026-02-30T22:00:00Z",
        "2026-01-31x22:00:00Z",
        "1767225600",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "2026-01-31T22:00:00Z\0",
    ]:
        answer = await service.get("/api/v1/jobs", params={name: written})
        assert (answer.status_code, answer.json()["error"]) == (
            400,
            f"Invalid query parameter: {name}",
        ), written


def test_a_page_deep_in_a_span_of_time_reads_as_little_of_the_index_as_the_first(engine):
    """An index is entered at one place: given the time and the cursor, PostgreSQL would enter it at
    the time.
    """
    with engine.begin() as connection:
        connection.execute(text("""
            INSERT INTO jobs (id, company_id, campaign_id, total, created_at)
            SELECT gen_random_uuid(), 'co', 'cmp', 1, to_timestamp(n)
            FROM generate_series(1, 20000) AS n
        """))  # fmt: skip
        connection.execute(text("ANALYZE jobs"))
        last = connection.execute(
            text("SELECT created_at, id FROM jobs WHERE created_at = to_timestamp(500)")
        ).one()
        (_, cursor), before = page_of([last, last], 1), datetime(2026, 1, 1, tzinfo=UTC)
        condition, values = after_cursor("jobs", cursor, before)
        explained = text(f"""
            EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)
            SELECT id FROM jobs WHERE company_id = 'co' AND {condition}
            ORDER BY created_at DESC, id DESC LIMIT 200
        """)
        ((plans,),) = connection.execute(explained, values)
    read = plans[0]["Plan"]["Shared Hit Blocks"] + plans[0]["Plan"]["Shared Read Blocks"]
    assert (plans[0]["Plan"]["Actual Rows"], read < 20) == (200, True), plans


async def test_a_key_that_only_reads_sees_jobs_but_submits_none(service):
    job_id = await service.submit({"externalId": "a"})
    assert (await service.get(f"/api/v1/jobs/{job_id}", service.read)).status_code == 200
    assert (await service.get("/api/v1/jobs", service.read)).status_code == 200
    assert (
        await service.post({"campaignId": "cmp", "leads": [{"externalId": "a"}]}, key=service.read)
    ).status_code == 403


async def test_a_job_remembers_which_key_submitted_it(service):
    with service.engine.begin() as connection:
        key = make_key(connection, "co")
        key_id = connection.execute(
            text("SELECT id FROM api_keys ORDER BY created_at DESC LIMIT 1")
        ).scalar_one()
    answer = await service.post({"campaignId": "cmp", "leads": [{"externalId": "a"}]}, key=key)
    with service.engine.begin() as connection:
        assert job_row(connection, answer.json()["data"]["jobId"]).key_id == key_id


async def test_two_hundred_submissions_at_once_are_all_accepted(service):
    leads = [{"externalId": str(i)} for i in range(100)]
    answers = await asyncio.gather(
        *(service.post({"campaignId": "cmp", "leads": leads}) for _ in range(200))
    )
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
    assert (ended.status_code, ended.json()["error"]) == (
        409,
        "Cannot change a job that is completed",
    )


async def test_a_new_pace_counts_from_now_and_saying_it_again_lets_nothing_more_through(service):
    job_id = await service.submit(
        *({"externalId": f"x{i}"} for i in range(1000)), maxLeadsPerSecond=1
    )
    began = time.monotonic()
    for _ in range(20):
        await change(service, job_id, {"maxLeadsPerSecond": 1})
        await service.work()
    assert 1 <= (await service.job(job_id))["processed"] <= 2 + time.monotonic() - began
    await change(service, job_id, {"maxLeadsPerSecond": 100_000})
    await service.work()
    assert (await service.job(job_id))["status"] == "completed", (
        "what was owed at one lead a second is not waited for"
    )


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
    statuses = [
        (await change(service, job_id, {"maxLeadsPerSecond": 1}, key)).status_code
        for key in (service.read, service.limited, service.foreign)
    ]
    assert statuses == [403, 404, 404]
