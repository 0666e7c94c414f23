"""What keeps a job, and what refused a lead, as callers see it: in words, by name, and without an identifier."""

import csv
import io
import json

from sqlalchemy import text

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
        assert [(item["outcome"], item["reason"]) for item in items] == [("pending", "locked")] * 2 + [("deleted", None)]
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
            text("DROP TRIGGER sick ON leads; UPDATE jobs SET waiting_until = now(); UPDATE chunks SET retry_at = now()")
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
