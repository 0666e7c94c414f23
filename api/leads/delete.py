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

# A call that stops in the middle lets go of what is locked. The campaign does not change hands
# meanwhile (campaigns_owner_key).
_OWN = text(f"""
    WITH {LIMITS}
    SELECT set_config('idle_in_transaction_session_timeout', '10s', true)
    FROM limits CROSS JOIN campaigns
    WHERE id = :campaign_id AND company_id = :company_id FOR KEY SHARE OF campaigns
""")


def _delete_where(column: str) -> TextClause:
    """Deletes the lead that has one of the spellings in `column`. The lock looks at it again: one
    that another has just deleted is passed over.
    """
    return text(f"""
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
    those with this number.

    The number of copies. Raises Forbidden, ApiError 404 and 409, DBAPIError.
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
    if not (
        await connection.execute(_OWN, {"campaign_id": campaign_id, "company_id": key.company_id})
    ).all():
        raise Forbidden
    if external_id := canonical["external_id"]:
        spellings = spellings_of_id(external_id, named)
        copies = archive.named(campaign_id, [external_id])
        deleted = await _delete_by(
            connection, _DELETE_BY_EXTERNAL_ID, external_id, spellings, copies
        )
        if deleted is not None:
            return deleted
    number, written = canonical["phone_number"], named.number or ""
    if not number or await _is_ambiguous(connection, campaign_id, written, number):
        raise ApiError(404, "Lead not found")
    spellings = spellings_of_number(number, named)
    copies = archive.named(campaign_id, (), [number])
    deleted = await _delete_by(connection, _DELETE_BY_PHONE_NUMBER, number, spellings, copies)
    if deleted is None:
        raise ApiError(404, "Lead not found")
    return deleted


async def _delete_by(
    connection: AsyncConnection,
    statement: TextClause,
    canonical: str,
    spellings: set[str],
    copies: dict[str, Any],
) -> int | None:
    """Deletes the lead, which may be stored in another of its spellings, and erases `copies`; None
    where there is neither.
    """
    await connection.execute(archive.HOLD, copies)
    values = {
        "campaign_id": copies["campaign_id"],
        "canonical": canonical,
        "spellings": text_array(sorted(spellings)),
    }
    lead = (await connection.execute(statement, values)).one()
    if lead.named is not None and lead.gone is None:  # a trigger says no without a word
        raise refused()
    if lead.external_id is not None:
        copies = copies | {"external_ids": text_array([lead.external_id])}
    erased = len((await connection.execute(archive.ERASE, copies)).all())
    return erased if erased or lead.gone is not None else None


async def _is_ambiguous(
    connection: AsyncConnection, campaign_id: str, written: str, number: str
) -> bool:
    """Whether the number was read for a country, and is somebody else's as it was written but for
    the plus.
    """
    if (other := rival(written, number)) is None:
        return False
    values = {"campaign_id": campaign_id, "phone_numbers": text_array([other]), "identified": False}
    for statement in (_HAS_NUMBER, archive.NUMBERS):
        if (await connection.execute(statement, values)).all():
            return True
    return False
