"""Files: what is accepted, what is refused and with which line, and what becomes of each row, by
the oracle.
"""

import asyncio
import csv
import gzip
import io
import json
import random
import socket
from itertools import repeat

import httpx2
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import text
from starlette.datastructures import URL, Headers

from api.files.body import Upload
from api.files.receive import AT_ONCE, OF_ONE_COMPANY
from api.files.rows import Manner, read
from shared.files.spreadsheets import unwrapped
from shared.states import Outcome
from tests.support.jobs import add_leads, one_tick, remaining_leads
from tests.support.oracle import Lead, canonical_external_id, judge
from tests.support.stack import (
    environment,
    free_port,
    listens,
    running,
    running_api,
    until,
    wait_for,
)

PATH = "/api/v1/leads/bulk-delete/files"
CSV, NDJSON = "text/csv", "application/x-ndjson"


async def upload(service, body, media_type=CSV, key=None, headers=None, path=PATH, **query):
    sent = {"x-api-key": key or service.write, "content-type": media_type} | (headers or {})
    return await service.http.post(
        path, content=body, headers=sent, params={"campaignId": "cmp"} | query
    )


async def accepted(service, *arguments, **options):
    """The id of the job."""
    answer = await upload(service, *arguments, **options)
    assert answer.status_code == 202, answer.text
    return answer.json()["data"]["jobId"]


async def all_results(service, job_id):
    answer = await service.http.get(
        f"/api/v1/jobs/{job_id}/results", headers={"x-api-key": service.write, "accept": NDJSON}
    )
    return [
        json.loads(line) for line in answer.content.splitlines()
    ]  # of text, U+2028 would end a line too


def as_csv(entries):
    written = io.StringIO()
    csv.writer(written).writerows(
        [("externalId", "phoneNumber"), *((e or "", n or "") for e, n in entries)]
    )
    return written.getvalue().encode()


def as_ndjson(entries):
    return b"".join(
        json.dumps({"externalId": e, "phoneNumber": n}).encode() + b"\n" for e, n in entries
    )


def some_entries(count):
    """By id, by number, by both, unknown, repeated, as people write them."""
    numbers = random.Random(count)
    entries = []
    for i in range(count):
        lead = numbers.randrange(count)
        entries.append(
            numbers.choice(
                [
                    (f"crm-{lead}", None),
                    (None, f"+1555{lead:06d}"),
                    (f" crm-{lead} ", f"00 1555 {lead:06d}"),
                    (f"x-{i}", None),
                ]
            )
        )
    return entries


@pytest.mark.proof("files")
@pytest.mark.parametrize("count", [1, 2, 1000, 1001, 3500])
@pytest.mark.parametrize(("form", "media_type"), [(as_csv, CSV), (as_ndjson, NDJSON)])
async def test_each_row_of_a_file_gets_the_outcome_of_the_contract(
    service, count, form, media_type
):
    pairs = [(f"crm-{i}", f"+1555{i:06d}") for i in range(0, count, 2)]
    with service.engine.begin() as connection:
        add_leads(connection, pairs)
    entries = some_entries(count)
    job_id = await accepted(service, form(entries), media_type)
    await service.work()
    job = await service.job(job_id)
    with service.engine.connect() as connection:
        left = remaining_leads(connection)
    results = await all_results(service, job_id)
    before = {Lead("cmp", *pair) for pair in [*pairs, ("a", "+101"), ("b", "+102"), ("c", None)]}
    assert [(r["externalId"], r["phoneNumber"]) for r in results] == entries
    verdict = judge(entries, before, campaign="cmp", of_file=True)
    assert [(r["outcome"], r["matchedBy"], r["reason"]) for r in results] == verdict.outcomes
    assert {Lead("cmp", *pair) for pair in left} == verdict.remaining
    assert (job["status"], job["total"], job["deleted"]) == (
        "completed",
        count,
        len(before) - len(left),
    )
    assert job["identifiersOmitted"] == (count > 1000) == ("deletedIdentifiers" not in job)
    assert job["resultsUrl"] == f"/api/v1/jobs/{job_id}/results"


IDENTIFIER = st.sampled_from(["a", "b", " a", "c", "+101", "00 101", "+102", None])
ENTRY = st.tuples(IDENTIFIER, IDENTIFIER).filter(lambda entry: entry[0] or "10" in (entry[1] or ""))


