"""What every fault is done to: a campaign with leads, a key, and our real processes over it."""

from itertools import count

import pytest

from cli.stack.embedded import Embedded
from shared.database import migrations
from shared.database.engines import create_sync_engine
from shared.settings import Settings
from tests.faults.processes import dying
from tests.support.caller import Caller
from tests.support.invariants import check
from tests.support.jobs import add_campaign, add_leads
from tests.support.oracle import Lead
from tests.support.stack import (
    environment,
    make_key,
    running_stack,
    wait_for,
)


class Ground:
    """A database with a campaign and a key, and the means to start, break and check things over
    it.
    """

    def __init__(self, database_url, broker_url, folder):
        self.settings = Settings(database_url=database_url, broker_url=broker_url)
        self.engine = create_sync_engine(self.settings, "faults")
        self.points = folder
        self._callers = []
        self._phone_numbers = count(1_322_000_000)
        with self.engine.begin() as connection:
            add_campaign(connection)
            add_campaign(connection, "other")
            self.key = make_key(connection, "co")

    def close(self):
        for caller in self._callers:
            caller.http.close()
        self.engine.dispose()

    def caller_of(self, url):
        """A caller of the API at `url`."""
        self._callers.append(Caller(url, self.key))
        return self._callers[-1]

    def env(self, **extra):
        return environment(self.settings, LEADSWEEP_LOG_FORMAT="text") | extra

    def add_leads(self, lead_count, prefix="crm"):
        """So many leads with both identifiers in each of two campaigns; returns those of the first
        as pairs.
        """
        pairs = [(f"{prefix}-{i}", f"+{next(self._phone_numbers)}") for i in range(lead_count)]
        with self.engine.begin() as connection:
            add_leads(connection, pairs)
            add_leads(connection, pairs, campaign="other")
        return pairs

    def leads(self):
        with self.engine.connect() as connection:
            rows = connection.exec_driver_sql(
                "SELECT campaign_id, external_id, phone_number FROM leads"
            ).all()
        return {Lead(*row) for row in rows}

    def execute(self, sql, *values):
        """An operator's own statement, as the driver has it; without values also several."""
        with self.engine.begin() as connection:
            connection.exec_driver_sql(sql, values or None)

    def let_leases_expire(self):
        """Nor does any job wait for the database to be well. On a busy machine this takes chunks
        from workers that live, again and again: it counts as one attempt.
        """
        with self.engine.begin() as connection:
            connection.exec_driver_sql(
                "UPDATE chunks SET retry_at = '-infinity', attempts = least(attempts, 1)"
                " WHERE state = 'pending'"
            )
            connection.exec_driver_sql(
                "UPDATE jobs SET waiting_until = clock_timestamp() WHERE waiting_until IS NOT NULL"
            )

    def arm(self, point):
        dying.arm(self.points, point)

    def fired(self, point, seconds=20):
        wait_for(lambda: not (self.points / point).exists(), seconds)

    def check(self, caller, submitted, leads_before):
        """All `submitted` jobs, by id, are finished; each entry is decided once; leads went where
        the reports say.
        """
        jobs = [
            (entries, caller.finished(job_id), caller.results(job_id))
            for job_id, entries in submitted.items()
        ]
        check(jobs, leads_before, self.leads())


@pytest.fixture
def ground(database_url, redis_url, tmp_path):
    """A fresh one."""
    ground = Ground(database_url, redis_url, tmp_path)
    yield ground
    ground.close()


@pytest.fixture(scope="module")
def _stack(tmp_path_factory):
    """As it takes seconds to start and to end, it serves the tests of a module one by one. Over
    servers of its own: its worker would take the messages of others.
    """
    points = tmp_path_factory.mktemp("points")
    with Embedded(tmp_path_factory.mktemp("stack")) as servers:
        engine = create_sync_engine(Settings(database_url=servers.database_url), "tests")
        with engine.begin() as connection:
            migrations.upgrade(connection)
        engine.dispose()
        ground = Ground(servers.database_url, servers.broker_url, points)
        worker = ("tests.faults.processes.dying", points, "worker", "--processes", 2)
        with running_stack(ground.env(LEADSWEEP_CHUNK_SIZE="10"), worker) as url:
            ground.caller = ground.caller_of(url)
            wait_for(lambda: ground.caller.http.get("/api/health").status_code == 200)
            yield ground
        ground.close()


@pytest.fixture
def stack(_stack):
    """API, worker, deliverer and ticker; the worker can be told where to die. Nothing is left of
    the test before.
    """
    for point in _stack.points.iterdir():
        point.unlink()
    _stack.execute("DELETE FROM jobs; DELETE FROM archived_leads; DELETE FROM leads")
    return _stack


def mixed(pairs):
    """Entries over the leads `pairs`: by id, by number, by both, some unknown, some repeated."""
    entries = []
    for i, (external_id, number) in enumerate(pairs):
        kinds = [
            (external_id, None),
            (None, number),
            (external_id, number),
            (f"nobody-{i}", None),
            (f"nobody-{i}", number),
        ]
        entries.append(kinds[i % len(kinds)])
        if i % 7 == 0:
            entries.append(entries[-1])
    return entries


def batches(pairs, size):
    """`pairs` in parts of `size`."""
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]
