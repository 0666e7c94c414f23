"""Leads, a few at a time: creates them, lists them, deletes one at once."""

import asyncio
import base64
import binascii
import random
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec
from anyio import to_thread
from sqlalchemy import TextClause, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.database import LIMITS, STATEMENT_TIMEOUT, AnyRow, rows, within
from api.http.answers import ApiError, Forbidden, InvalidRequest, Unavailable, time_text
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
from api.jobs.submit import region_of
from shared.credentials import pseudonyms
from shared.database import archive
from shared.database.arrays import bigint_array, text_array
from shared.database.plans import BY_INDEX
from shared.database.sqlstates import is_clash, is_locked, is_refusal
from shared.identifiers.canonical import (
    canonical_external_id,
    canonical_phone_number,
    former_external_id,
    former_phone_number,
)
from shared.identifiers.names import IDENTIFIERS
from shared.identifiers.phone_regions import phone_number, rival
from shared.printable import brief
from shared.settings import Settings

FIRST_PAUSE = 0.05  # seconds at most before a change that met a deadlock is tried again, doubled with each try …
LONGEST_PAUSE = 1.0  # … up to this; the deadlock itself takes the database a second to notice
FURTHER_IDS = (
    0,
    1000,
    100_000,
)  # drawn beyond those needed, try by try, where some are used already

Result = TypeVar("Result")

_FIELDS = frozenset({"campaignId", "leads", "phoneRegion"})
_OF_LEAD = {"externalId", "phoneNumber", "metadata"}

# An operator's own SQL may have used ids that are still to come: they are passed over, else those
# leads would seem to be taken.
_DRAW = text(f"""
    SELECT id FROM (
        SELECT nextval((SELECT pg_get_serial_sequence('leads', 'id'))) AS id FROM generate_series(1, CAST(:most AS int))
    ) AS drawn
    WHERE NOT EXISTS (SELECT FROM leads WHERE leads.id = drawn.id) AND {BY_INDEX}
""")

# In the order of the request, so that of two with one identifier the first wins. What was left out
# is known by its id. Who creates leads of one campaign takes turns, by a lock that nobody else asks
# for: two with the same leads in different order would deadlock.
_CREATE = text(f"""
    WITH {LIMITS},
    campaign AS (
        SELECT id FROM limits CROSS JOIN campaigns
        WHERE id = :campaign_id AND company_id = :company_id FOR NO KEY UPDATE OF campaigns
    ),
    entry AS MATERIALIZED (
        SELECT campaign.id AS campaign_id, lead.id, position, external_id, phone_number, CAST(metadata AS jsonb) AS metadata
        FROM campaign CROSS JOIN unnest(
            CAST(:ids AS bigint[]), CAST(:external_ids AS text[]), CAST(:phone_numbers AS text[]), CAST(:metadata AS text[])
        ) WITH ORDINALITY AS lead (id, external_id, phone_number, metadata, position)
    ),
    created AS (
        INSERT INTO leads (id, campaign_id, external_id, phone_number, metadata)
        SELECT id, campaign_id, external_id, phone_number, metadata FROM entry ORDER BY position
        ON CONFLICT DO NOTHING RETURNING id
    )
    SELECT created.id FROM entry LEFT JOIN created ON created.id = entry.id ORDER BY position
""")

# Each page along an index: first the leads with an external id, by it, then those without, by
# number. The second index is for this alone, and has those without only: the unique one of numbers
# would lead past all the others.
_PAGE = f"""
    SELECT page.* FROM campaigns LEFT JOIN LATERAL (
        SELECT id, external_id, phone_number, metadata, created_at FROM leads
        WHERE campaign_id = campaigns.id AND CONDITION LIMIT :most
    ) AS page ON true
    WHERE campaigns.id = :campaign_id AND campaigns.company_id = :company_id AND {BY_INDEX}
"""
_BY_EXTERNAL_ID = text(_PAGE.replace("CONDITION", "external_id > :after ORDER BY external_id"))
_BY_PHONE_NUMBER = text(
    _PAGE.replace(
        "CONDITION", "phone_number > :after AND external_id IS NULL ORDER BY phone_number"
    )
)

