"""Writes decided chunks and finishes jobs: one guarded statement, harmless to repeat, from any
state that is not final.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

import structlog
from sqlalchemy import Boolean, Connection, Integer, Uuid, bindparam, text

from shared.broker.sender import WEBHOOKS_QUEUE
from shared.broker.wakeups import Wake
from shared.database.archive import HAS_ARCHIVE
from shared.database.arrays import smallint_array
from shared.database.foreign_keys import reason_of_slowness
from shared.database.plans import squeezed
from shared.states import COUNTS, NOTED, JobState, Outcome
from worker.setbacks import GROWN, NOT_WAITING, recover

LOOKED_AT = 1000  # running jobs, in one round

_WRITTEN = (*COUNTS, *NOTED)
_COUNTS = ", ".join(_WRITTEN)
_SUMS = ", ".join(f"sum({count}) AS {count}" for count in _WRITTEN)

# The chunk in hand is written by the same statement, which saves a round trip a chunk; :number is
# null where there is none. A part of a chunk leaves it pending, and claimable again: at once, or,
# where all that is left is locked by others, in a while. The statement does not see its own write,
# so it counts that chunk by what it returns. The counts are read only once nothing else is pending,
# so trying costs one index probe; they are frozen on the job's row here. A preview is never
# finished with a chunk in hand: what it found twice is settled first. A chunk that was decided
# without an archive is written down only if there is none still: what was not found may be in it
# now.
_FINISH = squeezed(f"""
    WITH done AS (
        UPDATE chunks SET {", ".join(f"{count} = :{count}" for count in _WRITTEN)},
            outcomes = CAST(:outcomes AS smallint[]),
            state = CASE WHEN :whole THEN 'done' ELSE state END, attempts = CASE
                WHEN :whole THEN attempts ELSE 0 END,
            retry_at = CASE WHEN :whole THEN retry_at WHEN :only_locked
                AND :locked >= locked THEN clock_timestamp() + least(
                interval '10 s', greatest(interval '500 ms', (clock_timestamp() - locked_since) / 4)
            ) ELSE '-infinity' END,
            locked = :locked,
            locked_since = CASE WHEN :only_locked
                THEN coalesce(locked_since, clock_timestamp()) END,
            {GROWN}, part_seconds = NULL,
            details = coalesce(details || CAST(:details AS jsonb), CAST(:details AS jsonb), details)
        WHERE job_id = :job_id AND number = :number AND state = 'pending'
            AND (CAST(:campaign_id AS text) IS NULL OR NOT {HAS_ARCHIVE})
        RETURNING {_COUNTS}
    ),
    counts AS (
        SELECT {_SUMS}
        FROM (
            SELECT {_COUNTS} FROM chunks WHERE job_id = :job_id AND number IS DISTINCT FROM :number
            UNION ALL SELECT * FROM done
        ) AS each_chunk
    ),
    ending AS (
        SELECT counts.*, CASE WHEN :cancelled THEN 'cancelled' WHEN unprocessed > 0 THEN 'failed'
            ELSE 'completed' END AS state
        FROM counts
    ),
    job AS MATERIALIZED (SELECT first_pending, waiting_since FROM jobs WHERE id = :job_id),
    ended AS (
        UPDATE jobs SET
            state = ending.state,
            error = CASE WHEN ending.state = 'failed' THEN format(
                '%s of %s leads could not be processed; the results with outcome=unprocessed say why', ending.unprocessed, total
            ) || coalesce(
                CASE WHEN wanted = 'fail'
                    THEN '. Nothing could be done for 24 hours: ' || (waiting_for ->> 'detail') END,
                    ''
            ) END,
            finished_at = clock_timestamp(), wanted = NULL, wanted_by = NULL,
            {NOT_WAITING},
            history = history || jsonb_build_object(
                'status', ending.state, 'at', clock_timestamp(), 'by', CASE
                    WHEN :cancelled THEN wanted_by END),
            {", ".join(f"{count} = ending.{count}" for count in _WRITTEN)}
        FROM ending
        WHERE jobs.id = :job_id AND jobs.state NOT IN ('completed', 'failed', 'cancelled')
            AND (:number IS NULL OR :whole AND NOT dry_run AND EXISTS (SELECT FROM done)) AND (
                SELECT true FROM chunks
                WHERE job_id = :job_id AND state = 'pending' AND number IS DISTINCT FROM :number
                    AND number >= (SELECT first_pending FROM job)
                ORDER BY number DESC LIMIT 1
            ) IS NULL
        RETURNING jobs.id, jobs.state, jobs.total, {", ".join(f"jobs.{count}" for count in COUNTS)},
            jobs.awaited,
            jobs.callback_url IS NOT NULL
                OR EXISTS (SELECT FROM webhooks
                    WHERE company_id = jobs.company_id AND enabled) AS told
    )
    SELECT ended.*, written, (SELECT waiting_since FROM job) IS NOT NULL
    FROM (SELECT count(*) AS written FROM done) AS chunk LEFT JOIN ended ON true
