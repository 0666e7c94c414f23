"""Previews change nothing and say what would be; executing one deletes exactly what it found, and never another lead."""

import pytest
from sqlalchemy import text

from api.app import create_app
from tests.api.conftest import Service
from tests.jobs import add_former_leads, add_leads, remaining_leads

LEADS = {("a", "+101"), ("b", "+102"), ("c", None)}


@pytest.fixture
async def small_chunks(settings, engine):
    """The API with two entries a chunk."""
    app = create_app(settings.model_copy(update={"chunk_size": 2}))
    async with app.router.lifespan_context(app):
        service = Service(app, engine)
        yield service
        await service.http.aclose()


def leads_of(service):
    with service.engine.begin() as connection:
        return remaining_leads(connection)


async def previewed(service, *entries, **options):
    job_id = await service.submit(*entries, dryRun=True, **options)
    await service.work()
    return job_id


async def executed(service, preview):
    answer = await service.act(preview, "execute")
    assert answer.status_code == 202, answer.text
    await service.work()
    return answer.json()["data"]["jobId"]


async def test_a_preview_says_what_would_be_deleted_and_changes_no_lead(service):
    job_id = await previewed(
        service, {"externalId": "a"}, {"phoneNumber": "+102"}, {"externalId": "nobody"}, {"phoneNumber": "+101"}
    )
    job = await service.job(job_id)
    assert (job["status"], job["dryRun"], job["wouldDelete"], job["deleted"], job["notFound"]) == ("completed", True, 2, 0, 2)
    assert job["wouldDeleteIdentifiers"] == ["a", "+102"]
    assert job["deletedIdentifiers"] == []
    assert await service.results(job_id) == [
        ("a", "wouldDelete", "externalId", None),
        ("+102", "wouldDelete", "phoneNumber", None),
        ("nobody", "notFound", None, "noSuchLead"),
        ("+101", "notFound", None, "duplicate"),
    ]
    assert leads_of(service) == LEADS


async def test_a_lead_found_by_two_chunks_is_settled_before_the_preview_ends(small_chunks):
    service = small_chunks
    entries = [{"externalId": "a"}, {"externalId": "x"}, {"phoneNumber": "+101"}, {"phoneNumber": "+102"}, {"externalId": "b"}]
    job_id = await previewed(service, *entries)
    job = await service.job(job_id)
    assert (job["wouldDelete"], job["notFound"], job["total"]) == (2, 3, 5)
    assert [outcome[1::2] for outcome in await service.results(job_id)] == [
        ("wouldDelete", None),
        ("notFound", "noSuchLead"),
        ("notFound", "duplicate"),
        ("wouldDelete", None),
        ("notFound", "duplicate"),
    ]
    job = await service.job(await executed(service, job_id))
    assert (job["total"], job["deleted"], job["deletedIdentifiers"]) == (2, 2, ["a", "+102"])


async def test_executing_a_preview_deletes_the_leads_that_it_found(service):
    preview = await previewed(service, {"externalId": "a"}, {"phoneNumber": "+102"}, {"externalId": "nobody"})
    job_id = await executed(service, preview)
    job = await service.job(job_id)
    assert (job["status"], job["sourceJobId"], job["dryRun"]) == ("completed", preview, False)
    assert await service.results(job_id) == [("a", "deleted", "externalId", None), ("+102", "deleted", "phoneNumber", None)]
    assert leads_of(service) == {("c", None)}
    again = await service.act(preview, "execute")
    assert again.json()["data"]["jobId"] == job_id, "asked again, it is the same job"


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE leads SET phone_number = '+109' WHERE external_id = 'a'",
        "UPDATE leads SET external_id = NULL WHERE external_id = 'a'",
        "UPDATE leads SET campaign_id = 'second' WHERE external_id = 'a'",
        "DELETE FROM leads WHERE external_id = 'a'",
        """DELETE FROM leads WHERE external_id = 'a';
           INSERT INTO leads (campaign_id, external_id, phone_number) VALUES ('cmp', 'a', '+101')""",
    ],
    ids=["number", "id", "campaign", "gone", "another in its place"],
)
async def test_a_lead_that_is_not_as_it_was_found_is_left_alone(service, change):
    preview = await previewed(service, {"externalId": "a"}, {"externalId": "b"})
    with service.engine.begin() as connection:
        connection.execute(text(change))
        before = connection.execute(text("SELECT count(*) FROM leads")).scalar_one()
    job_id = await executed(service, preview)
    assert await service.results(job_id) == [("a", "notFound", None, "changed"), ("b", "deleted", "externalId", None)]
    with service.engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM leads")).scalar_one() == before - 1


