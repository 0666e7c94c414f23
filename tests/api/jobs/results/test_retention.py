"""What is kept, and for how long: identifiers go, counts and history stay."""

from sqlalchemy import text

from shared.settings import Settings
from tests.support.jobs import one_tick

LISTS = [
    f"{word}Identifiers"
    for word in (
        "deleted",
        "wouldDelete",
        "restored",
        "conflict",
        "notFound",
        "unprocessed",
        "invalid",
    )
]


def age(service, job_id, days):
    """As if the job had finished so many days earlier."""
    values = {"id": job_id, "days": days}
    with service.engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE jobs SET finished_at = finished_at - :days * interval '1 day'"
                " WHERE id = :id"
            ),
            values,
        )


async def test_the_identifiers_of_an_old_job_are_purged_and_its_counts_stay(service):
    job_id = await service.submit({"externalId": "a"}, {"externalId": "nobody"})
    await service.work()
    before = await service.job(job_id)
    age(service, job_id, 30)
    one_tick(service.engine)
    job = await service.job(job_id)
    assert [job[name] for name in LISTS] == [None] * 7
    assert job["identifiersPurgedAt"] > before["createdAt"]
    kept = (
        "status",
        "total",
        "processed",
        "deleted",
        "notFound",
        "unprocessed",
        "history",
        "createdAt",
        "startedAt",
    )
    assert {name: job[name] for name in kept} == {name: before[name] for name in kept}
    for accept in ("application/json", "text/csv", "application/x-ndjson"):
        results = await service.http.get(
            f"/api/v1/jobs/{job_id}/results", headers={"x-api-key": service.write, "accept": accept}
        )
        assert (results.status_code, results.json()["error"]) == (
            410,
            "The identifiers of this job have been purged",
        )
    (listed,) = (await service.get("/api/v1/jobs")).json()["data"]["items"]
    assert listed["identifiersPurgedAt"] == job["identifiersPurgedAt"]
    with service.engine.begin() as connection:
        left = connection.execute(text("SELECT to_jsonb(jobs)::text FROM jobs")).scalar_one()
        assert "nobody" not in left
        assert connection.execute(text("SELECT count(*) FROM chunks")).scalar_one() == 0


async def test_what_the_caller_called_a_job_goes_with_its_identifiers_from_every_table(service):
    reference = "erasure of Ann Smith"
    told = {"clientReference": reference, "callbackUrl": "http://127.0.0.1:9/"}
    old, young = [await service.submit({"externalId": name}, **told) for name in "ab"]
    await service.work()
    age(service, old, 31)
    one_tick(service.engine)
    assert (await service.job(old))["clientReference"] is None
    assert (await service.job(young))["clientReference"] == reference, (
        "until its own identifiers go"
    )
    found = (await service.get("/api/v1/jobs", params={"clientReference": reference})).json()[
        "data"
    ]["items"]
    assert [job["jobId"] for job in found] == [young]
    listed = (await service.get("/api/v1/jobs")).json()["data"]["items"]
    assert {job["jobId"]: job["clientReference"] for job in listed} == {old: None, young: reference}
    with service.engine.connect() as connection:
        for table in (
            connection.execute(text("SELECT relname FROM pg_stat_user_tables")).scalars().all()
        ):
            holding = text(
                f"SELECT count(*) FROM {table} AS held WHERE held::text LIKE '%Ann Smith%'"
            )
            assert connection.execute(holding).scalar_one() == (table == "jobs"), (
                f"{table}: once, in the young one"
            )


async def test_jobs_that_are_young_or_unfinished_keep_theirs(service):
    young = await service.submit({"externalId": "a"})
    await service.work()
    unfinished = await service.submit({"externalId": "b"})
    age(service, young, 29.9)
    with service.engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET created_at = created_at - interval '1 year'"))
    one_tick(service.engine)
    assert (await service.job(young))["deletedIdentifiers"] == ["a"]
    assert (await service.job(unfinished))["identifiersPurgedAt"] is None
    one_tick(service.engine, Settings(retention_days=29))
    assert (await service.job(young))["deletedIdentifiers"] is None


