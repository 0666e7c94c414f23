"""A Celery worker whose pool processes run jobs: `leadsweep worker`, or `python -m worker` in
Leadsweep's folder.

And a deliverer, a Celery worker whose threads send webhooks: `leadsweep deliverer`, or
`python -m worker --webhooks`. Receivers are slow, so it needs many threads; they share one process,
as they do little but wait.
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
from shared.settings import Settings
from worker.app import app

log = structlog.get_logger()


def main() -> int:
    """Works or delivers, as the arguments of the process say. Returns the exit code."""
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
    return deliver(chosen.threads) if chosen.webhooks else work(chosen.processes)


def work(processes: int) -> int:
    """Runs jobs in so many pool processes, until SIGTERM (ends what is in hand) or SIGQUIT.

    Returns the exit code, which is 0 for SIGTERM only.
    """
    settings = _begin(secrets=False)
    app.conf.worker_concurrency = processes
    return _run(settings, pool_cls="prefork", concurrency=processes, queues=list(JOB_QUEUES))


def deliver(threads: int) -> int:
    """Sends webhooks in so many threads, until SIGTERM or SIGQUIT. Returns the exit code, as
    `work` does.
    """
    settings = _begin(secrets=True)
    app.conf.role = "deliverer"
    return _run(settings, pool_cls="threads", concurrency=threads, queues=[WEBHOOKS_QUEUE])


def _begin(*, secrets: bool) -> Settings:
    guard_streams()
    settings = process_settings(secrets=secrets)
    logs.configure(settings)
    # Before the fork: what is found out holds for the pool processes too.
    look_at_servers(settings)
    return settings


def _run(settings: Settings, **pool: Any) -> int:
    # Workers tell each other things that nobody here listens to: traffic for the broker.
    quiet: dict[str, Any] = {
        "quiet": True,
        "without_gossip": True,
        "without_mingle": True,
        "without_heartbeat": True,
    }
    worker = app.Worker(**pool, **quiet)
    worker.start()
    if worker.exitcode and (flaw := broker_flaw(settings.broker_url, seconds=1)):
        log.error("broker not usable", error=flaw.finding, hint=flaw.hint)
    return int(worker.exitcode or 0)


if __name__ == "__main__":
    sys.exit(main())
