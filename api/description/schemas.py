"""The bodies that callers get, and send, as JSON Schema with an example each: what `/docs` shows.

Written by hand, as the routes read raw bytes and write plain dicts; tests hold both against what
the API really answers.
"""

from typing import Any

from api.description.lead_schemas import LEAD_SCHEMAS
from api.description.request_schemas import REQUEST_SCHEMAS
from api.description.shapes import (
    MOMENT,
    Schema,
    count,
    list_of,
    moment,
    or_null,
    reference,
    text,
    whole,
)
from api.description.webhook_schemas import WEBHOOK_SCHEMAS
from api.health import ROLES
from api.jobs.status import MAX_LISTED
from shared.states import Action, JobState, Mode, Outcome, PhoneFallback

JOB_ID = "0b8f3c1e-6f0e-4f0a-9a43-0d7f5c1b2a90"

_STATUS_URL = text("Where the job's status is; also the `Location` header", format="uri-reference")
_RUN_AT = or_null(moment("When the job is to start, or its window opens, if that was asked for"))

_ACCEPTED = {
    "jobId": JOB_ID,
    "status": "queued",
    "statusUrl": f"/api/v1/jobs/{JOB_ID}",
    "total": 2,
    "createdAt": MOMENT,
    "runAt": None,
}

_FINISHED_AT = "2026-01-01T02:00:00.045Z"
_SUMMARY = {
    "jobId": JOB_ID,
    "campaignId": "cmp_1",
    "status": "completed",
    "requested": None,
    "clientReference": "nightly",
    "mode": "delete",
    "dryRun": False,
    "phoneFallback": True,
    "phoneRegion": None,
    "sourceJobId": None,
    "total": 2,
    "processed": 2,
    "deleted": 1,
    "wouldDelete": 0,
    "restored": 0,
    "conflict": 0,
    "notFound": 1,
    "unprocessed": 0,
    "invalid": 0,
    "erasedFromArchive": 0,
    "lacksPlus": 0,
    "otherExternalId": 0,
    "waitingFor": None,
    "error": None,
    "schedule": None,
    "callbackUrl": None,
    "maxLeadsPerSecond": None,
    "createdAt": MOMENT,
    "runAt": None,
    "startedAt": "2026-01-01T02:00:00.012Z",
    "finishedAt": _FINISHED_AT,
    "identifiersPurgedAt": None,
    "history": [
        {"status": "queued", "at": MOMENT, "by": "nightly clean-up"},
        {"status": "running", "at": "2026-01-01T02:00:00.012Z", "by": None},
        {"status": "completed", "at": _FINISHED_AT, "by": None},
    ],
    "resultsUrl": f"/api/v1/jobs/{JOB_ID}/results",
}
_LISTS = {
    "deletedIdentifiers": ["CRM_001"],
    "wouldDeleteIdentifiers": [],
    "restoredIdentifiers": [],
    "conflictIdentifiers": [],
    "notFoundIdentifiers": ["+15555551234"],
    "unprocessedIdentifiers": [],
    "invalidIdentifiers": [],
}

