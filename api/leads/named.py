"""Leads as callers name them: their identifiers, and statements about the leads of one campaign."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.database import AnyRow, rows
from api.http.answers import ApiError, Forbidden
from api.http.auth import Key
from api.jobs.submit import region_of
from shared.database.sqlstates import is_clash, is_locked, is_refusal
from shared.identifiers.canonical import (
    canonical_external_id,
    canonical_phone_number,
    former_external_id,
    former_phone_number,
)
from shared.identifiers.phone_regions import phone_number

# Seconds. A change that met a deadlock is tried again after FIRST_PAUSE at most, which doubles with
# each try up to LONGEST_PAUSE; the database itself takes a second to notice a deadlock.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0

Result = TypeVar("Result")


class Named(NamedTuple):
    """A lead as its caller names it. `region` is the country by whose rules the number is read;
    where it is None, the campaign's is.
    """

    external_id: str | None
    number: str | None
    region: str | None


async def canonical_of(
    engine: AsyncEngine, key: Key, campaign_id: str, named: Named
) -> dict[str, Any]:
    """The columns `external_id` and `phone_number` in canonical form: None where the caller gave
    none, empty where no lead can have it. Raises Forbidden.
    """
    region = await region_in(engine, key, campaign_id, named.region) if named.number else None
    external_id = named.external_id and canonical_external_id(named.external_id)
    number = named.number and phone_number(named.number, region)
    return {"external_id": _storable(external_id), "phone_number": _storable(number)}


def _storable(canonical: str | None) -> str | None:
    """PostgreSQL stores no U+0000, so what has one becomes the identifier that no lead has."""
    return "" if canonical and "\0" in canonical else canonical


def spellings_of_id(canonical: str, named: Named) -> set[str]:
    """The external ids under which the lead may be stored: the canonical one, and the one that an
    earlier version of Leadsweep made of the same text.
    """
    former = former_external_id(named.external_id or "") if canonical else ""
    return {canonical, former}


def spellings_of_number(canonical: str, named: Named) -> set[str]:
    """The phone numbers under which the lead may be stored: as for ids, but that of an earlier
    version only where it is the same number now.
    """
    former = former_phone_number(named.number or "")
    if canonical and canonical_phone_number(former) == canonical:
        return {canonical, former}
    return {canonical}


async def region_in(
    engine: AsyncEngine, key: Key, campaign_id: str, region: str | None
) -> str | None:
    """`region`, or the campaign's where it is None. Raises Forbidden."""
    if not key.sees(campaign_id) or "\0" in campaign_id:
        raise Forbidden
    return region or await region_of(engine, key.company_id, campaign_id)


async def in_campaign(
    engine: AsyncEngine,
    key: Key,
    campaign_id: str,
    statement: Any,
    *,
    repeatable: bool = True,
    **values: Any,
) -> Sequence[AnyRow]:
    """Executes a statement that has rows only where the campaign is the company's, and returns
    them. Raises Forbidden, DBAPIError.
    """
    if not key.sees(campaign_id) or "\0" in campaign_id:
        raise Forbidden
    values |= {"campaign_id": campaign_id, "company_id": key.company_id}
    leads = await rows(engine, statement, values, repeatable=repeatable)
    if not leads:
        raise Forbidden
    return leads


async def patiently(change: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Returns what `change` returns, and tries it again where another transaction was in the way.

    It is not tried again where it waited for a lock in vain: the caller has waited long enough; nor
    where the connection broke: what had been done would be reported as skipped, or as not found.
    Raises ApiError 409, DBAPIError.
    """
    pause = FIRST_PAUSE
    while True:
        try:
            return await change()
        except DBAPIError as error:
            if is_refusal(error):
                raise refused() from None
            if not is_clash(error) or is_locked(error) or pause > LONGEST_PAUSE:
                raise
        await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - jitter, no secret
        pause *= 2


def refused() -> ApiError:
    """The answer where the operator's own schema forbids the change."""
    return ApiError(
        409, "The database refuses this: a constraint or a trigger of its operator is against it"
    )
