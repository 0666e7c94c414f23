"""Says whether each part is up. The database is asked and the broker is written to; workers,
deliverers and tickers are judged by their last sign of life.
"""

import asyncio

import structlog
from fastapi import APIRouter, Request
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.database import rows, within
from api.http.answers import Answer, RateLimited, success
from api.http.request import services_of
from shared.broker.health import Flaw, broker_flaw
from shared.process.heartbeats import NEWEST_BEATS, STALE_SECONDS

ROLES = ("worker", "deliverer", "ticker")
ASK_TIMEOUT = 1.0  # seconds for the database, and for each node of the broker
# For each answer of the broker: less, so that there is time left to say that it did not come.
ANSWER_SECONDS = 0.8

# A row for each role that has ever given a sign of life, or one row without a role. Each says
# whether the database is a standby, or read-only for another reason.
_BEATS = text(f"""
    SELECT current_setting('transaction_read_only') = 'on' AS is_read_only, beat.*
    FROM (SELECT) AS one LEFT JOIN ({NEWEST_BEATS.text}) AS beat ON true
""")

router = APIRouter(redirect_slashes=False)

log = structlog.get_logger()


async def check(engine: AsyncEngine, broker_url: str) -> dict[str, str]:
    """`up` or `down` for database, broker and ROLES; a database may be `readOnly`. Never raises."""
    (database, ages), broker_works = await asyncio.gather(
        _database(engine), _broker_works(broker_url)
    )
    roles = {role: _word(ages.get(role, STALE_SECONDS) < STALE_SECONDS) for role in ROLES}
    return {"database": database, "broker": _word(broker_works)} | roles


def _word(up: bool) -> str:
    return "up" if up else "down"


async def _database(engine: AsyncEngine) -> tuple[str, dict[str, float]]:
    """The word for it, and the seconds since each role's newest beat."""
    try:
        beats = await within(ASK_TIMEOUT, rows(engine, _BEATS))
    except Exception:  # noqa: BLE001 - whatever the driver raises, it is down
        return "down", {}
    word = "readOnly" if beats[0].is_read_only else "up"
    return word, {beat.role: beat.age_seconds for beat in beats if beat.role}


async def _broker_works(broker_url: str) -> bool:
    nodes = broker_url.count(";") + 1
    try:
        flaw = await within(
            ASK_TIMEOUT * nodes, asyncio.to_thread(broker_flaw, broker_url, ANSWER_SECONDS)
        )
    except TimeoutError:
        flaw = Flaw("does not answer in time", "start it, or mend BROKER_URL")
    if flaw:
        log.warning("broker not usable", error=flaw.finding, hint=flaw.hint)
    return flaw is None


@router.get(
    "/api/health", operation_id="getHealth", summary="Ask whether everything is up", tags=["Health"]
)
async def get_health(request: Request) -> Answer:
    """Whether the database, the broker, a worker, a deliverer and a ticker are up."""
    services = services_of(request)
    settings = services.settings
    address = request.client.host if request.client else "unknown"
    allowance = await services.limiter.count(f"health:{address}", settings.rate_limit_health)
    if allowance.refused:
        raise RateLimited(allowance)
    parts = await check(services.engine, settings.broker_url)
    if all(part == "up" for part in parts.values()):
        return success(parts)
    message, headers = "Service temporarily unavailable", {"Retry-After": "5"}
    return Answer({"success": False, "data": parts, "error": message}, 503, headers)