_SUMMARY_FIELDS = {
    "jobId": text("The job", format="uuid"),
    "campaignId": text("Its campaign"),
    "status": reference("JobState"),
    "requested": or_null(
        text(
            "An action that is asked for and comes into force once no chunk is in hand",
            enum=[Action.PAUSE, Action.CANCEL],
        )
    ),
    "clientReference": or_null(text("As it was sent; removed with the job's identifiers")),
    "mode": text("What it does with leads", enum=list(Mode)),
    "dryRun": {"type": "boolean", "description": "Whether it is a preview, which changes no lead"},
    "phoneFallback": {
        "enum": [rule.written for rule in PhoneFallback],
        "description": "As it was sent, or true",
    },
    "phoneRegion": or_null(text("As it was sent, or the campaign's")),
    "sourceJobId": or_null(
        text("The job that this one follows: retries, executes or restores", format="uuid")
    ),
    "total": count("Entries of the job"),
    "processed": count("Entries that have their outcome"),
    "deleted": count("Leads removed from the campaign, archived ones too"),
    "wouldDelete": count("Leads that a preview found; may fall until it is finished"),
    "restored": count("Leads put back"),
    "conflict": count("Leads not put back, as their identifier is taken again"),
    "notFound": count("Entries that named no lead, or one that another entry took"),
    "unprocessed": count("Entries that could not be processed after all retries"),
    "invalid": count("Rows of a file that name no lead, sent with `onInvalid=skip`"),
    "erasedFromArchive": count(
        "Of `deleted`, those of which a copy in the archive was erased, too or alone"
    ),
    "lacksPlus": count(
        "Of `notFound`, phone numbers of which a lead has the same digits behind a `+`"
    ),
    "otherExternalId": count(
        "Of `wouldDelete`, entries that would take a lead with another `externalId` than theirs"
    ),
    "waitingFor": {
        "anyOf": [reference("WaitingFor"), {"type": "null"}],
        "description": "What keeps it from going on, if anything",
    },
    "error": or_null(text("Why the job failed")),
    "schedule": {
        "anyOf": [reference("Schedule"), {"type": "null"}],
        "description": "As it was sent",
    },
    "callbackUrl": or_null(text("As it was sent; a job that follows this one has it too")),
    "maxLeadsPerSecond": or_null(count("As it was sent, or changed to")),
    "createdAt": moment("When the job was accepted"),
    "runAt": _RUN_AT,
    "startedAt": or_null(moment("When its first chunk was begun")),
    "finishedAt": or_null(moment("When it became final; nothing changes after that")),
    "identifiersPurgedAt": or_null(
        moment("When its identifiers and clientReference were removed, long after its end")
    ),
    "history": list_of(reference("Change"), "Every change of its status, oldest first"),
    "resultsUrl": text("Where the outcome of each entry is", format="uri-reference"),
}
_LIST_FIELDS = {
    name: or_null(
        list_of(
            {"type": "string"},
            "Identifiers as they were sent, in request order; null once they are purged",
        )
    )
    for name in _LISTS
}
_OMITTED = {
    "type": "boolean",
    "description": f"Above {MAX_LISTED} entries the lists are left out: read `resultsUrl`",
}

_RESULT = {
    "index": 0,
    "externalId": "CRM_001",
    "phoneNumber": None,
    "identifier": "CRM_001",
    "outcome": "deleted",
    "matchedBy": "externalId",
    "reason": None,
    "detail": None,
    "erasedFromArchive": False,
}

OUTCOME = text(
    "What became of an entry", enum=list(dict.fromkeys(outcome.word for outcome in Outcome))
)
_REASONS = list(dict.fromkeys(outcome.reason for outcome in Outcome if outcome.reason))
_UP_OR_DOWN = {"type": "string", "enum": ["up", "down"]}


def _page(item: str, cursor: str, example: Any) -> Schema:
    cursor_schema = or_null(
        text("Send it as `cursor` to go on; null on the last page", examples=[cursor])
    )
    return whole(
        {"items": [example], "nextCursor": None},
        items=list_of(reference(item), "Of this page"),
        nextCursor=cursor_schema,
    )


def _without_lists(schema: Schema) -> None:
    """The lists may be left out."""
    schema["required"] = [name for name in schema["required"] if name not in _LISTS]


_PUBLISHED = whole(
    {
        "deleted": 1,
        "notFound": 1,
        "deletedIdentifiers": ["CRM_001"],
        "notFoundIdentifiers": ["+15555551234"],
        "jobId": JOB_ID,
        "status": "completed",
    },
    **{name: _SUMMARY_FIELDS[name] for name in ("deleted", "notFound")},
    **{name: _LIST_FIELDS[name] for name in ("deletedIdentifiers", "notFoundIdentifiers")},
    jobId=_SUMMARY_FIELDS["jobId"],
    status={"const": "completed"},
)
_PUBLISHED["properties"] |= {
    name: {**_SUMMARY_FIELDS, **_LIST_FIELDS}[name]
    for word in ("wouldDelete", "restored", "conflict", "invalid")
    for name in (word, f"{word}Identifiers")
}
_PUBLISHED["properties"] |= {
    "resultsUrl": _SUMMARY_FIELDS["resultsUrl"],
    "identifiersOmitted": _OMITTED,
}
_without_lists(_PUBLISHED)

_JOB = whole(
    _SUMMARY | _LISTS | {"identifiersOmitted": False},
    **_SUMMARY_FIELDS,
    **_LIST_FIELDS,
    identifiersOmitted=_OMITTED,
)
_without_lists(_JOB)

