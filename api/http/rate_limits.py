"""Rate limits, counted in Redis: one round trip a call, and never a reason to refuse when Redis is
down or frozen.

A window begins with the first call and lasts the period. A Redis that does not answer within
REDIS_TIMEOUT is left alone for RETRY_REDIS_AFTER, so that a frozen one costs a call now and then
50 ms, and all others nothing.
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

# Seconds: a call may lose 50 ms to a frozen Redis, our own work included.
REDIS_TIMEOUT = 0.045
RETRY_REDIS_AFTER = 1.0  # seconds between tries while Redis is away
CONNECTIONS = 8  # to Redis, which is faster than we are; more calls than that at once take turns

_COUNT = """
local calls = redis.call('INCR', KEYS[1])
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
    -- A key that has lost its end would refuse calls for ever.
    redis.call('PEXPIRE', KEYS[1], ARGV[1])
    left = tonumber(ARGV[1])
end
return {calls, left}
"""

log = structlog.get_logger()


def open_redis(url: str) -> Redis:
    """A client that gives up after a second: nobody waits for it longer than REDIS_TIMEOUT."""
    return Redis.from_url(
        url,
        max_connections=CONNECTIONS,
        socket_timeout=1,
        socket_connect_timeout=1,
        retry=Retry(NoBackoff(), 1),
    )


class Allowance(NamedTuple):
    """What is left of a limit after a call. The next period begins at `reset`, in unix seconds, or
    in `seconds_left`. The call is `refused` if it was one too many.
    """

    limit: int
    remaining: int
    reset: float
    seconds_left: float
    refused: bool

    def headers(self) -> dict[str, str]:
        """The headers that every answer to an authenticated call carries."""
        return {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(ceil(self.reset)),
        }


class Limiter:
    """Counts calls. Without a Redis it lets everything through."""

    def __init__(self, redis: Redis | None, timeout: float = REDIS_TIMEOUT) -> None:
        """`redis` is None where the settings name none; `timeout` in seconds."""
        self._timeout = timeout
        self._count = redis.register_script(_COUNT) if redis else None
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._answered_at = 0.0
        self._next_try = 0.0
        self._broken = False

    async def count(self, name: str, rate: Rate) -> Allowance:
        """Counts one call of `name`. Never raises."""
        milliseconds = round(rate.period.total_seconds() * 1000)
        calls, left = await self._count_in_redis(name, milliseconds) or (0, milliseconds)
        seconds_left = left / 1000
        refused = calls > rate.limit
        return Allowance(
            rate.limit,
            max(0, rate.limit - calls),
            time.time() + seconds_left,
            seconds_left,
            refused,
        )

    async def _count_in_redis(self, name: str, milliseconds: int) -> tuple[int, int] | None:
        """The calls so far, this one included, and the milliseconds that the window still lasts;
        None if Redis is away.
        """
        if self._count is None:
            return None
        if self._broken:
            if time.monotonic() < self._next_try:
                return None
            # This call is the one that tries.
            self._next_try = time.monotonic() + RETRY_REDIS_AFTER
        # Another period is another window: where a limit is changed from hours to minutes, nobody
        # waits for the hour to end.
        key = f"leadsweep:rate:{name}:{milliseconds}"
        try:
            answer = await within(self._timeout, self._in_turn(self._count, key, milliseconds))
        except (RedisError, OSError, TimeoutError) as error:
            # Where Redis answers other calls, this one has only waited too long for its turn.
            others_are_answered = time.monotonic() - self._answered_at < self._timeout
            if not (isinstance(error, TimeoutError) and others_are_answered):
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
        self._broken, self._next_try = True, time.monotonic() + RETRY_REDIS_AFTER

    async def _in_turn(self, count: AsyncScript, key: str, milliseconds: int) -> tuple[int, int]:
        async with self._turns:
            calls, left = await count(keys=[key], args=[milliseconds])
        return calls, left