async def test_what_was_purged_is_neither_retried_nor_executed_but_what_was_archived_is_restored(
    service,
):
    failed = await service.submit({"externalId": "a"})
    preview = await service.submit({"externalId": "b"}, dryRun=True)
    archive = await service.submit({"externalId": "c"}, mode="archive")
    with service.engine.begin() as connection:
        connection.execute(
            text("UPDATE chunks SET attempts = 5 WHERE job_id = :id"), {"id": failed}
        )
    await service.work()
    for job_id in (failed, archive):
        age(service, job_id, 10)
    age(service, preview, 0.9)
    one_tick(service.engine, Settings(retention_days=1))
    answer = await service.act(failed, "retry")
    assert (answer.status_code, answer.json()["error"]) == (
        409,
        "Cannot retry this job: its identifiers have been purged",
    )
    assert (await service.act(preview, "execute")).status_code == 202
    restored = await service.act(archive, "restore", prefer="wait=0")
    await service.work()
    assert (await service.job(restored.json()["data"]["jobId"]))["restored"] == 1


async def test_a_backlog_is_purged_a_little_at_a_time(service):
    with service.engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO jobs (id, company_id, campaign_id, total, state, finished_at, deleted,
                    would_delete, restored,
                    conflict, not_found, unprocessed, invalid)
                SELECT gen_random_uuid(), 'co', 'cmp', 1, 'completed', now() - interval '1 year', 1,
                    0, 0, 0, 0, 0, 0
                FROM generate_series(1, 120)
            """)
        )
    for left in (70, 20, 0):
        one_tick(service.engine)
        with service.engine.begin() as connection:
            assert (
                connection.execute(
                    text("SELECT count(*) FROM jobs WHERE identifiers_purged_at IS NULL")
                ).scalar_one()
                == left
            )


async def test_the_days_are_those_of_the_environment(service, monkeypatch):
    job_id = await service.submit({"externalId": "a"})
    await service.work()
    age(service, job_id, 3)
    for days, purged in (("4", False), ("3", True)):
        monkeypatch.setenv("LEADSWEEP_RETENTION_DAYS", days)
        one_tick(service.engine, Settings())
        assert ((await service.job(job_id))["identifiersPurgedAt"] is not None) == purged


async def test_cancelled_and_failed_jobs_are_purged_with_who_did_what_kept(service):
    cancelled = await service.submit({"externalId": "a"})
    assert (await service.act(cancelled, "cancel")).status_code in {200, 202}
    one_tick(service.engine)
    failed = await service.submit({"externalId": "b"})
    with service.engine.begin() as connection:
        connection.execute(
            text("UPDATE chunks SET attempts = 5 WHERE job_id = :id"), {"id": failed}
        )
    await service.work()
    for job_id, status in ((cancelled, "cancelled"), (failed, "failed")):
        before = await service.job(job_id)
        assert (before["status"], before["history"][0]["by"]) == (status, "the tests")
        age(service, job_id, 31)
        one_tick(service.engine)
        after = await service.job(job_id)
        gone = {*LISTS, "identifiersPurgedAt", "finishedAt"}
        assert {k: v for k, v in after.items() if k not in gone} == {
            k: v for k, v in before.items() if k not in gone
        }
        assert [after[name] for name in LISTS] == [None] * 7


async def test_a_job_is_purged_once(service):
    job_id = await service.submit({"externalId": "a"})
    await service.work()
    age(service, job_id, 31)
    one_tick(service.engine)
    first = (await service.job(job_id))["identifiersPurgedAt"]
    one_tick(service.engine)
    assert first
    assert (await service.job(job_id))["identifiersPurgedAt"] == first


async def test_idempotency_keys_go_after_72_hours_and_their_jobs_stay(service):
    for name in ("old", "young"):
        body = {"campaignId": "cmp", "leads": [{"externalId": name}]}
        assert (await service.post(body, headers={"idempotency-key": name})).status_code == 202
    with service.engine.begin() as connection:
        moved = text(
            "UPDATE idempotency_keys SET created_at = clock_timestamp() - :age * interval '1 hour'"
            " WHERE key = :key"
        )
        connection.execute(moved, [{"age": 72.01, "key": "old"}, {"age": 71.9, "key": "young"}])
    one_tick(service.engine)
    with service.engine.begin() as connection:
        assert connection.execute(text("SELECT key FROM idempotency_keys")).scalars().all() == [
            "young"
        ]
        assert connection.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 2
