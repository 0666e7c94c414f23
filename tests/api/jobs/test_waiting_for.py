"""What keeps a job, and what refused a lead, as callers see it: in words, by name, and without an
identifier.
"""

import asyncio
import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import text

from tests.support.jobs import job_row, one_tick, work_off
from tests.support.stack import until

REFUSING = """
    CREATE TABLE calls (lead_id bigint CONSTRAINT keeps_its_lead REFERENCES leads);
    CREATE INDEX ON calls (lead_id);
    INSERT INTO calls SELECT id FROM leads WHERE external_id = 'b'
"""
SICK = """
    CREATE FUNCTION sick() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'no room for %', OLD.external_id USING ERRCODE = '53100';
    END $$;
    CREATE TRIGGER sick BEFORE DELETE ON leads FOR EACH ROW EXECUTE FUNCTION sick()
"""


async def submitted(service, *external_ids):
    return await service.submit(*({"externalId": external_id} for external_id in external_ids))


async def acted(service, job_id, action):
    """Asks for it, and has the ticker carry it out."""
    await service.act(job_id, action)
    await asyncio.to_thread(one_tick, service.engine)


async def results(service, job_id, accept):
    headers = {"x-api-key": service.write, "Accept": accept}
    return (await service.http.get(f"/api/v1/jobs/{job_id}/results", headers=headers)).text


async def test_a_job_says_how_many_of_its_leads_are_locked_until_they_are_not(service):
    job_id = await submitted(service, "a", "b", "c")
    assert (await service.job(job_id))["waitingFor"] is None
    with service.engine.connect() as holder:
        holder.execute(text("SELECT FROM leads WHERE external_id IN ('a', 'b') FOR KEY SHARE"))
        await service.work()
        job = await service.job(job_id)
        waiting = job["waitingFor"]
        assert waiting.pop("since").endswith("Z")
        assert waiting == {
            "reason": "locked",
            "leads": 2,
            "sqlstate": None,
            "detail": "2 leads are locked by somebody else in the database, and tried again",
        }
        assert (job["status"], job["processed"], job["deletedIdentifiers"]) == ("running", 1, ["c"])
        [listed] = (await service.get("/api/v1/jobs")).json()["data"]["items"]
        assert listed["waitingFor"]["leads"] == 2
        items = json.loads(await results(service, job_id, "application/json"))["data"]["items"]
        assert [(item["outcome"], item["reason"]) for item in items] == [
            ("pending", "locked")
        ] * 2 + [("deleted", None)]
    with service.engine.begin() as connection:
        connection.execute(text("UPDATE chunks SET retry_at = '-infinity'"))
    await service.work()
    job = await service.job(job_id)
    assert (job["status"], job["deleted"], job["waitingFor"]) == ("completed", 3, None)


async def test_a_job_says_what_the_database_answers_in_words_and_by_its_code(service):
    with service.engine.begin() as connection:
        connection.execute(text(SICK))
    job_id = await submitted(service, "a", "b")
    await service.work()
    waiting = (await service.job(job_id))["waitingFor"]
    assert waiting.pop("since").endswith("Z")
    assert waiting == {
        "reason": "database",
        "leads": None,
        "sqlstate": "53100",
        "detail": "the database answers: disk full (SQLSTATE 53100)",
    }
    with service.engine.begin() as connection:
        connection.execute(
            text(
                "DROP TRIGGER sick ON leads; UPDATE jobs SET waiting_until = now(); UPDATE chunks"
                " SET retry_at = now()"
            )
        )
    await service.work()
    job = await service.job(job_id)
    assert (job["status"], job["waitingFor"]) == ("completed", None)


async def test_a_refusal_names_what_refused_in_every_form_of_the_results(service):
    with service.engine.begin() as connection:
        connection.execute(text(REFUSING))
    job_id = await submitted(service, "a", "b", "c")
    await service.work()
    details = [None, "constraint keeps_its_lead of calls", None]
    items = json.loads(await results(service, job_id, "application/json"))["data"]["items"]
    assert [item["detail"] for item in items] == details
    lines = (await results(service, job_id, "application/x-ndjson")).splitlines()
    assert [json.loads(line)["detail"] for line in lines] == details
    rows = list(csv.DictReader(io.StringIO(await results(service, job_id, "text/csv"))))
    assert [row["detail"] or None for row in rows] == details
    refused = await service.get(f"/api/v1/jobs/{job_id}/results?outcome=unprocessed")
    assert [item["detail"] for item in refused.json()["data"]["items"]] == [details[1]]


async def test_one_locked_lead_is_one_and_the_job_ends_by_itself_once_it_is_let_go(service):
    job_id = await submitted(service, "a", "b", "nobody")
    with service.engine.connect() as holder:
        holder.execute(text("SELECT FROM leads WHERE external_id = 'a' FOR UPDATE"))
        await service.work()
        job = await service.job(job_id)
        assert (
            job["waitingFor"]["detail"]
            == "1 lead is locked by somebody else in the database, and tried again"
        )
        assert job["startedAt"] <= job["waitingFor"]["since"]
        assert (job["processed"], job["deletedIdentifiers"], job["notFoundIdentifiers"]) == (
            2,
            ["b"],
            ["nobody"],
        )
        pending = (await service.get(f"/api/v1/jobs/{job_id}/results?outcome=pending")).json()[
            "data"
        ]["items"]
        assert [(item["identifier"], item["reason"], item["detail"]) for item in pending] == [
            ("a", "locked", None)
        ]

    def is_final():
        work_off(service.engine)
        with service.engine.begin() as connection:
            return job_row(connection, job_id).finished_at

    await until(is_final)
    job = await service.job(job_id)
    assert (job["status"], job["deletedIdentifiers"], job["waitingFor"]) == (
        "completed",
        ["a", "b"],
        None,
    )


