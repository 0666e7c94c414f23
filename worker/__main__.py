"""`python -m worker --processes N`: a Celery worker with N pool processes, which run jobs.

`python -m worker --webhooks --threads N`: a deliverer, a Celery worker with N threads, which send
webhooks. Receivers are slow, so it needs many; they share one process, as they do little but wait.
"""

import argparse
import sys
from typing import Any

import structlog

from shared.broker.health import broker_flaw
from shared.broker.sender import JOB_QUEUES, WEBHOOKS_QUEUE
from shared.process import logs
from shared.process.environment import look_at_servers, process_settings
from shared.process.streams import guard_streams
from worker.app import app

log = structlog.get_logger()


def main() -> int:
    """Runs until SIGTERM, which lets the work in hand end, or SIGQUIT. Returns the exit code, which
    is 0 for SIGTERM only.
    """
    guard_streams()
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument(
        "--processes",
        type=int,
        default=2,
        help="pool processes, one a core, which run jobs (default: 2)",
    )
    parser.add_argument("--webhooks", action="store_true", help="send webhooks instead")
    parser.add_argument(
        "--threads",
        type=int,
        default=128,
        help="with --webhooks: how many are sent at once (default: 128)",
    )
    chosen = parser.parse_args()
    settings = process_settings(secrets=chosen.webhooks)
    logs.configure(settings)
    # Before the fork: what is found out holds for the pool processes too.
    look_at_servers(settings)
    if chosen.webhooks:
        app.conf.role = "deliverer"
        pool, size, queues = "threads", chosen.threads, [WEBHOOKS_QUEUE]
    else:
        app.conf.worker_concurrency = chosen.processes
        pool, size, queues = "prefork", chosen.processes, list(JOB_QUEUES)
    # Workers tell each other things that nobody here listens to: traffic for the broker.
    quiet: dict[str, Any] = {
        "quiet": True,
        "without_gossip": True,
        "without_mingle": True,
        "without_heartbeat": True,
    }
    worker = app.Worker(pool_cls=pool, concurrency=size, queues=queues, **quiet)
    worker.start()
    if worker.exitcode and (flaw := broker_flaw(settings.broker_url, seconds=1)):
        log.error("broker not usable", error=flaw.finding, hint=flaw.hint)
    return int(worker.exitcode or 0)


if __name__ == "__main__":
    sys.exit(main())
