"""The description behind `/openapi.json`: FastAPI's own, which knows the routes and their
parameters, and what it cannot know.

That is the bodies, as the routes read raw bytes and answer plain dicts, and every status with its
headers and error texts.
"""

from fastapi import FastAPI

from api.description.request_schemas import FILE_PARAMETERS, FILES
from api.description.responses import HEADERS, RESPONSES
from api.description.schemas import JOB_ID, OUTCOME, SCHEMAS
from api.description.shapes import Schema, reference
from api.description.webhook_schemas import DELIVERY_ID, WEBHOOK_ID

ABOUT = """\
Deletes leads in bulk, in the background, and says what became of each.

Send a bulk delete, get `202` and a job; read the job until its status is final. A `503` or a cut
connection may hide a job that was accepted: send an `Idempotency-Key` of your own with every POST
that makes a job or acts on one, and the same again when in doubt.

**Quick start.** With a key of scope `write` (button Authorize) and a campaign that exists:

1. `POST /api/v1/leads/bulk-delete` with
   `{"campaignId": "spring", "leads": [{"externalId": "CRM_001"}, {"phoneNumber": "+15555551234"}]}`
   answers `202` with a `jobId`.
2. `GET /api/v1/jobs/{jobId}` with `Prefer: wait=10` answers as soon as the job has ended, with
   counts and identifiers.
3. `GET /api/v1/jobs/{jobId}/results` says for each lead what became of it, and why.

With `"dryRun": true` the job changes nothing and says what it would delete; with
`"mode": "archive"` it can be undone.

Every answer, errors included, is `{"success", "data", "error"}` and carries `X-Request-ID`. A path
that does not exist answers `404` (`Not found`), another method `405` (`Method not allowed`),
anything that is not HTTP `400` (`Invalid HTTP request`), headers over 64 KiB `431` (`Request header
is too large`).
"""

# Swagger UI groups operations by these, in this order.
TAGS = [
    {
        "name": name,
        "description": description,
    }
    for name, description in {
        "Bulk delete": "Submit leads to be deleted, as JSON or as a file: each call makes one job",
        "Jobs": "Read what becomes of a job, and of each of its leads",
        "Actions": "Steer a job, or make one that follows it",
        "Leads": "Create, list and delete leads at once, without a job",
        "Webhooks": "Be told of the end of every job",
        "Deliveries": "See what was sent to webhooks, and send it again",
        "Health": "Ask whether everything is up; needs no key",
        "Records": "The same operations under the name that older clients of the published API use",
    }.items()
]

_KEYED = {401: "Unauthorized", 429: "RateLimited", 503: "Unavailable"}
_BULK = {
    200: "Completed",
    202: "Accepted",
    400: "InvalidBody",
    403: "Forbidden",
    409: "InProgress",
    413: "TooLarge",
}
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

_OWNED = {403: "Forbidden"} | _KEYED
_ASKED = {400: "InvalidCall", 413: "TooLarge"} | _OWNED
_WRITTEN = {400: "InvalidWebhook", 413: "TooLarge", 415: "NotJson"} | _OWNED

_NEW_LEADS = {400: "InvalidLeads", 413: "TooLarge", 415: "NotJson"} | _OWNED
_FILE = _BULK | {400: "InvalidFile", 408: "TooSlow", 413: "FileTooLarge", 415: "NotAFile"}
_CHANGED = {
    400: "InvalidChange",
    404: "JobNotFound",
    409: "Final",
    413: "TooLarge",
    415: "NotJson",
} | _OWNED

