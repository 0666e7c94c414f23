"""The description behind `/openapi.json`: FastAPI's own, which knows the routes and their parameters, and what it cannot know.

That is the bodies, as the routes read raw bytes and answer plain dicts, and every status with its headers and error texts.
"""

from typing import Any

from fastapi import FastAPI

from api.exporter import CSV_HEAD
from api.schemas import JOB_ID, OUTCOME, SCHEMAS
from api.shapes import Schema, reference, success

ABOUT = """\
Deletes leads in bulk, in the background, and says what became of each.

Send a bulk delete, get `202` and a job; read the job until its status is final. A `503` or a cut connection may hide a job
that was accepted: send an `Idempotency-Key` of your own with every POST, and the same again when in doubt.

Every answer, errors included, is `{"success", "data", "error"}` and carries `X-Request-ID`. A path that does not exist answers
`404` (`Not found`), another method `405` (`Method not allowed`), what is no HTTP `400` (`Invalid HTTP request`), headers over
64 KiB `431` (`Request header is too large`).
"""

_RATE_HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


def _header(description: str, *, required: bool = True, **schema: Any) -> Schema:
    return {"description": description, "required": required, "schema": schema}


_HEADERS = {
    "X-Request-ID": _header("The caller's own where it sent a sane one, else a new one", type="string", pattern="^[!-~]{1,128}$"),
    "X-RateLimit-Limit": _header("Calls allowed in each period", type="integer", minimum=1),
    "X-RateLimit-Remaining": _header("Calls left in this period", type="integer", minimum=0),
    "X-RateLimit-Reset": _header("When this period ends, in unix seconds", type="integer"),
    "Preference-Applied": _header("The `Prefer` that was honoured", required=False, type="string"),
    "Idempotency-Replayed": _header("Present where the answer is that of an earlier call", required=False, const="true"),
    "ETag": _header("For `If-None-Match`", type="string"),
    "Content-Disposition": _header("A name for the file, of results to take away", required=False, type="string"),
    "Location": _header("The job's status", type="string", format="uri-reference"),
    "Retry-After": _header("Seconds to wait before the next call", type="integer", minimum=1),
    "Retry-After-Pending": _header("Seconds to wait before asking again", required=False, type="integer", minimum=1),
    "Retry-After-Unfinished": _header(
        "Seconds to wait before asking again; only while the job is not final",
        required=False,
        type="integer",
        minimum=1,
        maximum=10,
    ),
}
_HEADERS |= {
    f"{name}-Counted": _HEADERS[name] | {"required": False, "description": "Present where the call was counted"}
    for name in _RATE_HEADERS
}

_KEY_ERROR = "Idempotency-Key must be 1 to 255 printable ASCII characters"

_BODY_ERRORS = [
    "Request body is not valid JSON",
    "Request body must be an object",
    "Unknown field: dry_run",
    "clientReference must be a string",
    "clientReference is longer than 255 characters",
    "clientReference contains U+0000",
    "phoneFallback must be a boolean",
    "mode must be delete or archive",
    "schedule must be an object",
    "schedule must have exactly one of runAt, offPeak, window",
    "schedule.runAt must be an ISO 8601 time with an offset, as 2026-01-31T22:00:00+01:00",
    "schedule.window.start must be written as HH:MM",
    "campaignId is required",
    "campaignId must be a string",
    "leads array is required",
    "leads array cannot be empty",
    "Maximum 1000 leads per bulk delete request",
    "leads[0] must be an object",
    "leads[0]: externalId must be a string",
    "leads[0]: At least one of phoneNumber or externalId is required",
    "leads[0]: externalId is longer than 255 characters",
    "leads[0]: externalId contains U+0000",
    "Invalid query parameter: dryRun",
    _KEY_ERROR,
]


def _response(description: str, schema: Schema, headers: dict[str, str], examples: dict[str, Any] | None = None) -> Schema:
    """`headers` maps the name of each header to its component."""
    content: Schema = {"schema": schema} | ({"examples": examples} if examples else {})
    pointers = {name: reference(component, "headers") for name, component in ({"X-Request-ID": "X-Request-ID"} | headers).items()}
    return {"description": description, "headers": pointers, "content": {"application/json": content}}


_COUNTED = {name: name for name in _RATE_HEADERS}
_MAYBE_COUNTED = {name: f"{name}-Counted" for name in _RATE_HEADERS}
_RETRY = {"Retry-After": "Retry-After"}


_REPLAYED = {"Idempotency-Replayed": "Idempotency-Replayed"}
_FILE = {"Content-Disposition": "Content-Disposition"}
_APPLIED = _REPLAYED | {"Preference-Applied": "Preference-Applied"}
_JOB_HEADERS = (
    {"X-Request-ID": "X-Request-ID"}
    | _COUNTED
    | {"Retry-After": "Retry-After-Unfinished", "ETag": "ETag", "Preference-Applied": "Preference-Applied"}
)


