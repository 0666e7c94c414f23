"""Finds leads: a campaign's, a page at a time, or the one with an identifier."""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.database import AnyRow
from api.http.answers import InvalidRequest, time_text
from api.http.auth import Key
from api.leads.named import (
    Named,
    canonical_of,
    in_campaign,
    spellings_of_id,
    spellings_of_number,
)
from shared.credentials import pseudonyms
from shared.database.arrays import text_array
from shared.database.plans import BY_INDEX
from shared.settings import Settings


def _page(condition: str) -> TextClause:
    """The statement that reads a part of a campaign's leads, along an index.

    Pages go first through the leads with an external id, in its order, then through those without,
    by number. The index of the latter is for this alone, and holds no others: the unique one of
    numbers would lead past all leads that have an external id too.
    """
    return text(f"""
        SELECT page.* FROM campaigns LEFT JOIN LATERAL (
            SELECT id, external_id, phone_number, metadata, created_at FROM leads
            WHERE campaign_id = campaigns.id AND {condition} LIMIT :max_leads
        ) AS page ON true
        WHERE campaigns.id = :campaign_id AND campaigns.company_id = :company_id AND {BY_INDEX}
    """)


_BY_EXTERNAL_ID = _page("external_id > :after ORDER BY external_id")
_BY_PHONE_NUMBER = _page("phone_number > :after AND external_id IS NULL ORDER BY phone_number")


def _one(condition: str) -> TextClause:
    """The statement that reads the lead of a campaign that meets the condition."""
    return text(f"""
        SELECT leads.id, external_id, phone_number, metadata, leads.created_at
        FROM campaigns LEFT JOIN leads ON leads.campaign_id = campaigns.id AND {condition}
        WHERE campaigns.id = :campaign_id AND campaigns.company_id = :company_id AND {BY_INDEX}
    """)


_FIND_BY_PHONE_NUMBER = _one("phone_number = ANY(CAST(:phone_numbers AS text[]))")
_FIND_BY_EXTERNAL_ID = _one("""
    external_id = ANY(CAST(:external_ids AS text[]))
        AND (CAST(:phone_numbers AS text[]) IS NULL
            OR phone_number = ANY(CAST(:phone_numbers AS text[])))
""")


async def list_leads(
    engine: AsyncEngine,
    settings: Settings,
    key: Key,
    campaign_id: str,
    cursor: str | None,
    limit: int,
) -> dict[str, Any]:
    """A page of the campaign's leads. Raises Forbidden, InvalidRequest."""
    by_external_id, after = _after(cursor)
    # One lead more than the page holds shows that there is another page.
    leads: list[AnyRow] = []
    if by_external_id:
        leads = await _leads_after(engine, key, campaign_id, _BY_EXTERNAL_ID, after, limit + 1)
        after = ""
    if len(leads) <= limit:
        missing = limit + 1 - len(leads)
        leads += await _leads_after(engine, key, campaign_id, _BY_PHONE_NUMBER, after, missing)
    next_cursor = _cursor(leads[limit - 1]) if len(leads) > limit else None
    return _listed(settings, campaign_id, leads[:limit], next_cursor)


async def _leads_after(
    engine: AsyncEngine,
    key: Key,
    campaign_id: str,
    statement: TextClause,
    after: str,
    max_leads: int,
) -> list[AnyRow]:
    leads = await in_campaign(engine, key, campaign_id, statement, after=after, max_leads=max_leads)
    return [lead for lead in leads if lead.id is not None]


async def find(
    engine: AsyncEngine, settings: Settings, key: Key, campaign_id: str, named: Named
) -> dict[str, Any]:
    """A page that holds the lead with these identifiers, if there is one. Raises Forbidden."""
    canonical = await canonical_of(engine, key, campaign_id, named)
    external_id, number = canonical["external_id"], canonical["phone_number"]
    values: dict[str, Any] = {
        "phone_numbers": None if number is None else text_array(spellings_of_number(number, named))
    }
    statement = _FIND_BY_PHONE_NUMBER
    if external_id is not None:
        values["external_ids"] = text_array(spellings_of_id(external_id, named))
        statement = _FIND_BY_EXTERNAL_ID
    leads = await in_campaign(engine, key, campaign_id, statement, **values)
    return _listed(settings, campaign_id, [lead for lead in leads if lead.id is not None], None)


def _listed(
    settings: Settings, campaign_id: str, leads: Sequence[AnyRow], cursor: str | None
) -> dict[str, Any]:
    # The table counts its ids over all companies: two of them would tell how many leads others
    # have.
    ids = pseudonyms(settings.secrets_key, [lead.id for lead in leads])
    items = [
        {
            "id": public_id,
            "campaignId": campaign_id,
            "externalId": lead.external_id,
            "phoneNumber": lead.phone_number,
            "metadata": lead.metadata,
            "createdAt": time_text(lead.created_at),
        }
        for public_id, lead in zip(ids, leads, strict=True)
    ]
    return {"leads": items, "count": len(items), "cursor": cursor, "hasMore": cursor is not None}


def _cursor(lead: AnyRow) -> str:
    """The cursor of the page that begins after `lead`."""
    written = f"e{lead.external_id}" if lead.external_id is not None else f"p{lead.phone_number}"
    return base64.urlsafe_b64encode(written.encode()).rstrip(b"=").decode()


def _after(cursor: str | None) -> tuple[bool, str]:
    """Whether the page begins among the leads with an external id, and after which identifier.
    Raises InvalidRequest.
    """
    if cursor is None:
        return True, ""
    padded = cursor + "=" * (-len(cursor) % 4)
    try:
        written = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        written = ""
    if written[:1] not in {"e", "p"} or "\0" in written:
        raise InvalidRequest("Invalid query parameter: cursor")
    return written[0] == "e", written[1:]
