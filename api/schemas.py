"""The bodies that callers send and get, as JSON Schema with an example each: what `/docs` shows.

Written by hand, as the routes read raw bytes and write plain dicts; tests hold both against what the API really answers.
"""

from typing import Any

from api.parser import MAX_ENTRIES, MAX_EXTERNAL_ID, MAX_PHONE_NUMBER, MAX_REFERENCE
from shared.states import Action, JobState, Mode, Outcome
from shared.windows import DAY_NAMES

Schema = dict[str, Any]

JOB_ID = "0b8f3c1e-6f0e-4f0a-9a43-0d7f5c1b2a90"
_MOMENT = "2026-01-01T02:00:00.000Z"
_WHITE = r"\t-\r \u00a0"  # \t-\r are \t \n \v \f \r
_NO_NUL = r"^[^\u0000]*$"


def text(description: str, **keywords: Any) -> Schema:
    """A string."""
    return {"type": "string", "description": description} | keywords


def or_null(schema: Schema) -> Schema:
    """`schema`, of one type, or null."""
    return schema | {"type": [schema["type"], "null"]} | ({"enum": [*schema["enum"], None]} if "enum" in schema else {})


def reference(name: str, kind: str = "schemas") -> Schema:
    """A pointer to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


def _count(description: str) -> Schema:
    return {"type": "integer", "minimum": 0, "description": description}


def _list(items: Schema, description: str) -> Schema:
    return {"type": "array", "items": items, "description": description}


def _whole(example: Any, /, **properties: Schema) -> Schema:
    """An object that has all of `properties` and no others."""
    schema: Schema = {"type": "object", "additionalProperties": False, "required": list(properties), "properties": properties}
    return schema if example is None else schema | {"examples": [example]}


def _moment(description: str) -> Schema:
    return text(
        f"{description}; UTC", format="date-time", pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$", examples=[_MOMENT]
    )


def success(body: Schema) -> Schema:
    """The envelope around `body`."""
    return _whole(None, success={"const": True}, data=body, error={"type": "null"})


_STATUS_URL = text("Where the job's status is; also the `Location` header", format="uri-reference")
_RUN_AT = or_null(_moment("When the job is to start, or its window opens, if that was asked for"))

_ENTRY = {
    "type": "object",
    "description": "Names one lead, by `externalId`, `phoneNumber` or both. Other fields are ignored, null counts as missing.",
    "properties": {
        "externalId": or_null(text("Your CRM's id", maxLength=MAX_EXTERNAL_ID, pattern=_NO_NUL)),
        "phoneNumber": or_null(
            text("E.164; spaces, dots, dashes, parentheses allowed", maxLength=MAX_PHONE_NUMBER, pattern=_NO_NUL)
        ),
    },
    "anyOf": [
        {"required": ["externalId"], "properties": {"externalId": {"type": "string", "pattern": f"[^{_WHITE}]"}}},
        {"required": ["phoneNumber"], "properties": {"phoneNumber": {"type": "string", "pattern": f"[^{_WHITE}.()-]"}}},
    ],
}

_CLOCK = "^([01][0-9]|2[0-3]):[0-5][0-9]$"

_WINDOW = {
    "type": "object",
    "additionalProperties": False,
    "required": ["start", "end"],
    "description": "Every one of `days` from `start` on, to `end`, which is on the next day where it comes before `start`",
    "properties": {
        "start": text("As the clock reads in `timeZone`", pattern=_CLOCK, examples=["22:00"]),
        "end": text("Another time than `start`", pattern=_CLOCK.replace("$", "$|^24:00$"), examples=["06:00"]),
        "timeZone": or_null(text("IANA name", default="UTC", examples=["America/New_York"])),
        "days": {
            "type": ["array", "null"],
            "description": "On which it opens; all, if left out or empty",
            "items": {"type": "string", "enum": list(DAY_NAMES)},
        },
    },
}

_SCHEDULE = {
    "type": "object",
    "description": "When to run: exactly one of the three. When a window shuts, the job waits for its next opening",
    "additionalProperties": False,
    "oneOf": [{"required": [name]} for name in ("runAt", "offPeak", "window")],
    "properties": {
        "runAt": text("Not before; with an offset. In the past: now", format="date-time", examples=["2026-01-31T22:00:00+01:00"]),
        "offPeak": {"const": True, "description": "In the off-peak window of the campaign, or of the server"},
        "window": reference("Window"),
    },
    "examples": [
        {"runAt": "2026-01-31T22:00:00+01:00"},
        {"offPeak": True},
        {"window": {"start": "22:00", "end": "06:00", "timeZone": "America/New_York", "days": ["fri", "sat"]}},
    ],
}

_BULK_DELETE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["campaignId", "leads"],
    "properties": {
        "campaignId": text("The campaign that all leads belong to", pattern=f"[^{_WHITE}]"),
        "leads": {
            "type": "array",
            "description": "The leads to delete",
            "minItems": 1,
            "maxItems": MAX_ENTRIES,
            "items": reference("Entry"),
        },
        "clientReference": or_null(
            text("Stored with the job, echoed, and a filter of the list", maxLength=MAX_REFERENCE, pattern=_NO_NUL)
        ),
        "phoneFallback": {
            "type": ["boolean", "null"],
            "default": True,
            "description": "Whether an entry whose `externalId` names no lead may take the one with its `phoneNumber`",
        },
        "mode": {
            "type": ["string", "null"],
            "enum": [Mode.DELETE, Mode.ARCHIVE, None],
            "default": Mode.DELETE,
            "description": "`archive` keeps the leads for a while, so that the job can be restored",
        },
        "dryRun": {
            "type": ["boolean", "null"],
            "default": False,
            "description": "A preview: says what would be deleted, changes nothing, and can be executed within 24 hours",
        },
        "schedule": {"anyOf": [reference("Schedule"), {"type": "null"}]},
    },
    "examples": [
        {
            "campaignId": "cmp_1",
            "leads": [{"externalId": "CRM_001"}, {"phoneNumber": "+15555551234"}],
            "clientReference": "nightly",
        }
    ],
}

_ACCEPTED = {
    "jobId": JOB_ID,
    "status": "queued",
    "statusUrl": f"/api/v1/jobs/{JOB_ID}",
    "total": 2,
    "createdAt": _MOMENT,
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
    "sourceJobId": None,
    "total": 2,
    "processed": 2,
    "deleted": 1,
    "wouldDelete": 0,
    "restored": 0,
    "conflict": 0,
    "notFound": 1,
    "unprocessed": 0,
    "error": None,
    "schedule": None,
    "createdAt": _MOMENT,
    "runAt": None,
    "startedAt": "2026-01-01T02:00:00.012Z",
    "finishedAt": _FINISHED_AT,
    "identifiersPurgedAt": None,
    "history": [
        {"status": "queued", "at": _MOMENT, "by": "nightly clean-up"},
        {"status": "running", "at": "2026-01-01T02:00:00.012Z", "by": None},
        {"status": "completed", "at": _FINISHED_AT, "by": None},
    ],
}
_LISTS = {
    "deletedIdentifiers": ["CRM_001"],
    "wouldDeleteIdentifiers": [],
    "restoredIdentifiers": [],
    "conflictIdentifiers": [],
    "notFoundIdentifiers": ["+15555551234"],
    "unprocessedIdentifiers": [],
}

_SUMMARY_FIELDS = {
    "jobId": text("The job", format="uuid"),
    "campaignId": text("Its campaign"),
    "status": reference("JobState"),
    "requested": or_null(
        text("An action that is asked for and comes into force once no chunk is in hand", enum=[Action.PAUSE, Action.CANCEL])
    ),
    "clientReference": or_null(text("As it was sent")),
    "mode": text("What it does with leads", enum=list(Mode)),
    "dryRun": {"type": "boolean", "description": "Whether it is a preview, which changes no lead"},
    "phoneFallback": {"type": "boolean", "description": "As it was sent, or true"},
    "sourceJobId": or_null(text("The job that this one follows: retries, executes or restores", format="uuid")),
    "total": _count("Entries of the job"),
    "processed": _count("Entries that have their outcome"),
    "deleted": _count("Leads removed from the campaign, archived ones too"),
    "wouldDelete": _count("Leads that a preview found; may fall until it is finished"),
    "restored": _count("Leads put back"),
    "conflict": _count("Leads not put back, as their identifier is taken again"),
    "notFound": _count("Entries that named no lead, or one that another entry took"),
    "unprocessed": _count("Entries that could not be processed after all retries"),
    "error": or_null(text("Why the job failed")),
    "schedule": {"anyOf": [reference("Schedule"), {"type": "null"}], "description": "As it was sent"},
    "createdAt": _moment("When the job was accepted"),
    "runAt": _RUN_AT,
    "startedAt": or_null(_moment("When its first chunk was begun")),
    "finishedAt": or_null(_moment("When it became final; nothing changes after that")),
    "identifiersPurgedAt": or_null(_moment("When its identifiers were removed, a while after it had finished")),
    "history": _list(reference("Change"), "Every change of its status, oldest first"),
}
_LIST_FIELDS = {
    name: or_null(_list({"type": "string"}, "Identifiers as they were sent, in request order; null once they are purged"))
    for name in _LISTS
}

_RESULT = {
    "index": 0,
    "externalId": "CRM_001",
    "phoneNumber": None,
    "identifier": "CRM_001",
    "outcome": "deleted",
    "matchedBy": "externalId",
    "reason": None,
}

OUTCOME = text("What became of an entry", enum=list(dict.fromkeys(outcome.word for outcome in Outcome)))
_REASONS = [outcome.reason for outcome in Outcome if outcome.reason]
_UP_OR_DOWN = {"type": "string", "enum": ["up", "down"]}


def _page(item: str, cursor: str, example: Any) -> Schema:
    cursor_schema = or_null(text("Send it as `cursor` to go on; null on the last page", examples=[cursor]))
    return _whole(
        {"items": [example], "nextCursor": None}, items=_list(reference(item), "Of this page"), nextCursor=cursor_schema
    )


_PUBLISHED = _whole(
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
    for count in ("wouldDelete", "restored", "conflict")
    for name in (count, f"{count}Identifiers")
}

SCHEMAS: dict[str, Schema] = {
    "BulkDelete": _BULK_DELETE,
    "Schedule": _SCHEDULE,
    "Window": _WINDOW,
    "Published": _PUBLISHED,
    "Change": _whole(
        {"status": "queued", "at": _MOMENT, "by": "nightly clean-up"},
        status=reference("JobState"),
        at=_moment("When"),
        by=or_null(text("Name of the key that asked for it, or the key's id; null where the job came to it by itself")),
    ),
    "Entry": _ENTRY,
    "JobState": text("`completed`, `failed` and `cancelled` are final", enum=list(JobState)),
    "AcceptedJob": _whole(
        _ACCEPTED,
        jobId=_SUMMARY_FIELDS["jobId"],
        status=reference("JobState"),
        statusUrl=_STATUS_URL,
        total=_count("Entries of the request"),
        createdAt=_SUMMARY_FIELDS["createdAt"],
        runAt=_RUN_AT,
    ),
    "Job": _whole(_SUMMARY | _LISTS, **_SUMMARY_FIELDS, **_LIST_FIELDS),
    "JobSummary": _whole(_SUMMARY, **_SUMMARY_FIELDS),
    "JobPage": _page("JobSummary", "MjAyNi0wMS0wMVQwMjowMDow", _SUMMARY),
    "Result": _whole(
        _RESULT,
        index=_count("The entry's place in the request"),
        externalId=or_null(text("As it was sent; null where it was missing or blank")),
        phoneNumber=or_null(text("As it was sent; null where it was missing or blank")),
        identifier=text("`externalId`, or `phoneNumber` where there is none"),
        outcome=OUTCOME,
        matchedBy=or_null(text("What found the lead", enum=["externalId", "phoneNumber"])),
        reason=or_null(text("Why the lead was not found or not processed", enum=_REASONS)),
    ),
    "ResultPage": _page("Result", "1000", _RESULT),
    "Health": _whole(
        {"database": "up", "broker": "up", "worker": "up", "ticker": "up"},
        **dict.fromkeys(("database", "broker", "worker", "ticker"), _UP_OR_DOWN),
    ),
    "Error": _whole(None, success={"const": False}, data={"type": "null"}, error=text("What is wrong")),
    "RateLimited": _whole(
        {
            "success": False,
            "data": None,
            "error": "Rate limit exceeded. Please try again later.",
            "limit": 1000,
            "remaining": 0,
            "reset": _MOMENT,
        },
        success={"const": False},
        data={"type": "null"},
        error={"const": "Rate limit exceeded. Please try again later."},
        limit=_count("Calls allowed in each period"),
        remaining={"const": 0},
        reset=_moment("When calls are allowed again"),
    ),
    "Unhealthy": _whole(
        {
            "success": False,
            "data": {"database": "up", "broker": "up", "worker": "down", "ticker": "up"},
            "error": "Service temporarily unavailable",
        },
        success={"const": False},
        data=reference("Health"),
        error={"const": "Service temporarily unavailable"},
    ),
}