@pytest.mark.proof("files")
@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(entries=st.lists(ENTRY, min_size=1, max_size=14), fallback=st.booleans())
async def test_repeated_entries_are_found_across_chunks(service, entries, fallback):
    """With chunks of three, a repetition is seldom in the chunk of what it repeats."""
    service.app.state.services.settings.chunk_size = 3
    job_id = await accepted(
        service, as_ndjson(entries), NDJSON, phoneFallback=str(fallback).lower()
    )
    verdict = judge(
        entries, set(), campaign="cmp", phone_fallback=fallback, chunk_size=3, of_file=True
    )
    found = [r["reason"] == "duplicate" for r in await all_results(service, job_id)]
    assert found == [outcome == ("notFound", None, "duplicate") for outcome in verdict.outcomes]
    await service.work()
    job = await service.job(job_id)
    assert (job["status"], job["processed"]) == ("completed", len(entries))


@pytest.mark.proof("files")
@pytest.mark.parametrize(
    "body",
    [
        b"externalId,phoneNumber\na,\n,+102\n",
        b"\xef\xbb\xbfexternalId,phoneNumber\r\na,\r\n,+102\r\n",
        b'"phoneNumber","externalId"\n"","a"\n"+102",""',
        b"externalId;phoneNumber\na;\n;+102\n",
        b"name\texternalId\tphoneNumber\nAnn\ta\t\nBob\t\t+102\n",
        b'name,externalId,note,phoneNumber\n"Ann, ""A""",a,"one\ntwo",\nBob,,,+102\n',
        b"externalId,name,phoneNumber\na,\xff\xfe not UTF-8,\n\n  ,,+102\n",
        b" externalId , phoneNumber \n a ,\n,00 102 \n",
    ],
    ids=[
        "plain",
        "BOM and CRLF",
        "quoted",
        "semicolons",
        "tabs",
        "quoted line end",
        "other columns in Latin-1",
        "spaces",
    ],
)
async def test_csv_of_every_dialect_is_understood(service, body):
    job_id = await accepted(service, body)
    await service.work()
    assert (await service.job(job_id))["deleted"] == 2


@pytest.mark.proof("files")
@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.text(
            st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"),
            min_size=1,
            max_size=6,
        ),
        min_size=1,
    )
)
async def test_whatever_an_identifier_is_made_of_comes_back(service, written):
    """Quotes, braces, backslashes, NULL: nothing is taken for what it means to CSV, arrays or
    COPY.
    """
    rows = [
        one
        for one in ("NULL", "\\N", "\\.", '{"', *written)
        if canonical_external_id(one) and unwrapped(one) == one
    ]
    for body, media_type in (
        (as_csv([(one, None) for one in rows]), CSV),
        (as_ndjson([(one, None) for one in rows]), NDJSON),
    ):
        found = await all_results(service, await accepted(service, body, media_type))
        assert [result["externalId"] for result in found] == rows


@pytest.mark.proof("files")
async def test_a_file_may_be_compressed_also_in_several_members(service):
    body = as_ndjson([("a", None)]), as_ndjson([(None, "+102")])
    gzipped = {"headers": {"content-encoding": "gzip"}}
    whole = await accepted(service, gzip.compress(b"".join(body)), NDJSON, **gzipped)
    parts = await accepted(service, b"".join(map(gzip.compress, body)), NDJSON, **gzipped)
    assert [r["identifier"] for r in await all_results(service, whole)] == ["a", "+102"]
    assert [r["identifier"] for r in await all_results(service, parts)] == ["a", "+102"]


