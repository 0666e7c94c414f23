"""What callers see of jobs: one with its identifiers, and the list, newest first."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.errors import ReadOnlySqlTransaction
from sqlalchemy import Select, TextClause, and_, func, select, text, true
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.database import Found, rows
from api.http.answers import ApiError, time_text
from api.http.auth import Key
from api.http.paging import newest_first, page_of
from shared.database.models import chunks, jobs
from shared.database.plans import BY_INDEX
from shared.states import ACTIVE_STATES, COUNTS, NOTED, Action, JobState, Outcome, PhoneFallback

MAX_LISTED = 1000  # entries; the status of a bigger job leads to its results instead of listing its identifiers

ALL_COUNTS = (*COUNTS, *NOTED)

# The field that lists the identifiers of an outcome, by the column that counts it.
_LIST_OF = {
    "deleted": "deletedIdentifiers",
    "would_delete": "wouldDeleteIdentifiers",
    "restored": "restoredIdentifiers",
    "conflict": "conflictIdentifiers",
    "not_found": "notFoundIdentifiers",
    "unprocessed": "unprocessedIdentifiers",
    "invalid": "invalidIdentifiers",
}
_LIST_OF_NUMBER = {int(outcome): _LIST_OF[outcome.count] for outcome in Outcome if outcome.count}

# Sums over the chunks of a job that is not finished; of one that is, its row has the counts. One
# that a ticker of before has ended, during an upgrade, lacks those that are counted besides.
_parts = chunks.alias("parts")
_live = (
    select(
        *(func.sum(_parts.c[name]).label(name) for name in (*ALL_COUNTS, "locked")),
        func.min(_parts.c.locked_since).label("locked_since"),
    )
    .where(_parts.c.job_id == jobs.c.id, jobs.c.erased.is_(None))
    .correlate(jobs)
    .lateral("live")
)

_columns = [
    *(column for column in jobs.c if column.name not in ALL_COUNTS),
    *(func.coalesce(jobs.c[name], _live.c[name], 0).label(name) for name in ALL_COUNTS),
    func.extract("epoch", func.clock_timestamp() - jobs.c.created_at).label("age_seconds"),
    _live.c.locked,
    _live.c.locked_since,
]

# A job that the key sees: what belongs to it is joined to it, so nothing of another's is read.
# Company and campaign are compared in such a way that none of their indexes is walked, which would
# lead through all their jobs. No campaign is joined: the record outlives it, and stays its
# company's when it moves to another.
SEEN = f"""
    jobs.id = :job_id AND jobs.company_id || '' = :company_id
        AND (CAST(:campaign_id AS text) IS NULL OR jobs.campaign_id || '' = CAST(:campaign_id AS text)) AND {BY_INDEX}
"""

# One statement, so one snapshot: state, counts and lists always agree. Callers who poll ask mostly
# for jobs that have not begun: a chunk none of whose entries is decided has nothing for the lists.
# Nor has one of a job that is too big for them.
_JOB_WITH_CHUNKS = text(f"""
    SELECT {", ".join(f"jobs.{column.name}" for column in jobs.c if column.name not in ALL_COUNTS)},
        {", ".join(f"coalesce(jobs.{count}, live.{count}, 0) AS {count}" for count in ALL_COUNTS)},
        extract(epoch FROM clock_timestamp() - created_at)::float AS age_seconds, live.locked, live.locked_since,
        decided.external_ids, decided.phone_numbers, decided.outcomes
    FROM jobs LEFT JOIN LATERAL (
        SELECT {", ".join(f"sum({count}) AS {count}" for count in (*ALL_COUNTS, "locked"))}, min(locked_since) AS locked_since
        FROM chunks WHERE job_id = jobs.id AND jobs.erased IS NULL
    ) AS live ON true LEFT JOIN LATERAL (
        SELECT number, coalesce(written_external_ids, external_ids) AS external_ids,
            coalesce(written_phone_numbers, phone_numbers) AS phone_numbers, outcomes
        FROM chunks WHERE job_id = jobs.id AND jobs.total <= {MAX_LISTED} AND {" + ".join(COUNTS)} > 0
    ) AS decided ON true
    WHERE {SEEN}
    ORDER BY decided.number
