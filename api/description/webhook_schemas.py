"""The bodies of calls about webhooks and deliveries, and of the events that are sent, as JSON
Schema with an example each.
"""

from typing import Any

from api.description.shapes import Schema, list_of, moment, or_null, reference, text, whole
from api.http.fields import MOMENT
from shared.destinations import MAX_URL
from shared.states import JOB_EVENTS, DeliveryState, Event

WEBHOOK_ID = "4e0c1f0e-5f5b-4b0e-8a55-2f3f6f0d7c11"
DELIVERY_ID = "9d3a0a6e-1c0b-4a38-9a53-6a9c0d6f2b77"
_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwc3Vw8j0QpQk="  # noqa: S105 - an example

_URL = text(
    "Where to send it: a public address, over https on port 443 or 8443, without user name or"
    " fragment",
    maxLength=MAX_URL,
    pattern="^[Hh][Tt][Tt][Pp][Ss]?://[!-~]+$",
    examples=["https://example.com/hook"],
)
_REGISTRATION_FIELDS = {
    "url": or_null(_URL),
    "events": {
        "type": ["array", "null"],
        "description": "The events of which it is told; all, if left out",
        "minItems": 1,
        "items": {"type": "string", "enum": list(JOB_EVENTS)},
    },
    "description": or_null(text("A note for people", maxLength=255, pattern=r"^[^\u0000]*$")),
    "enabled": {"type": ["boolean", "null"], "description": "While false, nothing is sent"},
}

_REGISTRATION: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": _REGISTRATION_FIELDS,
    "examples": [
        {
            "url": "https://example.com/hook",
            "events": ["job.completed", "job.failed"],
            "description": "our CRM",
        }
    ],
}

_WEBHOOK: dict[str, Any] = {
    "webhookId": WEBHOOK_ID,
    "url": "https://example.com/hook",
    "events": ["job.completed", "job.failed"],
    "description": "our CRM",
    "enabled": True,
    "disabledReason": None,
    "failingSince": None,
    "oldSecretUntil": None,
    "createdAt": MOMENT,
}
_WEBHOOK_FIELDS = {
    "webhookId": text("The webhook", format="uuid"),
    "url": text("Where events are sent"),
    "events": list_of({"type": "string", "enum": list(JOB_EVENTS)}, "The events that are sent"),
    "description": text("A note for people"),
    "enabled": {"type": "boolean", "description": "While false, nothing is sent"},
    "disabledReason": or_null(text("Why it was disabled, if its owner did not do that")),
    "failingSince": or_null(
        moment("The first failed attempt since the last success; after 5 days it is disabled")
    ),
    "oldSecretUntil": or_null(
        moment(
            "Until when the secret before this one signs too; each earlier one signs until 24"
            " hours after it was replaced"
        )
    ),
    "createdAt": moment("When it was created"),
}

_DELIVERY: dict[str, Any] = {
    "deliveryId": DELIVERY_ID,
    "event": Event.COMPLETED,
    "jobId": "0b8f3c1e-6f0e-4f0a-9a43-0d7f5c1b2a90",
    "webhookId": WEBHOOK_ID,
    "url": "https://example.com/hook",
    "status": "pending",
    "error": None,
    "attempts": [{"at": MOMENT, "statusCode": 500, "latencyMs": 31, "error": None}],
    "nextAttemptAt": "2026-01-01T02:00:05.204Z",
    "createdAt": MOMENT,
}
_ATTEMPT = whole(
    _DELIVERY["attempts"][0],
    at=moment("When it began"),
    statusCode=or_null({"type": "integer", "description": "The status of the answer"}),
    latencyMs=or_null(
        {"type": "integer", "minimum": 0, "description": "How long it took, in milliseconds"}
    ),
    error=or_null(
        text(
            "Why there was no answer. This and the two above are null while the attempt is under"
            " way, or where its deliverer died"
        )
    ),
)
_DELIVERY_FIELDS = {
    "deliveryId": text(
        "The delivery; also the `webhook-id` that is sent with each attempt", format="uuid"
    ),
    "event": reference("Event"),
    "jobId": or_null(text("The job that ended; null for a test", format="uuid")),
    "webhookId": or_null(text("The webhook; null for a job's `callbackUrl`", format="uuid")),
    "url": or_null(text("Where it is sent; of a webhook, null for keys that may not see webhooks")),
    "status": reference("DeliveryState"),
    "error": or_null(text("Why it was given up")),
    "attempts": list_of(_ATTEMPT, "Oldest first; the last 50"),
    "nextAttemptAt": or_null(moment("When it is tried next; null while an attempt is under way")),
    "createdAt": moment("When it was written"),
}

_EVENT: dict[str, Any] = {
    "type": Event.COMPLETED,
    "timestamp": MOMENT,
    "data": {
        "jobId": "0b8f3c1e-6f0e-4f0a-9a43-0d7f5c1b2a90",
        "campaignId": "cmp_1",
        "clientReference": "nightly",
        "status": "completed",
        "mode": "delete",
        "dryRun": False,
        "total": 2,
        "deleted": 1,
        "notFound": 1,
        "unprocessed": 0,
        "statusUrl": "/api/v1/jobs/0b8f3c1e-6f0e-4f0a-9a43-0d7f5c1b2a90",
        "deletedIdentifiers": ["CRM_001"],
        "notFoundIdentifiers": ["+15555551234"],
    },
}

EVENT: Schema = {
    "type": "object",
    "description": (
        "What is sent, under 20 kB: above that `identifiersOmitted` is true in place of the two"
        " lists"
    ),
    "required": ["type", "timestamp", "data"],
    "properties": {
        "type": reference("Event"),
        "timestamp": moment("When the job ended, or the test was asked for"),
        "data": {"type": "object", "description": "The job as it ended"},
    },
    "examples": [_EVENT],
}


def _page(item: str, example: Any) -> Schema:
    next_cursor = or_null(text("Send it as `cursor` to go on; null on the last page"))
    return whole(
        {"items": [example], "nextCursor": None},
        items=list_of(reference(item), "The items of this page"),
        nextCursor=next_cursor,
    )


WEBHOOK_SCHEMAS: dict[str, Schema] = {
    "NewWebhook": (
        _REGISTRATION
        | {
            "required": ["url"],
            "properties": _REGISTRATION_FIELDS | {"url": _URL},
            "description": "A webhook to be created",
        }
    ),
    "WebhookChange": (
        _REGISTRATION
        | {
            "examples": [{"enabled": False}],
            "description": "What is left out stays as it is",
        }
    ),
    "Webhook": whole(_WEBHOOK, **_WEBHOOK_FIELDS),
    "WebhookWithSecret": whole(
        _WEBHOOK | {"secret": _SECRET},
        **_WEBHOOK_FIELDS,
        secret=text("The secret to verify signatures with; shown only now", pattern="^whsec_"),
    ),
    "WebhookPage": _page("Webhook", _WEBHOOK),
    "Event": text("What has happened", enum=list(Event)),
    "DeliveryState": text(
        "`pending` until it is answered 2xx or given up", enum=list(DeliveryState)
    ),
    "Deleted": whole({"deleted": True}, deleted={"const": True}),
    "Delivery": whole(_DELIVERY, **_DELIVERY_FIELDS),
    "DeliveryPage": _page("Delivery", _DELIVERY),
    "WebhookEvent": EVENT,
}
