"""The console of the demo, which shows a moving sign while something is being done."""

import sys

from rich.console import Console

_PIPE_WIDTH = 1000  # columns, so that nothing in a pipe is wrapped or cut


def output_console(*, stderr: bool = False) -> Console:
    """A Rich console: coloured on a terminal, plain and unwrapped in a pipe."""
    piped = not (sys.stderr if stderr else sys.stdout).isatty()
    return Console(
        stderr=stderr,
        width=_PIPE_WIDTH if piped else None,
        highlight=False,
        markup=False,
        emoji=False,
    )
