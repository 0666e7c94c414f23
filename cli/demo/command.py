"""`leadsweep demo`: the first thing that a newcomer runs."""

import click
from leadsweep.terminal import options
from leadsweep.terminal.output import show
from leadsweep.terminal.signals import stop_by_signals


@click.command()
@options.as_json
def demo(*, as_json: bool) -> None:
    """Show the main job on real servers, from nothing to the final status.

    Starts PostgreSQL, Redis, the API, a worker, a deliverer and the ticker in a temporary folder,
    loads 10,000 leads, sends a bulk delete of 1,000, receives and verifies its webhook, checks
    every outcome, and leaves nothing running and nothing behind. With --json the story goes to
    stderr.
    """
    # Before the imports: one of them tries out the temporary folder, and would leave a file there.
    stop_by_signals()
    from cli.demo.showcase import run_showcase

    result = run_showcase(story_on_stderr=as_json)
    if as_json:
        show(result, "", as_json=True)