LONG = "x" * 256
ROW = "; with onInvalid=skip the other rows are done without it"
HEADER = (
    "line 1: The header names neither externalId nor phoneNumber; it has: name, number. "
    "Say which they are: columns=externalId:NAME or columns=phoneNumber:NAME"
)
DAMAGED = [
    (CSV, b"", 400, "File contains no leads"),
    (CSV, b"\n\n", 400, "File contains no leads"),
    (CSV, b"externalId\n", 400, "File contains no leads"),
    (CSV, b"externalId\n\n\n", 400, "File contains no leads"),
    (NDJSON, b"\n \n", 400, "File contains no leads"),
    (CSV, b"name,number\na,b\n", 400, HEADER),
    (CSV, b"externalId,externalId\na,b\n", 400, "line 1: The header names externalId twice"),
    (CSV, "externalId\na\n".encode("utf-16"), 400, "line 1: the file is UTF-16; save it as UTF-8"),
    (
        CSV,
        b"name,externalId,phoneNumber\n,a,\nb,,\n",
        400,
        f"line 3: At least one of phoneNumber or externalId is required{ROW}",
    ),
    (CSV, b"externalId,phoneNumber\na,\n\nb\n", 400, f"line 4: 1 columns, the header has 2{ROW}"),
    (CSV, b"externalId,phoneNumber\na,1,2\n", 400, f"line 2: 3 columns, the header has 2{ROW}"),
    (CSV, b'externalId,note\na,"b\nc"\nd,"e\n', 400, f"line 4: a quote is never closed{ROW}"),
    (
        CSV,
        b'externalId\n"a"b\n',
        400,
        f"line 2: a quoted field goes on after its closing quote{ROW}",
    ),
    (
        CSV,
        f"externalId\n{LONG}\n".encode(),
        400,
        f"line 2: externalId is longer than 255 characters{ROW}",
    ),
    (
        CSV,
        f"phoneNumber\n{LONG}\n".encode(),
        400,
        f"line 2: phoneNumber is longer than 32 characters{ROW}",
    ),
    (CSV, b"externalId\na\x00\n", 400, f"line 2: externalId contains U+0000{ROW}"),
    (CSV, b"externalId\n\xff\n", 400, f"line 2: externalId is not valid UTF-8{ROW}"),
    (NDJSON, b'{"externalId": "a"}\n{"externalId": \n', 400, f"line 2: not valid JSON{ROW}"),
    (NDJSON, b'{"externalId": "a"}\n\n["b"]', 400, f"line 3: must be an object{ROW}"),
    (NDJSON, b'{"externalId": 7}', 400, f"line 1: externalId must be a string{ROW}"),
    (
        NDJSON,
        b'{"name": "a"}',
        400,
        f"line 1: At least one of phoneNumber or externalId is required{ROW}",
    ),
    (NDJSON, b'{"externalId": "\\u0000"}', 400, f"line 1: externalId contains U+0000{ROW}"),
    (NDJSON, b'{"externalId": "\\ud800"}', 400, f"line 1: not valid JSON{ROW}"),
    (
        NDJSON,
        b'{"externalId": "a", "x": ' + b"[" * 5000 + b"}",
        400,
        f"line 1: not valid JSON{ROW}",
    ),
    (
        NDJSON,
        b'{"externalId": "' + b"a" * (1 << 20) + b'"}\n',
        400,
        f"line 1: line is longer than 1 MiB{ROW}",
    ),
    ("application/json", b"{}", 415, "Content-Type must be text/csv or application/x-ndjson"),
]


@pytest.mark.proof("files")
@pytest.mark.parametrize(
    ("media_type", "body", "status", "error"), DAMAGED, ids=range(len(DAMAGED))
)
async def test_a_damaged_file_is_refused_with_its_line_and_leaves_nothing(
    service, media_type, body, status, error
):
    answer = await upload(service, body, media_type)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert nothing_is_left(service.engine)


def nothing_is_left(engine):
    with engine.connect() as connection:
        return (
            connection.execute(
                text("SELECT (SELECT count(*) FROM jobs) + (SELECT count(*) FROM chunks)")
            ).scalar_one()
            == 0
        )


def rows_of(*parts):
    """(externalId, outcome) of each row of an NDJSON file that arrives in `parts`."""
    batches = read(parts, NDJSON, Manner(skip_invalid=True))
    return [
        row
        for one in batches
        for row in zip(one.identifiers.external_ids, one.outcomes or repeat(0), strict=False)
    ]


