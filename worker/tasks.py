"""The one Celery task. Its message says that a queue has work; what to do stands in the database."""

from functools import cache

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from shared.broker import RUN_NEXT, Sender
from shared.database import create_sync_engine
from shared.settings import settings
from shared.wakeups import Announcer
from worker import runner
from worker.app import app

log = structlog.get_logger()


# All are made by the first task of a pool process: an engine or a thread of the parent's would not survive the fork.
@cache
def _engine() -> Engine:
    return create_sync_engine(settings(), "worker", pool_size=1, max_overflow=0)


@cache
def _sender() -> Sender:
    return Sender(settings().broker_url)


@cache
def _announcer() -> Announcer:
    return Announcer(settings().limiter_url)


@app.task(name=RUN_NEXT)
def run_next(queue: str) -> None:
    """Works on `queue` for one turn. Never raises for what the database says: the ticker will send again."""
    try:
        runner.run_next(_engine(), queue, _sender().send, _announcer().announce)
    except DBAPIError as error:  # whose text may hold identifiers
        state = getattr(error.orig, "sqlstate", None)
        mend = "check that the database is up, and its log; work goes on by itself"
        log.warning("work put off", error=type(error.orig).__name__, sqlstate=state, mend=mend)
