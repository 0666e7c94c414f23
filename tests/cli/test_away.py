"""A server or a database that is away is told of within five seconds, whichever way it is away."""

import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

import pytest

from cli.checks import run_checks
from tests.cli.conftest import run
from tests.stack import free_port

LEADSWEEP = [sys.executable, "-c", "from cli.main import main; main(prog_name='leadsweep')"]
SECONDS = 4  # which leaves one of five for the start of the command

SUBMIT = ("submit", "-", "--campaign", "c")
CALLERS = [
    ("jobs", "list"), ("status", "j"), ("watch", "j"), ("results", "j"), SUBMIT, (*SUBMIT, "--wait"), ("jobs", "cancel", "j"),
    ("jobs", "restore", "j"), ("jobs", "pace", "j", "none"),
]  # fmt: skip
OPERATORS = [
    ("companies", "list"), ("keys", "create", "--company", "a", "--scope", "read"), ("leads", "import", "-", "--campaign", "c"),
    ("migrate",),
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


@pytest.fixture
def said(monkeypatch):
    """Runs a command in this process, and says what it said and how long it took, the start of Python aside."""
    monkeypatch.setenv("LEADSWEEP_API_KEY", "key")
    monkeypatch.setenv("LEADSWEEP_DATA_DIR", "/nowhere")

    def command(words, **env):
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        began = time.monotonic()
        ran = run(*words, stdin=b"externalId\na\n")
        return ran, time.monotonic() - began

    return command


@pytest.mark.parametrize("words", CALLERS, ids=" ".join)
@pytest.mark.parametrize("away", [refusing, deaf])
def test_a_server_that_takes_no_connection_is_given_up_in_time(said, words, away):
    with away() as port:
        ran, seconds = said(words, LEADSWEEP_URL=f"http://127.0.0.1:{port}")
    assert ran.code == 7
    assert ran.error.startswith(f"no answer from http://127.0.0.1:{port}: Connect")
    assert ran.error.endswith("; check LEADSWEEP_URL and that the server runs")
    assert seconds < SECONDS


@pytest.mark.parametrize("words", CALLERS, ids=" ".join)
def test_a_server_that_takes_the_connection_and_says_nothing_is_told_of_and_waited_for(words):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with started(words, LEADSWEEP_URL=f"http://127.0.0.1:{port}") as process:
            connection, _ = listening.accept()
            began = time.monotonic()
            with connection:
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
def test_a_database_that_is_away_is_told_of_in_time(said, words, away):
    with away() as port:
        ran, seconds = said(words, DATABASE_URL=f"postgresql://127.0.0.1:{port}/x")
    assert ran.code == 1
    assert ran.error.startswith(f"cannot use the database at postgresql://127.0.0.1:{port}/x: ")
    assert seconds < SECONDS


@pytest.mark.parametrize("away", [refusing, deaf, silent])
def test_the_doctor_tells_of_a_database_that_is_away_in_time(monkeypatch, away):
    with away() as port:
        monkeypatch.setenv("DATABASE_URL", f"postgresql://127.0.0.1:{port}/x")
        began = time.monotonic()
        found = next(check for check in run_checks(None) if check.name == "database")
        assert time.monotonic() - began < SECONDS
    assert (found.ok, found.finding.startswith("cannot use the database")) == (False, True)


def test_a_database_of_several_addresses_is_told_of_before_all_of_them_are_tried(said):
    with deaf() as port:
        url = f"postgresql://127.0.0.1:{port}/x?host=127.0.0.1:{port}&host=127.0.0.1:{port}"
        ran, _ = said(("companies", "list"), DATABASE_URL=url)
    told, error = ran.err.splitlines()
    assert told == f"the database at postgresql://127.0.0.1:{port}/x does not answer yet; still trying"
    assert error.startswith("Error: cannot use the database")
