"""What only a real process over a real socket can show: lengths, continuations, and connections
that are cut.
"""

import json
import socket

import pytest
from sqlalchemy import text

from tests.support.jobs import add_campaign
from tests.support.stack import environment, make_key, running_api, wait_for

BODY = json.dumps({"campaignId": "cmp", "leads": [{"externalId": "a"}]}).encode()
MEBIBYTE = 1024 * 1024


@pytest.fixture
def wire(settings, engine):
    """Opens sockets to an API process; what is sent begins with a head that admits the call."""
    with engine.begin() as connection:
        add_campaign(connection)
        key = make_key(connection, "co")
    with running_api(environment(settings)) as url:
        port = int(url.rsplit(":", 1)[1])

        def send(headers, *parts):
            connection = socket.create_connection(("127.0.0.1", port), timeout=20)
            always = f"Host: x\r\nx-api-key: {key}\r\nContent-Type: application/json\r\n"
            head = f"POST /api/v1/leads/bulk-delete HTTP/1.1\r\n{always}{headers}"
            connection.sendall(head.encode() + b"\r\n")
            for part in parts:
                connection.sendall(part)
            return connection

        yield send


def status_of(connection):
    with connection.makefile("rb") as answer:
        return int(answer.readline().split()[1])


def chunked(body, size=65536):
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return [b"%x\r\n%s\r\n" % (len(part), part) for part in parts] + [b"0\r\n\r\n"]


def test_a_body_in_chunks_is_read_like_any_other(wire):
    with wire("Transfer-Encoding: chunked\r\n", *chunked(BODY, 7)) as connection:
        assert status_of(connection) == 202


def test_a_body_in_chunks_has_the_same_limit(wire):
    with wire(
        "Transfer-Encoding: chunked\r\n", *chunked(BODY.ljust(MEBIBYTE + 1))[:-1]
    ) as connection:
        assert status_of(connection) == 413, "without waiting for an end that may never come"


def test_a_body_announced_too_long_is_refused_before_it_is_sent(wire):
    with wire(f"Content-Length: {MEBIBYTE + 1}\r\n") as connection:
        assert status_of(connection) == 413


def test_a_caller_who_waits_to_be_told_to_go_on_is_told(wire):
    with (
        wire(f"Content-Length: {len(BODY)}\r\nExpect: 100-continue\r\n") as connection,
        connection.makefile("rb") as answer,
    ):
        assert answer.readline().split()[1] == b"100"
        assert answer.readline() == b"\r\n"
        connection.sendall(BODY)
        assert answer.readline().split()[1] == b"202"


def test_two_requests_on_one_connection_are_two_jobs(wire, engine):
    head = (
        b"POST /api/v1/records/bulk-delete HTTP/1.1\r\nHost: x\r\nContent-Type:"
        b" application/json\r\nContent-Length: 1\r\n\r\n{"
    )
    with (
        wire(f"Content-Length: {len(BODY)}\r\n", BODY + head) as connection,
        connection.makefile("rb") as answer,
    ):
        assert answer.readline().split()[1] == b"202"
        length = 0
        while (line := answer.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line[15:])
        answer.read(length)
        assert answer.readline().split()[1] == b"401", (
            "the second has no key; it is not taken for a part of the first"
        )
    assert jobs_in(engine) == 1


def test_a_connection_cut_in_the_middle_of_a_body_leaves_nothing(wire, engine):
    wire(f"Content-Length: {len(BODY)}\r\n", BODY[:-5]).close()
    with wire(f"Content-Length: {len(BODY)}\r\n", BODY) as connection:
        assert status_of(connection) == 202
    assert jobs_in(engine) == 1


def test_callers_who_hang_up_at_once_leave_whole_jobs_and_a_healthy_server(wire, engine):
    for _ in range(50):
        wire(f"Content-Length: {len(BODY)}\r\n", BODY).close()
    with wire(f"Content-Length: {len(BODY)}\r\n", BODY) as connection:
        assert status_of(connection) == 202
    wait_for(lambda: idle(engine))
    with engine.connect() as connection:
        assert not connection.execute(
            text("SELECT FROM jobs WHERE NOT EXISTS (SELECT FROM chunks WHERE job_id = id)")
        ).all()


def jobs_in(engine):
    with engine.connect() as connection:
        return connection.execute(text("SELECT count(*) FROM jobs")).scalar_one()


def idle(engine):
    with engine.connect() as connection:
        statement = text(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'leadsweep-api'"
            " AND state <> 'idle'"
        )
        return connection.execute(statement).scalar_one() == 0