async def test_locked_leads_of_all_chunks_are_counted_since_the_first_while_it_is_the_jobs_turn(
    service,
):
    service.app.state.services.settings.chunk_size = 1
    job_id = await submitted(service, "a", "b", "c")
    with service.engine.connect() as holder:
        holder.execute(text("SELECT FROM leads WHERE external_id IN ('a', 'c') FOR UPDATE"))
        await service.work()
        with service.engine.begin() as connection:
            connection.execute(
                text("UPDATE chunks SET locked_since = '2026-01-01T02:00Z' WHERE number = 2")
            )
        waiting = (await service.job(job_id))["waitingFor"]
        assert (waiting["leads"], waiting["since"]) == (2, "2026-01-01T02:00:00.000Z")
        await acted(service, job_id, "pause")
        job = await service.job(job_id)
        assert (job["status"], job["waitingFor"]) == ("paused", None), "nothing is tried again"
        await acted(service, job_id, "resume")
        assert (await service.job(job_id))["waitingFor"] == waiting | {"since": None}, (
            "not since it was resumed"
        )
        await service.work()
        assert (await service.job(job_id))["waitingFor"]["since"] > "2026-01-02"
        await acted(service, job_id, "cancel")
        job = await service.job(job_id)
        assert (job["status"], job["waitingFor"], job["unprocessed"]) == ("cancelled", None, 2)


async def test_the_manual_finds_who_holds_a_lead(service):
    manual = (Path(__file__).parents[3] / "docs/operations.md").read_text()
    query = text(manual[manual.index("    SELECT pid, usename") :].partition(";")[0])
    with service.engine.connect() as holder, service.engine.connect() as operator:
        holder.execute(text("SET LOCAL application_name = 'dialler'"))
        assert operator.execute(query).all() == []
        holder.execute(text("SELECT 'of a call' FROM leads WHERE external_id = 'a' FOR KEY SHARE"))
        [found] = operator.execute(query).all()
        assert (found.application_name, found.state) == ("dialler", "idle in transaction")
        assert "of a call" in found.query
        assert found.held_for.total_seconds() > 0


async def test_a_job_that_a_locked_table_keeps_says_which(service):
    job_id = await submitted(service, "a")
    with service.engine.connect() as holder:
        holder.execute(text("LOCK leads IN ACCESS EXCLUSIVE MODE"))
        await service.work()
        waiting = (await service.job(job_id))["waitingFor"]
        assert waiting.pop("since").endswith("Z")
        assert waiting == {
            "reason": "locked",
            "leads": None,
            "sqlstate": "55P03",
            "detail": "the table leads is locked",
        }


async def test_details_stay_with_their_entries_over_chunks_and_pages_and_a_retry_begins_without(
    service,
):
    """And a name that needs quotes in CSV is whole there."""
    with service.engine.begin() as connection:
        connection.execute(text(REFUSING.replace("keeps_its_lead", '"keeps, its lead"')))
    service.app.state.services.settings.chunk_size = 2
    job_id = await submitted(service, "a", "nobody", "c", "b")
    await service.work()
    detail = "constraint keeps, its lead of calls"
    items = (await service.get(f"/api/v1/jobs/{job_id}/results?cursor=3")).json()["data"]["items"]
    assert [(item["identifier"], item["reason"], item["detail"]) for item in items] == [
        ("b", "refused", detail)
    ]
    rows = list(csv.DictReader(io.StringIO(await results(service, job_id, "text/csv"), newline="")))
    assert [row["detail"] for row in rows] == ["", "", "", detail]
    again = (await service.act(job_id, "retry")).json()["data"]["jobId"]
    (item,) = (await service.get(f"/api/v1/jobs/{again}/results")).json()["data"]["items"]
    assert (item["identifier"], item["outcome"], item["detail"]) == ("b", "pending", None)


async def test_a_job_outside_of_its_window_waits_for_that_alone_and_says_since_when_again_within_it(
    service,
):
    with service.engine.begin() as connection:
        connection.execute(text(SICK))
    job_id = await submitted(service, "a", "b")
    await service.work()
    waiting = (await service.job(job_id))["waitingFor"]
    shut = "run_window = :window, run_at = clock_timestamp(), closes_at = clock_timestamp()"
    later = datetime.now(UTC) + timedelta(hours=2)
    window = f"{later:%H:%M}-{later + timedelta(hours=1):%H:%M} mon-sun UTC"
    with service.engine.begin() as connection:
        connection.execute(text(f"UPDATE jobs SET {shut}"), {"window": window})
    await asyncio.to_thread(one_tick, service.engine)
    job = await service.job(job_id)
    assert (job["status"], job["waitingFor"]) == ("scheduled", None)
    [listed] = (await service.get("/api/v1/jobs")).json()["data"]["items"]
    assert listed["waitingFor"] is None
    with service.engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET run_at = clock_timestamp()"))
    await asyncio.to_thread(one_tick, service.engine)
    job = await service.job(job_id)
    assert (job["status"], job["waitingFor"]) == ("queued", waiting)
