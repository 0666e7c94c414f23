"""Results to take away: all of them, in constant memory, and never cut short without a sign."""

import csv
import io
import json
import time
from contextlib import contextmanager

import httpx2
import psutil
import pytest
from sqlalchemy import text

from shared.database.engines import create_sync_engine
from tests.support.jobs import add_campaign, one_tick, queue_big_job, queue_job, work_off
from tests.support.stack import environment, free_port, listens, make_key, running, wait_for

CSV, NDJSON = {"accept": "text/csv"}, {"accept": "application/x-ndjson"}
ENTRIES = [
    {"externalId": "a"},
    {"externalId": "nobody", "phoneNumber": "+102"},
    {"phoneNumber": "+1 (505)"},
    {"externalId": "a"},
]
MANY = 200_000


async def fetched(service, job_id, headers, query=""):
    return await service.http.get(
        f"/api/v1/jobs/{job_id}/results{query}", headers={"x-api-key": service.read} | headers
    )


async def pages(service, job_id, query=""):
    return (await fetched(service, job_id, {}, query)).json()["data"]["items"]


@pytest.mark.parametrize("done", [False, True], ids=["while it waits", "once it is done"])
async def test_both_formats_say_what_the_pages_say(service, done):
    job_id = await service.submit(*ENTRIES)
    if done:
        await service.work()
    items = await pages(service, job_id)
    assert {item["outcome"] for item in items} == (
        {"deleted", "notFound"} if done else {"pending", "notFound"}
    )
    lines = await fetched(service, job_id, NDJSON)
    assert lines.headers["content-type"] == "application/x-ndjson"
    assert lines.headers["content-disposition"] == f'attachment; filename="results-{job_id}.ndjson"'
    assert [json.loads(line) for line in lines.text.splitlines()] == items
    table = await fetched(service, job_id, CSV, "?raw=1")
    assert table.headers["content-type"].startswith("text/csv; charset=utf-8")
    rows = list(csv.DictReader(io.StringIO(table.text, newline="")))
    assert rows == [{name: _cell(cell) for name, cell in item.items()} for item in items]


def _cell(value):
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


async def test_streams_take_the_filter_of_the_pages(service):
    job_id = await service.submit(*ENTRIES)
    await service.work()
    items = await pages(service, job_id, "?outcome=notFound")
    lines = await fetched(service, job_id, NDJSON, "?outcome=notFound")
    assert [json.loads(line) for line in lines.text.splitlines()] == items
    assert len(items) == 2
    nothing = await fetched(service, job_id, CSV, "?outcome=restored")
    assert (
        nothing.text == "index,externalId,phoneNumber,identifier,outcome,"
        "matchedBy,reason,erasedFromArchive,detail\r\n"
    )


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
    assert (await fetched(service, job_id, {"accept": accept})).headers["content-type"].split(";")[
        0
    ] == kind


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
async def test_a_cell_that_a_spreadsheet_would_run_begins_with_a_quote_unless_raw(service, first):
    written = f'{first}HYPERLINK("http://x";"y")'
    job_id = await service.submit({"externalId": written})
    (guarded,) = csv.DictReader(io.StringIO((await fetched(service, job_id, CSV)).text, newline=""))
    assert guarded["externalId"] == guarded["identifier"] == f"'{written}"
    (raw,) = csv.DictReader(
        io.StringIO((await fetched(service, job_id, CSV, "?raw=1")).text, newline="")
    )
    assert raw["externalId"] == written


async def test_whatever_an_identifier_holds_comes_back_as_it_was(service):
    odd = [
        'a"b',
        "a,b",
        "a;b",
        "a\nb",
        "a\r\nb",
        "é\u2028\U0001f600",
        "'quoted",
        "\tx",
        "a\tb",
        "\\n",
        "NULL",
    ]
    job_id = await service.submit(*({"externalId": identifier} for identifier in odd))
    rows = csv.DictReader(
        io.StringIO((await fetched(service, job_id, CSV, "?raw=1")).text, newline="")
    )
    assert [row["externalId"] for row in rows] == odd
    # JSON's own lines end with LF and nothing else
    lines = (await fetched(service, job_id, NDJSON)).text.removesuffix("\n").split("\n")
    assert [json.loads(line)["externalId"] for line in lines] == odd


@pytest.mark.parametrize(
    ("written", "guarded", "raw"),
    [
        ("'-17", "''-17", "''-17"),
        ("''@x", "'''@x", "'''@x"),
        ('="00123"', '\'="00123"', '\'="00123"'),
        ("+15551234", "'+15551234", "+15551234"),
    ],
)
async def test_what_reads_like_a_guard_is_guarded_once_more_so_that_it_comes_back_the_same(
    service, written, guarded, raw
):
    job_id = await service.submit({"externalId": written})
    for query, expected in [("", guarded), ("?raw=1", raw)]:
        (row,) = csv.DictReader(
            io.StringIO((await fetched(service, job_id, CSV, query)).text, newline="")
        )
        assert row["externalId"] == row["identifier"] == expected