_FIND = f"""
    SELECT leads.id, external_id, phone_number, metadata, leads.created_at
    FROM campaigns LEFT JOIN leads ON leads.campaign_id = campaigns.id AND CONDITION
    WHERE campaigns.id = :campaign_id AND campaigns.company_id = :company_id AND {BY_INDEX}
"""
_HAS_PHONE_NUMBER = "phone_number = ANY(CAST(:phone_numbers AS text[]))"
_FIND_BY_PHONE_NUMBER = text(_FIND.replace("CONDITION", _HAS_PHONE_NUMBER))
_FIND_BY_EXTERNAL_ID = text(
    _FIND.replace(
        "CONDITION",
        f"external_id = ANY(CAST(:external_ids AS text[])) AND (CAST(:phone_numbers AS text[]) IS NULL OR {_HAS_PHONE_NUMBER})",
    )
)

# Who stops in the middle lets go of what is locked. The campaign does not change hands meanwhile
# (campaigns_owner_key).
_OWN = text(f"""
    WITH {LIMITS}
    SELECT set_config('idle_in_transaction_session_timeout', '10s', true) FROM limits CROSS JOIN campaigns
    WHERE id = :campaign_id AND company_id = :company_id FOR KEY SHARE OF campaigns
""")

# The lock looks at the lead again: one that another has just deleted is passed over.
_DELETE = """
    WITH named AS (
        SELECT id FROM leads WHERE campaign_id = :campaign_id AND COLUMN = ANY(CAST(:spellings AS text[]))
        ORDER BY COLUMN = :canonical DESC LIMIT 1 FOR UPDATE
    ),
    gone AS (
        DELETE FROM leads USING named WHERE leads.id = named.id AND COLUMN = ANY(CAST(:spellings AS text[]))
        RETURNING leads.id, external_id
    )
    SELECT (SELECT id FROM named) AS named, gone.id AS gone, leadsweep_canonical_external_id(external_id) AS external_id
    FROM (SELECT) AS one LEFT JOIN gone ON true
"""
_DELETE_BY_EXTERNAL_ID = text(_DELETE.replace("COLUMN", "external_id"))
_DELETE_BY_PHONE_NUMBER = text(_DELETE.replace("COLUMN", "phone_number"))

_HAS_NUMBER = text(
    "SELECT 1 FROM leads WHERE campaign_id = :campaign_id AND phone_number = ANY(CAST(:phone_numbers AS text[]))"
)


class NewLeads(NamedTuple):
    """Leads to be created: `metadata` is JSON text; their numbers are yet to be read as in
    `region`, else in their campaign's.
    """

    campaign_id: str
    region: str | None
    entries: list[dict[str, Any]]
    metadata: Sequence[str]


class Named(NamedTuple):
    """A lead as its caller names it; `region` is whose phone numbers are meant, the campaign's
    where it is None.
    """

    external_id: str | None
    number: str | None
    region: str | None


def parse_new(body: bytes) -> NewLeads:
    """The leads in `body`. Raises InvalidRequest with the first error in their form."""
    fields = decode_object(body, _FIELDS)
    region = parse_region(fields.get("phoneRegion"))
    campaign_id = parse_campaign_id(fields.get("campaignId"))
    entries = parse_leads(fields, "bulk")
    metadata = [_checked(index, entry) for index, entry in enumerate(entries)]
    columns = [[entry.get(name) for entry in entries] for name in IDENTIFIERS]
    for index, error in sorted(
        errors_in_names(entries, columns, body, partial(names_in_entries, body)).items()
    ):
        raise InvalidRequest(f"leads[{index}]: {error}")
    return NewLeads(campaign_id, region, entries, metadata)


