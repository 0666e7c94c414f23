"""A server or a database that is away is told of within five seconds, whichever way it is away."""

import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

import pytest

from tests.stack import free_port

LEADSWEEP = [sys.executable, "-c", "from cli.main import main; main(prog_name='leadsweep')"]
SECONDS = 5

SUBMIT = ("submit", "-", "--campaign", "c")
CALLERS = [
    ("jobs", "list"), ("status", "j"), ("watch", "j"), ("results", "j"), SUBMIT, (*SUBMIT, "--wait"), ("jobs", "cancel", "j"),
    ("jobs", "restore", "j"), ("jobs", "pace", "j", "none"),
]  # fmt: skip
OPERATORS = [
    ("companies", "list"), ("keys", "create", "--company", "a", "--scope", "read"), ("leads", "import", "-", "--campaign", "c"),
    ("migrate",), ("doctor",),
]  # fmt: skip


@contextmanager
def refusing():
    yield free_port()


@contextmanager
def deaf():
    """As behind a firewall that drops what comes: its queue of connections is full, so no other is taken or refused."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listening.getsockname()
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        yield address[1]


@contextmanager
def silent():
    """Takes connections, and says nothing, as a process that is frozen."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@contextmanager
def started(words, **env):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = os.environ | {"LEADSWEEP_API_KEY": "key", "LEADSWEEP_DATA_DIR": "/nowhere"} | env
    with subprocess.Popen([*LEADSWEEP, *words], env=environment, text=True, **pipes) as process:
        try:
            process.stdin.write("externalId\na\n")
            process.stdin.close()
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("words", CALLERS, ids=" ".join)
@pytest.mark.parametrize("away", [refusing, deaf])
def test_a_server_that_takes_no_connection_is_given_up_in_time(words, away):
    with away() as port:
        began = time.monotonic()
        with started(words, LEADSWEEP_URL=f"http://127.0.0.1:{port}") as process:
            assert process.wait(20) == 7
            assert time.monotonic() - began < SECONDS
            error = process.stderr.read()
    assert error.startswith(f"Error: no answer from http://127.0.0.1:{port}: Connect")
    assert error.endswith("; check LEADSWEEP_URL and that the server runs\n")


@pytest.mark.parametrize("words", CALLERS, ids=" ".join)
def test_a_server_that_takes_the_connection_and_says_nothing_is_told_of_and_waited_for(words):
    with silent() as port:
        began = time.monotonic()
        with started(words, LEADSWEEP_URL=f"http://127.0.0.1:{port}") as process:
            assert process.stderr.readline() == f"no answer from http://127.0.0.1:{port} yet; still trying\n"
            assert time.monotonic() - began < SECONDS
            assert process.poll() is None


def test_a_server_that_has_no_time_is_told_of_before_it_is_asked_again():
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        started(("jobs", "list"), LEADSWEEP_URL=f"http://127.0.0.1:{listening.getsockname()[1]}") as process,
    ):
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n")
            assert process.stderr.readline().endswith(" answers with status 503; trying again\n")


@pytest.mark.parametrize("words", OPERATORS, ids=" ".join)
@pytest.mark.parametrize("away", [refusing, deaf, silent])
def test_a_database_that_is_away_is_told_of_in_time(words, away):
    with away() as port:
        began = time.monotonic()
        with started(words, DATABASE_URL=f"postgresql://127.0.0.1:{port}/x") as process:
            said = process.stdout if words == ("doctor",) else process.stderr
            lines = [said.readline() for _ in range(2 if words == ("doctor",) else 1)]
            assert time.monotonic() - began < SECONDS
    assert f"cannot use the database at postgresql://127.0.0.1:{port}/x: " in lines[-1]


def test_a_database_of_several_addresses_is_told_of_in_time_too():
    with deaf() as port:
        url = f"postgresql://127.0.0.1:{port}/x?host=127.0.0.1:{port}&host=127.0.0.1:{port}"
        began = time.monotonic()
        with started(("companies", "list"), DATABASE_URL=url) as process:
            assert process.stderr.readline().endswith(" does not answer yet; still trying\n")
            assert time.monotonic() - began < SECONDS
