"""A host whose clock is an hour off, one after the other: jobs run when the database says that it
is time.
"""

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest

from tests.faults.conftest import mixed
from tests.support.stack import free_port, listens, running, wait_for

PROCESSES = {
    "api": ("api", "--port"),
    "worker": ("worker", "--processes", 2),
    "ticker": ("worker.ticker",),
}


@pytest.mark.proof("clocks")
@pytest.mark.parametrize("off", [3600, -3600], ids=["an hour ahead", "an hour behind"])
@pytest.mark.parametrize("wrong", PROCESSES)
def test_a_clock_that_is_off_changes_nothing(ground, wrong, off):
    pairs = ground.add_leads(30)
    before = ground.leads()
    port = free_port()
    with ExitStack() as processes:
        for name, (module, *arguments) in PROCESSES.items():
            shift = ("tests.faults.processes.shifted", off, module) if name == wrong else (module,)
            processes.enter_context(
                running(*shift, *arguments, *([port] if name == "api" else []), env=ground.env())
            )
        wait_for(lambda: listens(port))
        caller = ground.caller_of(f"http://127.0.0.1:{port}")
        now = datetime.now(UTC)
        later = caller.submit(
            mixed(pairs[:10]), schedule={"runAt": (now + timedelta(minutes=30)).isoformat()}
        )
        earlier = caller.submit(
            mixed(pairs[10:20]), schedule={"runAt": (now - timedelta(minutes=30)).isoformat()}
        )
        soon = caller.submit(
            mixed(pairs[20:]), schedule={"runAt": (now + timedelta(seconds=2)).isoformat()}
        )
        submitted = {earlier: mixed(pairs[10:20]), soon: mixed(pairs[20:])}
        ground.check(caller, submitted, before)
        status = caller.status(soon)
        assert status["startedAt"] >= status["runAt"]
        assert (caller.status(later)["status"], caller.status(later)["startedAt"]) == (
            "scheduled",
            None,
        )
