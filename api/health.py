"""Whether each part is up: the database asked and the broker written to now, workers and tickers by their last sign of life."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from api.database import rows
from api.patience import within
from shared.broker_health import broker_flaw
from shared.heartbeats import NEWEST_BEATS, STALE_SECONDS

ROLES = ("worker", "deliverer", "ticker")
PATIENCE = 1.0  # seconds for each check
BROKER_SECONDS = 0.8  # for an answer of the broker, so that there is time to say that there was none

log = structlog.get_logger()


async def check(engine: AsyncEngine, broker_url: str) -> dict[str, str]:
    """`up` or `down` for database, broker and ROLES. Takes PATIENCE at most, and never raises."""
    ages, broker = await asyncio.gather(
        _within_patience(lambda: _beat_ages(engine)), _within_patience(lambda: _works(broker_url))
    )
    beats = {role: _word((ages or {}).get(role, STALE_SECONDS) < STALE_SECONDS) for role in ROLES}
    return {"database": _word(ages is not None), "broker": _word(broker is True)} | beats


def _word(up: bool) -> str:
    return "up" if up else "down"


async def _within_patience(check: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    try:
        return await within(PATIENCE, check())
    except Exception:  # noqa: BLE001 - whatever the driver or the transport raises, the part is down
        return None


async def _beat_ages(engine: AsyncEngine) -> dict[str, float]:
    return {row.role: row.age_seconds for row in await rows(engine, NEWEST_BEATS)}


async def _works(broker_url: str) -> bool:
    flaw = await asyncio.to_thread(broker_flaw, broker_url, BROKER_SECONDS)
    if flaw:
        log.warning("broker not usable", error=flaw.finding, mend=flaw.mend)
    return flaw is None