def _success(description: str, schema: str, headers: dict[str, str] = _COUNTED) -> Schema:
    body = {"success": True, "data": SCHEMAS[schema]["examples"][0], "error": None}
    return _response(description, success(reference(schema)), headers, {"answer": {"value": body}})


def _error(description: str, texts: list[str], headers: dict[str, str] = _COUNTED) -> Schema:
    examples = {text: {"value": {"success": False, "data": None, "error": text}} for text in texts}
    return _response(description, reference("Error"), headers, examples)


def _with_streams(response: Schema) -> Schema:
    streams = {
        "text/csv": {"schema": {"type": "string"}, "example": CSV_HEAD.decode()},
        "application/x-ndjson": {"schema": {"type": "string"}},
    }
    return response | {"content": response["content"] | streams}


def _refusal(description: str, schema: str, headers: dict[str, str]) -> Schema:
    return _response(description, reference(schema), headers, {"answer": {"value": SCHEMAS[schema]["examples"][0]}})


_RESPONSES = {
    "InvalidBody": _error("The body is wrong; the first error found is the answer", _BODY_ERRORS),
    "InvalidQuery": _error("A parameter is wrong, unknown or given twice", ["Invalid query parameter: limit"]),
    "Unauthorized": _error("No key, or none that is active", ["Missing API key", "Invalid or inactive API key"], {}),
    "Forbidden": _error("The key lacks the scope, or may not see this campaign, or there is none", ["Forbidden"]),
    "JobNotFound": _error("No such job, or not one that the key may see", ["Job not found"]),
    "InvalidAction": _error("It takes no options", ["Request body must be empty", "Invalid query parameter: dryRun", _KEY_ERROR]),
    "Impossible": _error(
        "The job's state does not allow it; or another call has the same key, or the job, in hand",
        [
            "Cannot pause a job that is completed",
            "Cannot resume a job that is being cancelled",
            "Cannot execute this job: it is not a preview",
            "Cannot execute this job: the preview is older than 24 hours",
            "Cannot restore this job: it archived no leads",
            "Another request is in progress; try again",
        ],
        _COUNTED | {"Retry-After": "Retry-After-Pending"},
    ),
    "InProgress": _error(
        "Another call with the same key is in progress", ["Another request is in progress; try again"], _COUNTED | _RETRY
    ),
    "KeyReused": _error("The key stands for another request", ["Idempotency-Key was already used with a different request"]),
    "Purged": _error("What became of each entry was removed since", ["The identifiers of this job have been purged"]),
    "NotModified": {
        "description": "The job is as `If-None-Match` says",
        "headers": {name: reference(component, "headers") for name, component in _JOB_HEADERS.items()},
    },
    "TooLarge": _error("The body is over 1 MiB", ["Request body is too large"]),
    "NotJson": _error("Another content type", ["Content-Type must be application/json"]),
    "RateLimited": _refusal("The key has used up its calls", "RateLimited", _COUNTED | _RETRY),
    "HealthRateLimited": _refusal("This address has used up its calls", "RateLimited", _RETRY),
    "Unavailable": _error("The database cannot be reached", ["Service temporarily unavailable"], _MAYBE_COUNTED | _RETRY),
    "Unhealthy": _refusal("Something is down", "Unhealthy", _RETRY),
    "Completed": _success("It completed within the time that the caller was ready to wait", "Published", _COUNTED | _APPLIED),
    "Accepted": _success("Accepted, durably", "AcceptedJob", _COUNTED | _RETRY | _REPLAYED | {"Location": "Location"}),
    "InForce": _success("In force, now or before", "AcceptedJob", _COUNTED | _REPLAYED | {"Location": "Location"}),
    "Job": _success("The job as it stands now", "Job", _JOB_HEADERS),
    "JobPage": _success("A page of jobs", "JobPage"),
    "ResultPage": _with_streams(_success("A page of results; or all of them, as `Accept` says", "ResultPage", _COUNTED | _FILE)),
    "Healthy": _success("Everything is up", "Health", {}),
}

_KEYED = {401: "Unauthorized", 429: "RateLimited", 503: "Unavailable"}
_BULK = {200: "Completed", 202: "Accepted", 400: "InvalidBody", 403: "Forbidden", 409: "InProgress", 413: "TooLarge"}
_BULK |= {415: "NotJson", 422: "KeyReused"} | _KEYED
_ACTION = {
    400: "InvalidAction",
    403: "Forbidden",
    404: "JobNotFound",
    409: "Impossible",
    413: "TooLarge",
    422: "KeyReused",
} | _KEYED
_STEER = {200: "InForce", 202: "Accepted"} | _ACTION
_FOLLOW = {200: "Completed", 202: "Accepted"} | _ACTION

