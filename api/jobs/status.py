"""What callers see of jobs: one with its identifiers, and the list, newest first.

A field of the answer stands once: here, or, if it is an option, in api.jobs.options. Its schema in
/docs is made of that.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.database import AnyRow, rows
from api.http.answers import ApiError, time_text
from api.http.auth import Key
from api.http.fields import answer, count, described, field, moment
from api.http.paging import after_cursor, page_of
from api.jobs.options import OPTIONS
from shared.database.models import jobs
from shared.database.plans import BY_INDEX
from shared.states import ACTIVE_STATES, COUNTS, NOTED, Action, JobState, Outcome

# Entries; the status of a bigger job leads to its results instead of listing its identifiers.
MAX_LISTED = 1000

Change = answer(
    "Change",
    [
        ("status", JobState),
        moment("at", str, "When"),
        field(
            "by",
            str | None,
            "Name of the key that asked for it, or the key's id; null where the job came to it by "
            "itself",
        ),
    ],
)

WaitingFor = answer(
    "WaitingFor",
    [
        field(
            "reason",
            str,
            "`locked`: leads, a whole table, or the campaign; `database`: it is not well",
            enum=["locked", "database"],
        ),
        moment(
            "since",
            str | None,
            "Since when; of leads, less the time in which none was tried, and null while others "
            "still go",
        ),
        field(
            "leads",
            int | None,
            "Leads that are locked; null where nothing of the job goes on",
            minimum=0,
        ),
        field("sqlstate", str | None, "What PostgreSQL last said", examples=["53100"]),
        field(
            "detail",
            str,
            "The same in words",
            examples=["the database answers: disk full (SQLSTATE 53100)"],
        ),
    ],
)

# By the column that counts them: what became of entries, which sums to `processed`; and what is to
# be looked at besides.
_COUNTED = {
    "deleted": "Leads removed from the campaign, archived ones too",
    "would_delete": "Leads that a preview found; may fall until it is finished",
    "restored": "Leads put back",
    "conflict": "Leads not put back, as their identifier is taken again",
    "not_found": "Entries that named no lead, or one that another entry took",
    "unprocessed": "Entries that could not be processed after all retries",
    "invalid": "Rows of a file that name no lead, sent with `onInvalid=skip`",
}
_NOTED = {
    "erased": "Of `deleted`, those of which a copy in the archive was erased, too or alone",
    "lacks_plus": "Of `notFound`, phone numbers of which a lead has the same digits behind a `+`",
    "other_external_id": "Of `wouldDelete`, entries that would take a lead with another "
    "`externalId` than theirs",
}


def _in_json(column: str) -> str:
    """`not_found` as `notFound`."""
    head, *tail = column.split("_")
    return head + "".join(map(str.capitalize, tail))


# The field that holds a count, by its column.
NAMES = {column: _in_json(column) for column in (*COUNTS, *NOTED)}
NAMES["erased"] = "erasedFromArchive"

# The field that lists the identifiers of an outcome, by the column that counts it.
_LIST_OF = {column: f"{NAMES[column]}Identifiers" for column in COUNTS}
_LIST_OF_NUMBER = {int(outcome): _LIST_OF[outcome.count] for outcome in Outcome if outcome.count}

_SUMMARY: list[Any] = [
    field("jobId", str, "The job", format="uuid"),
    field("campaignId", str, "Its campaign"),
    ("status", JobState),
    field(
        "requested",
        str | None,
        "An action that is asked for and comes into force once no chunk is in hand",
        enum=[Action.PAUSE, Action.CANCEL, None],
    ),
    *((option.name, option.answer) for option in OPTIONS),
    field(
        "sourceJobId",
        str | None,
        "The job that this one follows: retries, executes or restores",
        format="uuid",
    ),
    count("total", "Entries of the job"),
    count("processed", "Entries that have their outcome"),
    *(count(NAMES[column], _COUNTED[column]) for column in COUNTS),
    *(count(NAMES[column], _NOTED[column]) for column in NOTED),
    field("waitingFor", WaitingFor | None, "What keeps it from going on, if anything"),
    field("error", str | None, "Why the job failed"),
    moment("createdAt", str, "When the job was accepted"),
    moment(
        "runAt",
        str | None,
        "When the job is to start, or its window opens, if that was asked for",
    ),
    moment("startedAt", str | None, "When its first chunk was begun"),
    moment("finishedAt", str | None, "When it became final; nothing changes after that"),
    moment(
        "identifiersPurgedAt",
        str | None,
        "When its identifiers and clientReference were removed, long after its end",
    ),
    field("history", list.__class_getitem__(Change), "Every change of its status, oldest first"),
    field("resultsUrl", str, "Where the outcome of each entry is", format="uri-reference"),
]
_LISTED = described(
    list[str] | None | msgspec.UnsetType,
    "Identifiers as they were sent, in request order; null once they are purged",
)
_LISTS: list[Any] = [
    *((name, _LISTED, msgspec.UNSET) for name in _LIST_OF.values()),
    field(
        "identifiersOmitted",
        bool,
        f"Above {MAX_LISTED} entries the lists are left out: read `resultsUrl`",
    ),
]

JobSummary = answer("JobSummary", _SUMMARY)
Job = answer("Job", [*_SUMMARY, *_LISTS])

# A job that the key sees: what belongs to it is joined to it, so nothing of another's is read.
# Company and campaign are compared in such a way that none of their indexes is walked, which would
# lead through all their jobs. No campaign is joined: the record outlives it, and stays its
# company's when it moves to another.
SEEN = f"""
    jobs.id = :job_id AND jobs.company_id || '' = :company_id
        AND (CAST(:campaign_id AS text) IS NULL
            OR jobs.campaign_id || '' = CAST(:campaign_id AS text)) AND {BY_INDEX}
