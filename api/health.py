"""Whether each part is up: the database and the broker asked now, workers and tickers by their last sign of life."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from kombu import Connection
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from api.database import rows
from api.patience import within
from shared.heartbeats import NEWEST_BEATS, STALE_SECONDS

ROLES = ("worker", "deliverer", "ticker")
PATIENCE = 1.0  # seconds for each check


async def check(engine: AsyncEngine, broker_url: str) -> dict[str, str]:
    """`up` or `down` for database, broker and ROLES. Takes PATIENCE at most, and never raises."""
    ages, broker = await asyncio.gather(_within_patience(lambda: _beat_ages(engine)), _within_patience(lambda: _ping(broker_url)))
    beats = {role: _word((ages or {}).get(role, STALE_SECONDS) < STALE_SECONDS) for role in ROLES}
    return {"database": _word(ages is not None), "broker": _word(broker is not None)} | beats


def _word(up: bool) -> str:
    return "up" if up else "down"


async def _within_patience(check: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    try:
        return await within(PATIENCE, check())
    except Exception:  # noqa: BLE001 - whatever the driver or the transport raises, the part is down
        return None


async def _beat_ages(engine: AsyncEngine) -> dict[str, float]:
    return {row.role: row.age_seconds for row in await rows(engine, NEWEST_BEATS)}


async def _ping(broker_url: str) -> bool:
    if broker_url.startswith(("redis://", "rediss://")):
        async with Redis.from_url(broker_url, socket_timeout=PATIENCE) as client:
            return bool(await client.ping())
    return await asyncio.to_thread(_connect, broker_url)


def _connect(broker_url: str) -> bool:
    with Connection(broker_url, connect_timeout=PATIENCE) as connection:
        connection.connect()
    return True