@pytest.mark.proof("files")
@pytest.mark.parametrize(
    ("line", "rows"),
    [
        (b'{"externalId": "a"} {"externalId": "b"}', [(None, Outcome.UNREADABLE)]),
        (b'{"externalId":\n"a"}', [(None, Outcome.UNREADABLE)] * 2),
        (b'{"externalId": "a", "name": "M\xfcller"}', [(None, Outcome.UNREADABLE)]),
        (b'{"externalId": "a", "\xff": 1}', [(None, Outcome.UNREADABLE)]),
        (b'{"externalId": "a", "n": 1e400}', [(None, Outcome.UNREADABLE)]),
        (b'{"externalId": 7, "externalId": "a"}', [(None, Outcome.UNREADABLE)]),
        (b'{"externalId": "a", "phoneNumber": null, "n": {"externalId": 7}}\r', [("a", 0)]),
    ],
)
def test_what_a_line_is_does_not_depend_on_those_around_it(line, rows):
    assert rows_of(line + b"\n") == rows
    assert rows_of(b'{"externalId": "before"}\n', line, b'\n{"externalId": "after"}') == [
        ("before", 0),
        *rows,
        ("after", 0),
    ]
    assert rows_of(line + b"\n{}\n") == [*rows, (None, Outcome.NO_IDENTIFIER)]


@pytest.mark.proof("files")
def test_what_a_file_is_does_not_depend_on_how_it_arrives():
    body = b"".join(
        b'{\n "externalId": "p%d"\n}\n{"externalId": "q%d"}\n' % (i, i) for i in range(3000)
    )
    assert rows_of(body) == rows_of(*(body[i : i + 999] for i in range(0, len(body), 999)))


@pytest.mark.proof("files")
async def test_damage_far_into_a_file_has_its_line_too(service):
    lines = [f"crm-{i},\n" for i in range(30_000)]
    for place, line in {7: 'a,"b\nc"\n', 20_000: '"d,\n', 25_000: ",-\n"}.items():
        lines[place] = line
    text = "externalId,phoneNumber\n" + "".join(lines)
    answer = await upload(service, text.encode())
    expected = 20_000 + 3  # the header, lines counted from 1, the line end in a field
    assert answer.json()["error"] == f"line {expected}: a quote is never closed{ROW}"
    job_id = await accepted(service, text.encode(), onInvalid="skip")
    invalid = {
        r["index"]: r["reason"]
        for r in await all_results(service, job_id)
        if r["outcome"] == "invalid"
    }
    assert invalid == {20_000: "unreadable", 25_000: "noIdentifier"}
    assert (await service.job(job_id))["total"] == 30_000


@pytest.mark.proof("files")
async def test_broken_rows_can_be_skipped_and_are_accounted_for(service):
    body = f'externalId,phoneNumber,x\na,,\n,,x\n{LONG},+107,\n"b"x,,\n,+102,\nn\x00,,\n'.encode()
    job_id = await accepted(service, body, onInvalid="skip")
    await service.work()
    job = await service.job(job_id)
    assert (job["status"], job["total"], job["deleted"], job["invalid"]) == ("completed", 6, 2, 4)
    assert job["invalidIdentifiers"] == ["+107"]
    assert [
        (r["identifier"], r["outcome"], r["reason"]) for r in await all_results(service, job_id)
    ] == [
        ("a", "deleted", None),
        (None, "invalid", "noIdentifier"),
        ("+107", "invalid", "tooLong"),
        (None, "invalid", "unreadable"),
        ("+102", "deleted", None),
        (None, "invalid", "unusableCharacter"),
    ]


