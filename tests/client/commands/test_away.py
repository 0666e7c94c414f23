"""A server or a database that is away is told of within five seconds, whichever way it is away, and
whenever.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue

import pytest
from leadsweep import NotFound, Retries
from leadsweep.commands.caller import Caller

from cli.doctor.checks import run_checks
from tests.cli.conftest import run
from tests.cli.terminal import terminal
from tests.client.test_client import COMPLETED, RUNNING
from tests.support.stack import free_port

LEADSWEEP = [
    sys.executable,
    "-c",
    "from leadsweep.commands.main import main; main(prog_name='leadsweep')",
]
SECONDS = 4  # which leaves one of five for the start of the command

SUBMIT = ("submit", "-", "--campaign", "c")
CALLERS = [
    ("jobs", "list"),
    ("status", "j"),
    ("watch", "j"),
    ("results", "j"),
    SUBMIT,
    (*SUBMIT, "--wait"),
    ("jobs", "cancel", "j"),
    ("jobs", "restore", "j"),
    ("jobs", "pace", "j", "none"),
]
OPERATORS = [
    ("companies", "list"),
    ("keys", "create", "--company", "a", "--scope", "read"),
    ("leads", "import", "-", "--campaign", "c"),
    ("migrate",),
]


@contextmanager
def refusing():
    yield free_port()


@contextmanager
def deaf():
    """As behind a firewall that drops what comes: its queue of connections is full, so no other is
    taken or refused.
    """
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


JOB, UNDER_WAY = (200, {}, COMPLETED), (200, {}, RUNNING)
PAGE, LAST_PAGE = (
    (200, {}, {"items": [], "nextCursor": "2"}),
    (200, {}, {"items": [], "nextCursor": None}),
)
BUSY = (503, {}, None)
LATER = (429, {"Retry-After": "60"}, None)
BREAK = threading.Event()  # the end of the connection, at once
BREAK.set()


class Answering(BaseHTTPRequestHandler):
    """Gives the next answer of its server's. For an Event it says nothing until that is set, and
    ends the connection.
    """

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        answer = next(self.server.answers)
        self.server.taken.put(time.monotonic())
        if isinstance(answer, threading.Event):
            answer.wait(60)
            self.close_connection = True
            return
        status, headers, data = answer
        body = json.dumps({"success": status == 200, "data": data, "error": None}).encode()
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while self.rfile.readline() != b"0\r\n":
                pass
            self.rfile.readline()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    do_PATCH = do_POST  # noqa: N815 - the standard library's name

    def log_message(self, *_):
        pass


@contextmanager
def answering(*answers):
    """A server that gives these answers, one after another, and then none. Yields its URL, and when
    it took each request.
    """
    hangs = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        server.answers = iter([*answers, *[hangs] * 9])
        server.taken = Queue()
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", server.taken
        finally:
            hangs.set()
            server.shutdown()
            thread.join()


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
    """Runs a command in this process, and says what it said and how long it took, the start of
    Python aside.
    """
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
                assert (
                    process.stderr.readline()
                    == f"no answer from http://127.0.0.1:{port} yet; still trying\n"
                )
                assert time.monotonic() - began < SECONDS
                assert process.poll() is None


@pytest.mark.parametrize("words", CALLERS, ids=" ".join)
def test_a_server_that_has_no_time_is_told_of_before_it_is_asked_again(words):
    with answering(LATER) as (url, _), started(words, LEADSWEEP_URL=url) as process:
        assert process.stderr.readline() == f"{url} answers with status 429; trying again\n"


LATE = [
    (("results", "j"), [JOB]),
    (("results", "j"), [JOB, PAGE]),
    (("jobs", "list", "--limit", "9"), [PAGE]),
    (("watch", "j"), [UNDER_WAY]),
    *((("jobs", action, "j", "--yes"), [JOB]) for action in ("retry", "execute", "restore")),
]


@pytest.mark.parametrize(("words", "answers"), LATE)
def test_so_is_one_that_falls_silent_after_it_has_answered(words, answers):
    with answering(*answers) as (url, taken), started(words, LEADSWEEP_URL=url) as process:
        for _ in range(len(answers) + 1):
            began = taken.get(timeout=20)
        lines = iter(process.stderr.readline, "")
        assert f"no answer from {url} yet; still trying\n" in lines
        assert time.monotonic() - began < SECONDS
        assert process.poll() is None


@pytest.mark.parametrize(("words", "answers"), LATE)
def test_so_is_one_that_has_no_time_any_more(words, answers):
    with answering(*answers, LATER) as (url, taken), started(words, LEADSWEEP_URL=url) as process:
        for _ in range(len(answers) + 1):
            began = taken.get(timeout=20)
        assert f"{url} answers with status 429; trying again\n" in iter(process.stderr.readline, "")
        assert time.monotonic() - began < SECONDS


def test_each_time_that_it_is_away_is_told_of_once():
    silence = threading.Event()
    answers = (JOB, BUSY, BUSY, PAGE, BUSY, PAGE, silence, BREAK, PAGE, BREAK, LAST_PAGE)
    with answering(*answers) as (url, _), started(("results", "j"), LEADSWEEP_URL=url) as process:
        busy, silent = (
            f"{url} answers with status 503; trying again\n",
            f"no answer from {url} yet; still trying\n",
        )
        assert [process.stderr.readline() for _ in range(3)] == [busy, busy, silent]
        silence.set()
        assert process.stderr.read() == silent
        assert process.wait(20) == 0


def test_a_server_that_refuses_and_then_is_silent_has_no_longer_than_one_that_is_silent():
    told = Queue()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        threading.Timer(2, listening.listen).start()
        with Caller(url, "key", retries=Retries(1000, 0.05, 0.2, unreached=3)) as caller:
            caller.tell = told.put
            thread = threading.Thread(target=pytest.raises, args=[NotFound, caller.job, "j"])
            began = time.monotonic()
            thread.start()
            assert told.get(timeout=20) == f"no answer from {url} yet; still trying"
            assert time.monotonic() - began < SECONDS
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                thread.join(20)


@pytest.mark.parametrize(
    "words",
    [("submit", "FILE", "--campaign", "c", "--yes"), ("results", "j", "-o", "FILE")],
    ids=" ".join,
)
def test_so_it_is_at_a_terminal_beside_the_progress(tmp_path, words):
    (tmp_path / "leads.csv").write_text("externalId\na\n")
    words = [tmp_path / "leads.csv" if word == "FILE" else word for word in words]
    env = {"LEADSWEEP_API_KEY": "key", "COLUMNS": "120"}
    with (
        answering(BUSY) as (url, taken),
        terminal(*LEADSWEEP, *words, env=env | {"LEADSWEEP_URL": url}) as person,
    ):
        person.expect(f"{url} answers with status 503; trying again")
        for _ in range(2):
            began = taken.get(timeout=20)
        person.expect(f"no answer from {url} yet; still trying", 5)
        assert time.monotonic() - began < SECONDS
        assert person.process.poll() is None


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
    assert (
        told == f"the database at postgresql://127.0.0.1:{port}/x does not answer yet; still trying"
    )
    assert error.startswith("Error: cannot use the database")
