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
    """A page of a campaign's leads, along an index: first those with an external id, by it, then
    those without, by number. The second index is for this alone, and has those without only: the
    unique one of numbers would lead past all the others.
    """
    return text(f"""
        SELECT page.* FROM campaigns LEFT JOIN LATERAL (
            SELECT id, external_id, phone_number, metadata, created_at FROM leads
            WHERE campaign_id = campaigns.id AND {condition} LIMIT :most
        ) AS page ON true
        WHERE campaigns.id = :campaign_id AND campaigns.company_id = :company_id AND {BY_INDEX}
    """)


_BY_EXTERNAL_ID = _page("external_id > :after ORDER BY external_id")
_BY_PHONE_NUMBER = _page("phone_number > :after AND external_id IS NULL ORDER BY phone_number")


def _one(condition: str) -> TextClause:
    """The lead of a campaign that meets the condition."""
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
    page: list[AnyRow] = []
    if by_external_id:
        page = await _leads_after(engine, key, campaign_id, _BY_EXTERNAL_ID, after, limit + 1)
        after = ""
    if len(page) <= limit:
        most = limit + 1 - len(page)
        page += await _leads_after(engine, key, campaign_id, _BY_PHONE_NUMBER, after, most)
    following = _cursor(page[limit - 1]) if len(page) > limit else None
    return _listed(settings, campaign_id, page[:limit], following)


async def _leads_after(
    engine: AsyncEngine,
    key: Key,
    campaign_id: str,
    statement: TextClause,
    after: str,
    most: int,
) -> list[AnyRow]:
    found = await in_campaign(engine, key, campaign_id, statement, after=after, most=most)
    return [row for row in found if row.id is not None]


async def find(
    engine: AsyncEngine, settings: Settings, key: Key, campaign_id: str, named: Named
) -> dict[str, Any]:
    """The lead with these identifiers, if there is one. Raises Forbidden."""
    canonical = await canonical_of(engine, key, campaign_id, named)
    external_id, number = canonical["external_id"], canonical["phone_number"]
    values: dict[str, Any] = {
        "phone_numbers": None if number is None else text_array(spellings_of_number(number, named))
    }
    statement = _FIND_BY_PHONE_NUMBER
    if external_id is not None:
        values["external_ids"] = text_array(spellings_of_id(external_id, named))
        statement = _FIND_BY_EXTERNAL_ID
    found = await in_campaign(engine, key, campaign_id, statement, **values)
    return _listed(settings, campaign_id, [row for row in found if row.id is not None], None)


def _listed(
    settings: Settings, campaign_id: str, found: Sequence[AnyRow], cursor: str | None
) -> dict[str, Any]:
    # The ids of the table are counted over all companies: two of them tell how many leads there are
    # of others.
    ids = pseudonyms(settings.secrets_key, [row.id for row in found])
    leads = [
        {
            "id": lead_id,
            "campaignId": campaign_id,
            "externalId": row.external_id,
            "phoneNumber": row.phone_number,
            "metadata": row.metadata,
            "createdAt": time_text(row.created_at),
        }
        for lead_id, row in zip(ids, found, strict=True)
    ]
    return {"leads": leads, "count": len(leads), "cursor": cursor, "hasMore": cursor is not None}


def _cursor(row: AnyRow) -> str:
    """Stands for the page that begins after `row`."""
    written = f"e{row.external_id}" if row.external_id is not None else f"p{row.phone_number}"
    return base64.urlsafe_b64encode(written.encode()).rstrip(b"=").decode()


def _after(cursor: str | None) -> tuple[bool, str]:
    """Whether the page begins among those with an external id, and after which identifier. Raises
    InvalidRequest.
    """
    if cursor is None:
        return True, ""
    try:
        written = base64.b64decode(
            cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True
        ).decode()
    except (binascii.Error, ValueError):
        written = ""
    if written[:1] not in {"e", "p"} or "\0" in written:
        raise InvalidRequest("Invalid query parameter: cursor")
    return written[0] == "e", written[1:]