@pytest.mark.proof("files")
async def test_a_file_of_nothing_but_broken_rows_is_accepted_and_ends_by_itself(service):
    body, key = b"\n".join([b"{}"] * 1500), {"idempotency-key": "broken"}
    first, again = [
        await upload(service, body, NDJSON, headers=key, onInvalid="skip") for _ in range(2)
    ]
    assert (first.status_code, first.json()["data"]["status"], first.json()["data"]["total"]) == (
        202,
        "queued",
        1500,
    )
    assert (again.status_code, again.json()) == (202, first.json())
    one_tick(service.engine)
    job = await service.job(first.json()["data"]["jobId"])
    assert (job["status"], job["total"], job["invalid"]) == ("completed", 1500, 1500)
    assert [(one["status"], one["by"]) for one in job["history"]] == [
        ("queued", "the tests"),
        ("running", None),
        ("completed", None),
    ]


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ({"dry_run": "true"}, "Invalid query parameter: dry_run"),
        ({"onInvalid": "ignore"}, "onInvalid must be fail or skip"),
        ({"dryRun": "yes"}, "dryRun must be a boolean"),
        ({"mode": "restore"}, "mode must be delete or archive"),
        ({"clientReference": "x" * 256}, "clientReference is longer than 255 characters"),
        ({"maxLeadsPerSecond": "0"}, "maxLeadsPerSecond must be an integer from 1 to 1000000"),
        ({"maxLeadsPerSecond": "-1"}, "maxLeadsPerSecond must be an integer from 1 to 1000000"),
        ({"maxLeadsPerSecond": "\u0663"}, "maxLeadsPerSecond must be an integer from 1 to 1000000"),
        ({"schedule": "tonight"}, "schedule must be an object"),
        ({"schedule": '{"offPeak": false}'}, "schedule.offPeak must be true"),
        ({"campaignId": " "}, "campaignId is required"),
    ],
)
async def test_the_options_of_the_json_form_are_in_the_query_and_checked_alike(
    service, query, error
):
    answer = await upload(service, b"externalId\na\n", **query)
    assert (answer.status_code, answer.json()["error"]) == (400, error)


async def test_the_options_take_effect(service):
    job_id = await accepted(
        service,
        b"externalId\na\n",
        dryRun="true",
        mode="archive",
        phoneFallback="false",
        clientReference="file 1",
        schedule='{"runAt": "2999-01-01T00:00:00Z"}',
        maxLeadsPerSecond="7",
        path=PATH.replace("leads", "records"),
    )
    job = await service.job(job_id)
    told = [
        job[name]
        for name in (
            "status",
            "dryRun",
            "mode",
            "phoneFallback",
            "clientReference",
            "maxLeadsPerSecond",
        )
    ]
    assert told == ["scheduled", True, "archive", False, "file 1", 7]


async def test_who_may_not_is_refused_before_anything_is_read(service):
    body = b"externalId\na\n"
    answers = [
        await upload(service, body, key="nobody"),
        await upload(service, body, key=service.read),
        await upload(service, body, campaignId="foreign"),
        await upload(service, body, campaignId="none"),
        await upload(service, body, key=service.limited),
    ]
    assert [answer.status_code for answer in answers] == [401, 403, 403, 403, 403]
    assert nothing_is_left(service.engine)


BOTH = pytest.mark.parametrize(
    ("media_type", "head", "line"),
    [(CSV, b"externalId\n", b"a\n"), (NDJSON, b"", b'{"externalId": "a"}\n')],
    ids=["CSV", "NDJSON"],
)


@BOTH
async def test_a_file_may_have_only_so_many_entries(service, media_type, head, line):
    service.app.state.services.settings.max_file_entries = 10
    assert (await upload(service, head + line * 10, media_type)).status_code == 202
    answer = await upload(service, head + line * 11, media_type)
    assert (answer.status_code, answer.json()["error"]) == (400, "Maximum 10 leads per file")
    answer = await upload(service, head + line + b"\n" * 11_000, media_type)
    assert (answer.status_code, answer.json()["error"]) == (413, "Request body is too large")


NO_GZIP = "Request body is not valid gzip"


@pytest.mark.proof("files")
@BOTH
@pytest.mark.parametrize(
    ("damaged", "status", "error"),
    [
        (lambda body: gzip.compress(body + b"\n" * 50_000_000), 413, "Request body is too large"),
        (lambda body: gzip.compress(gzip.compress(body * 1_000_000)), 400, None),
        (lambda body: gzip.compress(body)[:-9], 400, NO_GZIP),
        (lambda body: gzip.compress(body) + b"rubbish", 400, NO_GZIP),
        (lambda body: gzip.compress(body)[:-8] + bytes(8), 400, NO_GZIP),
        (lambda body: gzip.compress(body * 50_000)[:-9], 400, NO_GZIP),
        (lambda body: body, 400, NO_GZIP),
        (lambda _: b"", 400, "File contains no leads"),
    ],
    ids=[
        "bomb",
        "twice",
        "cut",
        "rubbish after it",
        "wrong sum",
        "cut far into it",
        "not at all",
        "nothing",
    ],
)
async def test_what_is_no_honest_gzip_is_refused(
    service, media_type, head, line, damaged, status, error
):
    answer = await upload(
        service, damaged(head + line), media_type, headers={"content-encoding": "gzip"}
    )
    assert answer.status_code == status
    assert error is None or answer.json()["error"] == error
    assert nothing_is_left(service.engine)


