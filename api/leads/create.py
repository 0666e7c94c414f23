"""Creates leads, up to a thousand at once; those whose identifiers are taken are skipped."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
from anyio import to_thread
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.database import LIMITS, rows
from api.http.answers import InvalidRequest, Unavailable
from api.http.auth import Key
from api.http.request import decode_object
from api.jobs.entries import Identifiers, flaw, identified, phone_flaw
from api.jobs.options import parse_region
from api.jobs.submission import (
    errors_in_names,
    names_in_entries,
    parse_campaign_id,
    parse_leads,
)
from api.leads.named import in_campaign, patiently, region_in
from shared.credentials import pseudonyms
from shared.database.arrays import bigint_array, text_array
from shared.database.plans import BY_INDEX
from shared.identifiers.names import IDENTIFIERS
from shared.printable import brief
from shared.settings import Settings

# How many ids are drawn beyond those needed, try by try, where some are used already.
FURTHER_IDS = (0, 1000, 100_000)

_FIELDS = frozenset({"campaignId", "leads", "phoneRegion"})
_LEAD_FIELDS = {"externalId", "phoneNumber", "metadata"}

# An operator's own SQL may have used ids that the sequence has yet to reach. They are passed over:
# a lead that got such an id would be skipped, as if its identifiers were taken.
_DRAW = text(f"""
    SELECT id FROM (
        SELECT nextval((SELECT pg_get_serial_sequence('leads', 'id'))) AS id
        FROM generate_series(1, CAST(:ids AS int))
    ) AS drawn
    WHERE NOT EXISTS (SELECT FROM leads WHERE leads.id = drawn.id) AND {BY_INDEX}
""")

_CREATE = text(f"""
    WITH {LIMITS},
    -- Calls that create leads of one campaign take turns, by a lock that nobody else asks for: two
    -- with the same leads in different order would deadlock.
    campaign AS (
        SELECT id FROM limits CROSS JOIN campaigns
        WHERE id = :campaign_id AND company_id = :company_id FOR NO KEY UPDATE OF campaigns
    ),
    entry AS MATERIALIZED (
        SELECT campaign.id AS campaign_id, lead.id, position, external_id, phone_number,
            CAST(metadata AS jsonb) AS metadata
        FROM campaign CROSS JOIN unnest(
            CAST(:ids AS bigint[]), CAST(:external_ids AS text[]), CAST(:phone_numbers AS text[]),
            CAST(:metadata AS text[])
        ) WITH ORDINALITY AS lead (id, external_id, phone_number, metadata, position)
    ),
    -- In the order of the request, so that of two leads with one identifier the first wins.
    created AS (
        INSERT INTO leads (id, campaign_id, external_id, phone_number, metadata)
        SELECT id, campaign_id, external_id, phone_number, metadata FROM entry ORDER BY position
        ON CONFLICT DO NOTHING RETURNING id
    )
    -- One row for each entry; a lead that was left out has no id.
    SELECT created.id FROM entry LEFT JOIN created ON created.id = entry.id ORDER BY position
""")


class NewLeads(NamedTuple):
    """Leads to be created. `entries` are as they were sent: their phone numbers are yet to be read,
    as in `region`, or in the campaign's where that is None. `metadata` has the JSON text of each.
    """

    campaign_id: str
    region: str | None
    entries: list[dict[str, Any]]
    metadata: Sequence[str]


def parse_new(body: bytes) -> NewLeads:
    """The leads in `body`. Raises InvalidRequest for the first error in their form."""
    fields = decode_object(body, _FIELDS)
    region = parse_region(fields.get("phoneRegion"))
    campaign_id = parse_campaign_id(fields.get("campaignId"))
    entries = parse_leads(fields, "bulk")
    metadata = [_checked_metadata(index, entry) for index, entry in enumerate(entries)]
    columns = [[entry.get(name) for entry in entries] for name in IDENTIFIERS]
    errors = errors_in_names(entries, columns, body, partial(names_in_entries, body))
    if errors:
        index = min(errors)
        raise InvalidRequest(f"leads[{index}]: {errors[index]}")
    return NewLeads(campaign_id, region, entries, metadata)


def _checked_metadata(index: int, entry: Any) -> str:
    """Checks the form of a lead. Returns its metadata as JSON text. Raises InvalidRequest, also for
    a field that is not known: what it says would be lost.
    """
    where = f"leads[{index}]"
    if not isinstance(entry, dict):
        raise InvalidRequest(f"{where} must be an object")
    if wrong := flaw(entry.get("externalId"), entry.get("phoneNumber"), strict=False):
        raise InvalidRequest(f"{where}: {wrong.text}")
    for name in entry:
        if name not in _LEAD_FIELDS:
            raise InvalidRequest(f"{where}: Unknown field: {brief(name)}")
    metadata = entry.get("metadata")
    if metadata is None:
        return "{}"
    if not isinstance(metadata, dict):
        raise InvalidRequest(f"{where}: metadata must be an object")
    written = msgspec.json.encode(metadata)
    if b"\\u0000" in written.replace(b"\\\\", b""):
        raise InvalidRequest(f"{where}: metadata contains U+0000")
    return written.decode()


async def create(
    engine: AsyncEngine, settings: Settings, key: Key, new: NewLeads
) -> dict[str, Any]:
    """Creates the leads whose identifiers are free. Raises Forbidden, Unavailable, ApiError 409,
    DBAPIError.
    """
    region = await region_in(engine, key, new.campaign_id, new.region)
    entries = await to_thread.run_sync(_identified, new.entries, region)
    values = {
        "ids": bigint_array(await _free_ids(engine, len(new.metadata))),
        "external_ids": text_array(entries.canonical_external_ids),
        "phone_numbers": text_array(entries.canonical_phone_numbers),
        "metadata": text_array(new.metadata),
    }
    # Where the connection broke after the commit, a second try would report every lead as skipped.
    leads = await patiently(
        lambda: in_campaign(engine, key, new.campaign_id, _CREATE, repeatable=False, **values)
    )
    created = pseudonyms(settings.secrets_key, [lead.id for lead in leads if lead.id is not None])
    written = zip(leads, entries.external_ids, entries.phone_numbers, strict=True)
    return {
        "created": len(created),
        "skipped": len(leads) - len(created),
        "createdIds": created,
        "skippedIdentifiers": [
            external_id or number for lead, external_id, number in written if lead.id is None
        ],
    }


def _identified(entries: list[dict[str, Any]], region: str | None) -> Identifiers:
    """The identifiers of the leads. Raises InvalidRequest for what is not a phone number: all that
    are not have one canonical form, so a lead that had it could be deleted by any other.
    """
    for index, entry in enumerate(entries):
        if wrong := phone_flaw(entry.get("phoneNumber"), region):
            raise InvalidRequest(f"leads[{index}]: {wrong.text}")
    external_ids, phone_numbers = ([entry.get(name) for entry in entries] for name in IDENTIFIERS)
    return identified(external_ids, phone_numbers, region, strict=True)


async def _free_ids(engine: AsyncEngine, count: int) -> list[int]:
    """Draws `count` ids that no lead has. Raises Unavailable where too many of those that come next
    are used; the next call goes on after them.
    """
    ids: list[int] = []
    for further in FURTHER_IDS:
        ids += [row.id for row in await rows(engine, _DRAW, {"ids": count + further})]
        if len(ids) >= count:
            return ids[:count]
    raise Unavailable