async def test_another_companys_results_are_not_found(service):
    job_id = await service.submit(*ENTRIES)
    for headers in (CSV, NDJSON, {}):
        answer = await service.http.get(
            f"/api/v1/jobs/{job_id}/results", headers={"x-api-key": service.foreign} | headers
        )
        assert (answer.status_code, answer.json()["error"]) == (404, "Job not found")


@pytest.fixture
def big(settings):
    """An API process, a job of 200,000 entries, and a client: (client, job id, process)."""
    with with_a_big_job(settings) as big:
        yield big


@pytest.fixture(scope="module")
def big_to_read(settings_of_module):
    """The same, for tests that change nothing."""
    with with_a_big_job(settings_of_module) as big:
        yield big


@contextmanager
def with_a_big_job(settings):
    engine = create_sync_engine(settings, "tests")
    with engine.begin() as connection:
        add_campaign(connection)
        key = make_key(connection, "co")
        job_id = queue_big_job(connection, MANY // 1000)
    engine.dispose()
    port = free_port()
    with running("api", "--port", port, env=environment(settings)) as process:
        wait_for(lambda: listens(port))
        with httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"x-api-key": key}, timeout=60
        ) as client:
            yield client, job_id, process


@pytest.mark.parametrize("accept", [CSV, NDJSON], ids=["csv", "ndjson"])
def test_memory_stays_the_same_however_many_there_are(big_to_read, accept):
    client, job_id, process = big_to_read
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
            connection.execute(
                text("UPDATE jobs SET finished_at = finished_at - interval '30 days'")
            )
        one_tick(engine)
        with pytest.raises(httpx2.RemoteProtocolError):
            for _ in parts:
                pass


@pytest.mark.parametrize("change", ["revoked_at = clock_timestamp()", "campaign_id = 'another'"])
def test_a_stream_to_a_key_that_may_not_read_it_any_more_breaks_off(big, engine, change):
    client, job_id, _ = big
    path = f"/api/v1/jobs/{job_id}/results"
    with client.stream("GET", path, headers=CSV) as answer:
        parts = answer.iter_bytes()
        assert next(parts)
        with engine.begin() as connection:
            add_campaign(connection, "another")
            connection.execute(text(f"UPDATE api_keys SET {change}"))
        wait_for(lambda: client.get(path, params={"limit": 1}).status_code != 200)
        with pytest.raises(httpx2.RemoteProtocolError):
            for _ in parts:
                pass


async def test_streams_and_pages_agree_across_many_chunks_in_every_outcome_while_the_job_runs(
    service,
):
    with service.engine.begin() as connection:
        job_id = queue_job(
            connection, [(f"crm-{i}", f"+1{i}" if i % 3 else None) for i in range(99)], chunk_size=7
        )
        connection.execute(text("UPDATE jobs SET state = 'running' WHERE id = :id"), {"id": job_id})
        connection.execute(
            text("""
                UPDATE chunks SET state = 'done', deleted = cardinality(outcomes), attempts = 1,
                    outcomes = array_fill(1::smallint, ARRAY[cardinality(outcomes)])
                WHERE number IN (0, 5, 6, 13)
            """)
        )
    assert (await service.job(job_id))["status"] == "running"
    counts = {}
    for query in ("?", "?outcome=pending", "?outcome=deleted", "?outcome=notFound"):
        items, cursor = [], "0"
        while cursor:
            page = (await fetched(service, job_id, {}, f"{query}&limit=10&cursor={cursor}")).json()[
                "data"
            ]
            items += page["items"]
            cursor = page["nextCursor"]
        counts[query] = len(items)
        assert [item["index"] for item in items] == sorted({item["index"] for item in items})
        lines = (await fetched(service, job_id, NDJSON, query)).text
        assert [json.loads(line) for line in lines.splitlines()] == items
        rows = csv.DictReader(
            io.StringIO((await fetched(service, job_id, CSV, f"{query}&raw=1")).text, newline="")
        )
        assert list(rows) == [{name: _cell(cell) for name, cell in item.items()} for item in items]
    assert list(counts.values()) == [99, 71, 28, 0]


@pytest.mark.parametrize(
    "first", ["\t", "\r", "\n", " ", "\u00a0", "\ufeff", "\u200b \u3000"], ids=ascii
)
async def test_space_that_a_spreadsheet_skips_is_guarded_too(service, first):
    with service.engine.begin() as connection:
        job_id = queue_job(connection, [(f"{first}=1+1", None)])
    (guarded,) = csv.DictReader(io.StringIO((await fetched(service, job_id, CSV)).text, newline=""))
    assert guarded["externalId"] == guarded["identifier"] == f"'{first}=1+1"
    (raw,) = csv.DictReader(
        io.StringIO((await fetched(service, job_id, CSV, "?raw=1")).text, newline="")
    )
    assert raw["externalId"] == raw["identifier"] == f"{first}=1+1"