async def test_another_encoding_is_refused(service):
    answer = await upload(service, b"externalId\na\n", headers={"content-encoding": "br"})
    assert (answer.status_code, answer.json()["error"]) == (415, "Content-Encoding must be gzip")


async def test_a_repeated_upload_is_answered_as_the_first_was(service):
    key = {"headers": {"idempotency-key": "file-1"}}
    body = as_csv(some_entries(3000))
    first = await upload(service, body, **key)
    again = await upload(service, body, **key, path=PATH.replace("leads", "records"))
    assert first.status_code == 202
    assert (again.json(), again.headers["idempotency-replayed"]) == (first.json(), "true")
    for other in (
        await upload(service, body + b"z,\n", **key),
        await upload(service, body, **key, dryRun="true"),
    ):
        assert (other.status_code, other.json()["error"]) == (
            422,
            "Idempotency-Key was already used with a different request",
        )
    refused = {"headers": {"idempotency-key": "file-2"}}
    assert (await upload(service, b"externalId\n,\n", **refused)).status_code == 400
    assert (await upload(service, b"externalId\na\n", **refused)).status_code == 202, (
        "errors are not remembered"
    )


async def test_a_caller_may_wait_for_the_end(service):
    body = as_csv([(f"crm-{i}", None) for i in range(1001)])
    late = await upload(service, body, headers={"prefer": "wait=1"})
    assert late.status_code == 202
    await service.work()
    found = await service.http.get(
        f"/api/v1/jobs/{late.json()['data']['jobId']}",
        headers={"x-api-key": service.write, "prefer": "wait=5"},
    )
    assert found.json()["data"]["status"] == "completed"


@BOTH
async def test_a_caller_who_waits_gets_the_results_of_a_file(service, media_type, head, line):
    waiting = asyncio.create_task(
        upload(service, head + line * 2, media_type, headers={"prefer": "wait=30"})
    )
    while not waiting.done():
        await service.work()
        await asyncio.sleep(0)
    answer = await waiting
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=30")
    told = answer.json()["data"]
    assert (told["status"], told["deleted"], told["notFound"]) == ("completed", 1, 1)
    assert (told["deletedIdentifiers"], told["notFoundIdentifiers"]) == (["a"], ["a"])


@pytest.fixture
def api(settings, engine, service):
    """A real one, with the key and campaign of `service`; yields its port."""
    with running_api(environment(settings)) as url:
        yield int(url.rpartition(":")[2])


def begin_upload(port, key, *more, media_type=CSV, first=None):
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    head = (
        f"POST {PATH}?campaignId=cmp HTTP/1.1\r\nHost: x\r\nx-api-key: {key}\r\nContent-Type:"
        f" {media_type}\r\n"
        "Transfer-Encoding: chunked\r\n"
    )
    connection.sendall((head + "".join(f"{line}\r\n" for line in more) + "\r\n").encode())
    send_part(
        connection, first or b"externalId\n" + b"".join(b"crm-%d\n" % i for i in range(50_000))
    )
    return connection


def send_part(connection, part):
    connection.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")


def uploads_in_hand(engine):
    with engine.connect() as connection:
        counted = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'leadsweep-upload'"
            " AND state <> 'idle'"
        )
        return connection.execute(text(counted)).scalar_one()


@pytest.mark.proof("files")
@BOTH
async def test_an_upload_that_breaks_off_leaves_no_job_and_no_rows(
    service, api, media_type, head, line
):
    connection = begin_upload(
        api,
        service.write,
        "Idempotency-Key: cut",
        media_type=media_type,
        first=head + line * 50_000,
    )
    wait_for(lambda: uploads_in_hand(service.engine))
    connection.close()
    wait_for(lambda: not uploads_in_hand(service.engine))
    assert nothing_is_left(service.engine)
    with service.engine.connect() as database:
        assert database.execute(text("SELECT count(*) FROM idempotency_keys")).scalar_one() == 0


