"""The demo, as a newcomer runs it: it tells the truth, and however it ends, nothing of it is
left.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

LEADSWEEP = Path(sys.executable).with_name("leadsweep")


@pytest.fixture
def start_demo(tmp_path):
    """Starts the demo in a temporary folder of its own; afterwards neither a process nor a file of
    it may be left.
    """
    environment = os.environ | {
        "TMPDIR": str(tmp_path),
        "DATABASE_URL": "postgresql://127.0.0.1:1/not-mine",
    }
    started = []

    def start(*args, **changes):
        command = [LEADSWEEP, "demo", *args]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=environment | changes, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.communicate(timeout=30)
    assert wait_for_none(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def wait_for_none(folder):
    """The processes whose TMPDIR is this or a folder in it; those that are ending are given
    time.
    """
    deadline = time.monotonic() + 10
    while (
        left := [process for process in psutil.process_iter() if belongs(process, folder)]
    ) and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=0.1)
    return left


def belongs(process, folder):
    try:
        return process.environ().get("TMPDIR", "").startswith(str(folder))
    except psutil.Error:
        return False


def test_the_demo_shows_the_main_job_and_leaves_nothing(start_demo):
    out, err = (process := start_demo()).communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    for words in (
        "loaded 10,000 leads",
        "202 Accepted",
        "completed, 1,000 of 1,000 processed",
        "deleted      950",
        "notFound     50",
        "NOBODY-19",
        "10,000 leads before and 9,050 after",
        "webhook job.completed received, signature verified, 950 deleted",
        "stopped everything and removed its folder",
    ):
        assert words in out
    assert max(map(len, out.splitlines())) <= 120
    assert "\x1b" not in out


def test_with_json_the_result_alone_is_on_stdout(start_demo):
    out, err = start_demo("--json").communicate(timeout=120)
    result = json.loads(out)
    job = result["job"]
    assert (job["status"], job["total"], job["deleted"], job["notFound"], job["unprocessed"]) == (
        "completed",
        1000,
        950,
        50,
        0,
    )
    assert result["seconds"].keys() == {
        "servers",
        "migrate",
        "processes",
        "key",
        "load",
        "submit",
        "job",
        "webhook",
        "stop",
    }
    assert "202 Accepted" in err


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("on real servers", signal.SIGINT),
        ("created the tables", signal.SIGTERM),
        ("loaded", signal.SIGINT),
    ],
    ids=["at once", "with servers", "with everything"],
)
def test_a_demo_that_is_stopped_takes_everything_with_it(start_demo, moment, number):
    process = start_demo()
    next(line for line in process.stdout if moment in line)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.strip() == "Error: stopped before it was done"


def test_a_demo_that_cannot_start_says_why_in_one_line(start_demo, tmp_path_factory):
    process = start_demo(PATH=str(tmp_path_factory.mktemp("empty")))
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
