"""Chooses the next chunk and takes it on: the first transaction of a chunk, one statement, seen by all at once.

Least recently served company first, then its least recently served job (a new job counts as served when it was created),
then the job's first chunk. So a big job starves no small one, nor one company another. A claim is a lease: a worker that
dies keeps others off the chunk for LEASE, no longer; a worker that lives is protected by its row lock.
"""

from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from shared.states import COUNTS, PhoneFallback

BURST = timedelta(seconds=0.85)  # that a paced job may catch up after waiting for a worker, of 10 s over which its pace holds
LEASE = timedelta(seconds=20)  # longer than a chunk takes even when its statements run into their time-outs once
TRIES = 3  # of a claim that a request forestalled: the next job is as good
MAX_ATTEMPTS = 5  # a chunk that killed five workers would kill a sixth

# May be claimed: nothing is asked of the job, its window is open, its pace allows it, and it does not wait for the database to be
# well again.
_CLAIMABLE = """
    jobs.state IN ('queued', 'running') AND jobs.wanted IS NULL
    AND (jobs.closes_at IS NULL OR jobs.closes_at > clock_timestamp())
    AND (jobs.paced_at IS NULL OR jobs.paced_at <= clock_timestamp())
    AND (jobs.waiting_until IS NULL OR jobs.waiting_until <= clock_timestamp())
"""

# A claim of a paced job is for an eighth of a second's worth of leads, and moves on the time of the next one by as much.
# The recursion skips from company to company along jobs_active_idx: distinct companies without reading all their jobs.
_CLAIM = text(f"""
    WITH RECURSIVE no_wait_for_disk AS (
        SELECT set_config('synchronous_commit', 'off', true), -- losing a claim in a crash of the database costs nothing
            set_config('idle_in_transaction_session_timeout', '10s', true) -- and one frozen at this very moment freezes no other
    ),
    busy_company (id) AS (
        (SELECT company_id FROM jobs WHERE queue = :queue AND state IN ('queued', 'running') ORDER BY company_id LIMIT 1)
        UNION ALL
        SELECT (
            SELECT company_id FROM jobs
            WHERE queue = :queue AND state IN ('queued', 'running') AND company_id > busy_company.id
            ORDER BY company_id LIMIT 1
        ) FROM busy_company WHERE id IS NOT NULL
    ),
    turn AS (
        SELECT id AS company_id, coalesce(served_at, '-infinity') AS served_at
        FROM busy_company LEFT JOIN served_companies ON company_id = id
        WHERE id IS NOT NULL ORDER BY served_at
    ),
    next_chunk AS (
        SELECT claimable.*
        FROM turn CROSS JOIN LATERAL (
            SELECT pending.*
            FROM jobs CROSS JOIN LATERAL (
                SELECT job_id, number, part_seconds,
                    CASE WHEN coalesce(jobs.max_leads_per_second, jobs.part_size, part_size) IS NOT NULL THEN least(
                        cardinality(outcomes) - ({" + ".join(COUNTS)}), jobs.part_size, part_size,
                        CASE WHEN jobs.max_leads_per_second IS NOT NULL THEN greatest(
                            CASE WHEN jobs.waiting_until IS NOT NULL THEN 10 ELSE 1 END, jobs.max_leads_per_second / 8
                        ) END
                    ) END AS most
                FROM chunks
                WHERE job_id = jobs.id AND state = 'pending' AND retry_at <= clock_timestamp()
                ORDER BY number LIMIT 1 FOR UPDATE SKIP LOCKED
            ) AS pending
            WHERE jobs.queue = :queue AND jobs.company_id = turn.company_id AND {_CLAIMABLE}
            ORDER BY jobs.served_at, jobs.id LIMIT 1
        ) AS claimable
        ORDER BY turn.served_at LIMIT 1
    ),
    served_job AS ( -- looks again: a request that came meanwhile is committed by now, or waits for this row
        UPDATE jobs SET state = 'running', started_at = coalesce(started_at, clock_timestamp()), served_at = clock_timestamp(),
            history = CASE WHEN state = 'running' THEN history
                ELSE history || jsonb_build_object('status', 'running', 'at', clock_timestamp(), 'by', NULL) END,
            paced_at = greatest(coalesce(paced_at, clock_timestamp()), clock_timestamp() - CAST(:burst AS interval))
                + next_chunk.most * interval '1 s' / max_leads_per_second,
            waiting_until = CASE WHEN waiting_until IS NOT NULL THEN clock_timestamp() + :lease END -- one chunk is tried
        FROM next_chunk WHERE jobs.id = next_chunk.job_id AND {_CLAIMABLE}
        RETURNING jobs.id, jobs.company_id, jobs.campaign_id, jobs.phone_fallback_rule, jobs.phone_region,
            jobs.form, jobs.mode, jobs.dry_run, jobs.waiting_since IS NOT NULL AS waited
    ),
    claimed AS (
        UPDATE chunks SET attempts = attempts + 1, retry_at = clock_timestamp() + :lease
        FROM next_chunk JOIN served_job ON served_job.id = next_chunk.job_id
        WHERE chunks.job_id = next_chunk.job_id AND chunks.number = next_chunk.number
        RETURNING chunks.job_id, chunks.number, chunks.attempts, chunks.retry_at
    ),
    served_company AS (
        INSERT INTO served_companies (company_id, served_at) SELECT company_id, clock_timestamp() FROM served_job
        ON CONFLICT (company_id) DO UPDATE SET served_at = excluded.served_at
    )
    SELECT claimed.job_id, claimed.number, claimed.attempts, claimed.retry_at, served_job.campaign_id,
        served_job.phone_fallback_rule, served_job.phone_region, served_job.form, served_job.mode, served_job.dry_run,
        next_chunk.most, next_chunk.part_seconds, served_job.waited
    FROM no_wait_for_disk, next_chunk LEFT JOIN claimed ON true LEFT JOIN served_job ON true
""")


class Claim(NamedTuple):
    """A chunk in hand, with what is needed of its job. `attempts` counts this one; `lease_end` is whose claim it is.

    No more than `most` of the entries that are undecided are to be worked on; the first of them alone, for `part_seconds`, where
    it is known to take long. `waited`: the database was not well when the job was last worked on.
    """

    job_id: UUID
    number: int
    attempts: int
    lease_end: datetime
    campaign_id: str
    phone_fallback: PhoneFallback
    phone_region: str | None
    form: int
    mode: str
    dry_run: bool
    most: int | None
    part_seconds: int | None
    waited: bool


def claim(connection: Connection, queue: str) -> Claim | None:
    """Claims the next chunk of `queue`, or returns None where none is claimable. The caller commits."""
    for _ in range(TRIES):
        row = connection.execute(_CLAIM, {"queue": queue, "lease": LEASE, "burst": BURST}).one_or_none()
        if row is None:
            return None
        if row.job_id:
            return Claim._make(row)._replace(phone_fallback=PhoneFallback(row.phone_fallback_rule))
    return None