# Of each operation, which response stands for which status.
_STATUSES = {
    "bulkDeleteLeads": _BULK,
    "bulkDeleteRecords": _BULK,
    "cancelJob": _STEER,
    "pauseJob": _STEER,
    "resumeJob": _STEER,
    "retryJob": _FOLLOW,
    "executeJob": _FOLLOW,
    "restoreJob": _FOLLOW,
    "getJob": {200: "Job", 304: "NotModified", 400: "InvalidQuery", 404: "JobNotFound"} | _KEYED,
    "listJobs": {200: "JobPage", 400: "InvalidQuery"} | _KEYED,
    "listResults": {200: "ResultPage", 400: "InvalidQuery", 404: "JobNotFound", 410: "Purged"} | _KEYED,
    "getHealth": {200: "Healthy", 429: "HealthRateLimited", 503: "Unhealthy"},
}


def _request_header(name: str, description: str, schema: Schema, example: str) -> Schema:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema, "example": example}


_WAIT = _request_header(
    "Prefer",
    "`wait=N`: wait up to N seconds, at most 60, for the job to end; anything else is ignored",
    {"type": "string"},
    "wait=10",
)
_IDEMPOTENCY = _request_header(
    "Idempotency-Key",
    "Makes it safe to send the same again, for 72 hours: a 503 or a cut connection may hide a call that was carried out",
    {"type": "string", "pattern": "^[!-~]([ -~]{0,253}[!-~])?$"},
    "6f1c-nightly-17",
)
_IF_NONE_MATCH = _request_header(
    "If-None-Match",
    "An `ETag`: answers 304 if the job is as it was then",
    {"type": "string"},
    '"0123456789abcdef01234567"',
)

# The headers that an operation looks at beside the key's.
_REQUEST_HEADERS = {
    **dict.fromkeys(("bulkDeleteLeads", "bulkDeleteRecords", "retryJob", "executeJob", "restoreJob"), (_IDEMPOTENCY, _WAIT)),
    **dict.fromkeys(("cancelJob", "pauseJob", "resumeJob"), (_IDEMPOTENCY,)),
    "getJob": (_WAIT, _IF_NONE_MATCH),
}

_PARAMETERS: dict[str, Schema] = {
    "jobId": {"description": "As the bulk delete answered it", "example": JOB_ID},
    "status": {"description": "Only jobs in this state"},
    "campaignId": {"description": "Only jobs of this campaign", "example": "cmp_1"},
    "clientReference": {"description": "Only jobs that were sent with this reference", "example": "nightly"},
    "outcome": {"description": "Only entries with this outcome", "schema": OUTCOME},
    "cursor": {"description": "`nextCursor` of the page before"},
    "limit": {"description": "The most items in a page"},
    "raw": {"description": "`1`: CSV without the quote before what a spreadsheet would take for a formula"},
}


class Described(FastAPI):
    """FastAPI with a description that is complete."""

    def openapi(self) -> Schema:
        """The OpenAPI description, made at the first call."""
        if self.openapi_schema is None:
            self.openapi_schema = _completed(super().openapi())
        return self.openapi_schema


def _completed(description: Schema) -> Schema:
    for operations in description["paths"].values():
        for operation in operations.values():
            _complete(operation)
    components = {
        "schemas": SCHEMAS,
        "headers": _HEADERS,
        "responses": _RESPONSES,
        "securitySchemes": {
            "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "`leadsweep keys create` makes one"}
        },
    }
    return description | {"components": components, "security": [{"key": []}]}


def _complete(operation: Schema) -> None:
    name = operation["operationId"]
    operation["responses"] = {str(s): reference(n, "responses") for s, n in sorted(_STATUSES[name].items())}
    if _STATUSES[name] is _BULK:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference("BulkDelete")}}}
    if name == "getHealth":
        operation["security"] = []
    for parameter in operation.get("parameters", ()):
        _describe_parameter(parameter)
    if headers := _REQUEST_HEADERS.get(name):
        operation["parameters"] = [*operation.get("parameters", ()), *headers]


def _describe_parameter(parameter: Schema) -> None:
    """FastAPI writes `anyOf` something and null for what may be left out; a parameter cannot be sent as null."""
    schema = parameter["schema"]
    schema.pop("title", None)
    parameter["schema"] = next((one for one in schema.get("anyOf", ()) if one.get("type") != "null"), schema)
    parameter |= _PARAMETERS[parameter["name"]]