async def test_a_lead_that_took_the_place_of_one_not_found_is_left_alone(service):
    preview = await previewed(service, {"externalId": "a"}, {"externalId": "new"})
    with service.engine.begin() as connection:
        add_leads(connection, [("new", "+177")])
    job = await service.job(await executed(service, preview))
    assert job["total"] == 1
    assert ("new", "+177") in leads_of(service)


async def test_a_refused_lead_does_not_stop_the_execution_and_a_retry_takes_up_what_is_left(service):
    preview = await previewed(service, {"externalId": "a"}, {"externalId": "b"}, mode="archive")
    with service.engine.begin() as connection:
        connection.execute(text("CREATE TABLE calls AS SELECT id FROM leads WHERE external_id = 'a' AND campaign_id = 'cmp'"))
        connection.execute(text("ALTER TABLE calls ADD FOREIGN KEY (id) REFERENCES leads (id)"))
    job_id = await executed(service, preview)
    assert await service.results(job_id) == [("a", "unprocessed", None, "refused"), ("b", "archived", "externalId", None)]
    with service.engine.begin() as connection:
        connection.execute(text("DROP TABLE calls"))
    retry = await service.act(job_id, "retry")
    await service.work()
    job = await service.job(retry.json()["data"]["jobId"])
    assert (job["status"], job["mode"], job["sourceJobId"], job["deletedIdentifiers"]) == ("completed", "archive", job_id, ["a"])


async def test_what_cannot_be_executed_says_why(service):
    real = await service.submit({"externalId": "a"})
    nothing = await service.submit({"externalId": "nobody"}, dryRun=True)
    running = await service.submit({"externalId": "b"}, dryRun=True)
    assert (await service.act(running, "execute")).json()["error"] == "Cannot execute a job that is queued"
    await service.work()
    assert (await service.act(real, "execute")).json()["error"] == "Cannot execute this job: it is not a preview"
    assert (await service.act(nothing, "execute")).json()["error"] == "Cannot execute this job: it has no leads to execute"
    with service.engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET finished_at = finished_at - interval '24 hours'"))
    late = await service.act(running, "execute")
    assert (late.status_code, late.json()["error"]) == (409, "Cannot execute this job: the preview is older than 24 hours")


async def test_a_preview_says_where_a_lead_with_another_external_id_would_go_and_the_execution_deletes_it(service):
    preview = await previewed(service, {"externalId": "x", "phoneNumber": "+101"}, {"phoneNumber": "+102"})
    assert await service.results(preview) == [
        ("x", "wouldDelete", "phoneNumber", "otherExternalId"),
        ("+102", "wouldDelete", "phoneNumber", None),
    ]
    assert (await service.job(preview))["otherExternalId"] == 1
    job = await service.job(await executed(service, preview))
    assert (job["deleted"], job["otherExternalId"], leads_of(service)) == (2, 0, {("c", None)})


async def test_what_is_settled_counts_no_more_as_another_external_id(small_chunks):
    service = small_chunks
    entries = [{"externalId": "a"}, {"externalId": "nobody"}]
    entries += [{"externalId": "x", "phoneNumber": "+101"}, {"externalId": "y", "phoneNumber": "+102"}]
    job = await service.job(await previewed(service, *entries))
    assert (job["wouldDelete"], job["notFound"], job["otherExternalId"]) == (2, 2, 1)


async def test_what_a_preview_says_of_phones_is_what_the_job_would_do(service):
    with service.engine.begin() as connection:
        add_leads(connection, [(None, "+15550001")])
    entries = [{"externalId": "x", "phoneNumber": "+101"}, {"phoneNumber": "+15550001"}, {"phoneNumber": "101"}]
    preview = await previewed(service, *entries, phoneFallback="onlyIfUnidentified")
    assert await service.results(preview) == [
        ("x", "notFound", None, "otherExternalId"),
        ("+15550001", "wouldDelete", "phoneNumber", None),
        ("101", "notFound", None, "lacksPlus"),
    ]
    job = await service.job(await executed(service, preview))
    assert (job["deleted"], job["phoneFallback"]) == (1, "onlyIfUnidentified")


async def test_a_lead_that_was_brought_into_todays_form_since_is_the_one_that_was_found(service):
    with service.engine.begin() as connection:
        add_former_leads(connection, [("\u200bold", "+1\u20095550001")])
    preview = await previewed(service, {"externalId": "\u200bold"})
    with service.engine.begin() as connection:
        connection.execute(text("UPDATE leads SET external_id = external_id, phone_number = phone_number"))
    assert ("old", "+15550001") in leads_of(service)
    assert (await service.job(await executed(service, preview)))["deleted"] == 1
    assert len(leads_of(service)) == len(LEADS)
