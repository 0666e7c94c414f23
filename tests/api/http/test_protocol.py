"""The API as a process, spoken to byte by byte: what is no HTTP, what does not end, and what
arrives after the answer.
"""

import json
import re
import socket
import time
from contextlib import contextmanager

import httpx2
import pytest

from api.http.protocol import MAX_HEAD, MAX_UNREAD
from shared.database.engines import create_sync_engine
from tests.support.jobs import add_campaign
from tests.support.stack import (
    environment,
    free_port,
    listens,
    make_key,
    running,
    running_api,
    wait_for,
)

POST = "POST /api/v1/leads/bulk-delete HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = json.dumps({"campaignId": "cmp", "leads": [{"externalId": "a"}]})


@pytest.fixture(scope="module")
def _api(settings_of_module):
    engine = create_sync_engine(settings_of_module, "tests")
    with engine.begin() as connection:
        add_campaign(connection)
        key = make_key(connection, "co")
    engine.dispose()
    env = environment(settings_of_module, LEADSWEEP_RATE_LIMIT_HEALTH="3/minute")
    with running_api(env) as url:
        yield int(url.rpartition(":")[2]), key


@pytest.fixture
def api(_api, redis_url):
    """(port, key) of a running API; nobody has called it yet, for all that its rate limits know."""
    return _api


@contextmanager
def connected(port):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        yield connection


def answer_of(connection):
    """(status, headers, body) of the next answer."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += (part := connection.recv(65536))
        assert part, received
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += connection.recv(65536)
    return int(status.split()[1]), headers, json.loads(body) if body else None


def chunks(count, size=65536):
    """So many chunks of a body that does not end."""
    return (b"%x\r\n" % size + b" " * size + b"\r\n" for _ in range(count))


def endless(line, seconds=60):
    """The line, again and again, for no longer than that."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield line * 100


def is_cut_off(connection, parts):
    """Whether the other side closes before all parts are sent."""
    try:
        for part in parts:
            connection.sendall(part)
    except OSError:
        return True
    return False


