"""The processes, and the whole stack, from a folder that holds something of every name that Python
could look for there.
"""

import os
import re
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from importlib.metadata import packages_distributions
from pathlib import Path

import httpx2
import pytest

from cli.stack.embedded import free_port
from cli.stack.processes import tied
from tests.support.jobs import add_campaign, add_leads
from tests.support.receiver import receiving
from tests.support.stack import end, environment, listens, make_key, wait_for

LEADSWEEP = Path(sys.executable).with_name("leadsweep")
OURS = ("api", "worker", "shared", "cli", "leadsweep")


@pytest.fixture
def folder(tmp_path):
    """A folder of somebody's, whose modules note that they were imported."""
    folder = tmp_path / "somebodys"
    folder.mkdir()
    note = (
        f"with open({str(tmp_path / 'imported')!r}, 'a') as file:\n    print(__name__, file=file)\n"
    )
    for name in {*sys.stdlib_module_names, *packages_distributions(), *OURS, "celeryconfig"}:
        if name in OURS:
            (folder / name).mkdir()
            (folder / name / "__init__.py").write_text(note)
        else:
            (folder / f"{name}.py").write_text(note)
    return folder


@contextmanager
def running(folder, *command, env):
    """`leadsweep …` in `folder`; yields its Popen, whose `said` is what it said so far."""
    log = folder.with_name(f"{command[0]}.log")
    with log.open("wb") as file:
        process = subprocess.Popen(
            tied([str(LEADSWEEP), *map(str, command)]),
            cwd=folder,
            env=os.environ | env,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            process_group=0,
        )
    process.said = log.read_text
    try:
        yield process
    finally:
        end(process)


def wait_until_it_says(process, words):
    def it_does():
        assert process.poll() is None, process.said()
        return re.search(words, process.said())

    return wait_for(it_does, seconds=60)[1]


def imported(folder):
    path = folder.with_name("imported")
    return path.read_text().split() if path.exists() else []


def submit(url, key, campaign, external_id):
    """Has a lead deleted by the processes at `url`, and waits for the webhook that says so."""
    with receiving() as receiver:
        body = {
            "campaignId": campaign,
            "leads": [{"externalId": external_id}],
            "callbackUrl": f"{receiver.url}/200",
        }
        answer = httpx2.post(
            f"{url}/api/v1/leads/bulk-delete",
            json=body,
            headers={"x-api-key": key, "Prefer": "wait=30"},
            timeout=60,
            trust_env=False,
        )
        assert answer.json()["data"]["deleted"] == 1
        wait_for(lambda: receiver.came)


def test_each_process_runs_from_a_folder_that_holds_something_of_every_name(
    folder, engine, settings
):
    with engine.begin() as connection:
        add_campaign(connection)
        add_leads(connection, [("a", None)])
        key = make_key(connection, "co")
    port = free_port()
    env = environment(settings)
    with ExitStack() as stack:
        for role, *options in (
            ("api", "--port", port),
            ("worker", "--processes", 1),
            ("deliverer", "--threads", 2),
            ("ticker",),
        ):
            process = stack.enter_context(running(folder, role, *options, env=env))
            wait_until_it_says(process, f"({role} ready)")
        wait_for(lambda: listens(port))
        submit(f"http://127.0.0.1:{port}", key, "cmp", "a")
    assert imported(folder) == []


def test_the_stack_runs_from_a_folder_that_holds_something_of_every_name(folder):
    env = {"DATABASE_URL": "", "BROKER_URL": "", "REDIS_URL": ""}
    with running(folder, "up", "--port", 0, env=env) as process:
        url = wait_until_it_says(process, r"(?m)^ready: (http://.*)$")
        key = wait_until_it_says(process, r"shown only now: (lsk_\S+)")
        submit(url, key, "demo", "CRM_001")
    assert imported(folder) == []


def test_the_folder_would_be_noticed(folder):
    command = [sys.executable, "-m", "worker.ticker"]
    subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False)
    assert imported(folder)


@pytest.mark.parametrize("role", ["api", "worker", "deliverer", "ticker"])
def test_without_its_servers_each_says_so_in_one_line(tmp_path, role):
    (tmp_path / "empty").mkdir()
    with running(tmp_path / "empty", role, env={"DATABASE_URL": "", "BROKER_URL": ""}) as process:
        assert process.wait(60) == 1
        assert (
            process.said()
            == "DATABASE_URL is not set; set it, or run everything with: leadsweep up\n"
        )
