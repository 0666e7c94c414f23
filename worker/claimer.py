"""Chooses the next chunk and takes it on: the first transaction of a chunk, one statement, seen by
all at once.

Companies take turns, and so do the jobs of each; of a job the first chunk is next. So a big job
starves no small one, nor one company another. A claim is a lease: a worker that dies keeps others
off the chunk for LEASE, no longer; a worker that lives is protected by its row lock.
"""

from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from shared.broker.sender import JOB_QUEUES
from shared.database.plans import squeezed
from shared.states import ACTIVE_STATES, SUM_OF_COUNTS, PhoneFallback, quoted
from worker.turns import Turns, turns_of

# The time that a paced job may catch up after waiting for a worker, of 10 s over which its pace
# holds.
BURST = timedelta(seconds=0.85)
# Longer than a part takes that is given LONGEST_PART, with what comes before and after it.
LEASE = timedelta(seconds=20)
TRIES = 3  # of a claim that a request forestalled: the next job is as good
MAX_ATTEMPTS = 5  # a chunk that killed five workers would kill a sixth
# How many one statement looks at: mostly the first has a chunk that can be claimed.
COMPANIES_AT_ONCE = 50


def claimable(job: str) -> str:
    """The condition on the row `job` for its being claimed: nothing is asked of the job, its window
    is open, its pace allows it, and it does not wait for the database to be well again.
    """
    return f"""
        {job}.state IN ({quoted(ACTIVE_STATES)}) AND {job}.wanted IS NULL
        AND coalesce({job}.closes_at, 'infinity') > clock_timestamp()
        AND coalesce(greatest({job}.paced_at, {job}.waiting_until), '-infinity')
            <= clock_timestamp()
    """


_KNOWN = """
    known AS MATERIALIZED (
        SELECT * FROM json_to_recordset(CAST(:jobs AS json)) AS known (job_id uuid, number int)
    )
"""


# Of each company in turn the jobs in turn, of each job its first chunk, until one is found that
# nobody else has in hand. No more than that is locked, as nothing is sorted above the locking.
#
# `job`: a round of a company's jobs goes on after the job served last, with those that were queued
# when it began; then the next begins.
#
# `max_entries`: a claim of a paced job is for an eighth of a second's worth of leads.
def _choice(lock: str) -> str:
    """The first chunk that may be claimed."""
    return f"""
        SELECT claimable.*
        FROM json_to_recordset(CAST(:companies AS json)) AS turn (
            company_id text, since timestamptz, round_ends timestamptz,
            served_at timestamptz, served_id uuid
        ) CROSS JOIN LATERAL (
            SELECT pending.*, first.number AS first_pending, job.new_round, job.company_id,
                job.queued_at,
                job.state = 'running' AND job.max_leads_per_second IS NULL
                    AND job.waiting_until IS NULL AS goes_on
            FROM (
                (
                    SELECT jobs.*, false AS new_round FROM jobs
                    WHERE queue = :queue AND company_id = turn.company_id
                        AND state IN ({quoted(ACTIVE_STATES)})
                        AND (queued_at, id) > (turn.served_at, turn.served_id)
                        AND queued_at <= turn.round_ends
                    ORDER BY queued_at, id
                )
                UNION ALL
                (
                    SELECT jobs.*, true AS new_round FROM jobs
                    WHERE queue = :queue AND company_id = turn.company_id
                        AND state IN ({quoted(ACTIVE_STATES)})
                        AND queued_at >= turn.since
                    ORDER BY queued_at, id
                )
            ) AS job CROSS JOIN LATERAL (
                SELECT greatest(
                    job.first_pending, (SELECT number FROM known WHERE job_id = job.id)
                ) AS number OFFSET 0
            ) AS first CROSS JOIN LATERAL (
                SELECT job_id, number, part_seconds, held_since,
                    CASE
                        WHEN coalesce(job.max_leads_per_second, job.part_size, part_size)
                            IS NOT NULL
                        THEN least(
                            cardinality(outcomes) - ({SUM_OF_COUNTS}), job.part_size, part_size,
                            CASE WHEN job.max_leads_per_second IS NOT NULL THEN greatest(
                                CASE WHEN job.waiting_until IS NOT NULL THEN 10 ELSE 1 END,
                                job.max_leads_per_second / 8
                            ) END
                        )
                    END AS max_entries
                FROM chunks
                WHERE job_id = job.id AND number >= first.number AND state = 'pending'
                    AND retry_at <= clock_timestamp()
                ORDER BY number LIMIT 1 {lock}
            ) AS pending
            WHERE {claimable("job")}
            LIMIT 1
        ) AS claimable
        LIMIT 1
    """


