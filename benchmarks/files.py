"""The contests of files: how fast one comes in, is worked off and is read back, and who has to wait
for it.
"""

import http.client
import statistics
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from leadsweep import Client

from benchmarks import floors
from benchmarks.client import body_of
from benchmarks.contests import (
    Round,
    _require_load,
    _until_completed,
    _wait_until_open,
    all_of_it,
    in_turn,
)
from benchmarks.ground import CAMPAIGN, JOB, entries_of, shuffled_jobs
from cli.stack.embedded import free_port
from shared.credentials import hash_key, new_key

MILLION = 1_000_000
CROWD = 5000  # jobs of one company
FILES = "/api/v1/leads/bulk-delete/files"


@contextmanager
def file_of(jobs):
    """A CSV of the entries of all `jobs`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "leads.csv"
        with path.open("w") as file:
            file.write("externalId,phoneNumber\n")
            for external_ids, phone_numbers in jobs:
                file.writelines(
                    f"{e or ''},{n or ''}\n"
                    for e, n in zip(external_ids, phone_numbers, strict=True)
                )
        yield path


def file(ground, processes, number, scale):
    """Leads/s from the first byte of a file of a million to its last outcome, against COPY of it
    and plain chunked DELETEs.
    """
    jobs = shuffled_jobs(MILLION // JOB // scale)
    count = len(jobs) * JOB

    def ours(path):
        ground.fill(count)
        port = free_port()
        with (
            all_of_it(processes, port),
            _client(ground, port) as client,
            ground.connect() as connection,
        ):
            client.wait(client.submit(CAMPAIGN, [{"externalId": "warm"}]).job_id)
            ground.settle()
            started = connection.execute("SELECT clock_timestamp()").fetchone()[0]
            job_id = client.submit_file(CAMPAIGN, path).job_id
            ground.wait_until_drained()
            query = "SELECT finished_at, deleted FROM jobs WHERE id = %s"
            finished, deleted = connection.execute(query, (job_id,)).fetchone()
        if deleted != count * 19 // 20:
            raise RuntimeError(f"{deleted} deleted")
        return count / (finished - started).total_seconds()

    def theirs(path):
        ground.fill(count)
        with ground.connect() as connection:
            connection.execute("CREATE TABLE staged (external_id text, phone_number text)")
            ground.settle()
            started = time.perf_counter()
            with (
                path.open("rb") as source,
                connection.cursor().copy("COPY staged FROM STDIN (FORMAT csv, HEADER)") as copy,
            ):
                while part := source.read(1 << 16):
                    copy.write(part)
            copied = time.perf_counter() - started
            connection.execute("DROP TABLE staged")
        return count / (copied + floors.drain_plainly(ground.url, jobs))

    with file_of(jobs) as path:
        return in_turn(number, lambda: ours(path), lambda: theirs(path))


def ingest(ground, processes, _number, scale):
    """Entries/s from the first byte of a file of a million to its 202; limit: 150,000."""
    jobs = shuffled_jobs(MILLION // JOB // scale)
    ground.fill(1000)
    port = free_port()
    with (
        file_of(jobs) as path,
        processes.run("api", "api", "--port", port, ready="api ready"),
        _client(ground, port) as client,
    ):
        _wait_until_open(port)
        client.submit(CAMPAIGN, [{"externalId": "warm"}])
        started = time.perf_counter()
        client.submit_file(CAMPAIGN, path)
        return Round(len(jobs) * JOB / (time.perf_counter() - started), 150_000.0)


def results(ground, processes, _number, scale):
    """Rows/s of the results of a job of a million, as NDJSON; limit: 200,000."""
    chunks = MILLION // JOB // scale
    ground.fill(1000)
    port = free_port()
    with (
        processes.run("api", "api", "--port", port, ready="api ready"),
        ground.connect() as connection,
    ):
        ground.queue_load(chunks)
        job_id = connection.execute("SELECT id FROM jobs").fetchone()[0]
        connection.execute(
            "UPDATE chunks SET state = 'done', not_found = 1000,"
            " outcomes = array_fill(3::smallint, '{1000}')"
        )
        _wait_until_open(port)
        caller = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        started = time.perf_counter()
        caller.request(
            "GET",
            f"/api/v1/jobs/{job_id}/results",
            headers={"x-api-key": ground.key, "Accept": "application/x-ndjson"},
        )
        answer = caller.getresponse()
        lines = 0
        while part := answer.read(1 << 20):
            lines += part.count(b"\n")
        took = time.perf_counter() - started
        caller.close()
    if lines != chunks * JOB:
        raise RuntimeError(f"{lines} rows")
    return Round(lines / took, 200_000.0)


def fair(ground, processes, _number, scale):
    """Milliseconds from the POST of a job of 1000 to its end while a job of a million of the same
    company runs, against idle.
    """
    tries = 20 // scale
    million = shuffled_jobs(MILLION // JOB // scale)
    ground.fill(len(million) * JOB + (tries * 2 + 2) * JOB)
    own = [
        entries_of(range(len(million) * JOB + n * JOB, len(million) * JOB + (n + 1) * JOB))
        for n in range(tries * 2 + 2)
    ]
    port = free_port()
    with (
        file_of(million) as path,
        all_of_it(processes, port),
        _client(ground, port) as client,
        ground.connect() as connection,
    ):
        idle = [
            _until_completed(port, body_of(*entries), ground.key) for entries in own[: tries + 1]
        ]
        client.submit_file(CAMPAIGN, path)
        while not connection.execute(
            "SELECT count(*) FROM jobs WHERE total > 1000 AND state = 'running'"
        ).fetchone()[0]:
            time.sleep(0.01)
        busy = [
            _until_completed(port, body_of(*entries), ground.key) for entries in own[tries + 1 :]
        ]
        _require_load(connection)
    return Round(statistics.median(busy[1:]) * 1000, statistics.median(idle[1:]) * 1000)


def crowd(ground, processes, _number, scale):
    """Milliseconds by which 5,000 queued jobs of another company delay a job of 1000, the longest
    of 10; limit: 2 s.
    """
    ground.fill(30_000)
    port, key = free_port(), new_key()
    own = [entries_of(range(n * JOB, (n + 1) * JOB)) for n in range(21)]
    with all_of_it(processes, port), ground.connect() as connection:
        connection.execute("INSERT INTO companies VALUES ('crowd', '')")
        connection.execute("INSERT INTO campaigns VALUES ('crowd', 'crowd', '')")
        connection.execute(
            "INSERT INTO api_keys (id, company_id, scope, hash) VALUES (%s, 'crowd', 'write', %s)",
            (uuid4(), hash_key(key)),
        )
        idle = statistics.median(
            [_until_completed(port, body_of(*entries), ground.key) for entries in own[:11]][1:]
        )
        connection.execute(
            """
            WITH job AS (
                INSERT INTO jobs (id, company_id, campaign_id, total)
                SELECT gen_random_uuid(), 'crowd', 'crowd', 1000 FROM generate_series(1, %s)
                RETURNING id
            ),
            entries AS (
                SELECT array_agg('none ' || n) AS external_ids FROM generate_series(1, 1000) AS n
            )
            INSERT INTO chunks (job_id, number, first_index, external_ids, phone_numbers, outcomes)
            SELECT id, 0, 0, external_ids, array_fill(NULL::text, '{1000}'),
                array_fill(0::smallint, '{1000}')
            FROM job, entries
            """,
            (CROWD // scale,),
        )
        while not connection.execute(
            "SELECT count(*) FROM jobs WHERE company_id = 'crowd' AND state <> 'queued'"
        ).fetchone()[0]:
            time.sleep(0.01)
        delayed = [
            _until_completed(port, body_of(*entries), ground.key) - idle for entries in own[11:]
        ]
        _require_load(connection)
    return Round(max(delayed) * 1000, 2000.0)


def _client(ground, port):
    return Client(f"http://127.0.0.1:{port}", ground.key)
