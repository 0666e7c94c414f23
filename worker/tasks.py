"""The one Celery task. Its message says that a queue has work; what to do stands in the
database.
"""

import threading
from datetime import timedelta
from functools import cache

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from shared.broker.sender import RUN_NEXT, WEBHOOKS_QUEUE, Sender
from shared.broker.wakeups import Announcer, Wake
from shared.credentials import Vault
from shared.database.engines import create_worker_engine
from shared.database.sqlstates import sqlstate
from shared.settings import settings
from worker import runner
from worker.app import app
from worker.deliverer import Terms, deliver_next

log = structlog.get_logger()


CONNECTIONS = 8  # of a deliverer: its threads need one for a moment before and after each POST

_one_at_a_time = threading.Lock()  # a deliverer's threads begin together


# Made by the first task of a process: an engine or a thread of the parent's would not survive the
# fork.
@cache
def _engine(role: str, connections: int) -> Engine:
    return create_worker_engine(settings(), role, pool_size=connections, max_overflow=0)


@cache
def _wake() -> Wake:
    return Wake(Announcer(settings().limiter_url).announce, Sender(settings().broker_url).send)


@cache
def _terms() -> Terms:
    return Terms(Vault(settings().secrets_key), settings().webhook_allow)


@app.task(name=RUN_NEXT)
def run_next(queue: str) -> None:
    """Works on `queue` for one turn. Never raises for what the database says: the ticker will send
    again.
    """
    delivers = queue == WEBHOOKS_QUEUE
    with _one_at_a_time:
        engine, wake = (
            _engine("deliverer", CONNECTIONS) if delivers else _engine("worker", 1),
            _wake(),
        )
    try:
        if delivers:
            deliver_next(engine, _terms(), wake)
        else:
            runner.run_next(engine, queue, wake, timedelta(seconds=settings().lock_wait))
    except (DBAPIError, PoolTimeoutError) as error:  # whose text may hold identifiers
        hint = "check that the database is up, and its log; work goes on by itself"
        log.warning(
            "work put off",
            error=type(getattr(error, "orig", error)).__name__,
            sqlstate=sqlstate(error),
            hint=hint,
        )
