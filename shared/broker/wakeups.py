"""Wakes others after a commit: the workers of a queue, and, through Redis, the API processes in
which calls wait for a job.

A wake-up may be lost without harm: a process in which calls wait looks at the database every second
as well. So publishing never raises, and a Redis that is down or frozen costs PUBLISH_TIMEOUT once a
second, not once a job.
"""

import time
from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

CHANNEL = "leadsweep:jobs"
PUBLISH_TIMEOUT = 0.05  # seconds
BREAK = 1.0  # seconds until the next try after a failure

log = structlog.get_logger()


class Wake(NamedTuple):
    """How others are woken after a commit: calls that wait for a job, and the workers of a queue.

    Neither function raises, and a wake-up may be lost.
    """

    callers: Callable[[UUID], object]
    workers: Callable[[str], object]


NOBODY = Wake(lambda _: None, lambda _: None)


class Announcer:
    """Publishes the ids of jobs. Without a Redis it does nothing."""

    def __init__(self, redis_url: str) -> None:
        """`redis_url` is empty where there is no Redis. Connects with the first announcement."""
        options = {
            "socket_timeout": PUBLISH_TIMEOUT,
            "socket_connect_timeout": PUBLISH_TIMEOUT,
            "retry": Retry(NoBackoff(), 0),
        }
        self._redis = Redis.from_url(redis_url, **options) if redis_url else None
        self._next_try = 0.0

    def announce(self, job_id: UUID) -> None:
        """Wakes the calls that wait for the job. Never raises."""
        if self._redis is None or time.monotonic() < self._next_try:
            return
        try:
            self._redis.publish(CHANNEL, str(job_id))
        except (RedisError, OSError) as error:
            self._next_try = time.monotonic() + BREAK
            log.warning(
                "wake-up not sent",
                error=type(error).__name__,
                hint="check REDIS_URL; calls that wait look at the database each second",
            )
