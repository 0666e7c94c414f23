"""Deletes one lead at once, with its copies in the archive."""

from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.database import LIMITS, STATEMENT_TIMEOUT, within
from api.http.answers import ApiError, Forbidden
from api.http.auth import Key
from api.leads.named import (
    Named,
    canonical_of,
    patiently,
    refused,
    spellings_of_id,
    spellings_of_number,
)
from shared.database import archive
from shared.database.arrays import text_array
from shared.identifiers.phone_regions import rival

# Locks the campaign, so that it cannot move to another company meanwhile (campaigns_owner_key). The
# time-out frees what a call has locked that stops in the middle.
_HOLD_CAMPAIGN = text(f"""
    WITH {LIMITS}
    SELECT set_config('idle_in_transaction_session_timeout', '10s', true)
    FROM limits CROSS JOIN campaigns
    WHERE id = :campaign_id AND company_id = :company_id FOR KEY SHARE OF campaigns
""")


def _delete_where(column: str) -> TextClause:
    """The statement that deletes the lead that has one of the spellings in `column`."""
    return text(f"""
        -- The lock looks at the lead again: one that another call has just deleted is passed over.
        WITH named AS (
            SELECT id FROM leads
            WHERE campaign_id = :campaign_id AND {column} = ANY(CAST(:spellings AS text[]))
            ORDER BY {column} = :canonical DESC LIMIT 1 FOR UPDATE
        ),
        gone AS (
            DELETE FROM leads USING named
            WHERE leads.id = named.id AND {column} = ANY(CAST(:spellings AS text[]))
            RETURNING leads.id, external_id
        )
        SELECT (SELECT id FROM named) AS named, gone.id AS gone,
            leadsweep_canonical_external_id(external_id) AS external_id
        FROM (SELECT) AS one LEFT JOIN gone ON true
    """)


_DELETE_BY_EXTERNAL_ID = _delete_where("external_id")
_DELETE_BY_PHONE_NUMBER = _delete_where("phone_number")

_HAS_NUMBER = text("""
    SELECT 1 FROM leads
    WHERE campaign_id = :campaign_id AND phone_number = ANY(CAST(:phone_numbers AS text[]))
""")


async def delete(engine: AsyncEngine, key: Key, campaign_id: str, named: Named) -> int:
    """Deletes the lead with this external id, and its copies in the archive; if there is neither,
    those with this number. Returns how many copies were erased.

    Raises Forbidden, ApiError 404 and 409, DBAPIError.
    """
    if not key.sees(campaign_id) or "\0" in campaign_id:
        raise Forbidden
    canonical = await canonical_of(engine, key, campaign_id, named)

    async def once() -> int:
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="READ COMMITTED")
            async with connection.begin():
                return await _delete(connection, key, campaign_id, named, canonical)

    return await patiently(lambda: within(STATEMENT_TIMEOUT, once()))


async def _delete(
    connection: AsyncConnection,
    key: Key,
    campaign_id: str,
    named: Named,
    canonical: dict[str, str | None],
) -> int:
    place = {"campaign_id": campaign_id, "company_id": key.company_id}
    campaigns = (await connection.execute(_HOLD_CAMPAIGN, place)).all()
    if not campaigns:
        raise Forbidden
    if external_id := canonical["external_id"]:
        spellings = spellings_of_id(external_id, named)
        copies = archive.named(campaign_id, [external_id])
        erased = await _delete_by(
            connection, _DELETE_BY_EXTERNAL_ID, external_id, spellings, copies
        )
        if erased is not None:
            return erased
    number, written = canonical["phone_number"], named.number or ""
    if not number or await _is_ambiguous(connection, campaign_id, written, number):
        raise ApiError(404, "Lead not found")
    spellings = spellings_of_number(number, named)
    copies = archive.named(campaign_id, (), [number])
    erased = await _delete_by(connection, _DELETE_BY_PHONE_NUMBER, number, spellings, copies)
    if erased is None:
        raise ApiError(404, "Lead not found")
    return erased


async def _delete_by(
    connection: AsyncConnection,
    statement: TextClause,
    canonical: str,
    spellings: set[str],
    copies: dict[str, Any],
) -> int | None:
    """Deletes the lead, which may be stored in any of its spellings, and erases `copies` from the
    archive. Returns how many of these there were; None where there is neither lead nor copy.
    """
    await connection.execute(archive.HOLD, copies)
    values = {
        "campaign_id": copies["campaign_id"],
        "canonical": canonical,
        "spellings": text_array(sorted(spellings)),
    }
    lead = (await connection.execute(statement, values)).one()
    if lead.named is not None and lead.gone is None:
        # A trigger has kept the lead without raising an error.
        raise refused()
    if lead.external_id is not None:
        copies = copies | {"external_ids": text_array([lead.external_id])}
    erased = len((await connection.execute(archive.ERASE, copies)).all())
    if lead.gone is None and not erased:
        return None
    return erased


async def _is_ambiguous(
    connection: AsyncConnection, campaign_id: str, written: str, number: str
) -> bool:
    """Whether the number was read as one of a country, and what was written, with a plus before it,
    is the number of another lead.
    """
    if (other := rival(written, number)) is None:
        return False
    values = {"campaign_id": campaign_id, "phone_numbers": text_array([other]), "identified": False}
    for statement in (_HAS_NUMBER, archive.NUMBERS):
        if (await connection.execute(statement, values)).all():
            return True
    return False