def test_what_is_no_http_is_refused_in_the_envelope(api):
    port, _ = api
    for sent in (
        b"nonsense\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ):
        due = (
            (431, "Request header is too large")
            if len(sent) > MAX_HEAD
            else (400, "Invalid HTTP request")
        )
        with connected(port) as connection:
            connection.sendall(sent)
            status, headers, body = answer_of(connection)
            assert (status, body) == (due[0], {"success": False, "data": None, "error": due[1]})
            assert headers["x-request-id"]
            assert connection.recv(1) == b""


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/api/v1/jobs", "/nothing"])
def test_what_answers_head_says_how_long_the_body_would_be_and_sends_none(api, path):
    """On one connection: a byte of a body would be taken for the beginning of the next answer."""
    port, key = api
    with connected(port) as connection:
        connection.sendall(f"HEAD {path} HTTP/1.1\r\nHost: x\r\nx-api-key: {key}\r\n\r\n".encode())
        connection.sendall(b"GET /docs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b""
        while part := connection.recv(65536):
            received += part
    head, following, page = received.split(b"\r\n\r\n", 2)
    assert re.search(rb"\r\ncontent-length: [1-9]", head, re.IGNORECASE)
    assert following.startswith(b"HTTP/1.1 200")
    assert page.startswith(b"<!doctype html>")


@pytest.mark.parametrize(
    "line", [b"a" * 1000, b"x: " + b"b" * 1000 + b"\r\n"], ids=["one header", "many headers"]
)
def test_a_head_that_does_not_end_is_refused(api, line):
    with connected(api[0]) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nx: ")
        assert is_cut_off(connection, endless(line))


def test_heads_of_a_connection_are_counted_one_by_one(api):
    with connected(api[0]) as connection:
        for _ in range(5):
            connection.sendall(
                b"GET / HTTP/1.1\r\nHost: x\r\nx: " + b"a" * (MAX_HEAD // 2) + b"\r\n\r\n"
            )
            assert answer_of(connection)[0] == 404


def test_a_body_that_nobody_asked_for_is_dropped_and_its_sender_gets_the_answer(api):
    port, key = api
    for headers, due in (("", 401), (f"x-api-key: {key}\r\n", 413)):
        with connected(port) as connection:
            connection.sendall(f"{POST}{headers}Transfer-Encoding: chunked\r\n\r\n".encode())
            for chunk in chunks(100):
                connection.sendall(chunk)
            connection.sendall(b"0\r\n\r\n")
            assert answer_of(connection)[0] == due
            connection.sendall(
                f"{POST}x-api-key: {key}\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}".encode()
            )
            assert answer_of(connection)[0] == 202, "the connection goes on"


def test_but_not_for_ever(api):
    with connected(api[0]) as connection:
        connection.sendall(f"{POST}Transfer-Encoding: chunked\r\n\r\n".encode())
        assert answer_of(connection)[0] == 401
        assert is_cut_off(connection, chunks(100 * MAX_UNREAD // 65536))


def test_a_client_that_waits_to_be_told_to_go_on_is_told(api):
    port, key = api
    expecting = f"Expect: 100-continue\r\nContent-Length: {len(BODY)}\r\n\r\n"
    with connected(port) as connection:
        connection.sendall(f"{POST}x-api-key: {key}\r\n{expecting}".encode())
        assert answer_of(connection)[0] == 100
        connection.sendall(BODY.encode())
        assert answer_of(connection)[0] == 202
    with connected(port) as connection:
        connection.sendall(f"{POST}{expecting}".encode())
        status, headers, _ = answer_of(connection)
        assert status == 401, "without a key there is nothing to go on with"
        assert headers["connection"] == "close", "whether the body comes now, nobody knows"
        assert connection.recv(1) == b""


def test_who_has_nothing_more_to_say_still_gets_the_answers(api):
    """As `nc -N` sends it: the end of what it sends follows what it asks."""
    port, key = api
    wanted = (
        f"{POST}x-api-key: {key}\r\nPrefer: wait=1\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}"
    )
    with connected(port) as connection:
        connection.sendall(wanted.encode() * 2)
        connection.shutdown(socket.SHUT_WR)
        assert [answer_of(connection)[0] for _ in range(2)] == [202, 202]
        assert connection.recv(1) == b""
    with connected(port) as connection:
        connection.sendall(wanted.encode() + wanted[:-5].encode())
        connection.shutdown(socket.SHUT_WR)
        assert answer_of(connection)[0] == 202
        assert connection.recv(1) == b"", "what is not whole is no request"


def test_who_sends_a_body_that_is_none_is_told_that_the_connection_ends(api):
    port, key = api
    with connected(port) as connection:
        connection.sendall(
            f"{POST}x-api-key: {key}\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n".encode()
        )
        status, headers, answer = answer_of(connection)
        assert (status, headers["connection"], answer["error"]) == (
            400,
            "close",
            "Invalid HTTP request",
        )
        assert connection.recv(1) == b""


def test_what_is_no_http_leaves_one_line_in_the_log(settings):
    port = free_port()
    with running(
        "api", "--port", port, env=environment(settings, LEADSWEEP_LOG_FORMAT="json")
    ) as process:
        wait_for(lambda: listens(port))
        with connected(port) as connection:
            connection.sendall(b"nonsense\r\n\r\n")
            _, headers, _ = answer_of(connection)
        lines = [json.loads(line) for line in process.log.read_text().splitlines()]
    ((event, level, request_id, status),) = [
        (line["event"], line["level"], line.get("request"), line.get("status"))
        for line in lines
        if line["event"] != "api ready"
    ]
    assert (event, level, request_id, status) == (
        "request refused",
        "info",
        headers["x-request-id"],
        400,
    )


def test_a_caller_cannot_pass_for_others_to_get_more_calls(api):
    port, _ = api
    answers = [
        httpx2.get(
            f"http://127.0.0.1:{port}/api/health",
            headers={"x-forwarded-for": f"10.0.0.{i}"},
            trust_env=False,
        )
        for i in range(4)
    ]
    assert [answer.status_code == 429 for answer in answers] == [False, False, False, True]


def test_a_connection_that_is_cut_in_the_middle_of_a_body_disturbs_nobody(api):
    port, key = api
    with connected(port) as connection:
        connection.sendall(f"{POST}x-api-key: {key}\r\nContent-Length: 100\r\n\r\n{{".encode())
    with connected(port) as connection:
        connection.sendall(
            f"{POST}x-api-key: {key}\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}".encode()
        )
        assert answer_of(connection)[0] == 202


@pytest.mark.parametrize(
    "upgrade",
    [
        (
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings:"
            " AAMAAABkAAQCAAAAAAIAAAAA\r\n"
        ),
        (
            "Connection: Upgrade\r\nUPGRADE:websocket\r\nSec-WebSocket-Key: x\r\n"
            "Sec-WebSocket-Version: 13\r\n"
        ),
    ],
    ids=["h2c", "websocket"],
)
def test_who_offers_another_protocol_is_served_in_this_one(api, upgrade):
    """As curl does when it is asked for HTTP/2 (RFC 9110: a server may ignore the offer)."""
    port, key = api
    body = json.dumps({"campaignId": "cmp", "leads": [{"externalId": "\r\nUpgrade: h2c"}]})
    request = (
        f"{POST}x-api-key: {key}\r\n{upgrade}Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    with connected(port) as connection:
        for _ in range(2):  # on one connection
            connection.sendall(request)
            status, _, answer = answer_of(connection)
            assert (status, answer["error"]) == (202, None)
        connection.sendall(request[:-10])
        connection.sendall(request[-10:])
        assert answer_of(connection)[0] == 202
