"""Exports that are not read, or not to the end: they hold little, take no place that others need,
and are no fault.
"""

import asyncio
import json
import signal
import tracemalloc
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest
from sqlalchemy import text

from api.http import protocol
from api.http.places import Places
from api.jobs import results as exports
from shared.states import Outcome
from tests.api.http.test_framing import serving
from tests.api.http.test_protocol import BODY, POST, answer_of, connected
from tests.api.isolation.test_nothing_of_others_is_read import Ears
from tests.support.jobs import add_campaign, one_tick, queue_big_job, work_off
from tests.support.stack import environment, free_port, listens, make_key, running, until, wait_for

CHUNKS = 200  # more than systems take before a caller does


def big_job(engine, company="co", campaign="cmp"):
    with engine.begin() as connection:
        return queue_big_job(connection, CHUNKS, company=company, campaign=campaign)


def asking(job_id, key, method="GET", accept="application/x-ndjson"):
    """The bytes that ask for an export."""
    lines = f"Host: x\r\nx-api-key: {key}\r\nAccept: {accept}\r\nX-Request-ID: export\r\n\r\n"
    return f"{method} /api/v1/jobs/{job_id}/results HTTP/1.1\r\n{lines}".encode()


async def test_one_that_waits_for_its_reader_holds_the_part_and_no_rows(service):
    job_id = big_job(service.engine)
    write = partial(exports.as_csv, raw=False)
    parts = exports.stream(
        service.app.state.services.engine, job_id, CHUNKS * 1000, list(Outcome), write
    )
    await anext(parts)  # what the first one loads stays
    tracemalloc.start()
    try:
        part = await anext(parts)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        await parts.aclose()
    assert held < 2 * len(part)


def last(sent):
    """With the connection's end after the answer."""
    return sent.replace(b"Host: x", b"Host: x\r\nConnection: close")