""")

_TOTAL = text(f"SELECT total, identifiers_purged_at FROM jobs WHERE {SEEN}")


class JobAnswer(NamedTuple):
    """What callers see of a job. `retry_after` in seconds, None once it is final; `took`, likewise,
    is None until then.
    """

    body: dict[str, Any]
    retry_after: int | None
    age: float
    took: float | None


async def read_job(engine: AsyncEngine, key: Key, job_id: UUID) -> JobAnswer:
    """The job as it stands now. Raises ApiError 404."""
    found = await seen(engine, key, job_id, _JOB_WITH_CHUNKS)
    job = found[0]
    took = (job.finished_at - job.created_at).total_seconds() if job.finished_at else None
    return JobAnswer(
        _described(job) | _identifiers(found), _retry_after(job), float(job.age_seconds), took
    )


async def mark_awaited(engine: AsyncEngine, job_id: UUID) -> bool:
    """Asks whoever finishes the job to tell; False where it is finished already.

    A database that is read-only is looked at every second all the same (api.jobs.waiting).
    """
    try:
        return bool(await rows(engine, _MARK_AWAITED, {"job_id": job_id}))
    except DBAPIError as error:
        if not isinstance(error.orig, ReadOnlySqlTransaction):
            raise
        return True


_MARK_AWAITED = text(
    f"UPDATE jobs SET awaited = true WHERE id = :job_id AND finished_at IS NULL AND {BY_INDEX} RETURNING id"
)


class Created(NamedTuple):
    """A span of time: from the first moment on, until just before the second."""

    since: datetime | None = None
    before: datetime | None = None


async def list_jobs(
    engine: AsyncEngine,
    key: Key,
    filters: dict[str, str | None],
    created: Created,
    cursor: str | None,
    limit: int,
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of the jobs that the key sees, and the cursor of the next one, if there is one. Raises
    InvalidRequest.
    """
    statement = _page(key, created, cursor).limit(limit + 1)
    for name, value in filters.items():
        if value is not None:
            if "\0" in value:  # PostgreSQL knows no U+0000, so nothing of that name exists
                return [], None
            statement = statement.where(jobs.c[name] == value)
    found = await rows(engine, statement)
    items, following = page_of(found, limit)
    return [_described(row) for row in items], following


def parse_job_id(written: str) -> UUID:
    """Raises ApiError 404 for what cannot be a job's id."""
    try:
        return UUID(written)
    except ValueError:
        raise job_not_found() from None


def job_not_found() -> ApiError:
    """One answer for unknown jobs and those that the key may not see."""
    return ApiError(404, "Job not found")


async def check_visible(engine: AsyncEngine, key: Key, job_id: UUID) -> Found:
    """The job's `total` and `identifiers_purged_at`. Raises ApiError 404 unless the key sees the
    job.
    """
    return (await seen(engine, key, job_id, _TOTAL))[0]


async def seen(
    engine: AsyncEngine, key: Key, job_id: UUID, statement: TextClause, **values: Any
) -> Sequence[Found]:
    """The rows of a statement with SEEN. Raises ApiError 404 unless the key sees the job."""
    who = {"job_id": job_id, "company_id": key.company_id, "campaign_id": key.campaign_id}
    found = await rows(engine, statement, who | values)
    if not found:
        raise job_not_found()
    return found


def check_kept(job: Found) -> None:
    """Raises ApiError 410 where what the job's results tell has been purged."""
    if job.identifiers_purged_at:
        raise ApiError(410, "The identifiers of this job have been purged")


def _visible(key: Key) -> list[Any]:
    own = [jobs.c.company_id == key.company_id, text(BY_INDEX)]
    return own if key.campaign_id is None else [*own, jobs.c.campaign_id == key.campaign_id]


