"""The Celery app and the only place that sends messages.

A message says "queue q has work" and nothing else: it may be lost, doubled, late or reordered
without effect, since the jobs and chunks tables hold the truth and the ticker sends anew. So
sending never waits and never fails: it happens in a thread of its own, bounded in time, and what
cannot be sent is dropped and logged.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog
from celery import Celery
from celery.loaders.app import AppLoader
from kombu import Exchange, Queue

from shared.broker.health import refuse_to_wait
from shared.broker.urls import celery_options, is_redis

JOBS_QUEUE = "jobs"
OFF_PEAK_QUEUE = "off-peak"
WEBHOOKS_QUEUE = "webhooks"
JOB_QUEUES = (JOBS_QUEUE, OFF_PEAK_QUEUE)
RUN_NEXT = "leadsweep.run_next"

# A few messages wake all idle workers; each worker that finds more work sends the next one itself.
BURST = 4
# Seconds of rest after each message. Without them the thread would take a third of the
# interpreter's time under load, which requests need.
PAUSE = 0.004
# Seconds until the next try after a failure, so that a frozen Redis does not keep the thread busy.
BREAK = 1.0

log = structlog.get_logger()


class _Loader(AppLoader):
    """Imports what is installed. Celery's own loader looks in the current folder first, where a
    `shared/` of somebody else's may lie, or a module with the name of one that we need.
    """

    def import_from_cwd(
        self, module: str, imp: Callable[..., Any] | None = None, package: str | None = None
    ) -> Any:
        """The module, as any import finds it."""
        return (imp or self.import_module)(module, package=package)


def create_celery(broker_url: str) -> Celery:
    """The Celery app of workers and senders alike; see docs/decisions for where the settings come
    from.
    """
    app = Celery("leadsweep", loader=_Loader)
    app.conf.update(
        celery_options(broker_url),
        # The anonymous exchange routes by queue name alone, so there is no binding in Redis that
        # FLUSHALL could take away.
        task_queues=[
            Queue(queue, Exchange(""), routing_key=queue) for queue in (*JOB_QUEUES, WEBHOOKS_QUEUE)
        ],
        task_default_queue=JOBS_QUEUE,
        task_default_exchange="",
        task_default_routing_key=JOBS_QUEUE,
        task_create_missing_queues=False,
        task_acks_late=True,
        # True would redeliver a message that kills its worker for ever.
        task_reject_on_worker_lost=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        # Seconds. There is no soft limit: if its signal came during COMMIT, a failure would be
        # reported that did not happen.
        task_time_limit=60,
        task_publish_retry=False,
        task_serializer="json",
        accept_content=["json"],
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        # A chunk in hand needs no broker to be committed.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_pool_limit=2,
        broker_connection_timeout=2,
        broker_transport_options=(_REDIS_OPTIONS if is_redis(broker_url) else {}),
    )
    return app


_REDIS_OPTIONS: dict[str, Any] = {
    "visibility_timeout": 300,
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,
    "unacked_mutex_expire": 30,
    "socket_timeout": 5,
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "retry_on_timeout": False,
    "global_keyprefix": "leadsweep:",
}


_AMQP_BOUNDS: dict[str, Any] = {"read_timeout": 1, "write_timeout": 1, "on_blocked": refuse_to_wait}


class Sender:
    """Sends wake-up messages from a thread of its own. Calls take microseconds, whatever the
    broker does.
    """

    def __init__(self, broker_url: str) -> None:
        """Opens nothing yet: the thread and its connection come with the first message."""
        self._app = create_celery(broker_url)
        bounds = (
            {"socket_timeout": 1, "socket_connect_timeout": 0.5}
            if is_redis(broker_url)
            else _AMQP_BOUNDS
        )
        options = self._app.conf.broker_transport_options | bounds
        self._app.conf.update(broker_transport_options=options)
        self._other_nodes = broker_url.count(";")
        self._connection: Any = None
        self._producer: Any = None
        self._due: dict[str, int] = {}  # messages to be sent, by queue
        self._low: set[str] = set()  # queues to be topped up
        self._wake = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def send(self, queue: str = JOBS_QUEUE) -> None:
        """Asks for one message to `queue`. While messages pile up, BURST of them stand for all."""
        with self._wake:
            self._due[queue] = min(BURST, self._due.get(queue, 0) + 1)
            self._rouse()

    def top_up(self, queue: str) -> None:
        """Asks for as many messages as `queue` lacks to BURST: it has work, and its messages may
        all have been lost.
        """
        with self._wake:
            self._low.add(queue)
            self._rouse()

    def close(self) -> None:
        """Ends the thread once what it has in hand is sent, or 2 s later."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread:
            self._thread.join(timeout=2)

    def _rouse(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
            self._thread.start()
        self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._due or self._low or self._closed)
                due, self._due = self._due, {}
                low, self._low = self._low, set()
            if not due and not low:
                self._hang_up()
                return
            try:
                self._publish(due, low)
                pause = PAUSE * sum(max(0, count) for count in due.values())
            except Exception as error:  # noqa: BLE001 - whatever the transport raises, the ticker makes up for it
                log.warning(
                    "messages not sent",
                    error=f"{type(error).__name__}: {error}",
                    hint="check BROKER_URL; work goes on by itself",
                )
                pause = BREAK
                self._hang_up()
            with self._wake:
                self._wake.wait_for(lambda: self._closed, timeout=pause)

    def _connected(self) -> Any:
        """A producer on the one connection of this thread. Raises what the transport raises."""
        if self._producer is None:
            self._connection = self._app.connection_for_write()
            self._connection.ensure_connection(
                max_retries=self._other_nodes, interval_start=0, interval_step=0
            )
            self._producer = self._app.amqp.Producer(self._connection)
        return self._producer

    def _hang_up(self) -> None:
        """Ends the connection: an answer that is late would be taken for that to the next call."""
        connection, self._connection, self._producer = self._connection, None, None
        with suppress(Exception):  # a connection that is lost: what it raises says nothing new
            connection.collect()

    def _publish(self, due: dict[str, int], low: set[str]) -> None:
        """Adds to `due` what the `low` queues lack, and sends all of it."""
        producer = self._connected()
        for queue in low:
            waiting = producer.channel.queue_declare(
                queue, durable=True, auto_delete=False
            ).message_count
            due[queue] = max(due.get(queue, 0), BURST - waiting)
        for queue, count in due.items():
            for _ in range(count):
                self._app.send_task(
                    RUN_NEXT, args=(queue,), queue=queue, producer=producer, retry=False
                )
