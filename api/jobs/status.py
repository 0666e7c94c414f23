"""Reads jobs for callers: one job with its identifiers, or a page of the list, newest first."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.database import AnyRow, rows
from api.http.answers import ApiError
from api.http.auth import Key
from api.http.paging import after_cursor, page_of
from api.jobs.fields import MAX_LISTED, NAMES, job_of, summary_of
from shared.database.models import jobs
from shared.database.plans import BY_INDEX
from shared.states import COUNTS, JobState

# The condition on a job that the key sees. What belongs to the job is joined to it, so that nothing
# of other companies is read. With `|| ''` neither the index by company nor that by campaign fits,
# which would lead through all their jobs. The campaign itself is not joined: the job outlives it,
# and stays its company's when the campaign moves to another.
SEEN = f"""
    jobs.id = :job_id AND jobs.company_id || '' = :company_id
        AND (CAST(:campaign_id AS text) IS NULL
            OR jobs.campaign_id || '' = CAST(:campaign_id AS text)) AND {BY_INDEX}
"""


def _select(where: str, decided: str = "", columns: str = "") -> str:
    """The statement that reads jobs with their counts. A job that has ended has them in its row;
    before that, they are summed over its chunks. They are also summed where `erased` is missing,
    as a ticker of an older version has ended the job during an upgrade.
    """
    return f"""
        SELECT {", ".join(f"jobs.{column.name}" for column in jobs.c if column.name not in NAMES)},
            {", ".join(f"coalesce(jobs.{name}, live.{name}, 0) AS {name}" for name in NAMES)},
            extract(epoch FROM clock_timestamp() - jobs.created_at)::float AS age_seconds,
            live.locked, live.locked_since {columns}
        FROM jobs LEFT JOIN LATERAL (
            SELECT {", ".join(f"sum({name}) AS {name}" for name in (*NAMES, "locked"))},
                min(locked_since) AS locked_since
            FROM chunks WHERE job_id = jobs.id AND jobs.erased IS NULL
        ) AS live ON true {decided}
        WHERE {where}
    """


# It is one statement, so one snapshot: state, counts and lists always agree. Chunks that have
# nothing for the lists are left out: those of a job that is too big, and those of which no entry is
# decided, as callers who poll ask mostly for jobs that have not begun.
_DECIDED = f"""
    LEFT JOIN LATERAL (
        SELECT number, coalesce(written_external_ids, external_ids) AS external_ids,
            coalesce(written_phone_numbers, phone_numbers) AS phone_numbers, outcomes
        FROM chunks
        WHERE job_id = jobs.id AND jobs.total <= {MAX_LISTED} AND {" + ".join(COUNTS)} > 0
    ) AS decided ON true
"""
_JOB_WITH_CHUNKS = text(
    _select(
        f"{SEEN} ORDER BY decided.number",
        _DECIDED,
        ", decided.external_ids, decided.phone_numbers, decided.outcomes",
    )
)

_TOTAL = text(f"SELECT total, identifiers_purged_at FROM jobs WHERE {SEEN}")


class JobNow(NamedTuple):
    """What callers see of a job: `body` is a Job. `retry_after` is None once the job is final,
    `took` until then; they and `age` are in seconds.
    """

    body: Any
    retry_after: int | None
    age: float
    took: float | None


async def read_job(engine: AsyncEngine, key: Key, job_id: UUID) -> JobNow:
    """The job as it stands now. Raises ApiError 404."""
    parts = await seen(engine, key, job_id, _JOB_WITH_CHUNKS)
    job = parts[0]
    took = (job.finished_at - job.created_at).total_seconds() if job.finished_at else None
    return JobNow(job_of(parts), _retry_after(job), job.age_seconds, took)


class Filters(NamedTuple):
    """Which jobs are listed: those of which a column has this value, created from `since` on and
    just before `before`.
    """

    columns: Mapping[str, str | None] = {}
    since: datetime | None = None
    before: datetime | None = None


async def list_jobs(
    engine: AsyncEngine, key: Key, filters: Filters, cursor: str | None, limit: int
) -> tuple[list[Any], str | None]:
    """A page of the jobs that the key sees, each a JobSummary, and the cursor of the next one, if
    there is one. Raises InvalidRequest.
    """
    # PostgreSQL knows no U+0000, so nothing of that name exists.
    if any("\0" in (value or "") for value in filters.columns.values()):
        return [], None
    page, following = page_of(await rows(engine, *_page(key, filters, cursor, limit)), limit)
    return [summary_of(row) for row in page], following


def _page(
    key: Key, filters: Filters, cursor: str | None, limit: int
) -> tuple[TextClause, dict[str, Any]]:
    """The statement that reads a page and one job more, with its values."""
    place, values = after_cursor("jobs", cursor, filters.before)
    values |= {"company_id": key.company_id, "rows": limit + 1}
    conditions = ["jobs.company_id = :company_id", BY_INDEX, place]
    if key.campaign_id is not None:
        conditions.append("jobs.campaign_id = :key_campaign_id")
        values["key_campaign_id"] = key.campaign_id
    if filters.since is not None:
        conditions.append("jobs.created_at >= CAST(:since AS timestamptz)")
        values["since"] = filters.since
    for column, value in filters.columns.items():
        if value is not None:
            conditions.append(f"jobs.{column} = :{column}")
            values[column] = value
    order = "ORDER BY jobs.created_at DESC, jobs.id DESC LIMIT :rows"
    return text(_select(f"{' AND '.join(conditions)} {order}")), values


def parse_job_id(written: str) -> UUID:
    """Raises ApiError 404 for what cannot be a job's id."""
    try:
        return UUID(written)
    except ValueError:
        raise job_not_found() from None


def job_not_found() -> ApiError:
    """One answer for unknown jobs and those that the key may not see."""
    return ApiError(404, "Job not found")


async def check_visible(engine: AsyncEngine, key: Key, job_id: UUID) -> AnyRow:
    """The job's `total` and `identifiers_purged_at`. Raises ApiError 404 unless the key sees the
    job.
    """
    return (await seen(engine, key, job_id, _TOTAL))[0]


async def seen(
    engine: AsyncEngine, key: Key, job_id: UUID, statement: TextClause, **values: Any
) -> Sequence[AnyRow]:
    """The rows of a statement with SEEN. Raises ApiError 404 unless the key sees the job."""
    values |= {"job_id": job_id, "company_id": key.company_id, "campaign_id": key.campaign_id}
    job_rows = await rows(engine, statement, values)
    if not job_rows:
        raise job_not_found()
    return job_rows


def check_kept(job: AnyRow) -> None:
    """Raises ApiError 410 where the identifiers have been purged, and the results with them."""
    if job.identifiers_purged_at:
        raise ApiError(410, "The identifiers of this job have been purged")


def _retry_after(row: AnyRow) -> int | None:
    """A tenth of the job's age, from 1 to 10 seconds."""
    return None if JobState(row.state).final else min(10, max(1, int(row.age_seconds / 10)))