def _page(key: Key, created: Created, cursor: str | None) -> Select[Any]:
    statement = select(*_columns).select_from(jobs.join(_live, true())).where(and_(*_visible(key)))
    if created.since is not None:
        statement = statement.where(jobs.c.created_at >= created.since)
    return newest_first(statement, jobs, cursor, created.before)


def _described(row: Found) -> dict[str, Any]:
    return {
        "jobId": str(row.id),
        "campaignId": row.campaign_id,
        "status": row.state,
        "requested": row.wanted if row.wanted in set(Action) else None,
        "clientReference": row.client_reference,
        "mode": row.mode,
        "dryRun": row.dry_run,
        "phoneFallback": PhoneFallback(row.phone_fallback_rule).written,
        "phoneRegion": row.phone_region,
        "sourceJobId": str(row.source_job_id) if row.source_job_id else None,
        "total": row.total,
        "processed": sum(getattr(row, name) for name in COUNTS),
        "deleted": row.deleted,
        "wouldDelete": row.would_delete,
        "restored": row.restored,
        "conflict": row.conflict,
        "notFound": row.not_found,
        "unprocessed": row.unprocessed,
        "invalid": row.invalid,
        "erasedFromArchive": row.erased,
        "lacksPlus": row.lacks_plus,
        "otherExternalId": row.other_external_id,
        "waitingFor": _waiting_for(row),
        "error": row.error,
        "schedule": row.schedule,
        "callbackUrl": row.callback_url,
        "maxLeadsPerSecond": row.max_leads_per_second,
        "createdAt": time_text(row.created_at),
        "runAt": time_text(row.run_at),
        "startedAt": time_text(row.started_at),
        "finishedAt": time_text(row.finished_at),
        "identifiersPurgedAt": time_text(row.identifiers_purged_at),
        "history": [_change(**change) for change in row.history],
        "resultsUrl": f"/api/v1/jobs/{row.id}/results",
    }


def _waiting_for(row: Found) -> dict[str, Any] | None:
    """What keeps a job whose turn it is: the database, or whoever has locked some of its leads."""
    nothing = dict.fromkeys(("reason", "since", "leads", "sqlstate", "detail"))
    if row.state not in ACTIVE_STATES:
        return None
    if row.waiting_since:
        return {**nothing, **row.waiting_for, "since": time_text(row.waiting_since)}
    if not row.locked:
        return None
    who = "1 lead is" if row.locked == 1 else f"{row.locked} leads are"
    detail = f"{who} locked by somebody else in the database, and tried again"
    return nothing | {
        "reason": "locked",
        "since": time_text(row.locked_since),
        "leads": row.locked,
        "detail": detail,
    }


def _change(status: str, at: str, by: str | None) -> dict[str, Any]:
    return {"status": status, "at": time_text(datetime.fromisoformat(at)), "by": by}


def _identifiers(parts: Sequence[Found]) -> dict[str, Any]:
    if parts[0].total > MAX_LISTED:
        return {"identifiersOmitted": True}
    if parts[0].identifiers_purged_at:
        return dict.fromkeys(_LIST_OF.values()) | {"identifiersOmitted": False}
    lists: dict[str, list[str]] = {name: [] for name in _LIST_OF.values()}
    for part in parts:
        decided = (part.external_ids or (), part.phone_numbers or (), part.outcomes or ())
        for external_id, phone_number, outcome in zip(*decided, strict=True):
            name, identifier = _LIST_OF_NUMBER.get(outcome), external_id or phone_number
            if (
                name and identifier
            ):  # what is pending has no list, what is invalid may have no identifier
                lists[name].append(identifier)
    return lists | {"identifiersOmitted": False}


def _retry_after(row: Found) -> int | None:
    """A tenth of the job's age, from 1 to 10 seconds."""
    return None if JobState(row.state).final else min(10, max(1, int(row.age_seconds / 10)))