# Of each operation, which response stands for which status.
_STATUSES = {
    "bulkDeleteLeads": _BULK,
    "bulkDeleteRecords": _BULK,
    "bulkDeleteLeadsFile": _FILE,
    "bulkDeleteRecordsFile": _FILE,
    "cancelJob": _STEER,
    "pauseJob": _STEER,
    "resumeJob": _STEER,
    "retryJob": _FOLLOW,
    "executeJob": _FOLLOW | {400: "InvalidExecution", 415: "NotJson"},
    "restoreJob": _FOLLOW,
    "changeJob": {200: "JobChanged"} | _CHANGED,
    "getJob": {200: "Job", 304: "NotModified", 400: "InvalidQuery", 404: "JobNotFound"} | _KEYED,
    "listJobs": {200: "JobPage", 400: "InvalidQuery"} | _KEYED,
    "listResults": (
        {200: "ResultPage", 400: "InvalidQuery", 404: "JobNotFound", 410: "Purged"} | _KEYED
    ),
    **dict.fromkeys(
        ("createLeads", "createRecords"), {200: "LeadsCreated", 409: "RefusedLeads"} | _NEW_LEADS
    ),
    **dict.fromkeys(
        ("listLeads", "listRecords"), {200: "LeadPage", 400: "InvalidLeadQuery"} | _OWNED
    ),
    **dict.fromkeys(
        ("deleteLead", "deleteRecord"),
        {200: "LeadDeleted", 400: "InvalidLeadQuery", 404: "LeadNotFound", 409: "RefusedLeads"}
        | _OWNED,
    ),
    "createWebhook": {201: "WebhookCreated", 409: "TooManyWebhooks"} | _WRITTEN,
    "listWebhooks": {200: "WebhookPage", 400: "InvalidQuery"} | _OWNED,
    "getWebhook": {200: "Webhook", 400: "InvalidQuery", 404: "WebhookNotFound"} | _OWNED,
    "changeWebhook": {200: "Webhook", 404: "WebhookNotFound"} | _WRITTEN,
    "deleteWebhook": {200: "WebhookDeleted", 404: "WebhookNotFound"} | _ASKED,
    "rotateWebhook": {200: "WebhookRotated", 404: "WebhookNotFound"} | _ASKED,
    "testWebhook": {202: "DeliveryStarted", 404: "WebhookNotFound"} | _ASKED,
    "listWebhookDeliveries": (
        {200: "DeliveryPage", 400: "InvalidQuery", 404: "WebhookNotFound"} | _KEYED
    ),
    "listJobDeliveries": {200: "DeliveryPage", 400: "InvalidQuery", 404: "JobNotFound"} | _KEYED,
    "redeliver": {202: "DeliveryStarted", 404: "DeliveryNotFound", 409: "WebhookDisabled"} | _ASKED,
    "getHealth": {200: "Healthy", 429: "HealthRateLimited", 503: "Unhealthy"},
}


def _request_header(name: str, description: str, schema: Schema, example: str) -> Schema:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": schema,
        "example": example,
    }


_WAIT = _request_header(
    "Prefer",
    "`wait=N`: wait up to N seconds, at most 60, for the job to end; anything else is ignored",
    {"type": "string"},
    "wait=10",
)
_IDEMPOTENCY = _request_header(
    "Idempotency-Key",
    "Makes it safe to send the same again, for 72 hours: a 503 or a cut connection may hide a call"
    " that was carried out",
    {"type": "string", "pattern": "^[!-~]([ -~]{0,253}[!-~])?$"},
    "6f1c-nightly-17",
)
_IF_NONE_MATCH = _request_header(
    "If-None-Match",
    "An `ETag`: answers 304 if the job is as it was then",
    {"type": "string"},
    '"0123456789abcdef01234567"',
)

# What Leadsweep sends, rather than what it takes.
_SENT = {
    "operationId": "jobEnded",
    "summary": "A job has ended",
    "tags": ["Webhooks"],
    "description": (
        "Signed as Standard Webhooks 1.0 has it. Answer 2xx within 20 seconds; anything else is"
        " tried again."
    ),
    "security": [],
    "parameters": [
        {
            "name": name,
            "in": "header",
            "required": True,
            "description": description,
            "schema": {"type": "string"},
        }
        for name, description in {
            "webhook-id": (
                "The delivery: the same for each attempt, so that you can tell a repetition"
            ),
            "webhook-timestamp": (
                "Of the attempt, in unix seconds; refuse what is older than 5 minutes"
            ),
            "webhook-signature": (
                "`v1,` and the base64 HMAC-SHA256 of id, timestamp and body; several with spaces"
                " between"
            ),
        }.items()
    ],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": reference("WebhookEvent")}},
    },
    "responses": {
        "2XX": {"description": "Delivered"},
        "410": {"description": "Not wanted any more: disables the webhook"},
    },
}

_SUBMITTING = ("bulkDeleteLeads", "bulkDeleteRecords")
_TAKES_FILES = ("bulkDeleteLeadsFile", "bulkDeleteRecordsFile")

