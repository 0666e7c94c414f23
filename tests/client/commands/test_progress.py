"""How far a long command is, at a terminal; and nothing of it in a pipe."""

import gzip
import io
import json
import shlex
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from leadsweep.terminal.progress import watched
from sqlalchemy import text

from tests.cli.terminal import terminal
from tests.client.commands.test_callers_commands import Shell
from tests.faults.conftest import ground  # noqa: F401 - a fixture
from tests.support.jobs import add_campaign, queue_job
from tests.support.stack import running_api

LEADSWEEP = [
    sys.executable,
    "-c",
    "from leadsweep.commands.main import main; main(prog_name='leadsweep')",
]
ROWS = 120_000
ACCEPTED = {
    "jobId": "j",
    "status": "queued",
    "total": ROWS,
    "createdAt": "2026-01-01T02:00:00.000Z",
    "runAt": None,
}


@contextmanager
def taking(size, pause=0):
    """A server that reads half of a request, then all of it, then answers, each when it is told to.
    Yields its port, `go_on`.

    As one behind a slow line it makes a `pause` after each 64 KiB.
    """
    turns = threading.Semaphore(0)

    def serve(listening):
        connection, _ = listening.accept()
        with connection:
            left = size
            for most in (left // 2, left):
                turns.acquire()
                while left > size - most and (part := connection.recv(min(65536, left))):
                    left -= len(part)
                    time.sleep(pause * len(part) / 65536)
            turns.acquire()
            body = json.dumps({"success": True, "data": ACCEPTED, "error": None}).encode()
            connection.sendall(
                b"HTTP/1.1 202 Accepted\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=[listening])
        thread.start()
        yield listening.getsockname()[1], turns.release
        thread.join(20)


@pytest.fixture
def file(tmp_path):
    """Of leads, and far bigger than what a connection holds by itself."""
    path = tmp_path / "leads.csv"
    path.write_text(
        "externalId,filling\n" + "".join(f"crm-{number},{'x' * 200}\n" for number in range(ROWS))
    )
    return path


def test_an_upload_shows_what_is_sent_and_then_that_it_waits(file):
    size = file.stat().st_size
    with taking(size) as (port, go_on):
        env = {
            "LEADSWEEP_URL": f"http://127.0.0.1:{port}",
            "LEADSWEEP_API_KEY": "k",
            "COLUMNS": "120",
        }
        with terminal(*LEADSWEEP, "submit", file, "--campaign", "c", "--yes", env=env) as person:
            person.expect("counting")
            person.expect("sending")
            person.expect(f" of {size:,} bytes")
            assert "waiting" not in person.seen
            go_on()
            go_on()
            person.expect("sent; waiting for the answer")
            go_on()
            assert person.end() == 0
            assert person.seen.rstrip().endswith("j"), "nothing of it is left"


def test_a_server_that_stops_in_the_middle_of_an_upload_is_told_of_once(file):
    """At the beginning it has taken what the connection holds, later half of it, then all."""
    for parts in range(3):
        with taking(file.stat().st_size) as (port, go_on):
            env = {
                "LEADSWEEP_URL": f"http://127.0.0.1:{port}",
                "LEADSWEEP_API_KEY": "k",
                "COLUMNS": "120",
            }
            with terminal(
                *LEADSWEEP, "submit", file, "--campaign", "c", "--yes", env=env
            ) as person:
                person.expect("sending")
                began = time.monotonic()
                for _ in range(parts):
                    go_on()
                told = f"no answer from http://127.0.0.1:{port} yet; still trying"
                person.expect(told)
                assert time.monotonic() - began < 5
                for _ in range(3 - parts):
                    go_on()
                assert person.end() == 0
                assert person.seen.count(told) == 1


@pytest.mark.parametrize("seconds", [0, 6])
def test_in_a_pipe_an_upload_says_nothing_of_it_nor_that_it_takes_longer_than_silence_may(
    file, seconds
):
    size = file.stat().st_size
    with taking(size, seconds / (size / 65536)) as (port, go_on):
        env = {
            "LEADSWEEP_URL": f"http://127.0.0.1:{port}",
            "LEADSWEEP_API_KEY": "k",
            "PATH": "/usr/bin",
        }
        for _ in range(3):
            go_on()
        ran = subprocess.run(
            [*LEADSWEEP, "submit", file, "--campaign", "c"],
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
    assert (ran.stdout, ran.stderr) == (
        "j\n",
        f"accepted: {ROWS:,} leads, queued. Watch it: leadsweep watch j\n",
    )


def test_results_show_how_many_of_them_are_read_but_not_among_themselves(ground, tmp_path):  # noqa: F811
    with ground.engine.begin() as connection:
        job_id = str(
            queue_job(connection, [(f"crm-{i:06}", None) for i in range(1000)], total=60_000)
        )
        connection.execute(
            text("""
                INSERT INTO chunks
                    (job_id, number, first_index, external_ids, phone_numbers, outcomes)
                SELECT job_id, n, n * 1000, external_ids, phone_numbers, outcomes
                FROM chunks, generate_series(1, 59) AS n
                WHERE job_id = :id
            """),
            {"id": job_id},
        )
    with running_api(ground.env()) as url:
        ground.url = url
        shell = Shell(ground)
        shell.env["COLUMNS"] = "120"
        for options in (["--format", "csv"], ["--format", "identifiers"], ["--outcome", "pending"]):
            with shell.at_terminal(
                "results", job_id, "-o", tmp_path / "results", *options
            ) as person:
                person.expect(" of 60,000 entries")
                assert person.end() == 0
                assert "written: " in person.seen.splitlines()[-1]
        with shell.at_terminal("results", job_id) as person:
            assert person.end(60) == 0
            assert "entries" not in person.seen
        piped = f"{shlex.join(LEADSWEEP)} results {job_id} | gzip > {tmp_path / 'zipped'}"
        with terminal("bash", "-c", piped, env=shell.env) as person:
            person.expect(" of 60,000 entries")
            assert person.end(60) == 0
        assert gzip.decompress((tmp_path / "zipped").read_bytes()).count(b"\n") == 60_001
        shell.run("results", job_id, "-o", tmp_path / "results")
        assert shell.err == f"written: {tmp_path / 'results'}\n"


def test_an_import_shows_how_far_it_is_to_its_end(leadsweep, engine, file):
    with engine.begin() as connection:
        add_campaign(connection, "spring")
    slow = """
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON leads
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
            WHEN (new.external_id = 'crm-7') EXECUTE FUNCTION slow()
    """
    with engine.begin() as connection:
        connection.execute(text(slow))
    for seen in (
        [
            "reading",
            f" of {file.stat().st_size:,} bytes",
            "preparing",
            "writing",
            f" of {ROWS:,} rows",
            "committing",
        ],
        ["reading", "writing", "looking for what rows repeat", "committing"],
    ):
        with terminal(
            *LEADSWEEP, "leads", "import", file, "--campaign", "spring", env={"COLUMNS": "120"}
        ) as person:
            for words in seen:
                person.expect(words, 60)
            person.end(60)
            assert "imported" in person.seen.splitlines()[-1]
    ran = leadsweep("leads", "import", "-", "--campaign", "spring", stdin=b"externalId\nnew\n")
    assert (ran.code, ran.err) == (0, "")


@pytest.mark.parametrize("content", [b"", b"abc" * 100_000])
def test_what_is_watched_reads_as_it_is_and_again_from_its_beginning(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    shown = []
    with (tmp_path / "file").open("rb") as file:
        reading = watched(file, lambda *how_far: shown.append(how_far), "reading", "done")
        for _ in range(2):
            reading.seek(0)
            assert reading.read() == content
            assert shown[-1] == ("done",)
            assert ("reading", len(content), len(content), "bytes") in shown
    zipped = watched(io.BytesIO(gzip.compress(content)), lambda *_: None, "reading", "done")
    assert gzip.GzipFile(fileobj=zipped).read() == content
