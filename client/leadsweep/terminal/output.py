"""What commands print: the result on stdout, as text for people or JSON for scripts, and remarks on
stderr.

So `KEY=$(leadsweep keys create …)` and `leadsweep leads count … --json | jq .count` both work. All
that is printed goes through here, since callers and servers may have written parts of it, which
must not steer the terminal.
"""

import json
import os
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from leadsweep.rules.printable import printable, printable_json

Row = TypeVar("Row")
Columns = Mapping[str, Callable[[Any], object]]  # the heads of a table, and the cell of a row


def show(result: Mapping[str, object], text: str, *, as_json: bool) -> None:
    """Prints `result` as one line of JSON, its times as the API has them, or else `text`."""
    if as_json:
        click.echo(printable_json(json.dumps(result, ensure_ascii=False, default=moment)))
    else:
        say(text)


def say(text: str, *, head: str = "") -> None:
    """Prints `text` on one line of stdout; the `head` before it is our own, and may steer the
    terminal.
    """
    click.echo(head + printable(text), color=_colour())


def remark(text: str, *, head: str = "", end: str = "\n") -> None:
    """Prints to stderr what is for the person at the terminal and not part of the result.

    `head` and `end` are our own, and may steer the terminal.
    """
    click.echo(f"{head}{printable(text)}{end}", err=True, nl=False, color=_colour())


def _colour() -> bool | None:
    """For click: no colour where NO_COLOR is set, else click's own choice."""
    return False if os.environ.get("NO_COLOR") else None


@contextmanager
def told_if_slow(
    text: str, seconds: float, tell: Callable[[str], None] = remark
) -> Iterator[Callable[[float], None]]:
    """Tells `text` once if the block takes longer than `seconds`. Yields a function that gives the
    block so many more seconds from now on.
    """
    ended = threading.Event()
    deadline = time.monotonic() + seconds

    def extend(more: float) -> None:
        nonlocal deadline
        deadline = time.monotonic() + more

    def wait() -> None:
        while not ended.wait(max(0.0, deadline - time.monotonic())):
            if time.monotonic() >= deadline:
                tell(text)
                return

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    try:
        yield extend
    finally:
        ended.set()
        waiting.join()


def show_list(
    rows: Sequence[Row],
    described: Callable[[Row], Mapping[str, object]],
    columns: Columns,
    if_none: str,
    *,
    as_json: bool,
) -> None:
    """Prints rows of the database: as JSON, each as it is `described`, or as a table of
    `columns`. Where there are no rows, a person is told `if_none`.
    """
    if as_json:
        show({"items": [described(row) for row in rows]}, "", as_json=True)
        return
    if not rows:
        remark(if_none)
        return
    cells = [[str(cell(row)) for cell in columns.values()] for row in rows]
    head, *lines = table([[*columns], *cells])
    click.echo(click.style(head, bold=True), color=_colour())
    for line in lines:
        say(line)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table: each column is as wide as its widest cell, two blanks between them.

    It is the same at a terminal and in a pipe: the terminal wraps lines that are too long for it.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(width_of, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(padded, row, widths)).rstrip() for row in cells]


def padded(cell: str, width: int) -> str:
    """`cell` with blanks on its right up to `width` columns."""
    return cell + " " * (width - width_of(cell))


def width_of(text: str) -> int:
    """Columns that `text` takes in a terminal: two for each wide character, as Chinese, Japanese
    and Korean have.
    """
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def minute(time: datetime | None) -> str:
    """`time` as tables show it: UTC, to the minute."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%MZ}" if time else "never"


def moment(time: datetime | None) -> str | None:
    """`time` as the API writes it: UTC, ISO 8601, three decimals, `Z`."""
    if time is None:
        return None
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