async def test_phone_numbers_are_guarded_as_they_begin_with_a_plus(service):
    job_id = await service.submit(
        {"phoneNumber": "+1 (505)"}, {"externalId": "a", "phoneNumber": "+102"}
    )
    answer = await fetched(service, job_id, CSV)
    cells = [
        (row["phoneNumber"], row["identifier"])
        for row in csv.DictReader(io.StringIO(answer.text, newline=""))
    ]
    assert cells == [("'+1 (505)", "'+1 (505)"), ("'+102", "a")]
    answer = await fetched(service, job_id, CSV, "?raw=0")
    assert cells == [
        (row["phoneNumber"], row["identifier"])
        for row in csv.DictReader(io.StringIO(answer.text, newline=""))
    ]


async def test_every_character_comes_back_and_only_formulas_are_guarded(service):
    characters = [
        chr(code) for code in (*range(1, 0xD800), *range(0xE000, 0x10000), 0x1F600, 0x10FFFF)
    ]
    with service.engine.begin() as connection:
        job_id = queue_job(
            connection, [(f'{character}",{character}', None) for character in characters]
        )
    raw = csv.DictReader(
        io.StringIO((await fetched(service, job_id, CSV, "?raw=1")).text, newline="")
    )
    assert [row["externalId"] for row in raw] == [
        f'{character}",{character}' for character in characters
    ]
    guarded = csv.DictReader(io.StringIO((await fetched(service, job_id, CSV)).text, newline=""))
    changed = {
        character
        for character, row in zip(characters, guarded, strict=True)
        if row["externalId"] != f'{character}",{character}'
        and row["externalId"] == f"'{character}\",{character}"
    }
    assert changed == set("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20\ufe62\ufe63\ufe66\ufe6b")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (
            "application/json;q=0.5, text/csv;q=0.5, application/x-ndjson;q=0.6",
            "application/x-ndjson",
        ),
        ("*/*;q=0.1, text/csv", "text/csv"),
        ("*/*, text/csv;q=0.9", "application/json"),
        ("application/*, text/csv;q=0.9", "application/json"),
        ("text/csv;q=0, */*", "application/json"),
    ],
)
async def test_the_highest_quality_wins(service, accept, kind):
    job_id = await service.submit(*ENTRIES)
    assert (await fetched(service, job_id, {"accept": accept})).headers["content-type"].split(";")[
        0
    ] == kind


@pytest.mark.parametrize(
    "query",
    ["?nothing=1", "?outcome=pending&outcome=deleted", "?cursor=0", "?limit=1000", "?Raw=1", "?"],
)
@pytest.mark.parametrize("headers", [CSV, NDJSON], ids=["csv", "ndjson"])
async def test_streams_refuse_every_parameter_but_theirs(service, headers, query):
    job_id = await service.submit(*ENTRIES)
    answer = await fetched(service, job_id, headers, query)
    assert answer.status_code == (200 if query == "?" else 400)


async def test_pages_know_no_raw_and_refuse_what_stands_twice(service):
    job_id = await service.submit(*ENTRIES)
    for query in ("?raw=0", "?limit=1&limit=1", "?cursor=0&cursor=0", "?nothing="):
        assert (await fetched(service, job_id, {}, query)).status_code == 400, query


@pytest.mark.parametrize("accept", [CSV, NDJSON], ids=["csv", "ndjson"])
def test_a_filtered_stream_breaks_off_too(big, engine, accept):
    client, job_id, _ = big
    work_off(engine)
    with client.stream(
        "GET", f"/api/v1/jobs/{job_id}/results?outcome=notFound", headers=accept
    ) as answer:
        parts = answer.iter_bytes()
        assert next(parts)
        with engine.begin() as connection:
            connection.execute(
                text("UPDATE jobs SET finished_at = finished_at - interval '30 days'")
            )
        one_tick(engine)
        with pytest.raises(httpx2.TransportError):
            for _ in parts:
                pass
    assert client.get(f"/api/v1/jobs/{job_id}/results", headers=accept).status_code == 410


@pytest.mark.parametrize("accept", [CSV, NDJSON], ids=["csv", "ndjson"])
def test_200_000_entries_come_in_order_within_30_seconds(big_to_read, accept):
    client, job_id, _ = big_to_read
    began = time.monotonic()
    with client.stream("GET", f"/api/v1/jobs/{job_id}/results", headers=accept) as answer:
        lines = list(answer.iter_lines())[accept is CSV :]
    assert time.monotonic() - began < 30
    indexes = (
        int(line.split(",")[0]) if accept is CSV else json.loads(line)["index"] for line in lines
    )
    assert all(index == expected for index, expected in zip(indexes, range(MANY), strict=True))


async def test_accept_may_stand_in_two_lines(service):
    job_id = await service.submit(*ENTRIES)
    headers = [("x-api-key", service.read), ("accept", "text/html"), ("accept", "text/csv")]
    answer = await service.http.get(f"/api/v1/jobs/{job_id}/results", headers=headers)
    assert answer.headers["content-type"].split(";")[0] == "text/csv"


async def test_a_quality_that_is_no_number_leaves_the_others_in_order(service):
    job_id = await service.submit(*ENTRIES)
    accept = {"accept": "application/json;q=0.1, text/html;q=nan, text/csv;q=0.9"}
    assert (await fetched(service, job_id, accept)).headers["content-type"].split(";")[
        0
    ] == "text/csv"
