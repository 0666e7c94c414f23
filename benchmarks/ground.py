"""What both sides of a benchmark stand on: embedded servers, leads, jobs, and the real processes
with their peak of memory.
"""

import os
import random
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg
import redis

from benchmarks.builds import THIS
from shared.credentials import hash_key, new_key, new_secrets_key
from shared.database.arrays import smallint_array, text_array
from shared.destinations import LOOPBACK
from shared.states import COUNTS

CAMPAIGN = "bench"
JOB = 1000  # leads of a job


def entries_of(numbers):
    """(external ids, phone numbers) for leads by their number: every other one by phone, two in
    forty unknown (5 %).
    """
    external_ids, phone_numbers = [], []
    for position, number in enumerate(numbers):
        unknown, by_phone = position % 40 < 2, position % 2
        external_ids.append(None if by_phone else f"{'X' if unknown else 'CRM'}_{number:08d}")
        phone_numbers.append(f"{'+999' if unknown else '+1555'}{number:08d}" if by_phone else None)
    return external_ids, phone_numbers


def shuffled_jobs(count, *, seed=1):
    """Entries of `count` jobs over leads 0 … count * JOB, each lead in one job, in random order."""
    numbers = list(range(count * JOB))
    random.Random(seed).shuffle(numbers)
    return [entries_of(numbers[start : start + JOB]) for start in range(0, len(numbers), JOB)]


