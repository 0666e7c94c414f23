"""The bodies of calls about leads, and of their answers, as JSON Schema with an example each."""

from api.description.request_schemas import CAMPAIGN_PATTERN, ENTRY, PHONE_REGION
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
from api.http.fields import MOMENT
from api.jobs.submission import MAX_ENTRIES

_METADATA: Schema = {"type": "object", "description": "Whatever else is known of the lead"}

_NEW_LEAD: Schema = ENTRY | {
    "additionalProperties": False,
    "description": "A lead, which has at least one of the two identifiers",
    "properties": ENTRY["properties"] | {"metadata": or_null(_METADATA)},
}

_LEAD = {
    "id": "0f3b9c5e7a1d48266e0c9b8d7f5a3124",
    "campaignId": "cmp_1",
    "externalId": "CRM_001",
    "phoneNumber": "+15555551234",
    "metadata": {"city": "Paris"},
    "createdAt": MOMENT,
}

_LEAD_DELETED = whole({"deleted": True}, deleted={"const": True})
_LEAD_DELETED["properties"]["erasedFromArchive"] = count(
    "Copies in the archive that were erased; left out where there were none"
)

LEAD_SCHEMAS: dict[str, Schema] = {
    "NewLead": _NEW_LEAD,
    "NewLeads": {
        "type": "object",
        "additionalProperties": False,
        "required": ["campaignId", "leads"],
        "properties": {
            "campaignId": text("The campaign of the new leads", pattern=CAMPAIGN_PATTERN),
            "phoneRegion": PHONE_REGION,
            "leads": list_of(reference("NewLead"), "The leads to create")
            | {"minItems": 1, "maxItems": MAX_ENTRIES},
        },
        "examples": [
            {
                "campaignId": "cmp_1",
                "leads": [{"externalId": "CRM_001", "metadata": {"city": "Paris"}}],
            }
        ],
    },
    "LeadsCreated": whole(
        {
            "created": 1,
            "skipped": 1,
            "createdIds": ["0f3b9c5e7a1d48266e0c9b8d7f5a3124"],
            "skippedIdentifiers": ["CRM_002"],
        },
        created=count("How many leads are new"),
        skipped=count(
            "How many leads were left out, as an identifier of theirs is taken in the campaign, or"
            " earlier in the request"
        ),
        createdIds=list_of({"type": "string"}, "The ids of the new leads, in request order"),
        skippedIdentifiers=list_of(
            {"type": "string"}, "An identifier of each of the others, as it was sent"
        ),
    ),
    "Lead": whole(
        _LEAD,
        id=text("Leadsweep's own id: not a number, and without an order"),
        campaignId=text("Its campaign"),
        externalId=or_null(text("In canonical form")),
        phoneNumber=or_null(text("In canonical form")),
        metadata=_METADATA,
        createdAt=moment("When it was created"),
    ),
    "LeadPage": whole(
        {"leads": [_LEAD], "count": 1, "cursor": None, "hasMore": False},
        leads=list_of(reference("Lead"), "The leads of this page"),
        count=count("How many leads this page has"),
        cursor=or_null(text("Send it as `cursor` to go on; null on the last page")),
        hasMore={"type": "boolean", "description": "Whether there is another page"},
    ),
    "LeadDeleted": _LEAD_DELETED,
}
