"""Every response of the API, with its headers and error texts, as an OpenAPI component."""

from typing import Any

from api.description.headers import (
    APPLIED,
    COUNTED,
    DOWNLOAD,
    JOB_HEADERS,
    MAYBE_COUNTED,
    REPLAYED,
    RETRY,
)
from api.description.schemas import SCHEMAS
from api.description.shapes import Schema, reference, success
from api.jobs.results import CSV_HEAD
from api.webhooks.endpoints import NOT_EVENTS

_KEY_ERROR = "Idempotency-Key must be 1 to 255 printable ASCII characters"

_BODY_ERRORS = [
    "Request body is not valid JSON",
    "Request body must be an object",
    "Unknown field: dry_run",
    "clientReference must be a string",
    "clientReference is longer than 255 characters",
    "clientReference contains U+0000",
    "phoneFallback must be true, false or onlyIfUnidentified",
    "phoneRegion must be an ISO 3166 country code, as DE",
    "mode must be delete or archive",
    "schedule must be an object",
    "schedule must have exactly one of runAt, offPeak, window",
    "schedule.runAt must be an ISO 8601 time with an offset, as 2026-01-31T22:00:00+01:00",
    "schedule.window.start must be written as HH:MM",
    "maxLeadsPerSecond must be an integer from 1 to 1000000",
    "campaignId is required",
    "campaignId must be a string",
    "leads array is required",
    "leads array cannot be empty",
    "Maximum 1000 leads per bulk delete request",
    "leads[0] must be an object",
    "leads[0]: externalId must be a string",
    "leads[0]: At least one of phoneNumber or externalId is required",
    "leads[0]: external_id may be the externalId; name it so, or leave it out",
    "leads[0]: externalId is given twice",
    "leads[0]: externalId is longer than 255 characters",
    "leads[0]: externalId contains U+0000",
    "Invalid query parameter: dryRun",
    _KEY_ERROR,
]


def _response(
    description: str,
    schema: Schema,
    headers: dict[str, str],
    examples: dict[str, Any] | None = None,
) -> Schema:
    """`headers` maps the name of each header to its component."""
    content: Schema = {"schema": schema} | ({"examples": examples} if examples else {})
    pointers = {
        name: reference(component, "headers")
        for name, component in ({"X-Request-ID": "X-Request-ID"} | headers).items()
    }
    return {
        "description": description,
        "headers": pointers,
        "content": {"application/json": content},
    }


def _success(description: str, schema: str, headers: dict[str, str] = COUNTED) -> Schema:
    body = {"success": True, "data": SCHEMAS[schema]["examples"][0], "error": None}
    return _response(description, success(reference(schema)), headers, {"answer": {"value": body}})


def _error(description: str, texts: list[str], headers: dict[str, str] = COUNTED) -> Schema:
    examples = {text: {"value": {"success": False, "data": None, "error": text}} for text in texts}
    return _response(description, reference("Error"), headers, examples)


def _with_streams(response: Schema) -> Schema:
    streams = {
        "text/csv": {"schema": {"type": "string"}, "example": CSV_HEAD.decode()},
        "application/x-ndjson": {"schema": {"type": "string"}},
    }
    return response | {"content": response["content"] | streams}


def _refusal(description: str, schema: str, headers: dict[str, str]) -> Schema:
    return _response(
        description,
        reference(schema),
        headers,
        {"answer": {"value": SCHEMAS[schema]["examples"][0]}},
    )


