"""Which database a command works on: the stack that --data-dir names, else DATABASE_URL, else the stack in the default folder."""

import fcntl
import json
import os
from contextlib import contextmanager

import pytest

from shared.signatures import new_secrets_key

NOWHERE = "postgresql://127.0.0.1:1/nowhere"


@contextmanager
def stack_in(folder, database_url):
    """What a running stack shows of itself."""
    runtime = {
        "pid": os.getpid(),
        "database_url": database_url,
        "broker_url": "redis://127.0.0.1:1/0",
        "secrets_key": new_secrets_key(),
    }
    (folder / "runtime.json").write_text(json.dumps(runtime))
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def stack(database_url, tmp_path):
    """The folder of a stack that runs on the test's database."""
    with stack_in(tmp_path, database_url):
        yield tmp_path


def test_a_named_folder_beats_database_url(leadsweep, stack, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", NOWHERE)
    assert leadsweep("keys", "list").code == 1
    assert leadsweep("keys", "list", "--data-dir", stack).code == 0


def test_database_url_beats_the_default_folder(leadsweep, tmp_path, monkeypatch):
    monkeypatch.setenv("LEADSWEEP_DATA_DIR", str(tmp_path))
    with stack_in(tmp_path, NOWHERE):
        assert leadsweep("keys", "list").code == 0


def test_without_either_it_is_the_stack_in_the_default_folder(leadsweep, stack, monkeypatch):
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.delenv("LEADSWEEP_SECRETS_KEY")
    monkeypatch.chdir(stack.parent)
    monkeypatch.setenv("LEADSWEEP_DATA_DIR", stack.name)
    assert leadsweep("companies", "create", "acme").code == 0, "with the key of the stack"
    assert leadsweep("doctor", "--json").json["checks"][-1]["finding"].startswith("redis://127.0.0.1:1/0 does not answer")
