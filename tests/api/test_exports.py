"""Results to take away: all of them, in constant memory, and never cut short without a sign."""

import csv
import io
import json

import httpx2
import psutil
import pytest
from sqlalchemy import text

from tests.jobs import add_campaign, one_tick, queue_job, work_off
from tests.stack import environment, free_port, listens, make_key, running, wait_for

CSV, NDJSON = {"accept": "text/csv"}, {"accept": "application/x-ndjson"}
ENTRIES = [{"externalId": "a"}, {"externalId": "nobody", "phoneNumber": "+2"}, {"phoneNumber": "+1 (5)"}, {"externalId": "a"}]
MANY = 200_000


async def fetched(service, job_id, headers, query=""):
    return await service.http.get(f"/api/v1/jobs/{job_id}/results{query}", headers={"x-api-key": service.read} | headers)


async def pages(service, job_id, query=""):
    return (await fetched(service, job_id, {}, query)).json()["data"]["items"]


@pytest.mark.parametrize("done", [False, True], ids=["while it waits", "once it is done"])
async def test_both_formats_say_what_the_pages_say(service, done):
    job_id = await service.submit(*ENTRIES)
    if done:
        await service.work()
    items = await pages(service, job_id)
    assert {item["outcome"] for item in items} == ({"deleted", "notFound"} if done else {"pending", "notFound"})
    lines = await fetched(service, job_id, NDJSON)
    assert lines.headers["content-type"] == "application/x-ndjson"
    assert lines.headers["content-disposition"] == f'attachment; filename="results-{job_id}.ndjson"'
    assert [json.loads(line) for line in lines.text.splitlines()] == items
    table = await fetched(service, job_id, CSV, "?raw=1")
    assert table.headers["content-type"].startswith("text/csv; charset=utf-8")
    rows = list(csv.DictReader(io.StringIO(table.text, newline="")))
    assert rows == [{name: "" if cell is None else str(cell) for name, cell in item.items()} for item in items]


async def test_streams_take_the_filter_of_the_pages(service):
    job_id = await service.submit(*ENTRIES)
    await service.work()
    items = await pages(service, job_id, "?outcome=notFound")
    lines = await fetched(service, job_id, NDJSON, "?outcome=notFound")
    assert [json.loads(line) for line in lines.text.splitlines()] == items
    assert len(items) == 2
    nothing = await fetched(service, job_id, CSV, "?outcome=restored")
    assert nothing.text == "index,externalId,phoneNumber,identifier,outcome,matchedBy,reason\r\n"


@pytest.mark.parametrize(
    ("accept", "query"),
    [
        ("text/csv", "?cursor=1"),
        ("text/csv", "?limit=1"),
        ("text/csv", "?raw=2"),
        ("text/csv", "?raw=1&raw=1"),
        ("application/x-ndjson", "?raw=1"),
        ("application/x-ndjson", "?outcome=lost"),
        ("application/json", "?raw=1"),
    ],
)
async def test_what_a_format_does_not_know_is_refused(service, accept, query):
    job_id = await service.submit(*ENTRIES)
    answer = await fetched(service, job_id, {"accept": accept}, query)
    assert (answer.status_code, answer.json()["success"]) == (400, False)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("text/csv;q=0.5, application/json", "application/json"),
        ("text/html, application/x-ndjson;q=0.9, application/json;q=0.1", "application/x-ndjson"),
        ("TEXT/CSV; header=present", "text/csv"),
        ("text/csv;q=0", "application/json"),
        ("text/csv;q=much", "application/json"),
        ("image/png", "application/json"),
        (",;,", "application/json"),
    ],
)
async def test_accept_chooses_the_format(service, accept, kind):
    job_id = await service.submit(*ENTRIES)
    assert (await fetched(service, job_id, {"accept": accept})).headers["content-type"].split(";")[0] == kind


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
async def test_a_cell_that_a_spreadsheet_would_run_begins_with_a_quote_unless_raw(service, first):
    written = f'{first}HYPERLINK("http://x";"y")'
    job_id = await service.submit({"externalId": written})
    (guarded,) = csv.DictReader(io.StringIO((await fetched(service, job_id, CSV)).text, newline=""))
    assert guarded["externalId"] == guarded["identifier"] == f"'{written}"
    (raw,) = csv.DictReader(io.StringIO((await fetched(service, job_id, CSV, "?raw=1")).text, newline=""))
    assert raw["externalId"] == written


async def test_whatever_an_identifier_holds_comes_back_as_it_was(service):
    odd = ['a"b', "a,b", "a;b", "a\nb", "a\r\nb", "é\u2028\U0001f600", "'quoted", "\tx", "a\tb", "\\n", "NULL"]
    job_id = await service.submit(*({"externalId": identifier} for identifier in odd))
    rows = csv.DictReader(io.StringIO((await fetched(service, job_id, CSV, "?raw=1")).text, newline=""))
    assert [row["externalId"] for row in rows] == odd
    # JSON's own lines end with LF and nothing else
    lines = (await fetched(service, job_id, NDJSON)).text.removesuffix("\n").split("\n")
    assert [json.loads(line)["externalId"] for line in lines] == odd


async def test_another_companys_results_are_not_found(service):
    job_id = await service.submit(*ENTRIES)
    for headers in (CSV, NDJSON, {}):
        answer = await service.http.get(f"/api/v1/jobs/{job_id}/results", headers={"x-api-key": service.foreign} | headers)
        assert (answer.status_code, answer.json()["error"]) == (404, "Job not found")


@pytest.fixture
def big(settings, engine):
    """An API process, a job of 200,000 entries, and a client: (client, job id, process)."""
    with engine.begin() as connection:
        add_campaign(connection)
        key = make_key(connection, "co")
        job_id = queue_job(connection, [(f"crm-{i:06}", f"+1{i:010}") for i in range(1000)], total=MANY)
        connection.execute(
            text("""
                INSERT INTO chunks (job_id, number, first_index, external_ids, phone_numbers, outcomes)
                SELECT job_id, n, n * 1000, external_ids, phone_numbers, outcomes FROM chunks, generate_series(1, 199) AS n
            """)
        )
    port = free_port()
    with running("api", "--port", port, env=environment(settings)) as process:
        wait_for(lambda: listens(port))
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers={"x-api-key": key}, timeout=60) as client:
            yield client, job_id, process


@pytest.mark.parametrize("accept", [CSV, NDJSON], ids=["csv", "ndjson"])
def test_memory_stays_the_same_however_many_there_are(big, accept):
    client, job_id, process = big
    path = f"/api/v1/jobs/{job_id}/results"
    client.get(path)  # what the first call loads stays
    before = psutil.Process(process.pid).memory_info().rss
    lines = most = 0
    with client.stream("GET", path, headers=accept) as answer:
        for part in answer.iter_bytes():
            lines += part.count(b"\n")
            most = max(most, psutil.Process(process.pid).memory_info().rss)
    assert lines == MANY + (accept is CSV)
    assert most - before < 40 * 2**20


@pytest.mark.parametrize("accept", [CSV, NDJSON], ids=["csv", "ndjson"])
def test_a_stream_that_meets_a_purge_breaks_off(big, engine, accept):
    client, job_id, _ = big
    work_off(engine)
    with client.stream("GET", f"/api/v1/jobs/{job_id}/results", headers=accept) as answer:
        parts = answer.iter_bytes()
        assert next(parts)
        with engine.begin() as connection:
            connection.execute(text("UPDATE jobs SET finished_at = finished_at - interval '30 days'"))
        one_tick(engine)
        with pytest.raises(httpx2.RemoteProtocolError):
            for _ in parts:
                pass
