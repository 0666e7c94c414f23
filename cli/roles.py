"""`leadsweep api`, `worker`, `deliverer` and `ticker`: the four processes, one command each.

They start from any folder. `python -m api` looks for modules in the current folder first, and
somebody's folder may hold an `api/`, a `shared/` or a `celery.py` of its own; these commands look
where Leadsweep is installed, and nowhere else. The supervisor of `leadsweep up` starts its children
by them, as `python -P -m cli.roles ROLE`: so they need not wait for the imports of all the other
commands.
"""

import gc
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def _importing() -> Iterator[None]:
    """Switches the garbage collector off during imports: it would walk through all modules again
    and again and free nothing, a sixth of the time. Nor does it walk through them later.
    """
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


@contextmanager
def _whole_traceback() -> Iterator[None]:
    """Ends the process with exit code 1 and a traceback for an error that nobody expected. The
    output of these processes is a log, and whoever reads it needs the whole traceback.
    """
    try:
        yield
    except Exception:  # noqa: BLE001 - whatever it is, the log tells where it came from
        traceback.print_exc()
        sys.exit(1)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 is any.",
)
@_whole_traceback()
def api(host: str, port: int) -> None:
    """Run the API: one process that answers callers.

    It ends on SIGTERM or SIGINT; requests in hand have five seconds to end.
    """
    with _importing():
        from api.__main__ import serve
    serve(host, port)


@click.command()
@click.option(
    "--processes",
    default=2,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many processes work on jobs; best one for each core.",
)
@_whole_traceback()
def worker(processes: int) -> None:
    """Run a worker: it carries out jobs.

    It ends on SIGTERM, once the work in hand is done.
    """
    with _importing():
        from worker.__main__ import work
    sys.exit(work(processes))


@click.command()
@click.option(
    "--threads",
    default=128,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many webhooks are sent at once; each waits for its receiver most of the time.",
)
@_whole_traceback()
def deliverer(threads: int) -> None:
    """Run a deliverer: it sends webhooks.

    It ends on SIGTERM, once the work in hand is done.
    """
    with _importing():
        from worker.__main__ import deliver
    sys.exit(deliver(threads))


@click.command()
@_whole_traceback()
def ticker() -> None:
    """Run a ticker: once a second it starts jobs that are due, and makes up for lost messages.

    It ends on SIGTERM or SIGINT.
    """
    with _importing():
        from worker.ticker import main
    main()


if __name__ == "__main__":
    click.Group(
        "leadsweep", {"api": api, "worker": worker, "deliverer": deliverer, "ticker": ticker}
    )()
