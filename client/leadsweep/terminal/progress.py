"""How far a long command is: a line on the terminal that is gone at its end. In a pipe nothing is
said.
"""

import io
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar

from leadsweep.terminal.output import console

T = TypeVar("T")

Show = Callable[
    ..., None
]  # of what is being done, how much of it is done, of how much, of what; the last three may be left out

PART = 1 << 16  # bytes of a file between two looks
ITEMS = 1000  # likewise


@contextmanager
def progress(*, is_wanted: bool = True) -> Iterator[Show]:
    """Yields what shows how far it is: `show("sending", 3, 7, "bytes")`, or
    `show("committing")`.
    """
    if not (is_wanted and sys.stderr.isatty()):
        yield lambda *_: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(20),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as bars:
        shown: Any = None
        now = ""

        def show(words: str, done: int = 0, total: int | None = None, unit: str = "") -> None:
            nonlocal shown, now
            counts = f"{done:,}{f' of {total:,}' if total else ''} {unit}" if unit else ""
            is_new = words != now
            if is_new:
                if now:
                    bars.remove_task(shown)
                now, shown = words, bars.add_task(words, total=total, counts="")
            bars.update(shown, completed=done, counts=counts, refresh=is_new)

        yield show


def counted(items: Iterable[T], show: Show, words: str, total: int, unit: str) -> Iterator[T]:
    """`items`, each shown as they are taken."""
    for number, item in enumerate(items):
        if number % ITEMS == 0:
            show(words, number, total, unit)
        yield item


def watched(file: BinaryIO, show: Show, words: str, then: str) -> BinaryIO:
    """`file`, read from where it is, which shows how much of it has been read; after its end what
    is done `then`.
    """
    return io.BufferedReader(_Watched(file, show, words, then), PART)


class _Watched(io.RawIOBase):
    def __init__(self, file: BinaryIO, show: Show, words: str, then: str) -> None:
        self._file = file
        self._show = show
        self._words = words
        self._then = then
        self._total = _size_on_disk(file)
        self._done = 0
        show(words, 0, self._total, "bytes")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._done = self._file.seek(offset, whence)
        return self._done

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        part = self._file.read(len(buffer))
        buffer[: len(part)] = part
        self._done += len(part)
        if part:
            self._show(self._words, self._done, self._total, "bytes")
        else:
            self._show(self._then)
        return len(part)


def _size_on_disk(file: BinaryIO) -> int | None:
    """Bytes of a file on disk; None of what is no such file, as a pipe or a terminal."""
    try:
        status = os.fstat(file.fileno())
    except OSError:  # it is none of the system's
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
