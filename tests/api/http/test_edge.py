"""What strangers can make the API hold or wait for: each bound, met by a process that others go on
using.
"""

import asyncio
import fcntl
import resource
import socket
import sys
import termios
import time
from contextlib import ExitStack
from functools import partial

import httpx2
import psutil
import pytest

from api.http import protocol
from api.http import request as body
from shared.database.engines import create_sync_engine
from tests.api.http.test_framing import serving
from tests.api.http.test_protocol import BODY, POST, answer_of, connected
from tests.support.jobs import add_campaign
from tests.support.stack import (
    environment,
    free_port,
    listens,
    make_key,
    running,
    running_api,
    until,
    wait_for,
)

CHUNKED = f"Transfer-Encoding: chunked\r\n\r\n{len(BODY):x}\r\n{BODY}\r\n0\r\n"


@pytest.fixture(autouse=True, scope="module")
def _files():
    """As many sockets as the API serves, and some: a shell often allows 1024 by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def _api(settings_of_module, _files):
    engine = create_sync_engine(settings_of_module, "tests")
    with engine.begin() as connection:
        add_campaign(connection)
        add_campaign(connection, "other", company="other")
        keys = make_key(connection, "co"), make_key(connection, "other")
    engine.dispose()
    with running_api(environment(settings_of_module)) as url:
        yield int(url.rpartition(":")[2]), *keys


@pytest.fixture
def api(_api, redis_url):
    """(port, key of one company, key of another) of a running API; nobody has called it yet, for
    all that its rate limits know.
    """
    return _api


def request(key, content=BODY, more=""):
    """The bytes of a bulk delete."""
    return (
        f"{POST}x-api-key: {key}\r\n{more}Content-Length: {len(content)}\r\n\r\n{content}".encode()
    )


def ends(connection, seconds=20):
    """Whether the other side has ended it, what it sent before apart."""
    connection.settimeout(seconds)
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


def begins(connection):
    """Whether an answer begins."""
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False


@pytest.mark.parametrize(
    "offer",
    ["Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n", ""],
)
def test_an_action_with_an_option_that_it_does_not_have_is_refused_however_its_bytes_arrive(
    api, offer
):
    """Its body must not be lost: without it, the job would be cancelled."""
    port, key, _ = api
    with connected(port) as connection:
        connection.sendall(request(key))
        job_id = answer_of(connection)[2]["data"]["jobId"]
        sent = (
            f"POST /api/v1/jobs/{job_id}/cancel HTTP/1.1\r\nHost: x\r\n{offer}x-api-key: {key}\r\n"
            'Content-Type: application/json\r\nContent-Length: 16\r\n\r\n{"dryRun": true}'
        ).encode()
        for place in range(10, len(sent) - 1, 30):
            connection.sendall(sent[:place])
            wait_for(partial(is_taken, connection))
            connection.sendall(sent[place:])
            status, _, answer = answer_of(connection)
            assert (status, answer["error"]) == (400, "Request body must be empty")
        connection.sendall(
            f"GET /api/v1/jobs/{job_id} HTTP/1.1\r\nHost: x\r\nx-api-key: {key}\r\n\r\n".encode()
        )
        assert answer_of(connection)[2]["data"]["status"] == "queued"


def is_taken(connection):
    """Whether the other side's system has all that was sent."""
    return not int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def test_fields_after_a_body_are_never_headers(api):
    port, key, _ = api
    with connected(port) as connection:
        connection.sendall(
            (
                f"{POST}Transfer-Encoding: chunked\r\n\r\n{len(BODY):x}\r\n{BODY}\r\n0\r\n"
                f"x-api-key: {key}\r\n\r\n"
            ).encode()
        )
        status, _, answer = answer_of(connection)
        assert (status, answer["error"]) == (401, "Missing API key")


def test_fields_after_a_body_that_do_not_end_are_cut_off(api):
    port, key, _ = api
    with connected(port) as connection:
        connection.sendall(
            (
                f"{POST}x-api-key: {key}\r\nTransfer-Encoding: chunked\r\n\r\n{len(BODY):x}\r\n"
                f"{BODY}\r\n0\r\n"
            ).encode()
        )
        connection.sendall(b"a: b\r\n" * protocol.MAX_HEAD)
        status, _, answer = answer_of(connection)
        assert (status, answer["error"]) == (400, "Invalid HTTP request")
        assert ends(connection)


@pytest.mark.parametrize(
    "blanks", ["Content-Length:{}", "Content-Length: {} ", "Content-Length:\t{}\t "]
)
def test_blanks_around_the_length_are_none_of_it(api, blanks):
    port, key, _ = api
    with connected(port) as connection:
        connection.sendall(
            f"{POST}x-api-key: {key}\r\n{blanks.format(len(BODY))}\r\n\r\n{BODY}".encode()
        )
        assert answer_of(connection)[0] == 202


