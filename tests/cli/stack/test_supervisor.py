"""The supervisor's parts that need no whole stack; test_up.py has the rest."""

import json
import os

import pytest
from leadsweep.commands.runtime import running_stack
from leadsweep.terminal.failure import Failure

from cli.stack.address import Address
from cli.stack.child import Child
from cli.stack.processes import spawn
from cli.stack.supervisor import Stack
from tests.support.stack import wait_for


def test_no_stack_runs_where_there_is_no_folder_or_nothing_in_it(tmp_path):
    assert running_stack(tmp_path / "nowhere") is None
    assert running_stack(tmp_path) is None


def test_a_remnant_is_not_taken_for_a_running_stack_even_if_its_pid_lives(tmp_path):
    (tmp_path / "lock").touch()
    for pid in (os.getpid(), 2**22 + 1):
        (tmp_path / "runtime.json").write_text(
            json.dumps({"pid": pid, "database_url": "…", "broker_url": "…"})
        )
        assert running_stack(tmp_path) is None


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("name", "http://name:1"),
    ],
)
def test_the_url_can_be_called_from_this_machine(host, url):
    assert Address(host, 1).url == url


def dying(folder, script):
    """A child that runs `script` each time, and its log."""
    log = folder / "log"

    def start():
        return spawn(["/bin/sh", "-c", script], log)

    return Child("role", start, log)


def test_a_child_that_dies_at_once_is_started_again_for_ever_with_pauses_of_a_second_at_most(
    tmp_path,
):
    child = dying(tmp_path, "echo first; echo last; exit 3")
    for _ in range(7):
        pid = child.process.pid
        line = wait_for(child.look, seconds=1.5)
        assert (
            line == f"role (pid {pid}) ended with exit code 3, "
            f"started again as pid {child.process.pid}; its last words: last"
        )
    assert child.deaths == 7
    child.process.wait()


def test_only_words_of_the_dead_child_itself_are_repeated(tmp_path):
    child = dying(tmp_path, f"test -e {tmp_path}/told || echo hello; touch {tmp_path}/told")
    wait_for(child.look)
    assert wait_for(child.look).endswith("it said nothing")
    child.process.wait()


def test_a_child_whose_log_was_removed_is_started_again_all_the_same(tmp_path):
    child = dying(tmp_path, "exit 0")
    (tmp_path / "log").unlink()
    assert wait_for(child.look).endswith("it said nothing")
    child.process.wait()


def test_a_child_that_cannot_be_started_is_tried_again(tmp_path):
    child = dying(tmp_path, "exit 0")
    starts = iter([OSError("no memory"), Failure("no such thing")])

    def start():
        for error in starts:
            raise error
        return spawn(["sleep", "60"], tmp_path / "log")

    child._start = start
    assert wait_for(child.look) == "role could not be started: no memory; will try again"
    assert wait_for(child.look) == "role could not be started: no such thing; will try again"
    assert "started again" in wait_for(child.look)
    child.process.kill()
    child.process.wait()


def test_a_stack_that_cannot_get_ready_fails_and_stops(tmp_path, settings, monkeypatch):
    monkeypatch.setenv(
        "LEADSWEEP_CHUNK_SIZE", "none"
    )  # after the settings of this process were read
    said = []
    with (
        Stack(settings, tmp_path, Address(port=0), say=said.append) as stack,
        pytest.raises(Failure, match="the stack does not get ready: the API does not answer"),
    ):
        stack.start_processes()
    assert any("ended with exit code 1, started again" in line for line in said), said
    assert running_stack(tmp_path) is None
    assert not (tmp_path / "runtime.json").exists()