# The headers that an operation looks at beside the key's.
_REQUEST_HEADERS = {
    **dict.fromkeys(
        (*_SUBMITTING, *_TAKES_FILES, "retryJob", "executeJob", "restoreJob"), (_IDEMPOTENCY, _WAIT)
    ),
    **dict.fromkeys(("cancelJob", "pauseJob", "resumeJob"), (_IDEMPOTENCY,)),
    "getJob": (_WAIT, _IF_NONE_MATCH),
}

# The body that an operation takes.
_BODIES = {
    "bulkDeleteLeads": "BulkDelete",
    "bulkDeleteRecords": "BulkDelete",
    "createWebhook": "NewWebhook",
    "changeWebhook": "WebhookChange",
    "changeJob": "JobChange",
    "executeJob": "Execution",
    "createLeads": "NewLeads",
    "createRecords": "NewLeads",
}

_PARAMETERS: dict[str, Schema] = {
    "jobId": {"description": "As the bulk delete answered it", "example": JOB_ID},
    "webhookId": {"description": "As it was answered when it was created", "example": WEBHOOK_ID},
    "deliveryId": {
        "description": "As lists of deliveries have it; also the `webhook-id` that was sent",
        "example": DELIVERY_ID,
    },
    "status": {"description": "Only those in this state"},
    "event": {"description": "Only those that tell of this"},
    "campaignId": {"description": "Only those of this campaign", "example": "cmp_1"},
    "externalId": {"description": "Only the lead with this `externalId`", "example": "CRM_001"},
    "phoneRegion": {
        "description": (
            "Country (ISO 3166) as whose `phoneNumber` is read if it has no `+`; without it, the"
            " campaign's"
        )
    },
    "phoneNumber": {
        "description": (
            "Only the lead with this `phoneNumber`; a `+` may be written as it is, or as `%2B`"
        ),
        "example": "+15555551234",
    },
    "clientReference": {
        "description": (
            "Only jobs that were sent with this reference, which goes with their identifiers"
        ),
        "example": "nightly",
    },
    "createdAfter": {
        "description": "Only jobs that were created at this time or later; ISO 8601 with an offset",
        "example": "2026-01-31T22:00:00+01:00",
    },
    "createdBefore": {
        "description": (
            "Only jobs that were created before this time, and not at it; ISO 8601 with an offset"
        ),
        "example": "2026-02-01T22:00:00+01:00",
    },
    "outcome": {"description": "Only entries with this outcome", "schema": OUTCOME},
    "cursor": {"description": "`nextCursor`, or `cursor`, of the page before"},
    "limit": {"description": "The most items in a page"},
    "raw": {
        "description": (
            "`1`: CSV without the quote before what a spreadsheet would take for a formula; only"
            " where a cell would else mean something else when it is sent back, as `'-17`, it"
            " has one"
        )
    },
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
        "headers": HEADERS,
        "responses": RESPONSES,
        "securitySchemes": {
            "key": {
                "type": "apiKey",
                "in": "header",
                "name": "x-api-key",
                "description": "`leadsweep keys create` makes one",
            }
        },
    }
    return description | {
        "components": components,
        "security": [{"key": []}],
        "webhooks": {"jobEnded": {"post": _SENT}},
    }


def _complete(operation: Schema) -> None:
    name = operation["operationId"]
    operation["responses"] = {
        str(s): reference(n, "responses") for s, n in sorted(_STATUSES[name].items())
    }
    if body := _BODIES.get(name):
        required = name != "executeJob"
        operation["requestBody"] = {
            "required": required,
            "content": {"application/json": {"schema": reference(body)}},
        }
    if name == "getHealth":
        operation["security"] = []
    if name in _TAKES_FILES:
        operation["requestBody"] = {"required": True, "content": FILES}
        operation["parameters"] = FILE_PARAMETERS
    else:
        for parameter in operation.get("parameters", ()):
            _describe_parameter(parameter)
            if parameter["name"] == "campaignId" and name != "listJobs":
                parameter["required"] = True
    if headers := _REQUEST_HEADERS.get(name):
        operation["parameters"] = [*operation.get("parameters", ()), *headers]


def _describe_parameter(parameter: Schema) -> None:
    """FastAPI writes `anyOf` something and null for what may be left out; a parameter cannot be
    sent as null.
    """
    schema = parameter["schema"]
    schema.pop("title", None)
    parameter["schema"] = next(
        (one for one in schema.get("anyOf", ()) if one.get("type") != "null"), schema
    )
    parameter |= _PARAMETERS[parameter["name"]]