@pytest.mark.parametrize(
    ("length", "due"),
    [
        ("9" * 20, (413, "Request body is too large")),
        ("9" * 21, (400, "Invalid HTTP request")),
        ("+2", (400, "Invalid HTTP request")),
        ("1_0", (400, "Invalid HTTP request")),
        ("\u0663", (400, "Invalid HTTP request")),
    ],
    ids=ascii,
)
def test_a_length_is_digits_and_what_is_too_much_is_told_so(api, length, due):
    port, key, _ = api
    with connected(port) as connection:
        connection.sendall(f"{POST}x-api-key: {key}\r\nContent-Length: {length}\r\n\r\n".encode())
        status, _, answer = answer_of(connection)
        assert (status, answer["error"]) == due


@pytest.mark.parametrize(
    ("line", "due"),
    [
        ("GET http://x/api/v1/jobs?limit=1", 200),
        ("GET HTTP://[::1]:8000/api/v1/jobs", 200),
        ("GET http://[::1/api/v1/jobs", 200),
        ("GET http://x", 404),
        ("GET x://", 404),
        ("GET api/v1/jobs", 404),
        ("GET /api/v1/jobs%3Flimit=1", 404),
        ("GET //x/api/v1/jobs", 404),
        ("GET /x://y/api/v1/jobs", 404),
        ("GET http%3A//x/api/v1/jobs", 404),
        ("GET http://x%2F/api/v1/jobs", 200),
        ("CONNECT x:443", 404),
        ("OPTIONS *", 404),
        ("OPTIONS /api/v1/jobs", 405),
    ],
)
def test_a_request_may_name_the_whole_address_and_nothing_is_a_fault_of_ours(api, line, due):
    port, key, _ = api
    with connected(port) as connection:
        for _ in range(2):  # and the connection goes on
            connection.sendall(f"{line} HTTP/1.1\r\nHost: x\r\nx-api-key: {key}\r\n\r\n".encode())
            status, _, answer = answer_of(connection)
            assert (status, answer["success"]) == (due, due == 200)


def test_three_thousand_requests_at_once_are_all_answered_in_turn(api):
    with connected(api[0]) as connection:
        connection.sendall(
            b"".join(
                b"GET /api/v1/jobs HTTP/1.1\r\nHost: x\r\nX-Request-ID: %d\r\n\r\n" % number
                for number in range(3000)
            )
        )
        received = b""
        while received.count(b"HTTP/1.1 401") < 3000 or not received.endswith(b"}"):
            received += (part := connection.recv(1 << 20))
            assert part, "it ended before"
    answered = [
        int(line.split(b": ")[1])
        for line in received.split(b"\r\n")
        if line.lower().startswith(b"x-request-id: ")
    ]
    assert answered == list(range(3000))


def test_silence_has_an_end_wherever_it_begins(api):
    """All at once, as each takes half a minute."""
    port, key, _ = api
    half = request(key)[:-5]
    with ExitStack() as stack:
        silent, head, slow, in_body, after_answer, waiting = (
            stack.enter_context(connected(port)) for _ in range(6)
        )
        began = time.monotonic()
        head.sendall(half[:20])
        in_body.sendall(half)
        after_answer.sendall(request("lsk_unknown")[:-5])
        assert answer_of(after_answer)[0] == 401
        waiting.sendall(
            request(key, more="Prefer: wait=40\r\n")
        )  # whose turn it is to be silent is ours
        slow.settimeout(0.5)
        wait_for(
            lambda: begins(slow) or slow.sendall(b"a"), seconds=60
        )  # a head that comes byte by byte is no better
        assert time.monotonic() - began > protocol.HEAD_WITHIN - 1
        for connection in (silent, head, in_body, after_answer):
            connection.settimeout(60)
        status, _, answer = answer_of(head)
        assert (status, answer["error"]) == (408, "Request header took too long to arrive")
        status, _, answer = answer_of(in_body)
        assert (status, answer["error"]) == (408, "Request body took too long to arrive")
        assert all(ends(connection) for connection in (silent, head, in_body, after_answer))
        assert time.monotonic() - began > protocol.NEXT_PART_WITHIN
        waiting.settimeout(60)
        assert answer_of(waiting)[0] == 202


def test_more_connections_than_there_are_places_for_take_those_of_the_silent(api):
    port, key, _ = api
    with ExitStack() as stack:
        silent = [
            stack.enter_context(connected(port)) for _ in range(protocol.MAX_CONNECTIONS + 50)
        ]
        newest = stack.enter_context(connected(port))
        newest.sendall(request(key))
        assert answer_of(newest)[0] == 202
        assert ends(silent[0])
        assert not ends(silent[-1], seconds=0.1)


def test_a_connection_whose_request_is_in_hand_keeps_its_place(api):
    port, key, _ = api
    with ExitStack() as stack:
        waiting = stack.enter_context(connected(port))
        waiting.sendall(request(key, more="Prefer: wait=10\r\n"))
        for _ in range(2 * protocol.MAX_CONNECTIONS):
            stack.enter_context(connected(port))
        assert answer_of(waiting)[0] == 202


