"""Stderr, and stdout where it is a log too: a line that cannot be written changes nothing about
what a process does.

A disk may be full, a terminal closed, or nobody read the other end of a pipe. Then lines are lost,
and counted: once they can be written again, the next one tells how many.
"""

import io
import os
import re
import select
import stat
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds for a reader that does not read, once: no request may wait longer for the log.
READER_TIMEOUT = 0.1

# What steers a terminal, whoever wrote it past the ways that make it harmless: a library, or an
# error that nobody caught. Our own colours and progress are let through to a terminal.
_STEERING = re.compile(
    r"(\r|\x1b\[(?:[0-9;]*[mKA]|\?25[lh]))"
    r"|[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)
_PAUSE = 0.005  # seconds, where there is room, but too little for what is written
_STDOUT, _STDERR = 1, 2


class Unfailing(io.TextIOBase):
    """Writes to a file of the system without a buffer, which would fail once more at the end. Never
    raises.
    """

    encoding = "utf-8"

    def __init__(self, number: int, patience: float | None) -> None:
        """`number` is the file's. A reader is waited for `patience` seconds, for ever where it is
        None.
        """
        self._number = number
        self.patience = patience
        self._file = _not_blocking(number)
        self._is_stuck = False
        self._lost = 0  # lines since the last that was written
        self._is_torn = False  # whether a part of the last one was
        self.notice: Callable[[int], str | None] = _lines_lost
        """The line that says how many were lost."""

    def fileno(self) -> int:
        """As of other files."""
        return self._number

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._number)

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str) -> int:
        """Writes all of it, or loses what cannot be written. What steers a terminal is written
        out.
        """
        characters = len(text)
        whole = text = self._harmless(text)
        if self._lost:
            line = self.notice(self._lost)
            whole = "\n" * self._is_torn + (f"{line}\n" if line else "") + text
        left = memoryview(whole.encode(self.encoding, "backslashreplace"))
        size = len(left)
        try:
            # A file takes all of it at once, so that lines of several processes stay whole; a pipe
            # takes so much.
            at_once = size if _is_regular(self._file) else select.PIPE_BUF
            while left:
                left = left[self._write(left[:at_once]) :]
        except OSError:
            self._is_torn = len(left) < size or self._is_torn
            self._lost += text.count("\n")
        else:
            self._lost = 0
            self._is_stuck = self._is_torn = False
        return characters

    def _harmless(self, text: str) -> str:
        if text.isprintable():
            return text
        is_terminal = self.isatty()

        def written(found: re.Match[str]) -> str:
            return (
                found[0] if found[1] and is_terminal else found[0].encode("unicode_escape").decode()
            )

        return _STEERING.sub(written, text)

    def _write(self, part: memoryview) -> int:
        """Writes as much as there is room for, once there is. Raises BlockingIOError if there is
        none.
        """
        patience = 0 if self._is_stuck else self.patience
        deadline = None if patience is None else time.monotonic() + patience
        while True:
            wait = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select((), (self._file,), (), wait)[1]:
                self._is_stuck = True
                raise BlockingIOError
            try:
                return os.write(self._file, part)
            except BlockingIOError:  # another writer has taken the room
                if wait == 0:
                    self._is_stuck = True
                    raise
                time.sleep(_PAUSE)


def _not_blocking(number: int) -> int:
    """A pipe or a terminal once more, as a file of our own to which no write waits; any other file
    as it is.

    The one that was given is shared with other processes, which would be surprised if it did not
    block.
    """
    try:
        if stat.S_ISFIFO(os.fstat(number).st_mode) or os.isatty(number):
            return os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        # No /proc, or the terminal is another user's: then a write may wait for other writers.
        pass
    return number


def _is_regular(number: int) -> bool:
    return stat.S_ISREG(os.fstat(number).st_mode)


def _lines_lost(number: int) -> str:
    return f"{number} lines could not be written"


def guard_streams(*, patience: float | None = READER_TIMEOUT, stdout: bool = False) -> None:
    """Makes stderr Unfailing, and `stdout` too if asked. A second call changes the patience.

    Those of the three standard files that are closed are opened on nothing: what is opened next
    would have their numbers, and get what is written there. Streams that are not the system's, as
    those of a test, stay as they are.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    if sys.stdout is None:  # sys.__stdout__ still tells that it was closed
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - for as long as the process lives
    if isinstance(sys.stderr, Unfailing):
        sys.stderr.patience = patience
    elif (
        sys.stderr is None
        or sys.stderr is sys.__stderr__
        # The client has this module too, by another name: it has guarded the `leadsweep` command.
        or type(sys.stderr).__qualname__ == Unfailing.__qualname__
    ):
        sys.stderr = Unfailing(_STDERR, patience)
    if stdout and sys.stdout is sys.__stdout__:
        sys.stdout = Unfailing(_STDOUT, patience)