@asynccontextmanager
async def asked(port, sent):
    """(first bytes of the answer, reader): takes no more than these unless it is read from."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        yield await reader.readexactly(12), reader
    finally:
        writer.transport.abort()


async def status_of(port, sent):
    async with asked(port, sent) as (head, _):
        return int(head.split()[1])


OK, NO_PLACE = b"HTTP/1.1 200", b"HTTP/1.1 503"


async def test_a_company_has_some_of_the_places_and_what_is_refused_says_when_to_come_again(
    service, monkeypatch
):
    monkeypatch.setattr("api.http.places.PATIENCE", 0.2)
    job_id, others = big_job(service.engine), big_job(service.engine, "other", "foreign")
    async with serving(service.app) as (port, _), AsyncExitStack() as held:
        for _ in range(exports.EXPORTS_OF_ONE_COMPANY):
            assert (await held.enter_async_context(asked(port, asking(job_id, service.read))))[
                0
            ] == OK
        async with asked(port, last(asking(job_id, service.write))) as (head, reader):
            assert head == NO_PLACE
            fields, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert b"\r\nretry-after: 5\r\n" in fields
            assert json.loads(body) == {
                "success": False,
                "data": None,
                "error": "Service temporarily unavailable",
            }
        assert await status_of(port, asking(others, service.foreign)) == 200
        assert await status_of(port, asking(job_id, service.read, "HEAD")) == 200, (
            "which needs none"
        )
        assert (await service.get(f"/api/v1/jobs/{job_id}/results")).status_code == 200, (
            "nor does a page"
        )


async def test_companies_share_the_places_of_a_process(service, monkeypatch):
    monkeypatch.setattr("api.http.places.PATIENCE", 0.2)
    service.app.state.services.exports = Places(1, 1)
    job_id, others = big_job(service.engine), big_job(service.engine, "other", "foreign")
    async with (
        serving(service.app) as (port, _),
        asked(port, asking(job_id, service.read)) as (head, _),
    ):
        assert head == OK
        assert await status_of(port, asking(others, service.foreign)) == 503


async def read_whole(reader, _connections):
    assert (await reader.read()).endswith(b"\r\n0\r\n\r\n")


async def left(reader, _connections):
    reader._transport.abort()


async def silent_for_long(_reader, connections):
    (connection,) = connections
    await until(lambda: connection.flow.write_paused)
    connection.look()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "TAKEN_WITHIN", 0)
        await until(lambda: connection.look() or connection not in connections)


async def cancelled(_reader, _connections):
    (task,) = [each for each in asyncio.all_tasks() if "run_asgi" in repr(each)]
    task.cancel()


@pytest.mark.parametrize("ending", [read_whole, left, silent_for_long, cancelled])
async def test_a_place_is_let_go_of_however_an_export_ends(service, ending):
    service.app.state.services.exports = Places(1, 1)
    job_id = big_job(service.engine)
    sent = last(asking(job_id, service.read))
    async with serving(service.app) as (port, connections), asked(port, sent) as (head, reader):
        assert head == OK
        await ending(reader, connections)
        assert await status_of(port, sent) == 200


async def test_head_reads_nothing_of_the_results(service):
    job_id = big_job(service.engine)
    path, ears = f"/api/v1/jobs/{job_id}/results", Ears(service)
    for accept in ("text/csv", "application/x-ndjson"):
        headers = {"x-api-key": service.read, "accept": accept}
        ears.take()
        head = await service.http.head(path, headers=headers)
        assert (head.status_code, head.content) == (200, b"")
        assert not [statement for statement, _ in ears.take() if "chunks" in statement]
        got = await service.http.get(path, headers=headers)
        assert [statement for statement, _ in ears.take() if "chunks" in statement]
        for name in ("content-type", "content-disposition"):
            assert head.headers[name] == got.headers[name]
        assert head.headers.keys() == got.headers.keys()


def purge(engine):
    work_off(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET finished_at = finished_at - interval '30 days'"))
    one_tick(engine)


def revoke(engine):
    with engine.begin() as connection:
        connection.execute(text("UPDATE api_keys SET revoked_at = clock_timestamp()"))


def take_away(engine):
    """As where the database is not usable any more."""
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE chunks RENAME TO chunks_of_another_version"))


@pytest.fixture
def api(settings, engine):
    """(port, key, job id, process) of a running API, and a job of many chunks."""
    with engine.begin() as connection:
        add_campaign(connection)
        key = make_key(connection, "co")
    job_id = big_job(engine)
    port = free_port()
    with running("api", "--port", port, env=environment(settings)) as process:
        wait_for(lambda: listens(port))
        yield port, key, job_id, process


def logged(process):
    """(event, level, reason, status) of what its log says, but of its start."""
    lines = [json.loads(line) for line in process.log.read_text().splitlines()]
    return [
        (line["event"], line["level"], line.get("reason"), line.get("status"))
        for line in lines
        if "request" in line
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (purge, "identifiers purged"),
        (revoke, "key not admitted any more"),
        (take_away, "database not usable"),
    ],
)
def test_one_that_breaks_off_is_not_complete_and_no_fault(api, engine, change, reason):
    port, key, job_id, process = api
    with connected(port) as connection:
        connection.sendall(asking(job_id, key))
        received = connection.recv(12)
        change(engine)
        if change is revoke:
            path = f"GET /api/v1/jobs HTTP/1.1\r\nHost: x\r\nx-api-key: {key}\r\n\r\n".encode()
            wait_for(lambda: status_alone(port, path) == 401)
        while part := connection.recv(65536):
            received = received[-100:] + part
    assert not received.endswith(b"\r\n0\r\n\r\n")
    wait_for(lambda: ("request", "info", None, 200) in logged(process))
    lines = process.log.read_text()
    assert [line for line in logged(process) if line[0] != "request"] == [
        ("request broken off", "warning", reason, None)
    ]
    assert "Traceback" not in lines
    assert '"level": "error"' not in lines


def status_alone(port, sent):
    with connected(port) as connection:
        connection.sendall(sent)
        return answer_of(connection)[0]


def test_a_server_that_stops_says_so_in_the_envelope_and_calls_nothing_a_fault(api):
    port, key, job_id, process = api
    with connected(port) as unread, connected(port) as sending:
        unread.sendall(asking(job_id, key))
        assert unread.recv(12) == b"HTTP/1.1 200"
        sending.sendall(
            (
                f"{POST}x-api-key: {key}\r\nX-Request-ID: sent\r\nContent-Length: {len(BODY)}\r\n"
                f"\r\n{BODY[:-1]}"
            ).encode()
        )
        wait_for(lambda: status_alone(port, b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n") == 404)
        process.send_signal(signal.SIGTERM)
        status, headers, answer = answer_of(sending)
        assert (status, headers["x-request-id"], int(headers["retry-after"]) > 0) == (
            503,
            "sent",
            True,
        )
        assert answer == {
            "success": False,
            "data": None,
            "error": "Service temporarily unavailable",
        }
        process.wait(20)
    lines = logged(process)
    assert lines.count(("request broken off", "warning", "the API stops", None)) == 2
    assert {("request", "info", None, 503), ("request", "info", None, 200)} < set(lines)
    assert "Traceback" not in process.log.read_text()
