"""Previews change nothing and say what would be; executing one deletes exactly what it found, and
never another lead.
"""

import time
from datetime import UTC, timedelta

import pytest
from sqlalchemy import text

from api.app import create_app
from tests.api.conftest import Service
from tests.api.files.test_files import accepted
from tests.api.jobs.test_jobs import change
from tests.api.jobs.test_schedules import database_now, let_pass, states, window_in
from tests.support.jobs import add_former_leads, add_leads, one_tick, remaining_leads

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
        service,
        {"externalId": "a"},
        {"phoneNumber": "+102"},
        {"externalId": "nobody"},
        {"phoneNumber": "+101"},
    )
    job = await service.job(job_id)
    assert (job["status"], job["dryRun"], job["wouldDelete"], job["deleted"], job["notFound"]) == (
        "completed",
        True,
        2,
        0,
        2,
    )
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
    entries = [
        {"externalId": "a"},
        {"externalId": "x"},
        {"phoneNumber": "+101"},
        {"phoneNumber": "+102"},
        {"externalId": "b"},
    ]
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
    preview = await previewed(
        service, {"externalId": "a"}, {"phoneNumber": "+102"}, {"externalId": "nobody"}
    )
    job_id = await executed(service, preview)
    job = await service.job(job_id)
    assert (job["status"], job["sourceJobId"], job["dryRun"]) == ("completed", preview, False)
    assert await service.results(job_id) == [
        ("a", "deleted", "externalId", None),
        ("+102", "deleted", "phoneNumber", None),
    ]
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
           INSERT INTO leads (campaign_id, external_id, phone_number)
                VALUES ('cmp', 'a', '+101')""",
    ],
    ids=["number", "id", "campaign", "gone", "another in its place"],
)
async def test_a_lead_that_is_not_as_it_was_found_is_left_alone(service, change):
    preview = await previewed(service, {"externalId": "a"}, {"externalId": "b"})
    with service.engine.begin() as connection:
        connection.execute(text(change))
        before = connection.execute(text("SELECT count(*) FROM leads")).scalar_one()
    job_id = await executed(service, preview)
    assert await service.results(job_id) == [
        ("a", "notFound", None, "changed"),
        ("b", "deleted", "externalId", None),
    ]
    with service.engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM leads")).scalar_one() == before - 1


def after_a_cut(service, size):
    """As if a part had taken too long: the next one has so many entries, and more follow where it
    is quick.
    """
    with service.engine.begin() as connection:
        connection.execute(
            text("UPDATE jobs SET part_size = :size WHERE finished_at IS NULL"), {"size": size}
        )
        connection.execute(
            text("UPDATE chunks SET part_size = :size WHERE state = 'pending'"), {"size": size}
        )


async def executed_on_what_was_found(service, preview, *changed):
    """Executes a preview, the leads with the ids `changed` having got other numbers since: each of
    its entries is found to have taken its own lead, or to have found it changed.
    """
    found = [
        (identifier, by)
        for identifier, outcome, by, _ in await service.results(preview)
        if outcome == "wouldDelete"
    ]
    before = leads_of(service)
    with service.engine.begin() as connection:
        for number, external_id in enumerate(changed):
            connection.execute(
                text("UPDATE leads SET phone_number = :number WHERE external_id = :id"),
                {"number": f"+99{number:04}", "id": external_id},
            )
    job_id = await executed(service, preview)
    job = await service.job(job_id)
    word = "archived" if job["mode"] == "archive" else "deleted"
    assert await service.results(job_id) == [
        (identifier, "notFound", None, "changed")
        if identifier in changed
        else (identifier, word, by, None)
        for identifier, by in found
    ]
    assert (job["status"], job["deleted"], job["total"]) == (
        "completed",
        len(found) - len(changed),
        len(found),
    )
    named = {identifier for identifier, _ in found}
    kept = {lead for lead in before if named.isdisjoint(lead)}
    assert leads_of(service) == kept | {
        (external_id, f"+99{number:04}") for number, external_id in enumerate(changed)
    }


async def test_a_preview_that_was_cut_once_and_then_went_quickly_is_executed_on_all_that_it_found(
    service,
):
    with service.engine.begin() as connection:
        add_leads(connection, [(f"crm-{i}", f"+1555{i:04}") for i in range(1000)])
    entries = [
        {"phoneNumber": f"+1555{i:04}"} if i % 3 == 1 else {"externalId": f"crm-{i}"}
        for i in range(1000)
    ]
    job_id = await service.submit(*entries, dryRun=True)
    after_a_cut(service, 500)
    await service.work()
    assert (await service.job(job_id))["wouldDelete"] == 1000
    await executed_on_what_was_found(service, job_id, "crm-0", "crm-498", "crm-501", "crm-999")


async def test_a_preview_whose_pace_is_taken_away_in_the_middle_is_executed_on_all_that_it_found(
    service,
):
    entries = [
        {"externalId": "nobody"},
        {"externalId": "a"},
        {"phoneNumber": "+102"},
        {"externalId": "c"},
    ]
    job_id = await service.submit(*entries, dryRun=True, maxLeadsPerSecond=1)
    deadline = time.monotonic() + 10
    while (await service.job(job_id))["processed"] < 2:
        assert time.monotonic() < deadline
        await service.work()
    assert (await service.job(job_id))["processed"] < len(entries)
    await change(service, job_id, {"maxLeadsPerSecond": None})
    await service.work()
    assert (await service.job(job_id))["wouldDelete"] == 3
    await executed_on_what_was_found(service, job_id, "a")


@pytest.mark.parametrize("mode", ["delete", "archive"])
async def test_a_preview_in_parts_that_begins_with_broken_rows_is_executed_on_what_it_found(
    service, mode
):
    body = b"externalId,phoneNumber\nn\0,\nn\0,\na,\nnobody,\nn\0,\nb,\nc,\n"
    job_id = await accepted(service, body, onInvalid="skip", dryRun="true", mode=mode)
    after_a_cut(service, 1)
    await service.work()
    job = await service.job(job_id)
    assert (job["wouldDelete"], job["notFound"], job["invalid"]) == (3, 1, 3)
    await executed_on_what_was_found(service, job_id, "b")


async def test_a_preview_in_parts_that_begins_with_a_duplicate_is_executed_on_what_it_found(
    small_chunks,
):
    service = small_chunks
    body = b"externalId,phoneNumber\na,\nnobody,\na,\nb,\nnobody,\nn\0,\nc,\n,+102\n"
    job_id = await accepted(service, body, onInvalid="skip", dryRun="true")
    after_a_cut(service, 1)
    await service.work()
    assert await service.results(job_id) == [
        ("a", "wouldDelete", "externalId", None),
        ("nobody", "notFound", None, "noSuchLead"),
        ("a", "notFound", None, "duplicate"),
        ("b", "wouldDelete", "externalId", None),
        ("nobody", "notFound", None, "duplicate"),
        (None, "invalid", None, "unusableCharacter"),
        ("c", "wouldDelete", "externalId", None),
        ("+102", "notFound", None, "duplicate"),
    ]
    await executed_on_what_was_found(service, job_id, "b")


async def test_who_is_found_in_the_archive_first_and_as_a_lead_later_goes_as_a_lead(small_chunks):
    service = small_chunks
    await service.submit({"externalId": "a"}, mode="archive")
    await service.work()
    with service.engine.begin() as connection:
        add_leads(connection, [("a", "+109")])
    preview = await previewed(
        service, {"phoneNumber": "+101"}, {"externalId": "nobody"}, {"externalId": "a"}
    )
    assert await service.results(preview) == [
        ("+101", "notFound", None, "duplicate"),
        ("nobody", "notFound", None, "noSuchLead"),
        ("a", "wouldDelete", "externalId", None),
    ]
    job = await service.job(await executed(service, preview))
    assert (job["total"], job["deleted"], job["erasedFromArchive"]) == (1, 1, 1)
    assert leads_of(service) == LEADS - {("a", "+101")}


async def test_a_lead_that_took_the_place_of_one_not_found_is_left_alone(service):
    preview = await previewed(service, {"externalId": "a"}, {"externalId": "new"})
    with service.engine.begin() as connection:
        add_leads(connection, [("new", "+177")])
    job = await service.job(await executed(service, preview))
    assert job["total"] == 1
    assert ("new", "+177") in leads_of(service)


async def test_a_refused_lead_does_not_stop_the_execution_and_a_retry_takes_up_what_is_left(
    service,
):
    preview = await previewed(service, {"externalId": "a"}, {"externalId": "b"}, mode="archive")
    with service.engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE calls AS SELECT id FROM leads WHERE external_id = 'a'"
                " AND campaign_id = 'cmp'"
            )
        )
        connection.execute(text("ALTER TABLE calls ADD FOREIGN KEY (id) REFERENCES leads (id)"))
    job_id = await executed(service, preview)
    assert await service.results(job_id) == [
        ("a", "unprocessed", None, "refused"),
        ("b", "archived", "externalId", None),
    ]
    with service.engine.begin() as connection:
        connection.execute(text("DROP TABLE calls"))
    retry = await service.act(job_id, "retry")
    await service.work()
    job = await service.job(retry.json()["data"]["jobId"])
    assert (job["status"], job["mode"], job["sourceJobId"], job["deletedIdentifiers"]) == (
        "completed",
        "archive",
        job_id,
        ["a"],
    )


async def test_what_cannot_be_executed_says_why(service):
    real = await service.submit({"externalId": "a"})
    nothing = await service.submit({"externalId": "nobody"}, dryRun=True)
    running = await service.submit({"externalId": "b"}, dryRun=True)
    assert (await service.act(running, "execute")).json()[
        "error"
    ] == "Cannot execute a job that is queued"
    await service.work()
    assert (await service.act(real, "execute")).json()[
        "error"
    ] == "Cannot execute this job: it is not a preview"
    assert (await service.act(nothing, "execute")).json()[
        "error"
    ] == "Cannot execute this job: it has no leads to execute"
    with service.engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET finished_at = finished_at - interval '24 hours'"))
    late = await service.act(running, "execute")
    assert (late.status_code, late.json()["error"]) == (
        409,
        "Cannot execute this job: the preview is older than 24 hours",
    )


async def test_a_preview_says_where_a_lead_of_another_external_id_would_go_and_executed_it_goes(
    service,
):
    preview = await previewed(
        service, {"externalId": "x", "phoneNumber": "+101"}, {"phoneNumber": "+102"}
    )
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
    entries += [
        {"externalId": "x", "phoneNumber": "+101"},
        {"externalId": "y", "phoneNumber": "+102"},
    ]
    job = await service.job(await previewed(service, *entries))
    assert (job["wouldDelete"], job["notFound"], job["otherExternalId"]) == (2, 2, 1)


async def test_what_a_preview_says_of_phones_is_what_the_job_would_do(service):
    with service.engine.begin() as connection:
        add_leads(connection, [(None, "+15550001")])
    entries = [
        {"externalId": "x", "phoneNumber": "+101"},
        {"phoneNumber": "+15550001"},
        {"phoneNumber": "101"},
    ]
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
        connection.execute(
            text("UPDATE leads SET external_id = external_id, phone_number = phone_number")
        )
    assert ("old", "+15550001") in leads_of(service)
    assert (await service.job(await executed(service, preview)))["deleted"] == 1
    assert len(leads_of(service)) == len(LEADS)


def at_night(service):
    """A `runAt` in some hours."""
    return {"runAt": (database_now(service) + timedelta(hours=5)).isoformat()}


async def test_what_was_looked_at_goes_at_its_time_and_nothing_else(service):
    preview = await previewed(service, {"externalId": "a"}, {"externalId": "nobody"})
    answer = await service.act(preview, "execute", body={"schedule": at_night(service)})
    accepted = answer.json()["data"]
    assert (answer.status_code, accepted["status"], accepted["total"]) == (202, "scheduled", 1)
    assert accepted["runAt"] is not None
    with service.engine.begin() as connection:
        add_leads(connection, [("nobody", "+103")])  # came after the look
    assert one_tick(service.engine) == []
    await service.work()
    assert leads_of(service) == LEADS | {("nobody", "+103")}
    let_pass(service, accepted["jobId"], hours=5)
    assert one_tick(service.engine) == ["jobs"]
    await service.work()
    assert await states(service, accepted["jobId"]) == [
        "scheduled",
        "queued",
        "running",
        "completed",
    ]
    assert leads_of(service) == LEADS - {("a", "+101")} | {("nobody", "+103")}


async def test_an_execution_obeys_its_window_and_goes_by_the_queue_of_such_jobs(service):
    preview = await previewed(service, {"externalId": "a"})
    window = {"window": window_in(service, 2, 4)}
    job_id = (await service.act(preview, "execute", body={"schedule": window})).json()["data"][
        "jobId"
    ]
    job = await service.job(job_id)
    assert (job["status"], job["schedule"], job["sourceJobId"]) == ("scheduled", window, preview)
    let_pass(service, job_id, hours=2, minutes=59)
    assert one_tick(service.engine) == ["off-peak"]
    let_pass(service, job_id, hours=2)  # it shuts before a worker comes
    one_tick(service.engine)
    await service.work()
    assert (await service.job(job_id))["status"] == "scheduled"
    let_pass(service, job_id, hours=2)
    one_tick(service.engine)
    await service.work()
    assert (await service.job(job_id))["status"] == "completed"


async def test_off_peak_is_the_campaigns(service):
    with service.engine.begin() as connection:
        window = window_in(service, -1, 3)
        connection.execute(
            text("UPDATE campaigns SET off_peak = :window"),
            {"window": f"{window['start']}-{window['end']}"},
        )
    preview = await previewed(service, {"externalId": "a"})
    answer = await service.act(preview, "execute", body={"schedule": {"offPeak": True}})
    assert answer.json()["data"]["status"] == "queued", "its window is open"
    await service.work()
    assert (await service.job(answer.json()["data"]["jobId"]))["deleted"] == 1


async def test_the_same_schedule_is_the_same_job_and_another_is_refused(service):
    preview = await previewed(service, {"externalId": "a"})
    night = at_night(service)
    first = await service.act(preview, "execute", body={"schedule": night})
    moment = database_now(service) + timedelta(hours=5)
    otherwise = {"runAt": night["runAt"].replace("+00:00", "Z")}
    assert otherwise != night
    for same in (night, otherwise):
        again = await service.act(preview, "execute", body={"schedule": same})
        assert (again.status_code, again.json()["data"]) == (202, first.json()["data"])
    for other in ({"runAt": moment.astimezone(UTC).isoformat()}, {"offPeak": True}, None):
        refused = await service.act(
            preview, "execute", body={"schedule": other}, **{"idempotency-key": "k"}
        )
        told = "Cannot execute this job: it is executed already, with another schedule"
        assert (refused.status_code, refused.json()["error"]) == (409, told)
    assert (await service.act(preview, "execute")).status_code == 409
    with service.engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 2
        assert connection.execute(text("SELECT count(*) FROM idempotency_keys")).scalar_one() == 0


async def test_what_was_executed_at_once_is_not_executed_later(service):
    preview = await previewed(service, {"externalId": "a"})
    job_id = await executed(service, preview)
    assert (
        await service.act(preview, "execute", body={"schedule": {"offPeak": True}})
    ).status_code == 409
    for at_once in ({}, {"schedule": None}):
        assert (await service.act(preview, "execute", body=at_once)).json()["data"][
            "jobId"
        ] == job_id


async def test_the_24_hours_count_at_the_call_and_not_when_its_time_comes(service):
    preview, late = (
        await previewed(service, {"externalId": "a"}),
        await previewed(service, {"externalId": "b"}),
    )
    with service.engine.begin() as connection:
        age = text(
            "UPDATE jobs SET finished_at = clock_timestamp() - CAST(:hours AS int) * interval '1"
            " h' WHERE id = :id"
        )
        connection.execute(age, [{"hours": 23, "id": preview}, {"hours": 24, "id": late}])
    answer = await service.act(preview, "execute", body={"schedule": at_night(service)})
    assert (
        await service.act(late, "execute", body={"schedule": at_night(service)})
    ).status_code == 409
    with service.engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET finished_at = finished_at - interval '5 h'"))
    let_pass(service, answer.json()["data"]["jobId"], hours=5)
    one_tick(service.engine)
    await service.work()
    assert leads_of(service) == LEADS - {("a", "+101")}


async def test_a_key_stands_for_an_execution_with_its_schedule(service):
    preview = await previewed(service, {"externalId": "a"})
    body, key = {"schedule": at_night(service)}, {"idempotency-key": "k"}
    first = await service.act(preview, "execute", body=body, **key)
    again = await service.act(preview, "execute", body=body, **key)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == first.json()
    assert (
        await service.act(preview, "execute", body={"schedule": {"offPeak": True}}, **key)
    ).status_code == 422


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b'{"schedule": {"offPeak": true}, "mode": "archive"}', 400, "Unknown field: mode"),
        (b'{"schedule": {"run_at": "x"}}', 400, "Unknown field: schedule.run_at"),
        (
            b'{"schedule": {"offPeak": true, "runAt": "2999-01-01T00:00:00Z"}}',
            400,
            "schedule must have exactly one of",
        ),
        (b'{"schedule": {}, "schedule": {}}', 400, "Request body is not valid JSON"),
        (b"[]", 400, "Request body must be an object"),
        (b"{", 400, "Request body is not valid JSON"),
        (b'{"schedule": "' + b"x" * 1024 * 1024 + b'"}', 413, "Request body is too large"),
    ],
)
async def test_a_schedule_that_is_none_executes_nothing(service, body, status, error):
    preview = await previewed(service, {"externalId": "a"})
    refused = await service.post(body, path=f"/api/v1/jobs/{preview}/execute")
    assert (refused.status_code, refused.json()["error"][: len(error)]) == (status, error)
    await service.work()
    assert leads_of(service) == LEADS


async def test_a_schedule_says_that_it_is_json_and_nothing_need_not(service):
    preview = await previewed(service, {"externalId": "a"})
    path, plain = f"/api/v1/jobs/{preview}/execute", {"content-type": "text/plain"}
    assert (
        await service.post(b'{"schedule": {"offPeak": true}}', path=path, headers=plain)
    ).status_code == 415
    assert (await service.post(b" ", path=path, headers=plain)).status_code == 202
    assert (await service.post(b"{}", path=path, headers=plain)).status_code == 202


async def test_only_an_execution_takes_a_schedule(service):
    job_id = await service.submit({"externalId": "a"})
    for action in ("retry", "restore", "cancel"):
        refused = await service.act(job_id, action, body={"schedule": {"offPeak": True}})
        assert (refused.status_code, refused.json()["error"]) == (400, "Request body must be empty")
