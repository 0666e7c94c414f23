"""How a worker ends: with 0 when it is told to, and with something else when its broker is what
ends it.
"""

import signal

import pytest
import redis

from tests.support.stack import environment, running, wait_for

ENDS_WITHIN = 30


@pytest.mark.parametrize("deliverer", [False, True])
def test_a_worker_that_is_told_to_end_ends_with_0(settings, deliverer):
    how = ["--webhooks", "--threads", 2] if deliverer else ["--processes", 1]
    with running("worker", *how, env=environment(settings)) as worker:
        wait_until_ready(worker)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(ENDS_WITHIN) == 0


@pytest.mark.parametrize("deliverer", [False, True])
def test_a_worker_that_its_broker_ends_ends_with_another_code_and_says_why(
    settings, redis_url, deliverer
):
    how = ["--webhooks", "--threads", 2] if deliverer else ["--processes", 1]
    with (
        redis.Redis.from_url(redis_url) as client,
        running("worker", *how, env=environment(settings)) as worker,
    ):
        wait_until_ready(worker)
        client.replicaof("127.0.0.1", "1")
        try:
            assert worker.wait(ENDS_WITHIN) == 1
        finally:
            client.replicaof("NO", "ONE")
        assert '"refuses writes: it is a replica"' in worker.log.read_text()


def test_a_worker_whose_broker_is_full_when_it_begins_ends_with_another_code_and_says_why(
    settings, redis_url
):
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory", "1")
        try:
            with running("worker", "--processes", 1, env=environment(settings)) as worker:
                assert worker.wait(ENDS_WITHIN) == 1
                assert '"refuses writes: its memory is full (maxmemory)"' in worker.log.read_text()
        finally:
            client.config_set("maxmemory", "0")


def wait_until_ready(worker):
    wait_for(lambda: "r ready" in worker.log.read_text())
