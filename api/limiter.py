"""Rate limits, counted in Redis: one round trip a call, and never a reason to refuse when Redis is down or frozen.

A window begins with a key's first call and lasts the period. A Redis that does not answer within PATIENCE is left alone for
BREAK, so that a frozen one costs a call now and then 50 ms and all others nothing.
"""

import asyncio
import time
from typing import NamedTuple

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.settings import Rate

PATIENCE = 0.045  # seconds; 50 ms is what a call may lose to a frozen Redis, our own work included
BREAK = 1.0  # seconds between tries while Redis is away

_COUNT = """
local calls = redis.call('INCR', KEYS[1])
if calls == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return {calls, redis.call('PTTL', KEYS[1])}
"""

log = structlog.get_logger()


class Allowance(NamedTuple):
    """What is left of a limit after a call: `reset` in unix seconds. `refused` if the call was one too many."""

    limit: int
    remaining: int
    reset: float
    refused: bool

    def headers(self) -> dict[str, str]:
        """As every answer to an authenticated call carries them."""
        return {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(round(self.reset)),
        }


class Limiter:
    """Counts calls. Without a Redis it lets everything through."""

    def __init__(self, redis: Redis | None) -> None:
        """`redis` is None where the settings name none."""
        self._redis = redis
        self._count = redis.register_script(_COUNT) if redis else None
        self._next_try = 0.0
        self._broken = False

    async def count(self, name: str, rate: Rate) -> Allowance:
        """Counts one call of `name`. Never raises."""
        period = rate.period.total_seconds()
        answer = await self._ask(name, int(period * 1000))
        now = time.time()
        if answer is None:
            return Allowance(rate.limit, rate.limit, now + period, refused=False)
        calls, milliseconds_left = answer
        return Allowance(rate.limit, max(0, rate.limit - calls), now + milliseconds_left / 1000, refused=calls > rate.limit)

    async def _ask(self, name: str, milliseconds: int) -> tuple[int, int] | None:
        if self._count is None:
            return None
        if self._broken:
            if time.monotonic() < self._next_try:
                return None
            self._next_try = time.monotonic() + BREAK  # this call is the one that tries
        try:
            async with asyncio.timeout(PATIENCE):
                calls, left = await self._count(keys=[f"leadsweep:rate:{name}"], args=[milliseconds])
        except (RedisError, OSError, TimeoutError) as error:
            if not self._broken:
                log.warning("rate limits not counted", error=type(error).__name__, mend="check REDIS_URL; calls pass meanwhile")
            self._broken, self._next_try = True, time.monotonic() + BREAK
            return None
        self._broken = False
        return calls, left
