"""Makes up for everything that can be lost: once a second it finishes jobs whose worker died before it could, and sends
messages while there is work that none may be waiting for. It depends on the database only, keeps nothing in memory, and
may run any number of times: every step is harmless to repeat.
"""

import signal
import time

import structlog
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from shared import logs
from shared.broker import Sender
from shared.database import create_sync_engine
from shared.environment import process_settings
from shared.heartbeats import beat, forget_the_dead
from worker.finisher import finish_forgotten, tell

PERIOD = 1.0  # seconds; what lost or wiped messages cost

_STOP = {signal.SIGTERM, signal.SIGINT}

_QUEUES_WITH_WORK = text("""
    SELECT queue FROM (SELECT DISTINCT queue FROM jobs WHERE state IN ('queued', 'running')) AS busy
    WHERE EXISTS (
        SELECT FROM jobs JOIN chunks ON job_id = jobs.id
        WHERE jobs.queue = busy.queue AND jobs.state IN ('queued', 'running')
            AND chunks.state = 'pending' AND retry_at <= clock_timestamp()
    )
""")

log = structlog.get_logger()


def tick(engine: Engine) -> list[str]:
    """One round; returns the queues that have claimable work."""
    with engine.begin() as connection:
        beat(connection, "ticker")
        forget_the_dead(connection)
        ended = finish_forgotten(connection)
        queues = list(connection.execute(_QUEUES_WITH_WORK).scalars())
    for finished in ended:
        tell(finished)
    return queues


def run(engine: Engine, sender: Sender) -> None:
    """Ticks once a second until SIGTERM or SIGINT comes; a round that fails is logged and the next one tries again."""
    while True:
        next_round = time.monotonic() + PERIOD
        try:
            for queue in tick(engine):
                sender.top_up(queue)
        except SQLAlchemyError as error:
            log.warning("round failed", error=type(error).__name__, mend="check DATABASE_URL and that the database is up")
        if signal.sigtimedwait(_STOP, max(0.0, next_round - time.monotonic())):
            return


def main() -> None:
    """`python -m worker.ticker`: runs until SIGTERM or SIGINT."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)  # before any thread begins; they wait to be fetched between rounds
    settings = process_settings()
    logs.configure(settings)
    sender = Sender(settings.broker_url)
    engine = create_sync_engine(settings, "ticker", pool_size=1, max_overflow=0)
    log.info("ticker ready")
    run(engine, sender)
    sender.close()


if __name__ == "__main__":
    main()
