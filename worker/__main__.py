"""`python -m worker --processes N`: a Celery worker with N pool processes."""

import argparse

from shared.broker import QUEUES
from worker.app import app


def main() -> None:
    """Runs until SIGTERM (ends what is in hand) or SIGQUIT."""
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument("--processes", type=int, default=2, help="pool processes; one a core (default: 2)")
    processes = parser.parse_args().processes
    pool = ["--pool", "prefork", "--concurrency", str(processes), "--queues", ",".join(QUEUES)]
    # What workers tell each other is broker traffic that nobody here listens to.
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    app.worker_main(["--quiet", "worker", *pool, *quiet])


if __name__ == "__main__":
    main()
