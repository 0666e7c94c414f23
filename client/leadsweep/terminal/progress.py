"""Shows how far a long command is, in a line on the terminal that is erased at its end. In a pipe
nothing is shown.
"""

import io
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar

from leadsweep.terminal.output import remark

T = TypeVar("T")

# Shows what is being done, how much of it is done, out of how much, and the unit; all but the first
# may be left out.
Show = Callable[..., None]

BYTES_AT_A_TIME = 1 << 16  # of a file that is read
ITEMS_BETWEEN_LOOKS = 1000
BAR_WIDTH = 20  # columns
REDRAW_SECONDS = 0.1

_ERASE = "\r\x1b[K"  # to the beginning of the line, and erase it


@contextmanager
def progress(*, is_wanted: bool = True) -> Iterator[Show]:
    """Yields a function that shows how far the command is: `show("sending", 3, 7, "bytes")`, or
    `show("committing")`.
    """
    can_erase = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if not (is_wanted and can_erase):
        yield lambda *_: None
        return
    line = _Line()

    def show(words: str, done: int = 0, total: int | None = None, unit: str = "") -> None:
        line.show(words, done, total, unit)

    try:
        yield show
    finally:
        line.erase()


class _Line:
    """The line on the terminal that says what is being done, how much of it, and for how long."""

    def __init__(self) -> None:
        self._words = ""
        self._began = self._drawn_at = 0.0

    def show(self, words: str, done: int, total: int | None, unit: str) -> None:
        """Draws the line anew if something else is being done now, or a moment has passed."""
        now = time.monotonic()
        if words != self._words:
            self._words, self._began = words, now
        elif now - self._drawn_at < REDRAW_SECONDS:
            return
        self._drawn_at = now
        parts = [words]
        if total:
            filled = min(BAR_WIDTH, BAR_WIDTH * done // total)
            parts.append("[" + "#" * filled + " " * (BAR_WIDTH - filled) + "]")
        if unit:
            parts.append(f"{done:,}{f' of {total:,}' if total else ''} {unit}")
        minutes, seconds = divmod(int(now - self._began), 60)
        text = "  ".join([*parts, f"{minutes}:{seconds:02}"])
        # A line that is too long would go on below, and only its end would be erased.
        width = shutil.get_terminal_size().columns - 1
        remark(text[:width], head=_ERASE, end="")

    def erase(self) -> None:
        """Leaves the line empty."""
        if self._words:
            remark("", head=_ERASE, end="")


def counted(items: Iterable[T], show: Show, words: str, total: int, unit: str) -> Iterator[T]:
    """The `items`; how many have been taken is shown on the way."""
    for number, item in enumerate(items):
        if number % ITEMS_BETWEEN_LOOKS == 0:
            show(words, number, total, unit)
        yield item


def watched(file: BinaryIO, show: Show, words: str, then: str) -> BinaryIO:
    """A reader of `file`, from where it stands, which shows how much of it has been read, and after
    its end shows `then`.
    """
    return io.BufferedReader(_Watched(file, show, words, then), BYTES_AT_A_TIME)


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
    """The bytes of a file on disk; None for a pipe, a terminal and the like."""
    try:
        status = os.fstat(file.fileno())
    except OSError:  # it is not a file of the operating system
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
