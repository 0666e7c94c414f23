"""Redis emptied, frozen, gone and back; PostgreSQL stopped in the middle of everything."""

import os
import signal
import time

import pytest
import redis

from cli.stack.embedded import Embedded
from shared.database import migrations
from shared.database.engines import create_sync_engine
from shared.settings import Settings
from tests.faults.conftest import Ground, mixed
from tests.support.counts import ran, rounds
from tests.support.stack import running_stack, wait_for


@pytest.fixture(scope="module")
def own_servers(tmp_path_factory):
    """Servers that nobody else uses, to be broken."""
    with Embedded(tmp_path_factory.mktemp("own")) as embedded:
        engine = create_sync_engine(Settings(database_url=embedded.database_url), "tests")
        with engine.begin() as connection:
            migrations.upgrade(connection)
        engine.dispose()
        yield embedded


@pytest.fixture
def broken(own_servers, tmp_path):
    """Everything running over them, with a hundred leads."""
    engine = create_sync_engine(Settings(database_url=own_servers.database_url), "tests")
    with engine.begin() as connection:
        connection.exec_driver_sql("TRUNCATE companies, jobs CASCADE")
    engine.dispose()
    ground = Ground(own_servers.database_url, own_servers.broker_url, tmp_path)
    with running_stack(ground.env(LEADSWEEP_CHUNK_SIZE="10")) as url:
        ground.servers = own_servers
        ground.caller = ground.caller_of(url)
        wait_for(lambda: ground.caller.http.get("/api/health").status_code == 200)
        yield ground
    ground.close()


@pytest.mark.proof("redis")
@pytest.mark.parametrize("turn", rounds("redis"))
def test_a_redis_that_is_emptied_costs_at_most_five_seconds(broken, turn):
    pairs, submitted = broken.add_leads(100), {}
    before = broken.leads()
    with redis.Redis.from_url(broken.settings.broker_url) as client:
        for start in range(0, 100, 20):
            entries = mixed(pairs[start : start + 20])
            submitted[broken.caller.submit(entries)] = entries
            client.flushall()
            ran()
    emptied = time.monotonic()
    for job_id in submitted:
        broken.caller.finished(job_id)
    assert time.monotonic() - emptied < 5
    broken.check(broken.caller, submitted, before)


@pytest.mark.proof("redis")
@pytest.mark.parametrize("turn", rounds("redis"))
def test_while_redis_is_frozen_submissions_are_accepted_in_normal_time_and_run_when_it_thaws(
    broken, turn
):
    pairs, submitted, took = broken.add_leads(100), {}, []
    before = broken.leads()
    os.kill(broken.servers.redis.pid, signal.SIGSTOP)
    try:
        for start in range(0, 100, 10):
            entries = mixed(pairs[start : start + 10])
            began = time.monotonic()
            submitted[broken.caller.submit(entries)] = entries
            took.append(time.monotonic() - began)
    finally:
        os.kill(broken.servers.redis.pid, signal.SIGCONT)
    thawed = time.monotonic()
    for job_id in submitted:
        broken.caller.finished(job_id)
    assert time.monotonic() - thawed < 5
    assert max(took) < 0.5, took
    broken.check(broken.caller, submitted, before)


@pytest.mark.proof("redis")
@pytest.mark.parametrize("turn", rounds("redis"))
def test_a_redis_that_comes_back_empty_finds_the_work_where_it_was(broken, turn):
    pairs, submitted = broken.add_leads(100), {}
    before = broken.leads()
    broken.servers.redis.kill()
    broken.servers.redis.wait()
    for start in range(0, 100, 20):
        entries = mixed(pairs[start : start + 20])
        submitted[broken.caller.submit(entries)] = entries
    for kept in (broken.servers.data_dir / "redis").rglob("*"):
        if kept.is_file():
            kept.unlink()
    broken.servers.start_redis()
    back = time.monotonic()
    for job_id in submitted:
        broken.caller.finished(job_id)
    assert time.monotonic() - back < 5
    broken.check(broken.caller, submitted, before)


@pytest.mark.proof("postgresql")
@pytest.mark.parametrize("turn", rounds("postgresql"))
def test_a_postgresql_that_is_stopped_at_once_loses_nothing_that_was_promised(broken, turn):
    pairs, submitted = broken.add_leads(2000), {}
    before = broken.leads()
    for start in range(0, 2000, 200):
        entries = mixed(pairs[start : start + 200])
        submitted[broken.caller.submit(entries)] = entries
        if start in {400, 1200}:
            broken.servers.postgres.send_signal(signal.SIGQUIT)
            broken.servers.postgres.wait()
            answer = broken.caller.http.get("/api/v1/jobs")
            assert (answer.status_code, answer.json()["error"]) == (
                503,
                "Service temporarily unavailable",
            )
            broken.servers.start_postgres()
            ran()
    broken.engine.dispose()
    broken.check(broken.caller, submitted, before)