def _identified(entries: list[dict[str, Any]], region: str | None) -> Identifiers:
    """Raises InvalidRequest for a phone number that is none: a lead that had it could be deleted by
    any other such.
    """
    for index, entry in enumerate(entries):
        if found := phone_flaw(entry.get("phoneNumber"), region):
            raise InvalidRequest(f"leads[{index}]: {found.text}")
    external_ids, phone_numbers = ([entry.get(name) for entry in entries] for name in IDENTIFIERS)
    return identified(external_ids, phone_numbers, region, strict=True)


def _checked(index: int, entry: Any) -> str:
    """The metadata of a lead. What is not understood is refused: it would be lost."""
    where = f"leads[{index}]"
    if not isinstance(entry, dict):
        raise InvalidRequest(f"{where} must be an object")
    if found := flaw(entry.get("externalId"), entry.get("phoneNumber"), strict=False):
        raise InvalidRequest(f"{where}: {found.text}")
    for name in entry:
        if name not in _OF_LEAD:
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
    region = await _region(engine, key, new.campaign_id, new.region)
    entries = await to_thread.run_sync(_identified, new.entries, region)
    found = await _changed(
        engine,
        key,
        new.campaign_id,
        _CREATE,
        ids=bigint_array(await _free_ids(engine, len(new.metadata))),
        external_ids=text_array(entries.canonical_external_ids),
        phone_numbers=text_array(entries.canonical_phone_numbers),
        metadata=text_array(new.metadata),
    )
    created = pseudonyms(settings.secrets_key, [row.id for row in found if row.id is not None])
    written = zip(found, entries.external_ids, entries.phone_numbers, strict=True)
    return {
        "created": len(created),
        "skipped": len(found) - len(created),
        "createdIds": created,
        "skippedIdentifiers": [
            external_id or number for row, external_id, number in written if row.id is None
        ],
    }


async def _free_ids(engine: AsyncEngine, count: int) -> list[int]:
    """Ids that no lead has. Raises Unavailable where too many to come are used; the next call goes
    on from there.
    """
    ids: list[int] = []
    for further in FURTHER_IDS:
        ids += [row.id for row in await rows(engine, _DRAW, {"most": count + further})]
        if len(ids) >= count:
            return ids[:count]
    raise Unavailable


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
    found: list[AnyRow] = []
    if by_external_id:
        found += await _in_campaign(
            engine, key, campaign_id, _BY_EXTERNAL_ID, after=after, most=limit + 1
        )
        found = [row for row in found if row.id is not None]
        after = ""
    if len(found) <= limit:
        found += await _in_campaign(
            engine, key, campaign_id, _BY_PHONE_NUMBER, after=after, most=limit + 1 - len(found)
        )
        found = [row for row in found if row.id is not None]
    following = _cursor(found[limit - 1]) if len(found) > limit else None
    return _listed(settings, campaign_id, found[:limit], following)


async def find(
    engine: AsyncEngine, settings: Settings, key: Key, campaign_id: str, named: Named
) -> dict[str, Any]:
    """The lead with these identifiers, if there is one. Raises Forbidden."""
    canonical = await _canonical(engine, key, campaign_id, named)
    external_id, number = canonical["external_id"], canonical["phone_number"]
    values: dict[str, Any] = {
        "phone_numbers": None if number is None else text_array(_spellings_of_number(number, named))
    }
    statement = _FIND_BY_PHONE_NUMBER
    if external_id is not None:
        values["external_ids"] = text_array(_spellings_of_id(external_id, named))
        statement = _FIND_BY_EXTERNAL_ID
    found = await _in_campaign(engine, key, campaign_id, statement, **values)
    return _listed(settings, campaign_id, [row for row in found if row.id is not None], None)


