"""The Celery application of workers and deliverers: its sign of life, and how it outlives its
broker's outages.
"""

import os
import threading
import time
import warnings
from typing import Any

import structlog
from celery import signals
from celery.exceptions import SecurityWarning
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from shared.broker.sender import create_celery
from shared.database.engines import create_worker_engine
from shared.process import logs
from shared.process.environment import process_settings
from shared.process.heartbeats import BEAT_SECONDS, beat
from shared.settings import settings
from worker import claimer, outbox

RECONNECT_SECONDS = 1.0
# Seconds without a message, while work lies idle, after which this process or the broker is stuck.
SILENCE_TIMEOUT = 15.0

# Celery has been seen to stay up and deaf after its broker and its pool were killed while it
# started. The ticker sends a message each second while there is work, so a worker that gets no
# message is useless: it ends, and its supervisor starts it anew.
_WORK_LIES_IDLE = {"worker": claimer.lies_idle, "deliverer": outbox.lies_idle}

_last_message = [time.monotonic()]

log = structlog.get_logger()


class PatientConsumer(Consumer):
    """Celery's consumer, but one that tries again every second: its own pauses grow to 30 s, and
    work would wait as long.
    """

    def ensure_connected(self, conn: Any) -> Any:
        """Returns `conn` once it is connected, however long that takes; ends when the worker is
        told to stop.
        """

        def tell(error: Exception, _interval: float) -> None:
            log.warning(
                "broker not reached",
                error=f"{type(error).__name__}: {error}",
                hint="check BROKER_URL and that the broker is up",
            )

        return conn.ensure_connection(
            tell,
            None,
            interval_start=RECONNECT_SECONDS,
            interval_step=0,
            interval_max=RECONNECT_SECONDS,
            callback=maybe_shutdown,
        )


# Celery warns root of pickled messages; ours are JSON, nothing else is accepted, and containers may
# well run as root.
warnings.filterwarnings("ignore", category=SecurityWarning)

app = create_celery(process_settings().broker_url)
# `role` is ours: "worker" or "deliverer".
app.conf.update(imports=("worker.tasks",), worker_consumer=PatientConsumer, role="worker")

_stopping = threading.Event()


@signals.setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    logs.configure(settings())


@signals.worker_ready.connect
def _start_beating(**_: Any) -> None:
    # In the parent, with a connection for each beat: so a forked pool process inherits none.
    threading.Thread(target=_beat_until_stopped, name="heartbeat", daemon=True).start()
    if app.conf.role == "deliverer":
        log.info("deliverer ready")
    else:
        log.info("worker ready")


@signals.worker_shutting_down.connect
def _stop_beating(**_: Any) -> None:
    _stopping.set()


@signals.task_received.connect
def _note_message(**_: Any) -> None:
    _last_message[0] = time.monotonic()


def _beat_until_stopped() -> None:
    role = app.conf.role
    engine = create_worker_engine(settings(), "heartbeat", poolclass=NullPool)
    while True:
        try:
            with engine.begin() as connection:
                beat(connection, role, app.conf.worker_concurrency or 1)
                deaf = time.monotonic() - _last_message[0] > SILENCE_TIMEOUT
                forgotten = deaf and _WORK_LIES_IDLE[role](connection, SILENCE_TIMEOUT)
        except SQLAlchemyError as error:
            log.warning(
                "no heartbeat",
                error=type(error).__name__,
                hint="check DATABASE_URL and that the database is up",
            )
        else:
            if forgotten:
                log.error(
                    "worker gives up", hint="none needed where it is restarted; else start it again"
                )
                os._exit(1)
        if _stopping.wait(BEAT_SECONDS):
            return