RESPONSES = {
    "InvalidBody": _error("The body is wrong; the first error found is the answer", _BODY_ERRORS),
    "InvalidQuery": _error(
        "A parameter is wrong, unknown or given twice", ["Invalid query parameter: limit"]
    ),
    "InvalidFile": _error(
        "The file, or its options, are wrong; the first error found is the answer, with the line of"
        " the file",
        [
            "Invalid query parameter: dry_run",
            "onInvalid must be fail or skip",
            "dryRun must be a boolean",
            "maxLeadsPerSecond must be an integer from 1 to 1000000",
            "campaignId is required",
            "File contains no leads",
            "Maximum 5000000 leads per file",
            "line 1: The header names neither externalId nor phoneNumber",
            "line 2: At least one of phoneNumber or externalId is required",
            "line 2: a quote is never closed",
            "line 2: not valid JSON",
            "Request body is not valid gzip",
            _KEY_ERROR,
        ],
    ),
    "TooSlow": _error(
        "Nothing came for 30 seconds, less than 1 KiB/s over 60 seconds, or not all within an hour",
        ["Request body took too long to arrive"],
    ),
    "FileTooLarge": _error(
        "Over 1 KiB for each entry that a file may have, or inflated more than 200-fold",
        ["Request body is too large"],
    ),
    "NotAFile": _error(
        "The content type or the encoding is not supported",
        ["Content-Type must be text/csv or application/x-ndjson", "Content-Encoding must be gzip"],
    ),
    "InvalidChange": _error(
        "The body is wrong",
        [
            "Request body is not valid JSON",
            "Request body must be an object",
            "Unknown field: mode",
            "maxLeadsPerSecond is required",
            "maxLeadsPerSecond must be an integer from 1 to 1000000",
            "Invalid query parameter: dryRun",
        ],
    ),
    "Final": _error("Its state is final", ["Cannot change a job that is completed"]),
    "Unauthorized": _error(
        "No key, or none that is active", ["Missing API key", "Invalid or inactive API key"], {}
    ),
    "Forbidden": _error(
        "The key lacks the scope, or the campaign does not exist or is not the key's",
        ["Forbidden"],
    ),
    "JobNotFound": _error("No such job, or not one that the key may see", ["Job not found"]),
    "InvalidAction": _error(
        "The call takes no options",
        ["Request body must be empty", "Invalid query parameter: dryRun", _KEY_ERROR],
    ),
    "InvalidExecution": _error(
        "The body is wrong",
        [
            "Request body is not valid JSON",
            "Request body must be an object",
            "Unknown field: mode",
            "schedule must have exactly one of runAt, offPeak, window",
            "Invalid query parameter: dryRun",
            _KEY_ERROR,
        ],
    ),
    "Impossible": _error(
        "The job's state does not allow it; or another call has the same key, or the job, in hand",
        [
            "Cannot pause a job that is completed",
            "Cannot resume a job that is being cancelled",
            "Cannot execute this job: it is not a preview",
            "Cannot execute this job: the preview is older than 24 hours",
            "Cannot execute this job: it is executed already, with another schedule",
            "Cannot restore this job: it archived no leads",
            "Another request is in progress; try again",
        ],
        COUNTED | {"Retry-After": "Retry-After-Pending"},
    ),
    "InProgress": _error(
        "Another call with the same key is in progress",
        ["Another request is in progress; try again"],
        COUNTED | RETRY,
    ),
    "KeyReused": _error(
        "The key stands for another request",
        ["Idempotency-Key was already used with a different request"],
    ),
    "Purged": _error(
        "The results have been removed, long after the end of the job",
        ["The identifiers of this job have been purged"],
    ),
    "NotModified": {
        "description": "The job is as `If-None-Match` says",
        "headers": {
            name: reference(component, "headers") for name, component in JOB_HEADERS.items()
        },
    },
    "TooLarge": _error("The body is over 1 MiB", ["Request body is too large"]),
    "NotJson": _error("The content type is not JSON", ["Content-Type must be application/json"]),
    "RateLimited": _refusal("The key has used up its calls", "RateLimited", COUNTED | RETRY),
    "HealthRateLimited": _refusal("This address has used up its calls", "RateLimited", RETRY),
    "Unavailable": _error(
        "The database cannot be reached, or too many others wait",
        ["Service temporarily unavailable"],
        MAYBE_COUNTED | RETRY,
    ),
    "Unhealthy": _refusal("Something is down", "Unhealthy", RETRY),
    "Completed": _success(
        "It completed within the time that the caller was ready to wait",
        "Published",
        COUNTED | APPLIED,
    ),
    "Accepted": _success(
        "Accepted, durably", "AcceptedJob", COUNTED | RETRY | REPLAYED | {"Location": "Location"}
    ),
    "InForce": _success(
        "In force, now or before", "AcceptedJob", COUNTED | REPLAYED | {"Location": "Location"}
    ),
    "Job": _success("The job as it stands now", "Job", JOB_HEADERS),
    "JobChanged": _success("The job as it stands now", "Job"),
    "JobPage": _success("A page of jobs", "JobPage"),
    "ResultPage": _with_streams(
        _success(
            "A page of results; or all of them, as `Accept` says", "ResultPage", COUNTED | DOWNLOAD
        )
    ),
    "LeadsCreated": _success("What was created, and what was there already", "LeadsCreated"),
    "LeadPage": _success("A page of leads", "LeadPage"),
    "LeadDeleted": _success("The lead is gone", "LeadDeleted"),
    "LeadNotFound": _error("The campaign has no such lead", ["Lead not found"]),
    "RefusedLeads": _error(
        "The database refuses the change",
        ["The database refuses this: a constraint or a trigger of its operator is against it"],
    ),
    "InvalidLeadQuery": _error(
        "A parameter is missing, wrong, unknown or given twice",
        [
            "campaignId query parameter is required",
            "At least one of phoneNumber or externalId query parameter is required",
            "Invalid query parameter: limit",
        ],
    ),
    "InvalidLeads": _error(
        "The body is wrong; the first error found is the answer",
        [
            "Request body is not valid JSON",
            "Request body must be an object",
            "Unknown field: lead",
            "campaignId is required",
            "leads array is required",
            "leads array cannot be empty",
            "Maximum 1000 leads per bulk request",
            "leads[0]: At least one of phoneNumber or externalId is required",
            "leads[0]: Unknown field: external_id",
            "leads[0]: metadata must be an object",
            "leads[0]: metadata contains U+0000",
            "Invalid query parameter: dryRun",
        ],
    ),
    "InvalidWebhook": _error(
        "The body is wrong; the first error found is the answer",
        [
            "Request body is not valid JSON",
            "Request body must be an object",
            "Unknown field: secret",
            "url must be a string",
            "url is required",
            "url must lead to a public address, over https on port 443 or 8443",
            NOT_EVENTS,
            "enabled must be a boolean",
            "Invalid query parameter: dryRun",
        ],
    ),
    "WebhookNotFound": _error("No such webhook", ["Webhook not found"]),
    "DeliveryNotFound": _error(
        "No such delivery, or not one that the key may see", ["Delivery not found"]
    ),
    "TooManyWebhooks": _error(
        "The company has as many as it can have", ["A company can have 50 webhooks"]
    ),
    "WebhookDisabled": _error(
        "The webhook is disabled, so nothing would be sent",
        ["Cannot redeliver to a webhook that is disabled"],
    ),
    "InvalidCall": _error(
        "The call takes no options",
        ["Request body must be empty", "Invalid query parameter: dryRun"],
    ),
    "WebhookCreated": _success("Created", "WebhookWithSecret", COUNTED | {"Location": "Location"}),
    "WebhookRotated": _success(
        "The new secret; the old one signs too for 24 hours", "WebhookWithSecret"
    ),
    "Webhook": _success("The webhook as it stands now", "Webhook"),
    "WebhookPage": _success("A page of webhooks", "WebhookPage"),
    "WebhookDeleted": _success("The webhook is gone", "Deleted"),
    "DeliveryStarted": _success("The event is sent as soon as a deliverer is free", "Delivery"),
    "DeliveryPage": _success("A page of deliveries", "DeliveryPage"),
    "Healthy": _success("Everything is up", "Health", {}),
}
