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

# Seconds at most before a change that met a deadlock is tried again, doubled with each try, up to
# the longest; the deadlock itself takes the database a second to notice.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0

Result = TypeVar("Result")


class Named(NamedTuple):
    """A lead as its caller names it; `region` is whose phone numbers are meant, the campaign's
    where it is None.
    """

    external_id: str | None
    number: str | None
    region: str | None


async def canonical_of(
    engine: AsyncEngine, key: Key, campaign_id: str, named: Named
) -> dict[str, Any]:
    """The identifiers in canonical form; what no lead can have becomes what none has. Raises
    Forbidden.
    """
    region = await region_in(engine, key, campaign_id, named.region) if named.number else None
    canonical = {
        "external_id": named.external_id and canonical_external_id(named.external_id),
        "phone_number": named.number and phone_number(named.number, region),
    }
    return {name: "" if value and "\0" in value else value for name, value in canonical.items()}


def spellings_of_id(canonical: str, named: Named) -> set[str]:
    """How the lead may be stored: leads that were stored in a former form are found as they were
    written then.
    """
    return {canonical, former_external_id(named.external_id or "") if canonical else ""}


def spellings_of_number(canonical: str, named: Named) -> set[str]:
    former = former_phone_number(named.number or "")
    return (
        {canonical, former}
        if canonical and canonical_phone_number(former) == canonical
        else {canonical}
    )


async def region_in(
    engine: AsyncEngine, key: Key, campaign_id: str, region: str | None
) -> str | None:
    """`region`, or the campaign's. Raises Forbidden."""
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


async def patiently(change: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
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
                raise refused() from None
            if not is_clash(error) or is_locked(error) or pause > LONGEST_PAUSE:
                raise
        await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - jitter, no secret
        pause *= 2


def refused() -> ApiError:
    return ApiError(
        409, "The database refuses this: a constraint or a trigger of its operator is against it"
    )