SCHEMAS: dict[str, Schema] = {
    **REQUEST_SCHEMAS,
    **LEAD_SCHEMAS,
    **WEBHOOK_SCHEMAS,
    "Published": _PUBLISHED,
    "Change": whole(
        {"status": "queued", "at": MOMENT, "by": "nightly clean-up"},
        status=reference("JobState"),
        at=moment("When"),
        by=or_null(
            text(
                "Name of the key that asked for it, or the key's id; null where the job came to it by itself"
            )
        ),
    ),
    "WaitingFor": whole(
        {
            "reason": "locked",
            "since": MOMENT,
            "leads": 3,
            "sqlstate": None,
            "detail": "3 leads are locked by somebody else",
        },
        reason=text(
            "`locked`: leads, a whole table, or the campaign; `database`: it is not well",
            enum=["locked", "database"],
        ),
        since=or_null(
            moment(
                "Since when; of leads, less the time in which none was tried, and null while others still go"
            )
        ),
        leads=or_null(count("Leads that are locked; null where nothing of the job goes on")),
        sqlstate=or_null(text("What PostgreSQL last said", examples=["53100"])),
        detail=text(
            "The same in words", examples=["the database answers: disk full (SQLSTATE 53100)"]
        ),
    ),
    "JobState": text("`completed`, `failed` and `cancelled` are final", enum=list(JobState)),
    "AcceptedJob": whole(
        _ACCEPTED,
        jobId=_SUMMARY_FIELDS["jobId"],
        status=reference("JobState"),
        statusUrl=_STATUS_URL,
        total=count("Entries of the request"),
        createdAt=_SUMMARY_FIELDS["createdAt"],
        runAt=_RUN_AT,
    ),
    "Job": _JOB,
    "JobSummary": whole(_SUMMARY, **_SUMMARY_FIELDS),
    "JobPage": _page("JobSummary", "MjAyNi0wMS0wMVQwMjowMDow", _SUMMARY),
    "Result": whole(
        _RESULT,
        index=count("The entry's place in the request"),
        externalId=or_null(text("As it was sent; null where it was missing or blank")),
        phoneNumber=or_null(text("As it was sent; null where it was missing or blank")),
        identifier=or_null(
            text(
                "`externalId`, or `phoneNumber` where there is none; null where an invalid row has neither"
            )
        ),
        outcome=OUTCOME,
        matchedBy=or_null(text("What found the lead", enum=["externalId", "phoneNumber"])),
        reason=or_null(
            text(
                "Why the lead was not found or processed, or is pending, or to be looked at",
                enum=_REASONS,
            )
        ),
        detail=or_null(
            text(
                "What refused or slowed it, by name",
                examples=["constraint calls_lead_id_fkey of calls"],
            )
        ),
        erasedFromArchive={
            "type": "boolean",
            "description": "Whether a copy in the archive was erased, too or alone",
        },
    ),
    "ResultPage": _page("Result", "1000", _RESULT),
    "Health": whole(
        {"database": "up", "broker": "up", "worker": "up", "deliverer": "up", "ticker": "up"},
        database={"type": "string", "enum": ["up", "readOnly", "down"]},
        **dict.fromkeys(("broker", *ROLES), _UP_OR_DOWN),
    ),
    "Error": whole(
        None, success={"const": False}, data={"type": "null"}, error=text("What is wrong")
    ),
    "RateLimited": whole(
        {
            "success": False,
            "data": None,
            "error": "Rate limit exceeded. Please try again later.",
            "limit": 1000,
            "remaining": 0,
            "reset": MOMENT,
        },
        success={"const": False},
        data={"type": "null"},
        error={"const": "Rate limit exceeded. Please try again later."},
        limit=count("Calls allowed in each period"),
        remaining={"const": 0},
        reset=moment("When calls are allowed again"),
    ),
    "Unhealthy": whole(
        {
            "success": False,
            "data": {
                "database": "up",
                "broker": "up",
                "worker": "down",
                "deliverer": "up",
                "ticker": "up",
            },
            "error": "Service temporarily unavailable",
        },
        success={"const": False},
        data=reference("Health"),
        error={"const": "Service temporarily unavailable"},
    ),
}
