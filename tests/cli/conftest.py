"""Runs commands in this process, on a test's own database; `Ran` is what they left behind."""

import json
from typing import NamedTuple

import pytest
from click.testing import CliRunner
from leadsweep.commands.main import main

from shared.credentials import new_secrets_key


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def error(self):
        """The one line that a failed command may say."""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("Error: ")
        return self.err.removeprefix("Error: ").rstrip("\n")


@pytest.fixture
def leadsweep(engine, monkeypatch):
    """`leadsweep(*args, stdin=b"")`, with DATABASE_URL naming the test's database."""
    monkeypatch.setenv(
        "DATABASE_URL",
        engine.url.set(drivername="postgresql").render_as_string(hide_password=False),
    )
    monkeypatch.setenv("LEADSWEEP_SECRETS_KEY", new_secrets_key())
    return run


def run(*args, stdin=b""):
    result = CliRunner().invoke(
        main, [str(arg) for arg in args], input=stdin, prog_name="leadsweep"
    )
    return Ran(result.exit_code, result.stdout, result.stderr)
