"""Archived leads are whole, and come back as they were, unless somebody has taken their place."""

import json

import pytest
from sqlalchemy import text

from tests.support.jobs import one_tick


def all_leads(service):
    with service.engine.begin() as connection:
        rows = connection.execute(
            text("SELECT to_jsonb(leads) FROM leads WHERE campaign_id = 'cmp' ORDER BY id")
        ).scalars()
        return [json.dumps(row, sort_keys=True) for row in rows]


async def archived(service, *entries):
    job_id = await service.submit(*entries, mode="archive")
    await service.work()
    return job_id


async def restored(service, job_id):
    answer = await service.act(job_id, "restore")
    assert answer.status_code == 202, answer.text
    await service.work()
    return answer.json()["data"]["jobId"]


async def test_leads_are_archived_whole_and_come_back_as_they_were(service):
    with service.engine.begin() as connection:
        connection.execute(text("ALTER TABLE leads ADD COLUMN note text, ADD COLUMN photo bytea"))
        connection.execute(
            text(
                """
                UPDATE leads SET note = 'é"\\', photo = '\\x00ff',
                    metadata = '{"n": 12345678901234567890.5}'
                """
            )
        )
    before = all_leads(service)
    job_id = await archived(
        service, {"externalId": "a"}, {"phoneNumber": "+102"}, {"externalId": "nobody"}
    )
    job = await service.job(job_id)
    assert (job["status"], job["mode"], job["deleted"], job["notFound"]) == (
        "completed",
        "archive",
        2,
        1,
    )
    assert job["deletedIdentifiers"] == ["a", "+102"]
    assert [outcome[1:3] for outcome in await service.results(job_id)] == [
        ("archived", "externalId"),
        ("archived", "phoneNumber"),
        ("notFound", None),
    ]
    assert len(all_leads(service)) == 1
    restoration = await restored(service, job_id)
    assert all_leads(service) == before
    job = await service.job(restoration)
    assert (job["status"], job["mode"], job["sourceJobId"], job["total"], job["restored"]) == (
        "completed",
        "restore",
        job_id,
        2,
        2,
    )
    assert job["restoredIdentifiers"] == ["a", "b"]
    with service.engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM archived_leads")).scalar_one() == 0
    assert (await service.act(job_id, "restore")).json()["data"]["jobId"] == restoration, (
        "asked again, it is the same job"
    )


async def test_a_lead_whose_identifier_is_taken_again_is_a_conflict_and_stays_archived(service):
    job_id = await archived(service, {"externalId": "a"}, {"externalId": "b"}, {"externalId": "c"})
    with service.engine.begin() as connection:
        connection.execute(
            text("INSERT INTO leads (campaign_id, phone_number) VALUES ('cmp', '+101')")
        )
    restoration = await restored(service, job_id)
    job = await service.job(restoration)
    assert (job["restored"], job["conflict"], job["notFound"], job["conflictIdentifiers"]) == (
        2,
        1,
        0,
        ["a"],
    )
    with service.engine.begin() as connection:
        assert connection.execute(
            text("SELECT lead ->> 'external_id' FROM archived_leads")
        ).scalars().all() == ["a"]


async def test_a_lead_that_the_database_refuses_to_take_back_does_not_stop_the_others(service):
    job_id = await archived(service, {"externalId": "a"}, {"externalId": "b"}, {"externalId": "c"})
    with service.engine.begin() as connection:
        connection.execute(text("ALTER TABLE leads ADD CONSTRAINT no_b CHECK (external_id <> 'b')"))
    failed = await restored(service, job_id)
    assert [outcome[1::2] for outcome in await service.results(failed)] == [
        ("restored", None),
        ("unprocessed", "refused"),
        ("restored", None),
    ]
    with service.engine.begin() as connection:
        connection.execute(text("ALTER TABLE leads DROP CONSTRAINT no_b"))
    retry = await service.act(failed, "retry")
    await service.work()
    job = await service.job(retry.json()["data"]["jobId"])
    assert (job["status"], job["mode"], job["restored"]) == ("completed", "restore", 1)