class Ground:
    """A database of a build's schema, which is filled afresh for each side of each round."""

    def __init__(self, servers, build=THIS, database="leadsweep"):
        """`servers` is a started cli.stack.embedded.Embedded, in which each build has a database of
        its own; that of ours is there.
        """
        self.servers = servers
        self.build = build
        self.url = servers.database_url.removesuffix("leadsweep") + database
        self.key = new_key()
        if database != "leadsweep":
            with psycopg.connect(servers.database_url, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {database}")
        build.migrate(self.url)

    def connect(self):
        return psycopg.connect(self.url, autocommit=True)

    def fill(self, lead_count, *, old_jobs=0):
        """Empties tables and broker, then loads leads and, where asked, finished jobs of 100
        entries; vacuums, checkpoints.
        """
        with redis.Redis.from_url(self.servers.broker_url) as client:
            client.flushall()
        with self.connect() as connection:
            # By the catalogue, since another commit's schema may have tables more or less.
            tables = connection.execute(
                "SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables"
                " WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
            ).fetchone()[0]
            connection.execute(f"TRUNCATE {tables}")
            connection.execute("INSERT INTO companies VALUES ('bench', '')")
            connection.execute("INSERT INTO campaigns VALUES (%s, 'bench', '')", (CAMPAIGN,))
            connection.execute(
                "INSERT INTO api_keys (id, company_id, scope, hash)"
                " VALUES (%s, 'bench', 'write', %s)",
                (uuid4(), hash_key(self.key)),
            )
            connection.execute(
                "INSERT INTO leads (campaign_id, external_id, phone_number)"
                " SELECT %s, 'CRM_' || lpad(n::text, 8, '0'), '+1555' || lpad(n::text, 8, '0')"
                " FROM generate_series(0, %s) AS n",
                (CAMPAIGN, lead_count - 1),
            )
            self._add_old_jobs(connection, old_jobs)
        self.settle()

    def queue(self, jobs, *, state="queued", mode="delete", queue="jobs"):
        """Writes jobs as the API does; scheduled ones for some other day."""
        run_at = "infinity" if state == "scheduled" else None
        with psycopg.connect(self.url) as connection:
            for external_ids, phone_numbers in jobs:
                job_id = uuid4()
                connection.execute(
                    "INSERT INTO jobs"
                    " (id, company_id, campaign_id, total, state, run_at, mode, queue)"
                    " VALUES (%s, 'bench', %s, %s, %s, %s, %s, %s)",
                    (job_id, CAMPAIGN, len(external_ids), state, run_at, mode, queue),
                )
                connection.execute(
                    "INSERT INTO chunks"
                    " (job_id, number, first_index, external_ids, phone_numbers, outcomes)"
                    " VALUES (%s, 0, 0, %s, %s, %s)",
                    (
                        job_id,
                        text_array(external_ids),
                        text_array(phone_numbers),
                        smallint_array([0] * len(external_ids)),
                    ),
                )
        self.settle()

    def queue_load(self, chunks, *, queue="jobs"):
        """One long job, whose chunks of 1000 name leads that there are not: work for all workers
        while something is measured.
        """
        with self.connect() as connection:
            connection.execute(
                """
                WITH job AS (
                    INSERT INTO jobs (id, company_id, campaign_id, total, queue)
                    VALUES (gen_random_uuid(), 'bench', %(campaign)s, 1000 * %(chunks)s, %(queue)s)
                    RETURNING id
                ),
                entries AS (
                    SELECT array_agg('none ' || n) AS external_ids,
                        array_fill(NULL::text, '{1000}') AS phone_numbers,
                        array_fill(0::smallint, '{1000}') AS outcomes
                    FROM generate_series(1, 1000) AS n
                )
                INSERT INTO chunks
                    (job_id, number, first_index, external_ids, phone_numbers, outcomes)
                SELECT id, number, number * 1000, external_ids, phone_numbers, outcomes
                FROM job, entries, generate_series(0, %(chunks)s - 1) AS number
                """,
                {"campaign": CAMPAIGN, "chunks": chunks, "queue": queue},
            )
        self.settle()

    def settle(self):
        with self.connect() as connection:
            connection.execute("VACUUM (ANALYZE) leads, jobs, chunks")
            connection.execute("CHECKPOINT")

    def wait_until_drained(self):
        with self.connect() as connection:
            while connection.execute(
                "SELECT count(*) FROM jobs WHERE finished_at IS NULL"
            ).fetchone()[0]:
                time.sleep(0.02)

    def _add_old_jobs(self, connection, count):
        if not count:
            return
        # Another commit's jobs may have fewer counts.
        columns = connection.execute("SELECT * FROM jobs LIMIT 0").description
        counts = [name for name in COUNTS if name in {column.name for column in columns}]
        values = ["100" if name == "deleted" else "0" for name in counts]
        connection.execute(
            f"""
            WITH old AS (
                INSERT INTO jobs (id, company_id, campaign_id, total, state, finished_at,
                    {", ".join(counts)})
                SELECT gen_random_uuid(), 'bench', %s, 100, 'completed', clock_timestamp(),
                    {", ".join(values)}
                FROM generate_series(1, %s) RETURNING id
            )
            INSERT INTO chunks (job_id, number, first_index, external_ids, phone_numbers, outcomes,
                state, attempts, deleted)
            SELECT id, 0, 0, array_fill('old'::text, '{{100}}'), array_fill(NULL::text, '{{100}}'),
                array_fill(1::smallint, '{{100}}'), 'done', 1, 100
            FROM old
            """,
            (CAMPAIGN, count),
        )


class Processes:
    """The real processes of a build, whose peak of resident memory is noted at their end."""

    def __init__(self, ground):
        """Over `ground`'s servers, of its build."""
        self._build = ground.build
        self._env = os.environ | {
            "DATABASE_URL": ground.url,
            "BROKER_URL": ground.servers.broker_url,
            "LEADSWEEP_SECRETS_KEY": new_secrets_key(),
            "LEADSWEEP_WEBHOOK_ALLOW": LOOPBACK,
            "LEADSWEEP_RATE_LIMIT_SUBMIT": "1000000000/hour",
            "LEADSWEEP_RATE_LIMIT_READ": "1000000000/hour",
            "LEADSWEEP_RATE_LIMIT_HEALTH": "1000000000/hour",
        }
        self.peak_mb = {}

    @contextmanager
    def run(self, role, module, *arguments, ready=None):
        """One process, ready once its log says `ready`."""
        with tempfile.NamedTemporaryFile("w+") as log:
            process = self._build.start(
                "-m", module, *arguments, env=self._env, stdout=log, stderr=log
            )
            try:
                while ready and ready not in Path(log.name).read_text():
                    if process.poll() is not None:
                        raise RuntimeError(f"{role} ended: {Path(log.name).read_text()[-2000:]}")
                    time.sleep(0.02)
                yield process
                self._note_peak(role, process)
            finally:
                process.terminate()
                process.wait()

    def _note_peak(self, role, process):
        """The kernel keeps each process's peak; asking once at the end takes no time from what is
        measured.
        """
        family = [
            process.pid,
            *(child.pid for child in psutil.Process(process.pid).children(recursive=True)),
        ]
        self.peak_mb[role] = max(self.peak_mb.get(role, 0), *map(peak_mb, family))


def peak_mb(pid):
    """The most resident memory that a process has had."""
    return round(
        int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024, 1
    )
