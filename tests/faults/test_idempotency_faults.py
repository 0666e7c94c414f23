"""An API that dies while it takes a key: the same request, sent again, is one job, and every answer
names it.
"""

import httpx2
import pytest

from tests.faults.conftest import mixed
from tests.faults.test_fail_points import answers
from tests.support.counts import rounds
from tests.support.stack import free_port, running, running_stack, wait_for


@pytest.mark.proof("api")
@pytest.mark.parametrize("turn", rounds("api"))
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_around_the_commit_leaves_one_job_for_the_key(ground, moment, turn):
    pairs = ground.add_leads(25)
    before = ground.leads()
    entries = mixed(pairs)
    point = f"{moment} INSERT INTO idempotency_keys"
    port = free_port()
    api = ("tests.faults.processes.dying", ground.points, "api", "--port", port)
    caller = ground.caller_of(f"http://127.0.0.1:{port}")
    with running(*api, env=ground.env()) as process:
        wait_for(lambda: answers(caller))
        ground.arm(point)
        with pytest.raises(httpx2.TransportError):
            caller.submit(entries, key="ticket 17")
        process.wait(10)
    with running_stack(ground.env(), deliverer=False) as url:
        caller = ground.caller_of(url)
        made = {caller.submit(entries, key="ticket 17") for _ in range(3)}
        assert made == set(caller.jobs())
        assert len(made) == 1
        ground.check(caller, dict.fromkeys(made, entries), before)