async def test_archived_leads_are_purged_in_time_and_can_then_not_be_restored(service):
    job_id = await archived(service, {"externalId": "a"})
    young = await archived(service, {"externalId": "b"})
    with service.engine.begin() as connection:
        connection.execute(
            text("UPDATE jobs SET finished_at = finished_at - interval '30 days' WHERE id = :id"),
            {"id": job_id},
        )
    late = await service.act(job_id, "restore")
    assert (late.status_code, late.json()["error"]) == (
        409,
        "Cannot restore this job: archived leads are kept for 30 days",
    )
    one_tick(service.engine)
    with service.engine.begin() as connection:
        assert connection.execute(
            text("SELECT lead ->> 'external_id' FROM archived_leads")
        ).scalars().all() == ["b"]
    assert (await service.act(young, "restore")).status_code == 202


async def test_leads_purged_while_their_restoration_waits_are_not_found(service):
    job_id = await archived(service, {"externalId": "a"})
    answer = await service.act(job_id, "restore")
    with service.engine.begin() as connection:
        connection.execute(text("DELETE FROM archived_leads"))
    await service.work()
    assert await service.results(answer.json()["data"]["jobId"]) == [
        ("a", "notFound", None, "purged")
    ]


async def test_only_what_archived_leads_can_be_restored(service):
    deleted = await service.submit({"externalId": "a"})
    previewed = await service.submit({"externalId": "b"}, mode="archive", dryRun=True)
    nothing = await service.submit({"externalId": "nobody"}, mode="archive")
    assert (await service.act(nothing, "restore")).json()[
        "error"
    ] == "Cannot restore a job that is queued"
    await service.work()
    for job_id in (deleted, previewed):
        answer = await service.act(job_id, "restore")
        assert (answer.status_code, answer.json()["error"]) == (
            409,
            "Cannot restore this job: it archived no leads",
        )
    assert (await service.act(nothing, "restore")).json()[
        "error"
    ] == "Cannot restore this job: it has no leads to restore"


async def deleted_by(service, road, **named):
    """Deletes a lead by one of the roads that there are; what its caller is told."""
    if road == "call":
        params = {"campaignId": "cmp"} | named
        answer = await service.http.delete(
            "/api/v1/leads", params=params, headers={"x-api-key": service.write}
        )
        return answer.status_code, answer.json()["data"]
    job_id = await service.submit(named, dryRun=road == "preview")
    await service.work()
    if road == "preview":
        assert (await service.job(job_id))["wouldDelete"] == 1
        job_id = (await service.act(job_id, "execute")).json()["data"]["jobId"]
        await service.work()
    job = await service.job(job_id)
    return job["deleted"], job["erasedFromArchive"]


def kept(service):
    """The copies in the archive that hold anything."""
    with service.engine.begin() as connection:
        statement = text(
            "SELECT lead ->> 'external_id' FROM archived_leads WHERE lead IS NOT NULL"
            " ORDER BY lead_id"
        )
        return connection.execute(statement).scalars().all()


ROADS = ["job", "preview", "call"]


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize(
    "named",
    [
        {"externalId": " b\u200b"},
        {"phoneNumber": "00 102"},
        {"externalId": "x", "phoneNumber": "+102"},
    ],
)
async def test_who_is_deleted_is_erased_from_the_archive_and_never_comes_back(service, road, named):
    job_id = await archived(service, {"externalId": "a"}, {"externalId": "b"}, {"externalId": "c"})
    told = await deleted_by(service, road, **named)
    assert told == ((200, {"deleted": True, "erasedFromArchive": 1}) if road == "call" else (1, 1))
    assert kept(service) == ["a", "c"]
    restoration = await restored(service, job_id)
    assert await service.results(restoration) == [
        ("a", "restored", None, None),
        (None, "notFound", None, "erased"),
        ("c", "restored", None, None),
    ]
    job = await service.job(restoration)
    assert (job["status"], job["restored"], job["notFound"], job["notFoundIdentifiers"]) == (
        "completed",
        2,
        1,
        [],
    )
    assert len(all_leads(service)) == 2


@pytest.mark.parametrize("road", ROADS)
async def test_a_lead_that_is_there_again_goes_with_its_copies(service, road):
    for _ in range(2):
        await archived(service, {"externalId": "b"})
        with service.engine.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO leads (campaign_id, external_id, phone_number)"
                    " VALUES ('cmp', 'b', '+107')"
                )
            )
    told = await deleted_by(service, road, externalId="b")
    assert told == ((200, {"deleted": True, "erasedFromArchive": 2}) if road == "call" else (1, 1))
    assert kept(service) == []
    assert len(all_leads(service)) == 2


