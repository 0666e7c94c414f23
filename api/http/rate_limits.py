"""Rate limits, counted in Redis: one round trip a call, and never a reason to refuse when Redis is
down or frozen.

A window begins with the first call and lasts the period. A Redis that does not answer within
PATIENCE is left alone for BREAK, so that a frozen one costs a call now and then 50 ms and all
others nothing.
"""

import asyncio
import time
from math import ceil
from typing import NamedTuple

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from api.database import within
from shared.settings import Rate

PATIENCE = 0.045  # seconds; 50 ms is what a call may lose to a frozen Redis, our own work included
BREAK = 1.0  # seconds between tries while Redis is away
CONNECTIONS = 8  # to Redis, which is faster than we are; more calls than that at once take turns

# A key without an end, whoever took it away, would refuse for ever.
_COUNT = """
local calls = redis.call('INCR', KEYS[1])
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
    redis.call('PEXPIRE', KEYS[1], ARGV[1])
    left = tonumber(ARGV[1])
end
return {calls, left}
"""

log = structlog.get_logger()


def open_redis(url: str) -> Redis:
    """A client that gives up soon: what it takes longer over, nobody waits for."""
    return Redis.from_url(
        url,
        max_connections=CONNECTIONS,
        socket_timeout=1,
        socket_connect_timeout=1,
        retry=Retry(NoBackoff(), 1),
    )


class Allowance(NamedTuple):
    """What is left of a limit after a call, and when it begins anew: at `reset` in unix seconds, in
    `seconds_left`.

    `refused` if the call was one too many.
    """

    limit: int
    remaining: int
    reset: float
    seconds_left: float
    refused: bool

    def headers(self) -> dict[str, str]:
        """As every answer to an authenticated call carries them."""
        return {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(ceil(self.reset)),
        }


class Limiter:
    """Counts calls. Without a Redis it lets everything through."""

    def __init__(self, redis: Redis | None, patience: float = PATIENCE) -> None:
        """`redis` is None where the settings name none; `patience` in seconds."""
        self._patience = patience
        self._count = redis.register_script(_COUNT) if redis else None
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._answered_at = 0.0
        self._next_try = 0.0
        self._broken = False

    async def count(self, name: str, rate: Rate) -> Allowance:
        """Counts one call of `name`. Never raises."""
        milliseconds = round(rate.period.total_seconds() * 1000)
        calls, left = await self._ask(name, milliseconds) or (0, milliseconds)
        seconds_left = left / 1000
        refused = calls > rate.limit
        return Allowance(
            rate.limit,
            max(0, rate.limit - calls),
            time.time() + seconds_left,
            seconds_left,
            refused,
        )

    async def _ask(self, name: str, milliseconds: int) -> tuple[int, int] | None:
        """The calls so far, this one included, and the milliseconds that the window lasts yet; None
        if Redis is away.
        """
        if self._count is None:
            return None
        if self._broken:
            if time.monotonic() < self._next_try:
                return None
            self._next_try = time.monotonic() + BREAK  # this call is the one that tries
        # Another period is another window: where a limit is set from hours to minutes, nobody waits
        # for the hour to end.
        key = f"leadsweep:rate:{name}:{milliseconds}"
        try:
            answer = await within(self._patience, self._in_turn(self._count, key, milliseconds))
        except (RedisError, OSError, TimeoutError) as error:
            # A call that had to wait for very many others says nothing about Redis while those are
            # answered.
            if not (
                isinstance(error, TimeoutError)
                and time.monotonic() - self._answered_at < self._patience
            ):
                self._leave_alone(error)
            return None
        self._answered_at, self._broken = time.monotonic(), False
        return answer

    def _leave_alone(self, error: Exception) -> None:
        if not self._broken:
            log.warning(
                "rate limits not counted",
                error=type(error).__name__,
                hint="check REDIS_URL; calls pass meanwhile",
            )
        self._broken, self._next_try = True, time.monotonic() + BREAK

    async def _in_turn(self, count: AsyncScript, key: str, milliseconds: int) -> tuple[int, int]:
        async with self._turns:
            calls, left = await count(keys=[key], args=[milliseconds])
        return calls, left