async def delete(engine: AsyncEngine, key: Key, campaign_id: str, named: Named) -> int:
    """Deletes the lead with this external id, and its copies in the archive; if there is neither,
    those with this number.

    The number of copies. Raises Forbidden, ApiError 404 and 409, DBAPIError.
    """
    if not key.sees(campaign_id) or "\0" in campaign_id:
        raise Forbidden
    canonical = await _canonical(engine, key, campaign_id, named)

    async def once() -> int:
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="READ COMMITTED")
            async with connection.begin():
                return await _delete(connection, key, campaign_id, named, canonical)

    return await _patiently(lambda: within(STATEMENT_TIMEOUT, once()))


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
        spellings = _spellings_of_id(external_id, named)
        copies = archive.named(campaign_id, [external_id])
        deleted = await _delete_by(
            connection, _DELETE_BY_EXTERNAL_ID, external_id, spellings, copies
        )
        if deleted is not None:
            return deleted
    number, written = canonical["phone_number"], named.number or ""
    if not number or await _is_ambiguous(connection, campaign_id, written, number):
        raise ApiError(404, "Lead not found")
    spellings = _spellings_of_number(number, named)
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
        raise _refused()
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


async def _in_campaign(
    engine: AsyncEngine,
    key: Key,
    campaign_id: str,
    statement: Any,
    *,
    repeatable: bool = True,
    **values: Any,
) -> Sequence[AnyRow]:
    """Executes what has no rows unless the campaign is the company's. Raises Forbidden,
    DBAPIError.
    """
    if not key.sees(campaign_id) or "\0" in campaign_id:
        raise Forbidden
    values |= {"campaign_id": campaign_id, "company_id": key.company_id}
    found = await rows(engine, statement, values, repeatable=repeatable)
    if not found:
        raise Forbidden
    return found


async def _changed(
    engine: AsyncEngine, key: Key, campaign_id: str, statement: Any, **values: Any
) -> Sequence[AnyRow]:
    """As _in_campaign, of what changes leads. Raises Forbidden, ApiError 409, DBAPIError."""
    return await _patiently(
        lambda: _in_campaign(engine, key, campaign_id, statement, repeatable=False, **values)
    )


async def _patiently(change: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """What `change` returns, which is tried again where somebody else was in the way.

    Not where a lock was waited for in vain: the caller has waited long enough. Nor where the
    connection broke: what had been done would be told as skipped, or not found. Raises ApiError
    409, DBAPIError.
    """
    pause = FIRST_PAUSE
    while True:
        try:
            return await change()
        except DBAPIError as error:
            if is_refusal(error):
                raise _refused() from None
            if not is_clash(error) or is_locked(error) or pause > LONGEST_PAUSE:
                raise
        await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - jitter, no secret
        pause *= 2


def _refused() -> ApiError:
    return ApiError(
        409, "The database refuses this: a constraint or a trigger of its operator is against it"
    )


async def _canonical(
    engine: AsyncEngine, key: Key, campaign_id: str, named: Named
) -> dict[str, Any]:
    """The identifiers in canonical form; what no lead can have becomes what none has. Raises
    Forbidden.
    """
    region = await _region(engine, key, campaign_id, named.region) if named.number else None
    canonical = {
        "external_id": named.external_id and canonical_external_id(named.external_id),
        "phone_number": named.number and phone_number(named.number, region),
    }
    return {name: "" if value and "\0" in value else value for name, value in canonical.items()}


def _spellings_of_id(canonical: str, named: Named) -> set[str]:
    """How the lead may be stored: leads that were stored in a former form are found as they were
    written then.
    """
    return {canonical, former_external_id(named.external_id or "") if canonical else ""}


def _spellings_of_number(canonical: str, named: Named) -> set[str]:
    former = former_phone_number(named.number or "")
    return (
        {canonical, former}
        if canonical and canonical_phone_number(former) == canonical
        else {canonical}
    )


async def _region(
    engine: AsyncEngine, key: Key, campaign_id: str, region: str | None
) -> str | None:
    """`region`, or the campaign's. Raises Forbidden."""
    if not key.sees(campaign_id) or "\0" in campaign_id:
        raise Forbidden
    return region or await region_of(engine, key.company_id, campaign_id)


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