async def test_one_key_is_in_one_upload_at_a_time(service, api):
    connection = begin_upload(api, service.write, "Idempotency-Key: twice")
    wait_for(lambda: uploads_in_hand(service.engine))
    answer = await upload(service, b"externalId\na\n", headers={"idempotency-key": "twice"})
    assert (answer.status_code, answer.json()["error"]) == (
        409,
        "Another request is in progress; try again",
    )
    send_part(connection, b"")
    assert b"HTTP/1.1 202" in connection.recv(1000)
    connection.close()


async def test_an_upload_that_stalls_is_ended(service, monkeypatch):
    monkeypatch.setattr("api.files.body.STALL", 0.2)

    async def stalling():
        yield b"externalId\na\n"
        await asyncio.Event().wait()

    answer = await upload(service, stalling())
    assert (answer.status_code, answer.json()["error"]) == (
        408,
        "Request body took too long to arrive",
    )
    assert nothing_is_left(service.engine)


async def test_who_sends_slower_than_the_least_rate_loses_the_place(service, monkeypatch):
    """A part comes often enough that the sender never stalls."""
    monkeypatch.setattr("api.files.body.RATE_OVER", 0.3)
    sent = []

    async def trickling():
        yield b"externalId\n"
        while len(sent) < 1000:
            sent.append(b"a\n")
            yield sent[-1]
            await asyncio.sleep(0.01)

    answer = await upload(service, trickling())
    assert (answer.status_code, answer.json()["error"]) == (
        408,
        "Request body took too long to arrive",
    )
    assert len(sent) < 1000
    assert nothing_is_left(service.engine)


class Sender:
    """A request whose body comes in these parts, each after so many seconds."""

    def __init__(self, *parts):
        self.headers = Headers({"content-type": CSV})
        self.url = URL("http://leadsweep")
        self._parts = parts

    async def stream(self):
        for seconds, part in self._parts:
            await asyncio.sleep(seconds)
            yield part


async def test_who_sends_faster_than_the_least_rate_may_take_long(monkeypatch):
    monkeypatch.setattr("api.files.body.RATE_OVER", 1.5)
    monkeypatch.setattr("api.files.body.LEAST_RATE", 10)
    upload = Upload(Sender(*[(0.6, b"x" * 15)] * 4), None)
    assert [await upload._next_part() for _ in range(4)] == [b"x" * 15] * 4


async def test_only_the_seconds_count_that_a_sender_is_waited_for(monkeypatch):
    monkeypatch.setattr("api.files.body.RATE_OVER", 0.5)
    upload = Upload(Sender((0, b"x"), (0, b"y"), (0, b"z")), None)
    for part in (b"x", b"y", b"z", None):
        await asyncio.sleep(0.3)  # waiting for a place, or for the database
        assert await upload._next_part() == part


async def test_an_upload_ends_in_time_also_while_what_has_arrived_is_read(service, monkeypatch):
    monkeypatch.setattr("api.files.body.LONGEST", 0.2)
    body = gzip.compress(b"externalId\n" + b"".join(b"crm-%d\n" % i for i in range(2_000_000)), 1)
    answer = await upload(service, body, headers={"content-encoding": "gzip"})
    assert (answer.status_code, answer.json()["error"]) == (
        408,
        "Request body took too long to arrive",
    )
    assert nothing_is_left(service.engine)


async def test_who_sends_no_body_holds_up_nobody(service):
    async def silent():
        await asyncio.Event().wait()
        yield b""

    silently = [asyncio.create_task(upload(service, silent())) for _ in range(AT_ONCE)]
    await until(lambda: len(service.app.state.services.receiver._uploads) == AT_ONCE)
    assert (await upload(service, b"externalId\na\n")).status_code == 202
    for each in silently:
        each.cancel()


async def test_a_company_takes_three_of_the_eight_places_at_most(service, monkeypatch):
    monkeypatch.setattr("api.http.places.PATIENCE", 0.2)
    whole = asyncio.Event()

    async def slow():
        yield b"externalId\na\n"
        await whole.wait()

    slowly = [asyncio.create_task(upload(service, slow())) for _ in range(AT_ONCE)]
    await until(lambda: sum(task.done() for task in slowly) == AT_ONCE - OF_ONE_COMPANY)
    assert (
        await upload(service, b"externalId\na\n", key=service.foreign, campaignId="foreign")
    ).status_code == 202
    whole.set()
    answers = [answer.status_code for answer in await asyncio.gather(*slowly)]
    assert sorted(answers) == [202] * 3 + [503] * 5


