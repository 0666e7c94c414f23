"""What may have been done though the command was cut off: by Ctrl-C, by a signal, by a connection
that breaks. It never says that nothing was done, and what it says to look with finds it.
"""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from sqlalchemy import text

from tests.cli.terminal import terminal
from tests.client.commands.test_callers_commands import Shell
from tests.client.test_client import COMPLETED
from tests.faults.conftest import ground  # noqa: F401 - a fixture
from tests.support.stack import free_port, lock_waits, running_api, wait_for

LEADSWEEP = [
    sys.executable,
    "-c",
    "from leadsweep.commands.main import main; main(prog_name='leadsweep')",
]
KEY = "mine and 'yours'"
QUOTED = shlex.quote(KEY)

SUBMIT = (
    "submit",
    "-",
    "--campaign",
    "the cmp",
    "--idempotency-key",
    KEY,
    "--reference",
    "ticket 17",
    "--yes",
)
SUBMITTED = (
    "it may have been accepted: look for it with leadsweep jobs list --campaign 'the cmp' "
    "--reference 'ticket 17'; "
    f"to have it done once, submit it again with --idempotency-key {QUOTED}"
)
STEERED = "it may have been accepted; to find out: leadsweep status j"
FOLLOWED = (
    "it may have been accepted: look for it with leadsweep jobs list --campaign c; leadsweep jobs "
    "{} j again makes no second job"
)

COMMANDS = {
    SUBMIT: SUBMITTED,
    (*SUBMIT, "--wait", "--by", "externalId"): SUBMITTED,
    **{("jobs", action, "j"): STEERED for action in ("pause", "resume", "cancel")},
    ("jobs", "pace", "j", "7"): STEERED,
    **{
        ("jobs", action, "j", "--yes"): FOLLOWED.format(action)
        for action in ("retry", "execute", "restore")
    },
    ("jobs", "restore", "j", "--wait"): FOLLOWED.format("restore"),
}


class Server(ThreadingHTTPServer):
    """Answers GET with a job; what would change something it takes, and never answers: it hangs, or
    breaks the connection.
    """

    daemon_threads = True

    def __init__(self, *, breaks):
        super().__init__(("127.0.0.1", 0), Handler)
        self.breaks = breaks
        self.taken = threading.Semaphore(0)
        self.ends = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"success": True, "data": COMPLETED, "error": None}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.server.taken.release()
        if not self.server.breaks:
            self.server.ends.wait(60)
        self.close_connection = True

    do_PATCH = do_POST  # noqa: N815 - the standard library's name

    def log_message(self, *_):
        pass


@contextmanager
def serving(*, breaks):
    server = Server(breaks=breaks)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.ends.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def command(url, words):
    env = os.environ | {
        "LEADSWEEP_URL": url,
        "LEADSWEEP_API_KEY": "key",
        "LEADSWEEP_DATA_DIR": "/nowhere",
    }
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        [*LEADSWEEP, *words], env=env, text=True, process_group=0, **pipes
    ) as process:
        try:
            process.stdin.write("externalId\na\n")
            process.stdin.close()
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_interrupts_what_was_sent_is_told_that_it_may_be_done_and_how_to_find_it(number):
    with serving(breaks=False) as server:
        for words, told in COMMANDS.items() if number == signal.SIGINT else [(SUBMIT, SUBMITTED)]:
            with command(server.url, words) as process:
                assert server.taken.acquire(timeout=20)
                process.send_signal(number)
                assert process.wait(20) == 130, words
                assert process.stderr.read().splitlines() == [f"interrupted, but {told}"]
                assert process.stdout.read() == ""


def test_at_a_terminal_it_is_said_on_a_line_of_its_own():
    words = ("jobs", "cancel", "j")
    with serving(breaks=False) as server:
        env = {
            "LEADSWEEP_URL": server.url,
            "LEADSWEEP_API_KEY": "key",
            "LEADSWEEP_DATA_DIR": "/nowhere",
        }
        with terminal(*LEADSWEEP, *words, env=env) as person:
            assert server.taken.acquire(timeout=20)
            person.type("\x03")
            assert person.end() == 130
            assert person.seen.splitlines() == ["^C", f"interrupted, but {COMMANDS[words]}"]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_so_is_who_gets_no_answer(words):
    with serving(breaks=True) as server, command(server.url, words) as process:
        assert process.wait(60) == 7
        silent, told, error = process.stderr.read().splitlines()
        assert silent == f"no answer from {server.url} yet; still trying"
        assert told == COMMANDS[words]
        assert error.startswith(f"Error: no answer from {server.url}: ")


@pytest.mark.parametrize(
    "words",
    [*COMMANDS, ("jobs", "list"), ("status", "j"), ("watch", "j"), ("results", "j")],
    ids=" ".join,
)
def test_where_no_connection_was_made_nothing_can_have_been_accepted(words):
    url = f"http://127.0.0.1:{free_port()}"
    with command(url, words) as process:
        assert process.wait(20) == 7
        (error,) = process.stderr.read().splitlines()
        assert error.startswith(f"Error: no answer from {url}: ConnectError")


