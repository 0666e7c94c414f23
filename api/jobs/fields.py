"""The fields of a job as callers see it, and how they are made of the job's row.

A field of the answer stands once: here, or, if it is an option, in api.jobs.options. Its schema in
/docs is made of that.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from api.database import AnyRow
from api.http.answers import time_text
from api.http.fields import answer, count, described, field, moment
from api.jobs.options import OPTIONS
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
            "Name of the key whose caller asked for it, or the key's id; null where nobody did",
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
            "Since when; for locked leads without the time in which none was tried, and null "
            "while other leads are still worked on",
        ),
        field(
            "leads",
            int | None,
            "How many leads are locked; null where the whole job stands still",
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
    "would_delete": "Leads that a preview found; may become fewer until it is finished",
    "restored": "Leads put back",
    "conflict": "Leads not put back, as their identifier is taken again",
    "not_found": "Entries that named no lead, or one that another entry took",
    "unprocessed": "Entries that could not be processed after all retries",
    "invalid": "Rows of a file that name no lead, sent with `onInvalid=skip`",
}
_NOTED = {
    "erased": "Of `deleted`, entries of which a copy in the archive was erased, with a lead or "
    "without one",
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
        "An action that was asked for, and takes effect once no chunk is being worked on",
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
    field("waitingFor", WaitingFor | None, "What keeps the job from going on, if anything"),
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


def summary_of(row: AnyRow) -> Any:
    """The JobSummary of a job's row."""
    return JobSummary(**_summary(row))


def job_of(parts: Sequence[AnyRow]) -> Any:
    """The Job of its rows: each has all of the job, and the entries of one of its chunks."""
    return Job(**_summary(parts[0]), **_identifiers(parts))


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
    """What keeps the job from going on: the database, or transactions that have locked some of its
    leads. None if nothing does.
    """
    if row.state not in ACTIVE_STATES:
        return None
    if row.waiting_since:
        cause = row.waiting_for
        return WaitingFor(
            reason=cause["reason"],
            since=time_text(row.waiting_since),
            leads=cause.get("leads"),
            sqlstate=cause.get("sqlstate"),
            detail=cause.get("detail"),
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
    """The fields that a Job has besides those of its summary."""
    if parts[0].total > MAX_LISTED:
        return {"identifiersOmitted": True}
    if parts[0].identifiers_purged_at:
        return dict.fromkeys(_LIST_OF.values()) | {"identifiersOmitted": False}
    lists: dict[str, list[str]] = {name: [] for name in _LIST_OF.values()}
    for part in parts:
        decided = (part.external_ids or (), part.phone_numbers or (), part.outcomes or ())
        for external_id, phone_number, outcome in zip(*decided, strict=True):
            name, identifier = _LIST_OF_NUMBER.get(outcome), external_id or phone_number
            # A pending entry has no list; an invalid one may have no identifier.
            if name and identifier:
                lists[name].append(identifier)
    return lists | {"identifiersOmitted": False}
