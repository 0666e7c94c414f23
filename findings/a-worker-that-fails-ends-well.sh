#!/usr/bin/env bash
# Seen: Celery 5.7.0, 27 November 2026.
#
# One expects: a worker that ends because something is wrong ends with a code that is not 0, however it was started. The
# command `celery worker` does: it passes on the exit code of the worker. `app.worker_main([...])`, by which programs start
# workers of their own, drops it: the same worker, ended by the same WorkerShutdown(7), ends with 0. Whoever restarts what
# failed, and only that (systemd's Restart=on-failure, Docker's on-failure), leaves it down. Starting `app.Worker(...)` and
# ending with its `exitcode` tells the truth.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv "$work/python"
"$work/python/bin/pip" install --quiet celery==5.7.0
cat >"$work/trial.py" <<'PYTHON'
import sys

from celery import Celery, signals
from celery.worker import state

app = Celery("trial", broker="memory://")
OPTIONS = ["--pool", "solo", "--without-gossip", "--without-mingle", "--without-heartbeat"]


@signals.worker_ready.connect
def give_up(**_):
    state.should_stop = 7  # what the consumer's loop raises WorkerShutdown with


if __name__ == "__main__":
    if sys.argv[1] == "worker_main":
        app.worker_main(["--quiet", "worker", *OPTIONS])
    else:
        worker = app.Worker(pool_cls="solo", quiet=True)
        worker.start()
        sys.exit(worker.exitcode)
PYTHON

cd "$work"
seen=""
code=0 && python/bin/celery --quiet -A trial worker --pool solo --without-gossip --without-mingle --without-heartbeat >/dev/null 2>&1 || code=$?
seen+="celery worker: $code"$'\n'
code=0 && python/bin/python trial.py worker_main >/dev/null 2>&1 || code=$?
seen+="app.worker_main: $code"$'\n'
code=0 && python/bin/python trial.py Worker >/dev/null 2>&1 || code=$?
seen+="app.Worker: $code"
echo "$seen"
expected="celery worker: 7
app.worker_main: 0
app.Worker: 7"
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
