"""What operations take beside a body: the parameters of their paths and queries, and headers."""

from api.description.schemas import JOB_ID, OUTCOME
from api.description.shapes import Schema
from api.description.webhook_schemas import DELIVERY_ID, WEBHOOK_ID


def _request_header(name: str, description: str, schema: Schema, example: str) -> Schema:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": schema,
        "example": example,
    }


WAIT = _request_header(
    "Prefer",
    "`wait=N`: wait up to N seconds, at most 60, for the job to end; anything else is ignored",
    {"type": "string"},
    "wait=10",
)
IDEMPOTENCY = _request_header(
    "Idempotency-Key",
    "Makes it safe to send the same again, for 72 hours: a 503 or a cut connection may hide a call"
    " that was carried out",
    {"type": "string", "pattern": "^[!-~]([ -~]{0,253}[!-~])?$"},
    "6f1c-nightly-17",
)
IF_NONE_MATCH = _request_header(
    "If-None-Match",
    "An `ETag`: answers 304 if the job is as it was then",
    {"type": "string"},
    '"0123456789abcdef01234567"',
)

# By name; the same name means the same in all operations.
PARAMETERS: dict[str, Schema] = {
    "jobId": {"description": "As the bulk delete answered it", "example": JOB_ID},
    "webhookId": {"description": "As it was answered when it was created", "example": WEBHOOK_ID},
    "deliveryId": {
        "description": "As lists of deliveries have it; also the `webhook-id` that was sent",
        "example": DELIVERY_ID,
    },
    "status": {"description": "Only those in this state"},
    "event": {"description": "Only deliveries of this event"},
    "campaignId": {"description": "Only those of this campaign", "example": "cmp_1"},
    "externalId": {"description": "Only the lead with this `externalId`", "example": "CRM_001"},
    "phoneRegion": {
        "description": (
            "Country (ISO 3166) by whose rules `phoneNumber` is read if it has no `+`; without it,"
            " the campaign's"
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
            "`1`: CSV without the quote before what a spreadsheet would take for a formula. Only a"
            " cell that would mean something else when it is sent back, such as `'-17`, still has"
            " one"
        )
    },
}
