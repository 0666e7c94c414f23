"""Writes decided chunks and finishes jobs: one guarded statement, harmless to repeat, from any state that is not final."""

from typing import NamedTuple
from uuid import UUID

import structlog
from sqlalchemy import Connection, Integer, Uuid, bindparam, text

from shared.arrays import smallint_array
from shared.states import Outcome

# The chunk in hand is written by the same statement, which saves a round trip a chunk; :number is null where there is none.
# The statement does not see its own write, so it counts that chunk by what it returns. The counts are read only once nothing
# else is pending, so trying costs one index probe; they are frozen on the job's row here.
_FINISH = text("""
    WITH done AS (
        UPDATE chunks SET state = 'done', outcomes = CAST(:outcomes AS smallint[]),
            deleted = :deleted, not_found = :not_found, unprocessed = :unprocessed
        WHERE job_id = :job_id AND number = :number AND state = 'pending'
        RETURNING deleted, not_found, unprocessed
    )
    UPDATE jobs SET
        state = CASE WHEN counts.unprocessed > 0 THEN 'failed' ELSE 'completed' END,
        error = CASE WHEN counts.unprocessed > 0 THEN format(
            '%s of %s leads could not be processed; the results with outcome=unprocessed say why', counts.unprocessed, total) END,
        finished_at = clock_timestamp(),
        deleted = counts.deleted, not_found = counts.not_found, unprocessed = counts.unprocessed
    FROM (
        SELECT sum(deleted) AS deleted, sum(not_found) AS not_found, sum(unprocessed) AS unprocessed FROM (
            SELECT deleted, not_found, unprocessed FROM chunks WHERE job_id = :job_id AND number IS DISTINCT FROM :number
            UNION ALL SELECT deleted, not_found, unprocessed FROM done
        ) AS each_chunk
    ) AS counts
    WHERE jobs.id = :job_id AND jobs.state NOT IN ('completed', 'failed', 'cancelled') AND NOT EXISTS (
        SELECT FROM chunks WHERE job_id = :job_id AND state = 'pending' AND number IS DISTINCT FROM :number
    )
    RETURNING jobs.id, jobs.state, jobs.total, jobs.deleted, jobs.not_found, jobs.unprocessed
""").bindparams(bindparam("number", type_=Integer), bindparam("job_id", type_=Uuid))

_UNFINISHED = text("""
    SELECT id FROM jobs
    WHERE state = 'running' AND NOT EXISTS (SELECT FROM chunks WHERE job_id = jobs.id AND state = 'pending')
    LIMIT 100
""")

log = structlog.get_logger()


class Finished(NamedTuple):
    """A job that has just ended, and how."""

    id: UUID
    state: str
    total: int
    deleted: int
    not_found: int
    unprocessed: int


class DecidedChunk(NamedTuple):
    """A chunk, locked by the caller's transaction, whose entries all have an outcome now."""

    number: int
    outcomes: list[int]


def finish(connection: Connection, job_id: UUID, chunk: DecidedChunk | None = None) -> Finished | None:
    """Writes `chunk`, then finishes the job if nothing of it is pending, else returns None. The caller commits, then tells."""
    row = connection.execute(_FINISH, {"job_id": job_id} | _values(chunk)).one_or_none()
    return Finished._make(row) if row else None


def _values(chunk: DecidedChunk | None) -> dict[str, object]:
    if chunk is None:
        return dict.fromkeys(("number", "outcomes", "deleted", "not_found", "unprocessed"))
    outcomes = bytes(chunk.outcomes)  # counts in a tenth of a list's time
    deleted = outcomes.count(Outcome.DELETED_BY_EXTERNAL_ID) + outcomes.count(Outcome.DELETED_BY_PHONE_NUMBER)
    not_found = outcomes.count(Outcome.NO_SUCH_LEAD) + outcomes.count(Outcome.DUPLICATE)
    return {
        "number": chunk.number,
        "outcomes": smallint_array(outcomes),
        "deleted": deleted,
        "not_found": not_found,
        "unprocessed": len(outcomes) - deleted - not_found,
    }


def finish_forgotten(connection: Connection) -> list[Finished]:
    """Finishes jobs whose last worker died between its last chunk and this. The caller commits, then tells."""
    job_ids = connection.execute(_UNFINISHED).scalars().all()
    return [finished for job_id in job_ids if (finished := finish(connection, job_id))]


def tell(finished: Finished) -> None:
    """Logs the end of a job: after its commit, since a commit can still fail."""
    fields = finished._asdict()
    log.info("job finished", job=str(fields.pop("id")), **fields)
