"""The one Celery task. Its message says that a queue has work; what to do stands in the database."""

from functools import cache

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from shared.broker import RUN_NEXT, Sender
from shared.database import create_sync_engine
from shared.settings import settings
from worker import runner
from worker.app import app

log = structlog.get_logger()


# Both are made by the first task of a pool process: an engine or a thread of the parent's would not survive the fork.
@cache
def _engine() -> Engine:
    return create_sync_engine(settings(), "worker", pool_size=1, max_overflow=0)


@cache
def _sender() -> Sender:
    return Sender(settings().broker_url)


@app.task(name=RUN_NEXT)
def run_next(queue: str) -> None:
    """Works on `queue` for one turn. Never raises for a database that is away: the ticker will send again."""
    try:
        runner.run_next(_engine(), queue, _sender().send)
    except OperationalError as error:
        log.warning("work put off", error=type(error.orig).__name__, mend="check that the database is up; work goes on by itself")