async def much(scope, receive, send):
    """An application whose answer is more than systems take before a caller does."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(64):
        await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
    await send({"type": "http.response.body"})


async def asked(port):
    """The writer of a connection that has asked, and takes nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await reader.readexactly(1)
    return writer


async def test_callers_who_take_nothing_of_an_answer_give_up_their_places_to_others(monkeypatch):
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 5)
    async with serving(much) as (port, connections):
        first, *others = [await asked(port) for _ in range(5)]
        await until(lambda: all(each.flow.write_paused for each in connections))
        oldest = min(connections, key=lambda each: each.since)
        others.append(await asked(port))
        assert oldest not in connections
        await until(oldest.cycle.message_event.is_set)  # which is when its socket has ended, too
        assert oldest.cycle.disconnected
        for writer in (first, *others):
            writer.transport.abort()


async def test_nobody_is_waited_for_who_takes_nothing_of_an_answer(monkeypatch):
    async with serving(much) as (port, connections):
        writer = await asked(port)
        (connection,) = connections
        await until(lambda: connection.flow.write_paused)
        connection.look()
        monkeypatch.setattr(protocol, "TAKEN_WITHIN", 0)
        await until(lambda: connection.look() or connection not in connections)
        writer.transport.abort()


async def test_of_more_answers_than_there_is_memory_for_those_end_that_nobody_has_taken_for_longest(
    monkeypatch,
):
    monkeypatch.setattr(protocol, "ALL_UNTAKEN", 1 << 20)
    async with serving(much) as (port, connections):
        writers = []
        for number in range(20):  # each leaves 64 KiB at least
            writers.append(await asked(port))
            newest = max(connections, key=lambda each: each.taken_at)
            await until(lambda each=newest: each.flow.write_paused)
            assert newest in connections, number
        await until(lambda: len(connections) < len(writers))
        assert (
            sum(each.transport.get_write_buffer_size() for each in connections)
            <= protocol.ALL_UNTAKEN
        )
        for writer in writers:
            writer.transport.abort()


async def broken_off(scope, receive, send):
    """An application whose answer breaks off, as when what it tells of is removed meanwhile."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"a", "more_body": True})


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_answer_that_breaks_off_does_not_look_whole(version):
    """In HTTP/1.0 the end of the connection would be that of the answer."""
    async with serving(broken_off) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET / HTTP/{version}\r\nHost: x\r\n\r\n".encode())
        if version == "1.0":
            with pytest.raises(ConnectionResetError):
                await reader.read()
        else:
            assert (await reader.read()).endswith(b"1\r\na\r\n"), "a chunked answer ends with 0"
        writer.transport.abort()


def test_of_more_bodies_than_there_is_memory_for_those_give_way_that_came_first(api):
    port, key, other = api
    big = BODY.ljust(body.MAX_BODY)
    with ExitStack() as stack:
        held = [
            stack.enter_context(connected(port))
            for _ in range(body.BODIES_OF_ONE_COMPANY // body.MAX_BODY)
        ]
        for connection in held:
            connection.sendall(request(key, big)[:-1])
        foreign = stack.enter_context(connected(port))
        foreign.sendall(request(other, BODY.replace("cmp", "other").ljust(body.MAX_BODY))[:-1])
        newest = stack.enter_context(connected(port))
        newest.sendall(request(key, big))
        assert answer_of(newest)[0] == 202
        for connection in held:
            connection.settimeout(0.5)
        refused = wait_for(lambda: [connection for connection in held if begins(connection)])
        status, headers, answer = answer_of(refused[0])
        assert (status, answer["error"]) == (503, "Service temporarily unavailable")
        assert int(headers["retry-after"]) > 0
        for connection in (foreign, next(each for each in held if each not in refused)):
            connection.settimeout(20)
            connection.sendall(b" ")
            assert answer_of(connection)[0] == 202


def test_a_page_that_nobody_takes_holds_no_file(settings):
    port = free_port()
    with running("api", "--port", port, env=environment(settings)) as process, ExitStack() as stack:
        wait_for(lambda: listens(port))
        for _ in range(10):
            connection = stack.enter_context(connected(port))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(1)
        assert not [
            file.path for file in psutil.Process(process.pid).open_files() if "static" in file.path
        ]


def test_an_answer_says_that_it_is_not_to_be_kept(api):
    port, key, _ = api
    for path in (
        "/api/v1/jobs",
        "/nothing",
        "/docs",
        "/docs/docs.js",
        "/openapi.json",
        "/api/health",
    ):
        answer = httpx2.get(
            f"http://127.0.0.1:{port}{path}", headers={"x-api-key": key}, trust_env=False
        )
        assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == (
            "no-store",
            "nosniff",
        ), path
    with connected(port) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        headers = answer_of(connection)[1]
        assert (headers["cache-control"], headers["x-content-type-options"]) == (
            "no-store",
            "nosniff",
        )