# `no_wait_for_disk`: losing a claim in a crash of the database costs nothing, so it does not wait
# for the disk; and a worker frozen at this very moment must not freeze the others.
#
# `begun`, `going_on`: the job's row is looked at again, once it is locked: a request that came
# meanwhile is committed by now, or waits for this row. It is written only where there is something
# to say. A claim of a paced job moves on the time of the next one by as long as it is good for. Of
# a job that waits for the database, one chunk is tried at a time.
_CLAIM = squeezed(f"""
    WITH no_wait_for_disk AS (
        SELECT set_config('synchronous_commit', 'off', true),
            set_config('idle_in_transaction_session_timeout', '10s', true)
    ),
    {_KNOWN},
    chosen AS (
        {_choice("FOR UPDATE SKIP LOCKED")}
    ),
    begun AS (
        UPDATE jobs SET state = 'running', started_at = coalesce(started_at, clock_timestamp()),
            history = CASE
                WHEN state = 'running' THEN history
                ELSE history || jsonb_build_object(
                    'status', 'running', 'at', clock_timestamp(), 'by', NULL
                )
            END,
            paced_at = greatest(
                coalesce(paced_at, clock_timestamp()), clock_timestamp() - CAST(:burst AS interval)
            ) + chosen.max_entries * interval '1 s' / max_leads_per_second,
            waiting_until = CASE WHEN waiting_until IS NOT NULL THEN clock_timestamp() + :lease END
        FROM chosen WHERE jobs.id = chosen.job_id AND NOT goes_on AND {claimable("jobs")}
        RETURNING jobs.*
    ),
    going_on AS (
        SELECT jobs.* FROM chosen JOIN jobs ON jobs.id = chosen.job_id
        WHERE goes_on AND {claimable("jobs")} FOR NO KEY UPDATE OF jobs
    ),
    job AS (SELECT * FROM begun UNION ALL SELECT * FROM going_on),
    claimed AS (
        UPDATE chunks SET attempts = attempts + 1, retry_at = clock_timestamp() + :lease
        FROM chosen JOIN job ON job.id = chosen.job_id
        WHERE chunks.job_id = chosen.job_id AND chunks.number = chosen.number
        RETURNING chunks.job_id, chunks.number, chunks.attempts, chunks.retry_at
    )
    SELECT claimed.*, campaign_id, phone_fallback_rule, phone_region, form, mode, dry_run,
        max_entries, part_seconds, coalesce(waiting_since, held_since) IS NOT NULL AS waited,
        held_since < least(recovered_at, clock_timestamp() - interval '10 min')
            AND recovered_at IS NOT NULL AS fails_alone,
        job.company_id, job.queued_at, new_round, chosen.first_pending
    FROM no_wait_for_disk, chosen LEFT JOIN claimed ON true LEFT JOIN job ON true
""")

_WOULD_CLAIM = squeezed(f"""
    WITH {_KNOWN}
    SELECT chosen.*, clock_timestamp() AS now FROM ({_choice("")}) AS chosen
""")

_LIES_IDLE = text(f"""
    SELECT EXISTS (
        SELECT FROM jobs CROSS JOIN LATERAL (
            SELECT FROM chunks
            WHERE job_id = jobs.id AND number >= jobs.first_pending AND state = 'pending'
                AND retry_at < clock_timestamp() - :seconds * interval '1 s'
            ORDER BY number LIMIT 1
        ) AS pending
        WHERE queue = ANY(:queues) AND {claimable("jobs")} AND waiting_until IS NULL
            AND queued_at < clock_timestamp() - :seconds * interval '1 s'
    )
""")

_VALUES = {"lease": LEASE, "burst": BURST}


class Claim(NamedTuple):
    """A chunk in hand, with what is needed of its job. `attempts` counts this one; `lease_end`
    tells this claim from others.

    No more than `max_entries` of the entries that are undecided are to be worked on; the first of
    them alone, for `part_seconds`, where it is known to take long. `waited`: the database was not
    well when the job, or this chunk, was last worked on. `fails_alone`: so it has been for ten
    minutes whenever this chunk was tried, though others of the job have gone since.
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
    max_entries: int | None
    part_seconds: int | None
    waited: bool
    fails_alone: bool
    company_id: str


def claim(connection: Connection, queue: str) -> Claim | None:
    """Claims the next chunk of `queue`, or returns None where none is claimable. The caller
    commits.
    """
    turns = turns_of(connection, queue)
    listed = turns.are_stale
    if listed and not turns.list(connection):
        return None
    claimed = _claim_next(connection, turns)
    if claimed is None and not listed and turns.list(connection):
        claimed = _claim_next(connection, turns)
    return claimed


def pass_over(connection: Connection, queue: str) -> None:
    """Gives the turn to the next job: somebody holds the row of the one whose turn it is, and a
    claim has waited for it in vain.
    """
    turns = turns_of(connection, queue)
    for values in turns.in_turn(COMPANIES_AT_ONCE):
        if row := connection.execute(_WOULD_CLAIM, values).one_or_none():
            turns.served(row, row.now)
            return


def _claim_next(connection: Connection, turns: Turns) -> Claim | None:
    for values in turns.in_turn(COMPANIES_AT_ONCE):
        for _ in range(TRIES):
            row = connection.execute(_CLAIM, values | _VALUES).one_or_none()
            if row is None:
                break
            if row.job_id:
                turns.served(row, row.retry_at - LEASE)
                turns.look_ahead(connection, row)
                return _claim_of(row)
    return None


def _claim_of(row: Any) -> Claim:
    return Claim(
        job_id=row.job_id,
        number=row.number,
        attempts=row.attempts,
        lease_end=row.retry_at,
        campaign_id=row.campaign_id,
        phone_fallback=PhoneFallback(row.phone_fallback_rule),
        phone_region=row.phone_region,
        form=row.form,
        mode=row.mode,
        dry_run=row.dry_run,
        max_entries=row.max_entries,
        part_seconds=row.part_seconds,
        waited=row.waited,
        fails_alone=row.fails_alone,
        company_id=row.company_id,
    )


def is_anything_claimable(connection: Connection, queue: str) -> bool:
    """Whether `claim` would find a chunk, if others had nothing in hand at this moment."""
    turns = turns_of(connection, queue)
    turns.list(connection)
    looks = turns.in_turn(COMPANIES_AT_ONCE)
    return any(connection.execute(_WOULD_CLAIM, values).first() for values in looks)


def lies_idle(connection: Connection, seconds: float) -> bool:
    """Whether some chunk could have been claimed for so long."""
    values = {"queues": list(JOB_QUEUES), "seconds": seconds}
    return bool(connection.execute(_LIES_IDLE, values).scalar_one())
