"""Finishes jobs. There is one way to do it: one guarded UPDATE, harmless to repeat, from any state that is not final."""

from typing import NamedTuple
from uuid import UUID

import structlog
from sqlalchemy import Connection, text

# The counts are read only once nothing is pending, so trying costs one index probe. They are frozen on the job's row here.
_FINISH = text("""
    UPDATE jobs SET
        state = CASE WHEN counts.unprocessed > 0 THEN 'failed' ELSE 'completed' END,
        error = CASE WHEN counts.unprocessed > 0 THEN format(
            '%s of %s leads could not be processed; the results with outcome=unprocessed say why', counts.unprocessed, total) END,
        finished_at = clock_timestamp(),
        deleted = counts.deleted, not_found = counts.not_found, unprocessed = counts.unprocessed
    FROM (
        SELECT sum(deleted) AS deleted, sum(not_found) AS not_found, sum(unprocessed) AS unprocessed
        FROM chunks WHERE job_id = :job_id
    ) AS counts
    WHERE jobs.id = :job_id AND jobs.state NOT IN ('completed', 'failed', 'cancelled')
        AND NOT EXISTS (SELECT FROM chunks WHERE job_id = :job_id AND state = 'pending')
    RETURNING jobs.id, jobs.state, jobs.total, jobs.deleted, jobs.not_found, jobs.unprocessed
""")

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


def finish(connection: Connection, job_id: UUID) -> Finished | None:
    """Finishes the job if nothing of it is pending; None where this call did not. The caller commits, then tells."""
    row = connection.execute(_FINISH, {"job_id": job_id}).one_or_none()
    return Finished._make(row) if row else None


def finish_forgotten(connection: Connection) -> list[Finished]:
    """Finishes jobs whose last worker died between its last chunk and this. The caller commits, then tells."""
    job_ids = connection.execute(_UNFINISHED).scalars().all()
    return [finished for job_id in job_ids if (finished := finish(connection, job_id))]


def tell(finished: Finished) -> None:
    """Logs the end of a job: after its commit, since a commit can still fail."""
    fields = finished._asdict()
    log.info("job finished", job=str(fields.pop("id")), **fields)
