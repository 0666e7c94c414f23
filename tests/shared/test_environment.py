"""A process that cannot begin says why in one line."""

import os
import subprocess
import sys

import pytest

GOOD = {"DATABASE_URL": "postgresql://u@127.0.0.1:1/x", "BROKER_URL": "redis://127.0.0.1:1/0"}


@pytest.mark.parametrize("module", ["api", "worker", "worker.ticker"])
@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "DATABASE_URL is not set"),
        ({"DATABASE_URL": GOOD["DATABASE_URL"]}, "BROKER_URL is not set"),
        (GOOD | {"DATABASE_URL": "mysql://secret@x/y"}, "DATABASE_URL must begin with postgresql://"),
        (GOOD | {"LEADSWEEP_CHUNK_SIZE": "0"}, "LEADSWEEP_CHUNK_SIZE: "),
        (GOOD | {"LEADSWEEP_OFF_PEAK": "nightly"}, "LEADSWEEP_OFF_PEAK: write a window as 22:00-06:00 mon-sun Europe/Berlin"),
        (GOOD | {"LEADSWEEP_RATE_LIMIT_READ": "often"}, "LEADSWEEP_RATE_LIMIT_READ: write a rate as 1000/hour"),
    ],
)
def test_what_is_wrong_with_the_environment_is_said_in_one_line(module, environment, said):
    done = subprocess.run(
        [sys.executable, "-m", module],
        env={"PATH": os.environ["PATH"]} | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "secret" not in done.stderr
