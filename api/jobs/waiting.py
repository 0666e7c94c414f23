"""Wakes the calls that wait for a job: at once when Redis brings word of it, else within a second.

A call that waits holds no database connection; one statement a second asks for all of them, in case
a wake-up got lost.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.database import rows
from shared.broker.wakeups import CHANNEL
from shared.database.arrays import text_array
from shared.database.plans import BY_INDEX

LOOK_EVERY = 1.0  # seconds

_ENDED = text(
    f"SELECT id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) AND finished_at IS NOT NULL AND {BY_INDEX}"
)

log = structlog.get_logger()


class Waiter:
    """The calls of this process that wait, by job."""

    def __init__(self, engine: AsyncEngine, redis_url: str) -> None:
        """`redis_url` is empty where there is none."""
        self._engine = engine
        self._redis_url = redis_url
        self._ended = False
        self._waiting: defaultdict[UUID, set[asyncio.Event]] = defaultdict(set)

    @contextmanager
    def expecting(self, job_id: UUID) -> Iterator[asyncio.Event]:
        """An event that is set when there is news of the job. Begin before the job can end: what
        came earlier is not told.
        """
        event = asyncio.Event()
        if self._ended:
            event.set()
        self._waiting[job_id].add(event)
        try:
            yield event
        finally:
            self._waiting[job_id].discard(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    def end(self) -> None:
        """Wakes all, as the process is about to stop; who comes later does not wait."""
        self._ended = True
        for job_id in self._waiting:
            self._wake(job_id)

    async def run(self) -> None:
        """Listens and looks; ends only when cancelled."""
        await asyncio.gather(self._listen(), self._look())

    def _wake(self, job_id: UUID) -> None:
        for event in self._waiting.get(job_id, ()):
            event.set()

    async def _listen(self) -> None:
        if not self._redis_url:
            return
        while True:
            with suppress(
                RedisError, OSError
            ):  # the limiter says so in the log; the look makes up for it
                async with Redis.from_url(
                    self._redis_url, socket_timeout=None, socket_connect_timeout=1
                ) as client:
                    await self._wake_by(client)
            await asyncio.sleep(LOOK_EVERY)

    async def _wake_by(self, client: Redis) -> None:
        async with client.pubsub(ignore_subscribe_messages=True) as subscription:
            await subscription.subscribe(CHANNEL)
            async for message in subscription.listen():
                with suppress(ValueError):  # whatever else may come along
                    self._wake(UUID(message["data"].decode()))

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if not self._waiting:
                continue
            try:
                ended = await rows(
                    self._engine, _ENDED, {"ids": text_array(map(str, self._waiting))}
                )
            except (SQLAlchemyError, TimeoutError) as error:
                log.warning("waiting calls not looked after", error=type(error).__name__)
            else:
                for job in ended:
                    self._wake(job.id)


async def wait_for(event: asyncio.Event, seconds: float) -> None:
    """Returns when `event` is set or the time is over."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
