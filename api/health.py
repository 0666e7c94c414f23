"""Whether each part is up: the database asked and the broker written to now, workers and tickers by their last sign of life."""

import asyncio

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from api.database import rows
from api.patience import within
from shared.broker_health import Flaw, broker_flaw
from shared.heartbeats import NEWEST_BEATS, STALE_SECONDS

ROLES = ("worker", "deliverer", "ticker")
PATIENCE = 1.0  # seconds for the database, and for each node of the broker
ANSWER_SECONDS = 0.8  # for each answer of the broker, so that there is time to say that there was none

log = structlog.get_logger()


async def check(engine: AsyncEngine, broker_url: str) -> dict[str, str]:
    """`up` or `down` for database, broker and ROLES. Never raises."""
    ages, works = await asyncio.gather(_beat_ages(engine), _works(broker_url))
    beats = {role: _word((ages or {}).get(role, STALE_SECONDS) < STALE_SECONDS) for role in ROLES}
    return {"database": _word(ages is not None), "broker": _word(works)} | beats


def _word(up: bool) -> str:
    return "up" if up else "down"


async def _beat_ages(engine: AsyncEngine) -> dict[str, float] | None:
    """None where the database does not say."""
    try:
        return {row.role: row.age_seconds for row in await within(PATIENCE, rows(engine, NEWEST_BEATS))}
    except Exception:  # noqa: BLE001 - whatever the driver raises, it is down
        return None


async def _works(broker_url: str) -> bool:
    nodes = broker_url.count(";") + 1
    try:
        flaw = await within(PATIENCE * nodes, asyncio.to_thread(broker_flaw, broker_url, ANSWER_SECONDS))
    except TimeoutError:
        flaw = Flaw("does not answer in time", "start it, or mend BROKER_URL")
    if flaw:
        log.warning("broker not usable", error=flaw.finding, mend=flaw.mend)
    return flaw is None