async def test_a_place_that_a_slow_sender_had_goes_to_the_next(service, monkeypatch):
    monkeypatch.setattr("api.files.body.RATE_OVER", 0.3)

    async def trickling():
        yield b"externalId\na\n"
        for _ in range(1000):
            await asyncio.sleep(0.01)
            yield b"a\n"

    slowly = [asyncio.create_task(upload(service, trickling())) for _ in range(OF_ONE_COMPANY)]
    places = service.app.state.services.receiver._places._companies
    await until(lambda: "co" in places and places["co"].locked())
    assert (await upload(service, b"externalId\na\n")).status_code == 202
    assert [answer.status_code for answer in await asyncio.gather(*slowly)] == [
        408
    ] * OF_ONE_COMPANY


LOST = pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        (
            "UPDATE api_keys SET revoked_at = clock_timestamp() WHERE name = 'the tests'",
            401,
            "Invalid or inactive API key",
        ),
        (
            "UPDATE api_keys SET expires_at = clock_timestamp() WHERE name = 'the tests'",
            401,
            "Invalid or inactive API key",
        ),
        ("DELETE FROM api_keys WHERE name = 'the tests'", 401, "Invalid or inactive API key"),
        ("UPDATE api_keys SET scope = 'read' WHERE name = 'the tests'", 403, "Forbidden"),
        ("UPDATE api_keys SET campaign_id = 'second' WHERE name = 'the tests'", 403, "Forbidden"),
        ("UPDATE campaigns SET company_id = 'other' WHERE id = 'cmp'", 403, "Forbidden"),
    ],
    ids=["revoked", "expired", "deleted", "reads only", "of another campaign", "campaign moved"],
)


@LOST
async def test_a_key_that_loses_its_right_during_an_upload_has_no_file_accepted(
    service, change, status, error
):
    def arriving():
        yield b"externalId\n" + b"".join(b"crm-%d\n" % i for i in range(50_000))
        with service.engine.begin() as connection:
            connection.execute(text(change))
        yield b"last\n"

    async def arriving_later():
        for part in arriving():
            yield part

    answer = await upload(service, arriving_later(), headers={"idempotency-key": "lost"})
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert nothing_is_left(service.engine)
    with service.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM idempotency_keys")).scalar_one() == 0


async def test_a_key_that_is_revoked_during_an_upload_does_not_get_the_answer_of_before(
    service, monkeypatch
):
    monkeypatch.setattr("api.http.auth.REMEMBERED_FOR", 0)
    key = {"idempotency-key": "file-1"}
    assert (await upload(service, b"externalId\na\n", headers=key)).status_code == 202

    async def arriving():
        yield b"externalId\n"
        with service.engine.begin() as connection:
            connection.execute(text("UPDATE api_keys SET revoked_at = clock_timestamp()"))
        yield b"a\n"

    answer = await upload(service, arriving(), headers=key)
    assert (answer.status_code, answer.json()["error"]) == (401, "Invalid or inactive API key")


async def test_results_wait_for_nothing_and_other_calls_are_answered_during_an_upload(service, api):
    connection = begin_upload(api, service.write)
    wait_for(lambda: uploads_in_hand(service.engine))
    answer = httpx2.get(
        f"http://127.0.0.1:{api}/api/v1/jobs", headers={"x-api-key": service.write}, trust_env=False
    )
    assert (answer.status_code, answer.json()["data"]["items"]) == (200, [])
    connection.close()


async def test_a_server_that_stops_says_so_to_who_is_still_sending(service, settings):
    port = free_port()
    with running("api", "--port", port, env=environment(settings)) as process:
        wait_for(lambda: listens(port))
        connection = begin_upload(port, service.write)
        wait_for(lambda: uploads_in_hand(service.engine))
        process.terminate()
        answer = connection.recv(2000)
        connection.close()
        process.wait(10)
        assert b"HTTP/1.1 503" in answer
        assert b"Traceback" not in process.log.read_bytes()
    assert nothing_is_left(service.engine)