""").bindparams(
    bindparam("number", type_=Integer),
    bindparam("job_id", type_=Uuid),
    bindparam("cancelled", type_=Boolean),
    bindparam("whole", type_=Boolean),
    bindparam("only_locked", type_=Boolean),
    bindparam("quick", type_=Boolean),
)

_EXPLAIN = text("UPDATE jobs SET error = error || '. ' || :reason WHERE id = :job_id")

_REASONS = text(f"""
    SELECT bool_or(outcomes && ARRAY[{Outcome.CAMPAIGN_MOVED:d}]::smallint[]) AS moved,
        bool_or(outcomes && ARRAY[{Outcome.TOO_SLOW:d}]::smallint[]) AS slow
    FROM chunks WHERE job_id = :job_id AND unprocessed > 0
""")

# In the same transaction: a job has ended and its deliveries are written, or neither.
_WRITE_DELIVERIES = text("""
    INSERT INTO deliveries (id, company_id, job_id, webhook_id, url, event)
    SELECT gen_random_uuid(), company_id, jobs.id, webhook_id, url, 'job.' || state
    FROM jobs CROSS JOIN LATERAL (
        SELECT CAST(NULL AS uuid) AS webhook_id, callback_url AS url WHERE callback_url IS NOT NULL
        UNION ALL
        SELECT id, NULL FROM webhooks
            WHERE company_id = jobs.company_id AND enabled AND 'job.' || jobs.state = ANY(events)
    ) AS receiver
    WHERE jobs.id = :job_id
    RETURNING id
""")

# Looked for among some of the jobs that run, from anywhere on: where they are many, they are all
# looked at in several rounds.
_UNFINISHED = text("""
    WITH here AS MATERIALIZED (SELECT gen_random_uuid() AS id),
    running AS MATERIALIZED (
        SELECT * FROM (
            (SELECT id, first_pending FROM jobs
                WHERE state = 'running' AND id >= (SELECT id FROM here) ORDER BY id LIMIT :most)
            UNION ALL
            (SELECT id, first_pending FROM jobs
                WHERE state = 'running' AND id < (SELECT id FROM here) ORDER BY id LIMIT :most)
        ) AS ring LIMIT :most
    )
    SELECT id FROM running WHERE (
        SELECT true FROM chunks
            WHERE job_id = running.id AND state = 'pending' AND number >= running.first_pending
        ORDER BY number DESC LIMIT 1
    ) IS NULL