def test_what_was_refused_was_not_accepted_and_nothing_is_said_of_it():
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        command(
            f"http://127.0.0.1:{listening.getsockname()[1]}", ("jobs", "cancel", "j")
        ) as process,
    ):
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            body = b'{"success": false, "data": null, "error": "Job not found"}'
            connection.sendall(
                b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            assert process.wait(20) == 1
        assert process.stderr.read() == "Error: Job not found\n"


def test_what_it_says_to_look_with_finds_what_was_accepted(ground):  # noqa: F811
    """The API has all of the request, and waits for a lock until the caller has gone."""
    ground.add_leads(1)
    with running_api(ground.env()) as url:
        ground.url = url
        shell = Shell(ground)
        words, sent = (
            ("submit", "-", "--campaign", "cmp", "--mode", "archive"),
            b"externalId\ncrm-0\n",
        )
        pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
        with (
            ground.engine.begin() as holder,
            subprocess.Popen(
                [*LEADSWEEP, *words], env=os.environ | shell.env, process_group=0, **pipes
            ) as process,
        ):
            holder.execute(text("LOCK TABLE jobs IN SHARE MODE"))
            process.stdin.write(sent)
            process.stdin.close()
            wait_for(lambda: lock_waits(ground.engine))
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
            said = process.stderr.read().decode()
        look = re.search(r"look for it with leadsweep (.*?);", said)[1]
        (line,) = wait_for(lambda: shell.run(*shlex.split(look)).splitlines()[1:])
        key = re.search(r"--idempotency-key (\S+)", said)[1]
        again = shell.run(*words, "--idempotency-key", key, stdin=sent).strip()
        assert again == line.split()[0], "the same job"


SLOW_COMMIT = """
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_sleep(30); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT OR UPDATE ON {}
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()
"""
CHANGES = {
    ("companies", "create", "new"): ("companies", "leadsweep companies list"),
    ("companies", "webhook-secret", "acme", "--rotate"): (
        "companies",
        "leadsweep companies webhook-secret acme",
    ),
    ("campaigns", "create", "new", "--company", "acme"): (
        "campaigns",
        "leadsweep campaigns list --company acme",
    ),
    ("campaigns", "off-peak", "spring", "22:00-06:00"): (
        "campaigns",
        "leadsweep campaigns off-peak spring",
    ),
    ("campaigns", "phone-region", "spring", "DE"): (
        "campaigns",
        "leadsweep campaigns phone-region spring",
    ),
    ("keys", "create", "--company", "acme", "--scope", "read"): (
        "api_keys",
        "leadsweep keys list --company acme",
    ),
    ("leads", "import", "-", "--campaign", "spring"): (
        "leads",
        "leadsweep leads count --campaign spring",
    ),
    ("migrate", "--to", "0005", "--yes"): ("alembic_version", "leadsweep doctor"),
}


def committing(engine):
    """The process of the database that is in the slow trigger, if it is already."""
    slow = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = "
        "'PgSleep'"
    )
    with engine.connect() as connection:
        return connection.scalar(text(slow))


@pytest.mark.parametrize("words", CHANGES, ids=" ".join)
@pytest.mark.parametrize("how", ["interrupted", "cut"])
def test_who_is_cut_off_from_the_database_while_it_commits_is_told_how_to_find_out(
    leadsweep, engine, words, how
):
    leadsweep("companies", "create", "acme")
    leadsweep("campaigns", "create", "spring", "--company", "acme")
    table, look = CHANGES[words]
    with engine.begin() as connection:
        connection.execute(text(SLOW_COMMIT.format(table)))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*LEADSWEEP, *words], text=True, process_group=0, **pipes) as process:
        process.stdin.write("externalId\na\n")
        process.stdin.close()
        pid = wait_for(lambda: committing(engine))
        if how == "interrupted":
            process.send_signal(signal.SIGINT)
        else:
            with engine.connect() as connection:
                connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        assert process.wait(20) == (130 if how == "interrupted" else 1)
        said = process.stderr.read().splitlines()
    if words[0] == "migrate":
        assert said.pop(0).startswith("changing the schema from ")
    told = f"it may have been done; to find out: {look}"
    if how == "interrupted":
        assert said == [f"interrupted, but {told}"]
    else:
        assert said[0] == told
        assert said[1].startswith("Error: ")
        assert len(said) == 2
    with engine.begin() as connection:
        connection.execute(text(f"DROP TRIGGER slow ON {table}"))
    assert leadsweep(*shlex.split(look)[1:]).code in {0, 1}


def test_who_interrupts_before_it_is_committed_is_not_told_so(leadsweep, engine):
    leadsweep("companies", "create", "acme")
    with engine.begin() as holder:
        holder.execute(text("LOCK TABLE campaigns"))
        words = ("campaigns", "create", "spring", "--company", "acme")
        with subprocess.Popen(
            [*LEADSWEEP, *words], stderr=subprocess.PIPE, text=True, process_group=0
        ) as process:
            wait_for(lambda: lock_waits(engine))
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
            assert process.stderr.read().strip() == "Error: stopped before it was done"
    assert leadsweep("campaigns", "list", "--json").json == {"items": []}
