"""`python -m worker --processes N`: a Celery worker with N pool processes, which run jobs.

`python -m worker --webhooks --threads N`: a deliverer, a Celery worker with N threads, which send webhooks. Receivers are slow,
so it needs many; they share one process, as they do little but wait.
"""

import argparse

from shared.broker import JOB_QUEUES, WEBHOOKS_QUEUE
from shared.environment import process_settings
from worker.app import app


def main() -> None:
    """Runs until SIGTERM (ends what is in hand) or SIGQUIT."""
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument("--processes", type=int, default=2, help="pool processes, one a core, which run jobs (default: 2)")
    parser.add_argument("--webhooks", action="store_true", help="send webhooks instead")
    parser.add_argument("--threads", type=int, default=128, help="with --webhooks: how many are sent at once (default: 128)")
    chosen = parser.parse_args()
    if chosen.webhooks:
        process_settings(secrets=True)
        app.conf.role = "deliverer"
        pool = ["--pool", "threads", "--concurrency", str(chosen.threads), "--queues", WEBHOOKS_QUEUE]
    else:
        app.conf.worker_concurrency = chosen.processes
        pool = ["--pool", "prefork", "--concurrency", str(chosen.processes), "--queues", ",".join(JOB_QUEUES)]
    # What workers tell each other is broker traffic that nobody here listens to.
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    app.worker_main(["--quiet", "worker", *pool, *quiet])


if __name__ == "__main__":
    main()
