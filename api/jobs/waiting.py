"""Calls that wait for a job: they are woken at once when Redis brings word of it, else within a
second.

A call that waits holds no database connection; one statement a second asks for all of them, in case
a wake-up got lost.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

import msgspec
import structlog
from psycopg.errors import ReadOnlySqlTransaction
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request

from api.database import rows
from api.http.answers import Accepted, ApiError
from api.http.request import Caller, services_of
from api.jobs.fields import NAMES
from api.jobs.status import JobNow, read_job
from shared.broker.wakeups import CHANNEL
from shared.database.arrays import text_array
from shared.database.plans import BY_INDEX
from shared.states import COUNTS, JobState

LOOK_EVERY = 1.0  # seconds

# What a key gets that is revoked while its call waits, or limited to another campaign.
_NOT_SEEN = frozenset({401, 404})

_ENDED = text(f"""
    SELECT id FROM jobs
    WHERE id = ANY(CAST(:ids AS uuid[])) AND finished_at IS NOT NULL AND {BY_INDEX}
""")

_MARK_AWAITED = text(f"""
    UPDATE jobs SET awaited = true
    WHERE id = :job_id AND finished_at IS NULL AND {BY_INDEX} RETURNING id
""")

# The fields of the published synchronous API; and the counts that are added to them where they are
# not 0. A job that leaves something unprocessed has failed, and is not answered like this.
_PUBLISHED = ("deleted", "notFound", "deletedIdentifiers", "notFoundIdentifiers", "jobId", "status")
PUBLISHED_IF_ANY = tuple(
    NAMES[column] for column in COUNTS if column not in {"deleted", "not_found", "unprocessed"}
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
        """An event that is set when there is news of the job. Begin before the job can end: news
        that came earlier is not repeated.
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
        """Wakes all, as the process is about to stop; later calls do not wait."""
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
            # The limiter logs that Redis is away; `_look` makes up for what is missed.
            with suppress(RedisError, OSError):
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
            ids = text_array(map(str, self._waiting))
            try:
                ended = await rows(self._engine, _ENDED, {"ids": ids})
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


async def results_in_time(
    request: Request, caller: Caller, accepted: Accepted, ended: asyncio.Event | None
) -> dict[str, Any] | None:
    """The published synchronous shape, if the job completes within the time that its first caller
    was ready to wait, and the key still sees it then; else None.
    """
    services = services_of(request)
    if accepted.job_id == caller.job_id and ended:
        await wait_for(ended, accepted.wait)
    else:
        await _wait_for_another(request, caller, accepted)
    try:
        key = await services.authenticator.key_now(request)
        job = await read_job(services.engine, key, accepted.job_id)
    except ApiError as error:
        if error.status not in _NOT_SEEN:
            raise
        return None
    return _published(job) if _is_in_time(job, accepted) else None


async def _wait_for_another(request: Request, caller: Caller, accepted: Accepted) -> None:
    """Waits for the job of an earlier call for as much of its time as is left."""
    services = services_of(request)
    with services.waiter.expecting(accepted.job_id) as ended:
        job = await read_job(services.engine, caller.key, accepted.job_id)
        if job.took is not None or job.age >= accepted.wait:
            return
        if await mark_awaited(services.engine, accepted.job_id):
            await wait_for(ended, accepted.wait - job.age)


def _is_in_time(job: JobNow, accepted: Accepted) -> bool:
    if job.body.status != JobState.COMPLETED or job.took is None:
        return False
    return job.took <= accepted.wait


def _published(job: JobNow) -> dict[str, Any]:
    """The job's results, as the published synchronous API has them."""
    names = [*_PUBLISHED]
    for name in PUBLISHED_IF_ANY:
        if getattr(job.body, name):
            names += [name, f"{name}Identifiers"]
    if job.body.identifiersOmitted:
        names += ["identifiersOmitted", "resultsUrl"]
    fields = {name: getattr(job.body, name) for name in names}
    return {name: value for name, value in fields.items() if value is not msgspec.UNSET}


async def mark_awaited(engine: AsyncEngine, job_id: UUID) -> bool:
    """Has the end of the job announced as soon as it comes; False where the job has ended already.

    In a database that is read-only nothing can be written down: there the look once a second has to
    do.
    """
    try:
        return bool(await rows(engine, _MARK_AWAITED, {"job_id": job_id}))
    except DBAPIError as error:
        if not isinstance(error.orig, ReadOnlySqlTransaction):
            raise
        return True
