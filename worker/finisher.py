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
from shared.states import (
    COUNT_COLUMNS,
    COUNTS,
    EVENT_AT_END,
    FINAL_STATES,
    NOTED,
    JobState,
    Outcome,
    quoted,
)
from worker.setbacks import GROWN, NOT_WAITING, recover

JOBS_LOOKED_AT = 1000  # of those that run, in one round

_COUNTS = ", ".join(COUNT_COLUMNS)
_SET_COUNTS = ", ".join(f"{count} = :{count}" for count in COUNT_COLUMNS)
_FREEZE_COUNTS = ", ".join(f"{count} = ending.{count}" for count in COUNT_COLUMNS)
_WHY_FAILED = "%s of %s leads could not be processed; the results with outcome=unprocessed say why"
_SUMS = ", ".join(f"sum({count}) AS {count}" for count in COUNT_COLUMNS)

# `done`: the chunk in hand is written by the same statement, which saves a round trip a chunk;
# :number is null where there is none. A part of a chunk leaves it pending, and claimable again: at
# once, or, where all that is left is locked by others, in a while. A chunk that was decided without
# an archive is written down only if there is none still: what was not found may be in it now.
#
# `counts`: the statement does not see its own write, so it counts that chunk by what it returns.
#
# `ended`: the counts are read only once nothing else is pending, so trying costs one index probe;
# they are frozen on the job's row here. A preview is never finished with a chunk in hand: what it
# found twice is settled first.
_FINISH = squeezed(f"""
    WITH done AS (
        UPDATE chunks SET {_SET_COUNTS}, outcomes = CAST(:outcomes AS smallint[]),
            state = CASE WHEN :whole THEN 'done' ELSE state END,
            attempts = CASE WHEN :whole THEN attempts ELSE 0 END,
            retry_at = CASE
                WHEN :whole THEN retry_at
                WHEN :only_locked AND :locked >= locked THEN clock_timestamp() + least(
                    interval '10 s',
                    greatest(interval '500 ms', (clock_timestamp() - locked_since) / 4)
                )
                ELSE '-infinity'
            END,
            locked = :locked,
            locked_since =
                CASE WHEN :only_locked THEN coalesce(locked_since, clock_timestamp()) END,
            {GROWN}, part_seconds = NULL,
            details = coalesce(details || CAST(:details AS jsonb), CAST(:details AS jsonb), details)
        WHERE job_id = :job_id AND number = :number AND state = 'pending'
            AND (CAST(:campaign_id AS text) IS NULL OR NOT {HAS_ARCHIVE})
        RETURNING {_COUNTS}
    ),
    counts AS (
        SELECT {_SUMS}
        FROM (
            SELECT {_COUNTS} FROM chunks
            WHERE job_id = :job_id AND number IS DISTINCT FROM :number
            UNION ALL
            SELECT * FROM done
        ) AS each_chunk
    ),
    ending AS (
        SELECT counts.*, CASE
            WHEN :cancelled THEN 'cancelled' WHEN unprocessed > 0 THEN 'failed' ELSE 'completed'
        END AS state
        FROM counts
    ),
    job AS MATERIALIZED (SELECT first_pending, waiting_since FROM jobs WHERE id = :job_id),
    ended AS (
        UPDATE jobs SET
            state = ending.state,
            error = CASE WHEN ending.state = 'failed' THEN format(
                '{_WHY_FAILED}', ending.unprocessed, total
            ) || coalesce(
                CASE WHEN wanted = 'fail'
                THEN '. Nothing could be done for 24 hours: ' || (waiting_for ->> 'detail') END, ''
            ) END,
            finished_at = clock_timestamp(), wanted = NULL, wanted_by = NULL,
            {NOT_WAITING},
            history = history || jsonb_build_object(
                'status', ending.state, 'at', clock_timestamp(),
                'by', CASE WHEN :cancelled THEN wanted_by END
            ),
            {_FREEZE_COUNTS}
        FROM ending
        WHERE jobs.id = :job_id AND jobs.state NOT IN ({quoted(FINAL_STATES)})
            AND (:number IS NULL OR :whole AND NOT dry_run AND EXISTS (SELECT FROM done))
            AND (
                SELECT true FROM chunks
                WHERE job_id = :job_id AND state = 'pending' AND number IS DISTINCT FROM :number
                    AND number >= (SELECT first_pending FROM job)
                ORDER BY number DESC LIMIT 1
            ) IS NULL
        RETURNING ending.*, jobs.id, jobs.total, jobs.awaited,
            jobs.callback_url IS NOT NULL OR EXISTS (
                SELECT FROM webhooks WHERE company_id = jobs.company_id AND enabled
            ) AS is_told
    )
    SELECT ended.*, chunks_written, (SELECT waiting_since FROM job) IS NOT NULL AS waits
    FROM (SELECT count(*) AS chunks_written FROM done) AS chunk LEFT JOIN ended ON true
""").bindparams(
    bindparam("number", type_=Integer),
    bindparam("job_id", type_=Uuid),
    *(bindparam(name, type_=Boolean) for name in ("cancelled", "whole", "only_locked", "quick")),
)