async def test_results_say_what_was_erased(service):
    await archived(service, {"externalId": "b"})
    job_id = await service.submit(
        {"externalId": "a"}, {"externalId": "b"}, {"externalId": "nobody"}
    )
    await service.work()
    items = (await service.get(f"/api/v1/jobs/{job_id}/results")).json()["data"]["items"]
    assert [(item["outcome"], item["erasedFromArchive"]) for item in items] == [
        ("deleted", False),
        ("deleted", True),
        ("notFound", False),
    ]


async def test_a_restoration_that_was_asked_for_before_says_what_was_erased_since(service):
    job_id = await archived(service, {"externalId": "a"}, {"externalId": "b"})
    later = (await service.act(job_id, "restore")).json()["data"]["jobId"]
    with service.engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE jobs SET queued_at = clock_timestamp() + interval '1 h'"
                " WHERE mode = 'restore'"
            )
        )
    await deleted_by(service, "call", externalId="b")
    await service.work()
    assert await service.results(later) == [
        ("a", "restored", None, None),
        ("b", "notFound", None, "erased"),
    ]


async def test_archiving_looks_for_leads_only(service):
    await archived(service, {"externalId": "a"})
    again = await archived(service, {"externalId": "a"})
    assert await service.results(again) == [("a", "notFound", None, "noSuchLead")]
    assert kept(service) == ["a"]


async def test_the_same_person_in_another_campaign_stays_archived(service):
    await archived(service, {"externalId": "a"})
    answer = await service.post({"campaignId": "second", "leads": [{"externalId": "a"}]})
    await service.work()
    assert await service.results(answer.json()["data"]["jobId"]) == [
        ("a", "notFound", None, "noSuchLead")
    ]
    assert kept(service) == ["a"]


async def test_archived_leads_end_with_their_time_though_somebody_deleted_their_job(service):
    job_id = await archived(service, {"externalId": "a"})
    await archived(service, {"externalId": "b"})
    with service.engine.begin() as connection:
        connection.execute(text("DELETE FROM jobs WHERE id = :id"), {"id": job_id})
    one_tick(service.engine)
    assert kept(service) == ["a", "b"], "they are young"
    with service.engine.begin() as connection:
        connection.execute(
            text("UPDATE archived_leads SET archived_at = archived_at - interval '30 days'")
        )
    one_tick(service.engine)
    assert kept(service) == ["b"], "what has a job ends with it"


NAMES_OF_OURS = (
    *(
        "company_id",
        "job_id",
        "lead_id",
        "number",
        "position",
        "person",
        "turn",
        "times",
        "outcome",
        "outcomes",
        "state",
        "lead",
    ),
    *(
        "found",
        "known",
        "named",
        "gone",
        "kept",
        "free",
        "restored",
        "identifier",
        "identifiers",
        "external_ids",
        "drawn",
        "page",
    ),
)


async def test_a_table_of_leads_may_have_columns_that_are_called_as_ours_are(service):
    """None of them is taken for one of another table, or for what a statement calls something of
    its own.
    """
    with service.engine.begin() as connection:
        for name in NAMES_OF_OURS:
            connection.execute(text(f'ALTER TABLE leads ADD COLUMN "{name}" text'))
    before = all_leads(service)
    by_both = [{"externalId": "a"}, {"phoneNumber": "+101"}, {"phoneNumber": "+102"}]
    preview = await service.submit(*by_both, {"externalId": "b"}, dryRun=True)
    await service.work()
    assert (await service.job(preview))["wouldDelete"] == 2
    execution = (await service.act(preview, "execute")).json()["data"]["jobId"]
    await service.work()
    assert (await service.job(execution))["deleted"] == 2
    job_id = await archived(service, {"externalId": "c"})
    await restored(service, job_id)
    assert all_leads(service) == before[2:]
    path = "/api/v1/leads?campaignId=cmp"
    listed = (await service.get(path)).json()["data"]["leads"]
    assert [lead["externalId"] for lead in listed] == ["c"]
    found = await service.get(f"{path}&externalId=c")
    assert found.status_code == 200, found.text
    created = await service.post(
        {"campaignId": "cmp", "leads": [{"externalId": "new"}]}, path="/api/v1/leads/bulk"
    )
    assert created.json()["data"]["created"] == 1, created.text
    deleted = await service.http.delete(
        f"{path}&externalId=new", headers={"x-api-key": service.write}
    )
    assert deleted.status_code == 200, deleted.text