""")

# The numbers that each count counts.
_NUMBERS = {
    count: bytes(outcome for outcome in Outcome if outcome.count == count) for count in COUNTS
} | {count: bytes(outcomes) for count, outcomes in NOTED.items()}

log = structlog.get_logger()


class Finished(NamedTuple):
    """A job that has just ended, and how; `awaited` if somebody may wait for it; so many
    `deliveries` were written with it.
    """

    id: UUID
    state: str
    total: int
    deleted: int
    would_delete: int
    restored: int
    conflict: int
    not_found: int
    unprocessed: int
    invalid: int
    awaited: bool
    deliveries: int


class DecidedChunk(NamedTuple):
    """A chunk, locked by the caller's transaction, with its outcomes: 0 where an entry is left for
    a later part.

    `archiveless` is the campaign that had no archive to look into, where one should have been
    looked into. `details` are by position in the chunk. The next part may be bigger where this one
    was `quick`. `went`: something was changed, which shows that it can be.
    """

    number: int
    outcomes: bytes
    archiveless: str | None = None
    details: Mapping[int, str] = MappingProxyType({})
    quick: bool = False
    went: bool = True


class ArchiveAppeared(Exception):
    """The campaign of a chunk has an archive by now: its transaction is to be rolled back, and the
    chunk decided again.
    """


def finish(
    connection: Connection,
    job_id: UUID,
    chunk: DecidedChunk | None = None,
    *,
    cancelled: bool = False,
) -> Finished | None:
    """Writes `chunk`, then finishes the job if nothing of it is pending, else returns None. The
    caller commits, then tells.

    Raises ArchiveAppeared.
    """
    values = {"job_id": job_id, "cancelled": cancelled} | _values(chunk)
    *ending, told, written_chunks, waits = connection.execute(_FINISH, values).one()
    if chunk and chunk.archiveless and not written_chunks:
        raise ArchiveAppeared
    if told is None:
        if waits and chunk and chunk.went:
            recover(connection, job_id)
        return None
    if ending[1] == JobState.FAILED:
        _explain(connection, job_id)
    written = connection.execute(_WRITE_DELIVERIES, {"job_id": job_id}).all() if told else ()
    return Finished._make((*ending, len(written)))


def _explain(connection: Connection, job_id: UUID) -> None:
    """Says in the job's error that its campaign has moved, or what makes leads take too long, if
    that can be told.
    """
    reasons = connection.execute(_REASONS, {"job_id": job_id}).one()
    if reasons.moved:
        connection.execute(
            _EXPLAIN, {"job_id": job_id, "reason": "The campaign has moved to another company"}
        )
    if reasons.slow and (hint := reason_of_slowness(connection)):
        connection.execute(
            _EXPLAIN, {"job_id": job_id, "reason": f"Leads take long to delete: {hint}"}
        )


def _values(chunk: DecidedChunk | None) -> dict[str, object]:
    if chunk is None:
        nothing = dict.fromkeys(
            (
                "number",
                "outcomes",
                "campaign_id",
                "locked",
                "only_locked",
                "details",
                "quick",
                *_WRITTEN,
            )
        )
        return nothing | {"whole": True}
    counts = {count: sum(map(chunk.outcomes.count, numbers)) for count, numbers in _NUMBERS.items()}
    locked, undecided = (
        chunk.outcomes.count(Outcome.WAITS_FOR_LOCK),
        Outcome.PENDING in chunk.outcomes,
    )
    written = {
        "number": chunk.number,
        "outcomes": smallint_array(chunk.outcomes),
        "campaign_id": chunk.archiveless,
        "locked": locked,
        "only_locked": locked > 0 and not undecided,
        "whole": not locked and not undecided,
        "details": json.dumps(chunk.details) if chunk.details else None,
        "quick": chunk.quick,
    }
    return written | counts


def unfinished(connection: Connection) -> list[UUID]:
    """The jobs whose last worker died between its last chunk and the finish."""
    return list(connection.execute(_UNFINISHED, {"most": LOOKED_AT}).scalars())


def tell(finished: Finished, wake: Wake) -> None:
    """Logs the end of a job and wakes who waits for it: after its commit, since a commit can still
    fail.
    """
    if finished.awaited:
        wake.callers(finished.id)
    if finished.deliveries:
        wake.workers(WEBHOOKS_QUEUE)
    fields = finished._asdict() | {"job": str(finished.id)}
    log.info(
        "job finished",
        **{name: value for name, value in fields.items() if name not in {"id", "awaited"}},
    )