"""


def _select(where: str, decided: str = "", columns: str = "") -> str:
    """Jobs with their counts: sums over the chunks of one that is not finished; of one that is, its
    row has them. One that a ticker of before has ended, during an upgrade, lacks those that are
    counted besides.
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


# One statement, so one snapshot: state, counts and lists always agree. Callers who poll ask mostly
# for jobs that have not begun: a chunk none of whose entries is decided has nothing for the lists.
# Nor has one of a job that is too big for them.
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
    """What callers see of a job: `body` is a Job. `retry_after` in seconds, None once it is final;
    `took`, likewise, is None until then.
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
    body = Job(**_summary(job), **_identifiers(parts))
    return JobNow(body, _retry_after(job), job.age_seconds, took)


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
    found = await rows(engine, *_page(key, filters, cursor, limit))
    items, following = page_of(found, limit)
    return [JobSummary(**_summary(row)) for row in items], following


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
    found = await rows(engine, statement, values)
    if not found:
        raise job_not_found()
    return found


def check_kept(job: AnyRow) -> None:
    """Raises ApiError 410 where what the job's results tell has been purged."""
    if job.identifiers_purged_at:
        raise ApiError(410, "The identifiers of this job have been purged")


def _summary(row: AnyRow) -> dict[str, Any]:
    """The fields of a JobSummary."""
    return {
        "jobId": str(row.id),
        "campaignId": row.campaign_id,
        "status": row.state,
        "requested": row.wanted if row.wanted in set(Action) else None,
        **{option.name: option.answered(getattr(row, option.column)) for option in OPTIONS},
        "sourceJobId": str(row.source_job_id) if row.source_job_id else None,
        "total": row.total,
        "processed": sum(getattr(row, column) for column in COUNTS),
        **{name: getattr(row, column) for column, name in NAMES.items()},
        "waitingFor": _waiting_for(row),
        "error": row.error,
        "createdAt": time_text(row.created_at),
        "runAt": time_text(row.run_at),
        "startedAt": time_text(row.started_at),
        "finishedAt": time_text(row.finished_at),
        "identifiersPurgedAt": time_text(row.identifiers_purged_at),
        "history": [
            Change(
                status=change["status"],
                at=time_text(datetime.fromisoformat(change["at"])),
                by=change["by"],
            )
            for change in row.history
        ],
        "resultsUrl": f"/api/v1/jobs/{row.id}/results",
    }


def _waiting_for(row: AnyRow) -> Any:
    """The database, or other transactions that have locked some of its leads; None if nothing keeps
    the job.
    """
    if row.state not in ACTIVE_STATES:
        return None
    if row.waiting_since:
        told = row.waiting_for
        return WaitingFor(
            reason=told["reason"],
            since=time_text(row.waiting_since),
            leads=told.get("leads"),
            sqlstate=told.get("sqlstate"),
            detail=told.get("detail"),
        )
    if not row.locked:
        return None
    leads = "1 lead is" if row.locked == 1 else f"{row.locked} leads are"
    return WaitingFor(
        reason="locked",
        since=time_text(row.locked_since),
        leads=row.locked,
        sqlstate=None,
        detail=f"{leads} locked by somebody else in the database, and tried again",
    )


def _identifiers(parts: Sequence[AnyRow]) -> dict[str, Any]:
    """The fields that a Job has beside those of its summary."""
    if parts[0].total > MAX_LISTED:
        return {"identifiersOmitted": True}
    if parts[0].identifiers_purged_at:
        return dict.fromkeys(_LIST_OF.values()) | {"identifiersOmitted": False}
    lists: dict[str, list[str]] = {name: [] for name in _LIST_OF.values()}
    for part in parts:
        decided = (part.external_ids or (), part.phone_numbers or (), part.outcomes or ())
        for external_id, phone_number, outcome in zip(*decided, strict=True):
            name, identifier = _LIST_OF_NUMBER.get(outcome), external_id or phone_number
            # What is pending has no list; what is invalid may have no identifier.
            if name and identifier:
                lists[name].append(identifier)
    return lists | {"identifiersOmitted": False}


def _retry_after(row: AnyRow) -> int | None:
    """A tenth of the job's age, from 1 to 10 seconds."""
    return None if JobState(row.state).final else min(10, max(1, int(row.age_seconds / 10)))
