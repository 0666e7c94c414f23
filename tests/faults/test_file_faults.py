"""Files, while things die: very many entries while a worker is killed twice a second, and an API
that dies in the middle.
"""

import gzip
import random
import signal
import threading
import time

import httpx2
import psutil
import pytest
from leadsweep import Client, Retries
from sqlalchemy import text

from tests.faults.processes import dying
from tests.support.counts import many, ran, rounds
from tests.support.oracle import Lead, judge
from tests.support.stack import (
    free_port,
    running,
    running_stack,
    running_ticker,
    running_worker,
    wait_for,
)

ENTRIES = many("file entries") // 2  # of each of two files
LEADS = ENTRIES // 2
KILLED_EVERY = 0.5  # seconds
GROWTH = 100 * 1024 * 1024  # bytes that the API may take for a file, however long
WORKER = 150 * 1024 * 1024  # bytes of a worker process


def very_many_entries():
    """(externalId, number) of leads that there are, that there are not, and that were named before:
    each always in one way, as which of two different ways comes first is up to who decides first.
    """
    dice = random.Random(17)
    entries = []
    for i in range(ENTRIES):
        lead = dice.randrange(ENTRIES * 3 // 4) if i % 50 == 0 else i * 3 // 4
        entries.append((f"crm-{lead}", None) if lead % 3 else (None, f"+1555{lead:07d}"))
    return entries


def add_leads(engine):
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO leads (campaign_id, external_id, phone_number)
                SELECT 'cmp', 'crm-' || i, '+1555' || lpad(CAST(i AS text), 7, '0')
                    FROM generate_series(0, :last) AS i
            """),
            {"last": LEADS - 1},
        )
    return {Lead("cmp", f"crm-{i}", f"+1555{i:07d}") for i in range(LEADS)}


class Sampler(threading.Thread):
    """Notes the memory of a process and of its children, several times a second, and its
    highest.
    """

    def __init__(self, process):
        super().__init__(daemon=True)
        self._process = psutil.Process(process.pid)
        self._ended = threading.Event()
        self.first = self.highest = 0

    def run(self):
        self.first = self._now()
        while not self._ended.wait(0.1):
            self.highest = max(self.highest, self._now())

    def stop(self):
        self._ended.set()
        self.join()

    def _now(self):
        sizes = [0]
        for process in [self._process, *self._process.children()]:
            try:
                sizes.append(process.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
        return max(sizes)


def write_csv(path, entries):
    path.write_text(
        "externalId,phoneNumber\n" + "".join(f"{e or ''},{n or ''}\n" for e, n in entries)
    )


def write_ndjson(path, entries):
    with gzip.open(path, "wt", 1) as file:
        file.writelines(
            f'{{"externalId":"{e}"}}\n' if e else f'{{"phoneNumber":"{n}"}}\n' for e, n in entries
        )


@pytest.mark.proof("file entries")
@pytest.mark.timeout(120 + ENTRIES // 1000)
@pytest.mark.parametrize(
    ("name", "write"), [("many.csv", write_csv), ("many.ndjson.gz", write_ndjson)]
)
def test_very_many_entries_are_decided_as_the_oracle_says_while_workers_are_killed_all_the_time(
    ground, tmp_path, name, write
):
    before = add_leads(ground.engine)
    entries = very_many_entries()
    path = tmp_path / name
    write(path, entries)
    with (
        running("api", "--port", port := free_port(), env=ground.env()) as api,
        running_worker(ground.env()) as worker,
        running_ticker(ground.env()),
        Client(f"http://127.0.0.1:{port}", ground.key) as leadsweep,
    ):
        wait_for(lambda: answers(port))
        samplers = [Sampler(api), Sampler(worker)]
        for sampler in samplers:
            sampler.start()
        submitted = leadsweep.submit_file("cmp", path, max_leads_per_second=ENTRIES // 5)
        kills = 0
        while not leadsweep.job(submitted.job_id).final:
            kills += kill_a_pool_process(worker)
            ended_leases(ground.engine)
            time.sleep(KILLED_EVERY)
        job = leadsweep.wait(submitted.job_id)
        results = [(r.outcome, r.matched_by, r.reason) for r in leadsweep.results(submitted.job_id)]
        for sampler in samplers:
            sampler.stop()
    verdict = judge(entries, before, campaign="cmp", of_file=True)
    assert results == verdict.outcomes
    assert ground.leads() == verdict.remaining
    assert (job.status, job.total, job.deleted) == (
        "completed",
        ENTRIES,
        len(before) - len(verdict.remaining),
    )
    assert kills >= 5
    assert samplers[0].highest - samplers[0].first <= GROWTH
    assert samplers[1].highest <= WORKER
    ran(ENTRIES)


def kill_a_pool_process(worker):
    children = psutil.Process(worker.pid).children()
    if children:
        random.choice(children).send_signal(signal.SIGKILL)
    return len(children[:1])


def ended_leases(engine):
    """As if those 20 seconds were over, for what nobody has in hand."""
    with engine.begin() as connection:
        connection.execute(
            text("""
                UPDATE chunks SET retry_at = '-infinity' FROM (
                    SELECT job_id, number FROM chunks
                    WHERE state = 'pending' AND retry_at > clock_timestamp()
                        AND retry_at < clock_timestamp() + interval '19.5 s'
                    FOR UPDATE SKIP LOCKED
                ) AS left_behind WHERE chunks.job_id = left_behind.job_id
                    AND chunks.number = left_behind.number
            """)
        )


def answers(port):
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/api/health", trust_env=False).status_code in {
            200,
            503,
        }
    except httpx2.TransportError:
        return False


MOMENTS = [
    f"{moment} {what}"
    for moment in ("before", "after")
    for what in ("INSERT INTO jobs", "UPDATE jobs SET total", dying.COMMIT)
]


@pytest.mark.proof("uploads")
@pytest.mark.parametrize("turn", rounds("uploads"))
@pytest.mark.parametrize("point", MOMENTS)
def test_an_api_that_dies_during_an_upload_leaves_all_of_it_or_nothing(ground, point, turn):
    """And whoever sends it again with its key has it done once."""
    ids = [f"crm-{i}" for i in range(25)]
    ground.add_leads(25)
    port = free_port()
    api = ("tests.faults.processes.dying", ground.points, "api", "--port", port)
    url = f"http://127.0.0.1:{port}"
    body = ("externalId\n" + "\n".join(ids)).encode()
    with running(*api, env=ground.env(LEADSWEEP_CHUNK_SIZE="10")) as process:
        wait_for(lambda: answers(port))
        with Client(url, ground.key) as leadsweep:
            next(leadsweep.jobs(), None)  # what it does once per key is done
        ground.arm(point)
        sent = httpx2.Client(
            base_url=url, headers={"x-api-key": ground.key, "idempotency-key": "k"}, trust_env=False
        )
        with pytest.raises(httpx2.TransportError), sent:
            sent.post(
                "/api/v1/leads/bulk-delete/files?campaignId=cmp",
                content=body,
                headers={"content-type": "text/csv"},
            )
        process.wait(10)
    with ground.engine.connect() as connection:
        found = connection.execute(
            text("SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM chunks)")
        ).one()
    assert tuple(found) == ((1, 3) if point == f"after {dying.COMMIT}" else (0, 0))
    with running_stack(ground.env(LEADSWEEP_CHUNK_SIZE="10"), deliverer=False) as url:
        headers = {"x-api-key": ground.key, "idempotency-key": "k", "content-type": "text/csv"}
        answer = httpx2.post(
            f"{url}/api/v1/leads/bulk-delete/files?campaignId=cmp",
            content=body,
            headers=headers,
            trust_env=False,
        )
        assert answer.status_code == 202
        assert ("idempotency-replayed" in answer.headers) == (found[0] == 1)
        with Client(url, ground.key, retries=Retries(attempts=2)) as leadsweep:
            assert leadsweep.wait(answer.json()["data"]["jobId"], timeout=30).deleted == 25
            assert len(list(leadsweep.jobs())) == 1
