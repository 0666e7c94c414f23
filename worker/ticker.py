"""Makes up for everything that can be lost, and minds the clock: once a second it queues jobs that
are due, finishes jobs whose worker died before it could, carries out requests, and sends messages
while there is work. It depends on the database only, keeps nothing in memory, and may run any
number of times: every step is harmless to repeat.
"""

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import structlog
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from shared.broker.sender import JOB_QUEUES, WEBHOOKS_QUEUE, Sender
from shared.broker.wakeups import Announcer, Wake
from shared.database.engines import create_worker_engine
from shared.database.plans import NOW
from shared.process import logs
from shared.process.environment import look_at_servers, process_settings
from shared.process.heartbeats import beat, forget_the_dead
from shared.process.streams import guard_streams
from shared.settings import Settings
from shared.states import ACTIVE_STATES, quoted
from worker.claimer import is_anything_claimable
from worker.finisher import tell, unfinished
from worker.previewer import conclude
from worker.purger import purge_archive, purge_identifiers, purge_keys
from worker.scheduler import close_windows, queue_due
from worker.steerer import carry_out_requests

REQUESTS_A_ROUND = 1000  # carried out, which takes some 2 s then

PERIOD = 1.0  # seconds; what lost or wiped messages cost
SHORTEST_PAUSE = 0.05  # seconds between looks at paced jobs

_STOP = {signal.SIGTERM, signal.SIGINT}

# One step that cannot go on, as somebody holds a row, must not keep the others from their turn.
_LIMITS = text(
    "SELECT set_config('lock_timeout', '500ms', true), set_config('statement_timeout', '30s', true)"
)

_DELIVERY_IS_DUE = text(f"""
    SELECT (
        SELECT true FROM deliveries WHERE state = 'pending' AND due_at <= {NOW}
        ORDER BY due_at LIMIT 1
    ) IS NOT NULL
""")

# Those whose pace lets them go on before the next round is due. One that is due and was sent for a
# moment ago counts until a worker has claimed it, which moves its time on; one that has been due
# for a whole round waits for something else.
_NEXT_PACED = text(f"""
    SELECT (
        SELECT extract(epoch FROM paced_at - clock_timestamp())::float FROM jobs
        WHERE paced_at > {NOW} - CAST(:period AS interval) AND state IN ({quoted(ACTIVE_STATES)})
        ORDER BY paced_at LIMIT 1
    )
""")

log = structlog.get_logger()


def tick(engine: Engine, settings: Settings, wake: Wake) -> None:
    """One round: every step in transactions of its own. A step that fails is logged, and has its
    next try in a second.
    """

    def in_transaction(step: Callable[[Connection], None]) -> Callable[[], None]:
        def run() -> None:
            with engine.begin() as connection:
                connection.execute(_LIMITS)
                step(connection)

        return run

    def purge(connection: Connection) -> None:
        purge_identifiers(connection, timedelta(days=settings.retention_days))
        purge_archive(connection, timedelta(days=settings.archive_days))
        purge_keys(connection)

    for step in (
        in_transaction(_show_life),
        in_transaction(queue_due),
        lambda: _send_for_work(engine, wake),
        in_transaction(close_windows),
        lambda: carry_out_requests(engine, wake, REQUESTS_A_ROUND),
        lambda: _finish_forgotten(engine, wake),
        in_transaction(purge),
    ):
        try:
            step()
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            log.warning(
                "round failed",
                error=type(cause).__name__,
                hint="check DATABASE_URL and that the database is up",
            )


def _show_life(connection: Connection) -> None:
    beat(connection, "ticker")
    forget_the_dead(connection)


def _send_for_work(engine: Engine, wake: Wake) -> None:
    with engine.begin() as connection:
        queues = queues_with_work(connection)
    for queue in queues:
        wake.workers(queue)


def queues_with_work(connection: Connection) -> list[str]:
    """Those with something that could be claimed."""
    queues = [queue for queue in JOB_QUEUES if is_anything_claimable(connection, queue)]
    return (
        [*queues, WEBHOOKS_QUEUE] if connection.execute(_DELIVERY_IS_DUE).scalar_one() else queues
    )


def _finish_forgotten(engine: Engine, wake: Wake) -> None:
    with engine.begin() as connection:
        job_ids = unfinished(connection)
    for job_id in job_ids:
        try:
            with engine.begin() as connection:
                connection.execute(_LIMITS)
                finished = conclude(connection, job_id)
        except SQLAlchemyError as error:
            log.warning(
                "job not finished",
                job=str(job_id),
                error=type(getattr(error, "orig", error)).__name__,
            )
        else:
            if finished:
                tell(finished, wake)


def run(engine: Engine, settings: Settings, wake: Wake) -> None:
    """Ticks once a second, and sends for paced jobs when they may go on, until SIGTERM or SIGINT
    comes.
    """
    while True:
        next_round = time.monotonic() + PERIOD
        tick(engine, settings, wake)
        while (left := next_round - time.monotonic()) > 0:
            pace = _seconds_until_paced(engine, left)
            if signal.sigtimedwait(_STOP, pace):
                return
            if pace < left:
                send_for_paced(engine, wake)


def _seconds_until_paced(engine: Engine, longest: float) -> float:
    """Seconds, at most `longest`, until a paced job may go on."""
    try:
        with engine.begin() as connection:
            seconds = connection.execute(
                _NEXT_PACED, {"period": timedelta(seconds=PERIOD)}
            ).scalar_one()
    except SQLAlchemyError:  # the next round says so
        return longest
    return longest if seconds is None else min(longest, max(SHORTEST_PAUSE, seconds))


def send_for_paced(engine: Engine, wake: Wake) -> None:
    """Sends for what may go on by now."""
    with suppress(SQLAlchemyError):
        _send_for_work(engine, wake)


def main() -> None:
    """`leadsweep ticker`: runs until SIGTERM or SIGINT."""
    # Before any thread begins; signals wait to be fetched between rounds.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    guard_streams()
    settings = process_settings()
    logs.configure(settings)
    look_at_servers(settings)
    sender = Sender(settings.broker_url)
    engine = create_worker_engine(settings, "ticker", pool_size=1, max_overflow=0)
    log.info("ticker ready")
    run(engine, settings, Wake(Announcer(settings.limiter_url).announce, sender.top_up))
    sender.close()


if __name__ == "__main__":
    main()
