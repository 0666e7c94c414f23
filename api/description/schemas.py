"""All bodies, of calls and of answers, as JSON Schema with an example each: what `/docs` shows.

Those of jobs are made from the structs that the routes answer with, and from the table of options.
The others are written by hand. Tests compare all of them with what the API really answers.
"""

from typing import Any

import msgspec

from api.description.lead_schemas import LEAD_SCHEMAS
from api.description.request_schemas import REQUEST_SCHEMAS
from api.description.shapes import (
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
from api.http.fields import MOMENT
from api.jobs.fields import NAMES, Job, JobSummary
from api.jobs.waiting import PUBLISHED_IF_ANY
from shared.states import COUNTS, JobState, Outcome

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
    **dict.fromkeys(NAMES.values(), 0),
    "deleted": 1,
    "notFound": 1,
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
    **{f"{NAMES[column]}Identifiers": [] for column in COUNTS},
    "deletedIdentifiers": ["CRM_001"],
    "notFoundIdentifiers": ["+15555551234"],
}

# The job's answers, made from the structs that the routes answer with.
_, _JOB_SCHEMAS = msgspec.json.schema_components(
    (Job, JobSummary), ref_template="#/components/schemas/{name}"
)


def _concise(schema: Schema) -> Schema:
    """`schema` with null beside a type as a list of types, which Swagger UI shows on one line."""
    match schema:
        case {"anyOf": [{"type": _} as kind, {"type": "null"}]}:
            rest = {keyword: value for keyword, value in schema.items() if keyword != "anyOf"}
            return rest | or_null(kind)
    return schema


for _schema in _JOB_SCHEMAS.values():
    _schema.pop("title")  # its name again
    if "properties" in _schema:
        _schema["properties"] = {
            name: _concise(field) for name, field in _schema["properties"].items()
        }
_FIELDS = _JOB_SCHEMAS["Job"]["properties"]

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
        items=list_of(reference(item), "The items of this page"),
        nextCursor=cursor_schema,
    )


_PUBLISHED = {
    "type": "object",
    "additionalProperties": False,
    "required": ["deleted", "notFound", "jobId", "status"],
    "properties": {
        **{name: _FIELDS[name] for name in ("deleted", "notFound")},
        **{name: _FIELDS[name] for name in ("deletedIdentifiers", "notFoundIdentifiers")},
        "jobId": _FIELDS["jobId"],
        "status": {"const": "completed"},
        **{
            name: _FIELDS[name]
            for word in PUBLISHED_IF_ANY
            for name in (word, f"{word}Identifiers")
        },
        **{name: _FIELDS[name] for name in ("resultsUrl", "identifiersOmitted")},
    },
    "examples": [
        {
            "deleted": 1,
            "notFound": 1,
            "deletedIdentifiers": ["CRM_001"],
            "notFoundIdentifiers": ["+15555551234"],
            "jobId": JOB_ID,
            "status": "completed",
        }
    ],
}

SCHEMAS: dict[str, Schema] = {
    **REQUEST_SCHEMAS,
    **LEAD_SCHEMAS,
    **WEBHOOK_SCHEMAS,
    "Published": _PUBLISHED,
    "Change": (
        _JOB_SCHEMAS["Change"]
        | {"examples": [{"status": "queued", "at": MOMENT, "by": "nightly clean-up"}]}
    ),
    "WaitingFor": (
        _JOB_SCHEMAS["WaitingFor"]
        | {
            "examples": [
                {
                    "reason": "locked",
                    "since": MOMENT,
                    "leads": 3,
                    "sqlstate": None,
                    "detail": "3 leads are locked by somebody else",
                }
            ]
        }
    ),
    "JobState": text("`completed`, `failed` and `cancelled` are final", enum=list(JobState)),
    "AcceptedJob": whole(
        _ACCEPTED,
        jobId=_FIELDS["jobId"],
        status=reference("JobState"),
        statusUrl=_STATUS_URL,
        total=count("Entries of the request"),
        createdAt=_FIELDS["createdAt"],
        runAt=_RUN_AT,
    ),
    "Job": _JOB_SCHEMAS["Job"] | {"examples": [_SUMMARY | _LISTS | {"identifiersOmitted": False}]},
    "JobSummary": _JOB_SCHEMAS["JobSummary"] | {"examples": [_SUMMARY]},
    "JobPage": _page("JobSummary", "MjAyNi0wMS0wMVQwMjowMDow", _SUMMARY),
    "Result": whole(
        _RESULT,
        index=count("The entry's place in the request"),
        externalId=or_null(text("As it was sent; null where it was missing or blank")),
        phoneNumber=or_null(text("As it was sent; null where it was missing or blank")),
        identifier=or_null(
            text(
                "`externalId`, or `phoneNumber` where there is none; null where an invalid row has"
                " neither"
            )
        ),
        outcome=OUTCOME,
        matchedBy=or_null(text("What found the lead", enum=["externalId", "phoneNumber"])),
        reason=or_null(
            text(
                "Why the lead was not found or not processed, is still pending, or should be"
                " looked at",
                enum=_REASONS,
            )
        ),
        detail=or_null(
            text(
                "The name of what refused the deletion, or made it slow",
                examples=["constraint calls_lead_id_fkey of calls"],
            )
        ),
        erasedFromArchive={
            "type": "boolean",
            "description": "Whether a copy in the archive was erased, with a lead or without one",
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
