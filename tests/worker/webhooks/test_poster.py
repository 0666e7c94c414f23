"""One POST, whatever is at the other end: a scripted receiver on real sockets, and names that lead
where they like.
"""

import os
import random
import socket
import ssl
import threading
import time
import tracemalloc
from datetime import UTC, datetime

import pytest

from shared.destinations import parse_networks
from tests.support.certificates import make_certificate
from tests.support.counts import many, ran
from tests.support.hosts import SPELLINGS, TRICKS, shut_network
from tests.support.receiver import receiving, server_context
from worker import poster
from worker.attempts import next_delay
from worker.poster import Reply, post

LOOPBACK = parse_networks("127.0.0.0/8,::1/128")
SECONDS = 0.4  # instead of 20: a receiver that never ends is cut off by the clock


@pytest.fixture
def receiver():
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(poster, "SECONDS", SECONDS)


def send(url, allowed=LOOPBACK, body=b"{}"):
    return post(url, {"webhook-id": "x"}, body, allowed)


def leading_to(monkeypatch, *answers):
    """Makes every name lead to `answers`, one list of addresses for each look-up in turn, the last
    for all further ones.
    """
    asked = []
    answers = list(answers)
    real = socket.getaddrinfo

    def look_up(host, port, *further, **options):
        if host[0].isdigit():
            return real(host, port, *further, **options)
        asked.append(host)
        return [
            (2, 1, 6, "", (address, port))
            for address in (answers.pop(0) if len(answers) > 1 else answers[0])
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


@pytest.mark.parametrize("status", [200, 201, 204, 299, 400, 404, 410, 500, 503])
def test_the_status_is_what_counts(receiver, status):
    assert send(f"{receiver.url}/{status}") == Reply(status)


def test_what_is_sent_is_what_was_given_and_no_more_than_that(receiver, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    body = os.urandom(300_000)
    assert send(f"{receiver.url}/200?a=b", body=body) == Reply(200)
    came = receiver.came[-1]
    assert came.path == "/200?a=b"
    assert came.body == body
    assert came.headers == {
        "host": f"127.0.0.1:{receiver.port}",
        "user-agent": "Leadsweep",
        "content-type": "application/json",
        "accept-encoding": "identity",
        "connection": "close",
        "webhook-id": "x",
        "content-length": "300000",
    }


@pytest.mark.proof("hostile receivers")
@pytest.mark.parametrize(
    ("path", "reply"),
    [
        ("/hang", Reply(error="timed out")),
        ("/byte-by-byte", Reply(error="timed out")),
        ("/reset", Reply(error="connection broken")),
        ("/rubbish", Reply(error="answer is not HTTP")),
        ("/nothing", Reply(error="answer is not HTTP")),
        ("/endless-head", Reply(error="answer is not HTTP")),
        ("/endless-100", Reply(error="answer is not HTTP")),
        ("/endless-body", Reply(200)),
        ("/bomb", Reply(200)),
        ("/redirect", Reply(302)),
        ("/wait", Reply(429, "7200")),
    ],
)
def test_a_hostile_receiver_costs_a_bounded_time_and_is_told_of_in_few_words(
    receiver, short, path, reply
):
    began = time.monotonic()
    assert send(receiver.url + path) == reply
    assert time.monotonic() - began < SECONDS + 1
    assert receiver.connections == 1, "nothing is followed"


GOOD = (
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\nretry-after: 5\r\n\r\n"
    b"5\r\nhello\r\n0\r\n\r\n"
)


@pytest.mark.proof("broken answers")
def test_an_answer_with_errors_anywhere_is_a_reply_or_none_and_never_more(receiver):
    dice = random.Random(7)
    for _ in range(many("broken answers")):
        broken = bytearray(GOOD)
        for _ in range(dice.randint(1, 4)):
            broken[dice.randrange(len(broken))] = dice.randrange(256)
        receiver.script["/x"] = bytes(broken)
        reply = send(f"{receiver.url}/x")
        assert (reply.status is None) == (reply.error is not None), bytes(broken)
        next_delay(1, reply, datetime.now(UTC))
        ran()


@pytest.mark.proof("hostile receivers")
def test_who_does_not_read_what_we_send_is_cut_off(short):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        assert (
            send(f"http://127.0.0.1:{silent.getsockname()[1]}/", body=b"x" * 20_000_000).error
            == "timed out"
        )
        assert time.monotonic() - began < SECONDS + 1


@pytest.mark.proof("hostile receivers")
def test_a_look_up_that_takes_long_is_cut_off_and_holds_up_no_other(receiver, short, monkeypatch):
    answers, real = threading.Event(), socket.getaddrinfo

    def look_up(host, *further, **options):
        if host == "slow.example":
            answers.wait(10)
        return real("127.0.0.1", *further, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    began = time.monotonic()
    assert send(f"http://slow.example:{receiver.port}/200") == Reply(error="timed out")
    assert time.monotonic() - began < SECONDS + 1
    assert send(f"http://prompt.example:{receiver.port}/200") == Reply(200)
    answers.set()
    assert receiver.connections == 1


@pytest.mark.proof("hostile receivers")
def test_an_answer_is_neither_unpacked_nor_kept(receiver):
    send(f"{receiver.url}/200")
    tracemalloc.start()
    send(f"{receiver.url}/bomb")
    send(f"{receiver.url}/endless-body")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.proof("hostile receivers")
def test_nobody_listening_and_no_such_name_are_told_apart(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert send(f"http://127.0.0.1:{port}/") == Reply(error="not connected")

    def fails(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "no")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    assert send("http://nowhere.invalid/") == Reply(error="name not resolved")


@pytest.mark.proof("hostile urls")
@pytest.mark.parametrize("written", TRICKS + SPELLINGS)
def test_no_trick_makes_a_connection(monkeypatch, written):
    with receiving() as four, receiving("::1", port=four.port) as six:
        tried = shut_network(monkeypatch, four.port)
        reply = send(written.format(port=four.port), allowed=())
        assert reply.status is None
        assert reply.error in {"address not allowed", "name not resolved"}
        assert tried == []
        assert four.connections == six.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "1.1.1.1"])
def test_a_connection_to_what_is_allowed_would_be_tried_where_no_trick_made_one(monkeypatch, host):
    tried = shut_network(monkeypatch, 8443)
    assert send(f"https://{host}:8443/") == Reply(error="not connected")
    assert set(tried) & {"127.0.0.1", "::1", "1.1.1.1"}


@pytest.mark.proof("hostile receivers")
def test_a_name_with_a_public_and_a_private_address_is_not_connected_to(receiver, monkeypatch):
    tried = shut_network(monkeypatch, receiver.port)
    leading_to(monkeypatch, ["1.1.1.1", "127.0.0.1"])
    assert send(f"https://both.example:{receiver.port}/200", allowed=()) == Reply(
        error="address not allowed"
    )
    assert tried == []
    assert receiver.connections == 0


@pytest.mark.proof("hostile receivers")
def test_a_name_that_changes_its_answer_is_asked_once_and_connected_to_as_it_was_checked(
    receiver, monkeypatch
):
    asked = leading_to(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    assert send(
        f"http://rebinding.example:{receiver.port}/200", allowed=parse_networks("127.0.0.1/32")
    ) == Reply(200)
    assert asked == ["rebinding.example"]
    assert receiver.came[-1].headers["host"] == f"rebinding.example:{receiver.port}"
    assert send(
        f"http://rebinding.example:{receiver.port}/200", allowed=parse_networks("127.0.0.1/32")
    ) == Reply(error="address not allowed")
    assert receiver.connections == 1


@pytest.mark.proof("hostile receivers")
def test_an_address_that_takes_no_connection_is_passed_over(receiver, monkeypatch):
    leading_to(monkeypatch, ["127.0.0.9", "127.0.0.1"])
    assert send(f"http://two.example:{receiver.port}/200") == Reply(200)


def test_ipv6_is_as_good():
    with receiving("::1") as receiver:
        assert send(f"http://[::1]:{receiver.port}/200") == Reply(200)
        assert receiver.came[-1].headers["host"] == f"[::1]:{receiver.port}"


@pytest.fixture
def trusted(tmp_path, monkeypatch):
    """`hooks.example`, with a certificate that this process trusts."""
    certificate = make_certificate(tmp_path / "good.pem", "hooks.example")
    monkeypatch.setattr(poster, "_tls", lambda: ssl.create_default_context(cafile=str(certificate)))
    with receiving(tls=server_context(certificate)) as receiver:
        yield receiver


def test_tls_is_asked_for_the_name_and_verified_against_it(trusted, monkeypatch):
    leading_to(monkeypatch, ["127.0.0.1"])
    assert send(f"https://hooks.example:{trusted.port}/200") == Reply(200)
    assert trusted.came[-1].server_name == "hooks.example"
    assert trusted.came[-1].headers["host"] == f"hooks.example:{trusted.port}"
    assert send(f"https://other.example:{trusted.port}/200") == Reply(error="TLS failed")
    assert send(f"https://127.0.0.1:{trusted.port}/200") == Reply(error="TLS failed")


@pytest.mark.proof("hostile receivers")
@pytest.mark.parametrize("days", [1, -1], ids=["self-signed", "expired"])
def test_a_certificate_that_is_not_good_gets_nothing(tmp_path, days):
    with receiving(
        tls=server_context(make_certificate(tmp_path / "bad.pem", "127.0.0.1", days=days))
    ) as receiver:
        assert send(f"https://127.0.0.1:{receiver.port}/200") == Reply(error="TLS failed")
        assert receiver.came == []


@pytest.mark.proof("hostile receivers")
def test_what_speaks_no_tls_or_none_to_the_end_is_cut_off(receiver, short):
    assert send(f"https://127.0.0.1:{receiver.port}/200").error in {
        "TLS failed",
        "connection broken",
        "timed out",
    }
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        assert send(f"https://127.0.0.1:{silent.getsockname()[1]}/").error == "timed out"
        assert time.monotonic() - began < SECONDS + 1
