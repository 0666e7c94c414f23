"""The description behind `/openapi.json`: FastAPI's own, completed.

FastAPI knows the routes and their parameters. It cannot know the bodies, as the routes read raw
bytes and answer dicts, nor every status with its headers and error texts.
"""

from fastapi import FastAPI

from api.description.headers import HEADERS
from api.description.parameters import IDEMPOTENCY, IF_NONE_MATCH, PARAMETERS, WAIT
from api.description.request_schemas import FILE_PARAMETERS, FILES
from api.description.responses import RESPONSES
from api.description.schemas import SCHEMAS
from api.description.shapes import Schema, reference

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
anything that is not HTTP `400` (`Invalid HTTP request`), headers over 16 KiB `431` (`Request header
is too large`).
"""

# Swagger UI groups operations by these, in this order.
TAGS = [
    {"name": name, "description": description}
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

# Statuses and their responses, by kind of operation. _KEYED are all that need a key, _OWNED those
# that need a key with more rights, _STEER and _FOLLOW the actions on a job, and _PLAIN_CALL those
# on a webhook or a delivery.
_KEYED = {401: "Unauthorized", 429: "RateLimited", 503: "Unavailable"}
_BULK = {
    200: "Completed",
    202: "Accepted",
    400: "InvalidBody",
    403: "Forbidden",
    409: "InProgress",
    413: "TooLarge",
    415: "NotJson",
    422: "KeyReused",
} | _KEYED
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
_PLAIN_CALL = {400: "InvalidCall", 413: "TooLarge"} | _OWNED
_WEBHOOK = {400: "InvalidWebhook", 413: "TooLarge", 415: "NotJson"} | _OWNED

_NEW_LEADS = {400: "InvalidLeads", 413: "TooLarge", 415: "NotJson"} | _OWNED
_FILE = _BULK | {400: "InvalidFile", 408: "TooSlow", 413: "FileTooLarge", 415: "NotAFile"}
_JOB_CHANGE = {
    400: "InvalidChange",
    404: "JobNotFound",
    409: "Final",
    413: "TooLarge",
    415: "NotJson",
} | _OWNED

# The response that an operation has for each status.
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
    "changeJob": {200: "JobChanged"} | _JOB_CHANGE,
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
    "createWebhook": {201: "WebhookCreated", 409: "TooManyWebhooks"} | _WEBHOOK,
    "listWebhooks": {200: "WebhookPage", 400: "InvalidQuery"} | _OWNED,
    "getWebhook": {200: "Webhook", 400: "InvalidQuery", 404: "WebhookNotFound"} | _OWNED,
    "changeWebhook": {200: "Webhook", 404: "WebhookNotFound"} | _WEBHOOK,
    "deleteWebhook": {200: "WebhookDeleted", 404: "WebhookNotFound"} | _PLAIN_CALL,
    "rotateWebhook": {200: "WebhookRotated", 404: "WebhookNotFound"} | _PLAIN_CALL,
    "testWebhook": {202: "DeliveryStarted", 404: "WebhookNotFound"} | _PLAIN_CALL,
    "listWebhookDeliveries": (
        {200: "DeliveryPage", 400: "InvalidQuery", 404: "WebhookNotFound"} | _KEYED
    ),
    "listJobDeliveries": {200: "DeliveryPage", 400: "InvalidQuery", 404: "JobNotFound"} | _KEYED,
    "redeliver": {202: "DeliveryStarted", 404: "DeliveryNotFound", 409: "WebhookDisabled"}
    | _PLAIN_CALL,
    "getHealth": {200: "Healthy", 429: "HealthRateLimited", 503: "Unhealthy"},
}


# The request that Leadsweep itself makes, to a webhook.
_JOB_ENDED = {
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
                "When the attempt was made, in unix seconds; refuse what is older than 5 minutes"
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
        "410": {"description": "The receiver wants no more events: this disables the webhook"},
    },
}

_SUBMITTING = ("bulkDeleteLeads", "bulkDeleteRecords")
_TAKES_FILES = ("bulkDeleteLeadsFile", "bulkDeleteRecordsFile")

# The headers that an operation reads beside the key's.
_REQUEST_HEADERS = {
    **dict.fromkeys(
        (*_SUBMITTING, *_TAKES_FILES, "retryJob", "executeJob", "restoreJob"), (IDEMPOTENCY, WAIT)
    ),
    **dict.fromkeys(("cancelJob", "pauseJob", "resumeJob"), (IDEMPOTENCY,)),
    "getJob": (WAIT, IF_NONE_MATCH),
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


class Described(FastAPI):
    """FastAPI, with a complete description."""

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
        "webhooks": {"jobEnded": {"post": _JOB_ENDED}},
    }


def _complete(operation: Schema) -> None:
    """Gives an operation its responses, its body and what FastAPI lacks of its parameters."""
    name = operation["operationId"]
    operation["responses"] = {
        str(status): reference(response, "responses")
        for status, response in sorted(_STATUSES[name].items())
    }
    if body := _BODIES.get(name):
        operation["requestBody"] = {
            "required": name != "executeJob",
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
    """Adds what a parameter means. Where it may be left out, FastAPI writes `anyOf` its schema and
    null, but null cannot be sent in a query.
    """
    schema = parameter["schema"]
    schema.pop("title", None)
    kinds = (kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null")
    parameter["schema"] = next(kinds, schema)
    parameter |= PARAMETERS[parameter["name"]]
