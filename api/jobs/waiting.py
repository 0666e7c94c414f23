"""Wakes the calls that wait for a job: at once when Redis brings word of it, else within a second.

A call that waits holds no database connection; one statement a second asks for all of them, in case
a wake-up got lost.
"""

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.datastructures import State
from starlette.requests import Request

from api.database import rows
from api.http.answers import Answer, ApiError, success, time_text
from api.jobs.control import is_in_force, state_of
from api.jobs.idempotency import Accepted, Asked, note_answer
from api.jobs.status import mark_awaited, read_job
from shared.broker.wakeups import CHANNEL
from shared.database.arrays import text_array
from shared.database.plans import BY_INDEX
from shared.states import Action, JobState

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


_UNSEEN = frozenset({401, 404})  # what a key gets that is revoked, or limited, while it waits

IN_FORCE_WITHIN = 1.0  # seconds in which an action is in force, unless a chunk is stuck

_PUBLISHED = ("deleted", "notFound", "deletedIdentifiers", "notFoundIdentifiers", "jobId", "status")
_FURTHER = ("wouldDelete", "restored", "conflict", "invalid")  # counts that only some jobs have


async def answer_accepted(
    request: Request,
    asked: Asked,
    accepting: Coroutine[Any, Any, Accepted],
    *,
    preferred: int | None,
) -> Answer:
    """202 with the job, or 200 with its results, which a key that is revoked meanwhile does not
    get.

    Raises what `accepting` raises.
    """
    state = request.app.state
    with state.waiter.expecting(asked.job_id) as ended:
        accepted = await accepting
        if accepted.state == JobState.QUEUED and not accepted.replayed:
            state.sender.send(accepted.queue)
        headers = {"Idempotency-Replayed": "true"} if accepted.replayed else {}
        if _may_end_in_time(accepted) and (
            published := await _results_in_time(request, asked, accepted, ended)
        ):
            applied = (
                {"Preference-Applied": f"wait={accepted.wait}"} if preferred is not None else {}
            )
            return success(published, headers=headers | applied)
    return _accepted(accepted, headers)


async def answer_requested(
    state: State, asked: Asked, action: Action, requesting: Coroutine[Any, Any, Accepted]
) -> Answer:
    """200 with the job once the action is in force, or 202 if that takes long. Raises what
    `requesting` raises.
    """
    with state.waiter.expecting(asked.job_id) as settled:
        accepted = await requesting
        if accepted.replayed:
            return _requested(accepted, action, {"Idempotency-Replayed": "true"})
        state.sender.send()
        now, wanted = await state_of(state.engine, asked.job_id)
        if wanted:
            await wait_for(settled, IN_FORCE_WITHIN)
            now, wanted = await state_of(state.engine, asked.job_id)
    answered = accepted._replace(state=now)
    if answered != accepted:
        await note_answer(state.engine, asked, answered)
    return _requested(answered, action, {})


def _may_end_in_time(accepted: Accepted) -> bool:
    late = (
        accepted.run_at and (accepted.run_at - accepted.created_at).total_seconds() >= accepted.wait
    )
    return accepted.wait > 0 and not late


async def _results_in_time(
    request: Request, asked: Asked, accepted: Accepted, ended: asyncio.Event
) -> dict[str, Any] | None:
    """The published synchronous shape, if the job completes within the time that its first caller
    was ready to wait.
    """
    state = request.app.state
    if accepted.job_id == asked.job_id:
        await wait_for(ended, accepted.wait)
    else:
        with state.waiter.expecting(accepted.job_id) as the_other_ended:
            job = await read_job(state.engine, asked.key, accepted.job_id)
            if (
                job.took is None
                and job.age < accepted.wait
                and await mark_awaited(state.engine, accepted.job_id)
            ):
                await wait_for(the_other_ended, accepted.wait - job.age)
    try:
        job = await read_job(
            state.engine, await state.authenticator.key_now(request), accepted.job_id
        )
    except ApiError as error:
        if error.status not in _UNSEEN:
            raise
        return None
    if job.body["status"] != JobState.COMPLETED or job.took is None or job.took > accepted.wait:
        return None
    further = [
        name for count in _FURTHER if job.body[count] for name in (count, f"{count}Identifiers")
    ]
    omitted = ["identifiersOmitted", "resultsUrl"] if job.body["identifiersOmitted"] else []
    return {name: job.body[name] for name in (*_PUBLISHED, *further, *omitted) if name in job.body}


def _accepted(accepted: Accepted, headers: dict[str, str]) -> Answer:
    status_url = f"/api/v1/jobs/{accepted.job_id}"
    return success(
        _body(accepted, status_url), 202, {"Location": status_url, "Retry-After": "1"} | headers
    )


def _requested(accepted: Accepted, action: Action, headers: dict[str, str]) -> Answer:
    if not is_in_force(action, JobState(accepted.state)):
        return _accepted(accepted, headers)
    status_url = f"/api/v1/jobs/{accepted.job_id}"
    return success(_body(accepted, status_url), headers={"Location": status_url} | headers)


def _body(accepted: Accepted, status_url: str) -> dict[str, Any]:
    return {
        "jobId": str(accepted.job_id),
        "status": accepted.state,
        "statusUrl": status_url,
        "total": accepted.total,
        "createdAt": time_text(accepted.created_at),
        "runAt": time_text(accepted.run_at),
    }