_EXPLAIN = text("UPDATE jobs SET error = error || '. ' || :reason WHERE id = :job_id")

_REASONS = text(f"""
    SELECT bool_or(outcomes && ARRAY[{Outcome.CAMPAIGN_MOVED:d}]::smallint[]) AS have_moved,
        bool_or(outcomes && ARRAY[{Outcome.TOO_SLOW:d}]::smallint[]) AS are_slow
    FROM chunks WHERE job_id = :job_id AND unprocessed > 0
""")

# In the same transaction: a job has ended and its deliveries are written, or neither.
_WRITE_DELIVERIES = text("""
    INSERT INTO deliveries (id, company_id, job_id, webhook_id, url, event)
    SELECT gen_random_uuid(), company_id, jobs.id, webhook_id, url, CAST(:event AS text)
    FROM jobs CROSS JOIN LATERAL (
        SELECT CAST(NULL AS uuid) AS webhook_id, callback_url AS url WHERE callback_url IS NOT NULL
        UNION ALL
        SELECT id, NULL FROM webhooks
        WHERE company_id = jobs.company_id AND enabled AND CAST(:event AS text) = ANY(events)
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
            (
                SELECT id, first_pending FROM jobs
                WHERE state = 'running' AND id >= (SELECT id FROM here) ORDER BY id LIMIT :limit
            )
            UNION ALL
            (
                SELECT id, first_pending FROM jobs
                WHERE state = 'running' AND id < (SELECT id FROM here) ORDER BY id LIMIT :limit
            )
        ) AS ring LIMIT :limit
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

_CHUNK_VALUES = ("number", "outcomes", "campaign_id", "locked", "only_locked", "details", "quick")
_NO_CHUNK = dict.fromkeys((*_CHUNK_VALUES, *COUNT_COLUMNS)) | {"whole": True}

log = structlog.get_logger()


class Finished(NamedTuple):
    """A job that has just ended, and how: `counts` are by column. `awaited`: somebody may wait for
    it. So many `deliveries` were written with it.
    """

    id: UUID
    state: str
    total: int
    counts: Mapping[str, int]
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
    row = connection.execute(_FINISH, values).one()
    if chunk and chunk.archiveless and not row.chunks_written:
        raise ArchiveAppeared
    if row.id is None:
        if row.waits and chunk and chunk.went:
            recover(connection, job_id)
        return None
    if row.state == JobState.FAILED:
        _explain(connection, job_id)
    deliveries = 0
    if row.is_told:
        event = {"job_id": job_id, "event": EVENT_AT_END[row.state]}
        deliveries = len(connection.execute(_WRITE_DELIVERIES, event).all())
    counts = {count: getattr(row, count) for count in COUNTS}
    return Finished(row.id, row.state, row.total, counts, row.awaited, deliveries)


def _explain(connection: Connection, job_id: UUID) -> None:
    """Adds to the job's error that its campaign has moved, or what makes leads take too long, if
    that can be told.
    """
    chunks = connection.execute(_REASONS, {"job_id": job_id}).one()
    reasons = ["The campaign has moved to another company"] if chunks.have_moved else []
    if chunks.are_slow and (cause := reason_of_slowness(connection)):
        reasons.append(f"Leads take long to delete: {cause}")
    for reason in reasons:
        connection.execute(_EXPLAIN, {"job_id": job_id, "reason": reason})


def _values(chunk: DecidedChunk | None) -> dict[str, object]:
    if chunk is None:
        return _NO_CHUNK
    counts = {count: sum(map(chunk.outcomes.count, numbers)) for count, numbers in _NUMBERS.items()}
    locked = chunk.outcomes.count(Outcome.WAITS_FOR_LOCK)
    undecided = Outcome.PENDING in chunk.outcomes
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
    return list(connection.execute(_UNFINISHED, {"limit": JOBS_LOOKED_AT}).scalars())


def tell(finished: Finished, wake: Wake) -> None:
    """Logs the end of a job and wakes those who wait for it. To be called after its commit, since a
    commit can still fail.
    """
    if finished.awaited:
        wake.callers(finished.id)
    if finished.deliveries:
        wake.workers(WEBHOOKS_QUEUE)
    log.info(
        "job finished",
        state=finished.state,
        total=finished.total,
        **finished.counts,
        deliveries=finished.deliveries,
        job=str(finished.id),
    )
