"""What commands print: the result on stdout, as text for people or JSON for scripts, and remarks on stderr.

So `KEY=$(leadsweep keys create …)` and `leadsweep leads count … --json | jq .count` both do what one hopes for.
"""

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH = 1000  # columns; what is piped must not be wrapped or cut to some terminal's width


def show(result: Mapping[str, object], text: str, *, as_json: bool) -> None:
    """Prints `result` as one line of JSON, its times as the API has them, or else `text`."""
    click.echo(json.dumps(result, ensure_ascii=False, default=moment) if as_json else text)


def printable(text: str) -> str:
    """`text` on one line, and without what would steer a terminal: others may have written it."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def remark(text: str) -> None:
    """Says something to the person at the terminal that is not part of the result, if anybody listens."""
    with suppress(BrokenPipeError):
        click.echo(text, err=True)


def console(*, stderr: bool = False) -> "Console":
    """A Rich console: coloured on a terminal, plain and unwrapped in a pipe."""
    from rich.console import Console

    piped = not (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=_PIPE_WIDTH if piped else None, highlight=False, markup=False, emoji=False)


def moment(time: datetime | None) -> str | None:
    """`time` as the API writes it: UTC, ISO 8601, three decimals, `Z`."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if time else None
