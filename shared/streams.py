"""Stderr, and stdout where it is a log too: what cannot be written changes nothing of what a process does.

A disk may be full, a terminal closed, or nobody read the other end of a pipe. Then lines are lost, and counted: once
they can be written again, the next one tells how many.
"""

import io
import os
import select
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 0.1  # seconds for a reader that does not read, once: no request may wait longer for the log

_STDOUT, _STDERR = 1, 2


class Unfailing(io.TextIOBase):
    """Writes to a file of the system without a buffer, which would fail once more at the end. Never raises."""

    encoding = "utf-8"

    def __init__(self, number: int, patience: float | None) -> None:
        """`number` is the file's. Who reads it is waited for so many seconds, for ever where that is None."""
        self._number = number
        self._patience = patience
        self._is_stuck = False
        self._lost = 0  # lines since the last that was written
        self._is_torn = False  # whether a part of the last one was
        self.notice: Callable[[int], str | None] | None = None
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
        """Writes all of it, or loses what cannot be written."""
        whole = text
        if self._lost:
            line = self.notice(self._lost) if self.notice else None
            whole = "\n" * self._is_torn + (f"{line}\n" if line else "") + text
        left = memoryview(whole.encode(self.encoding, "backslashreplace"))
        size = len(left)
        try:
            while left:
                self._wait_for_room()
                left = left[os.write(self._number, left[: select.PIPE_BUF]) :]
        except OSError:
            self._is_torn = len(left) < size or self._is_torn
            self._lost += text.count("\n")
        else:
            self._lost = 0
            self._is_stuck = self._is_torn = False
        return len(text)

    def _wait_for_room(self) -> None:
        """Returns once a pipe takes as much as is written at a time. Raises BlockingIOError if it does not."""
        patience = 0 if self._is_stuck else self._patience
        if not select.select((), (self._number,), (), patience)[1]:
            self._is_stuck = True
            raise BlockingIOError


def guard_streams(*, patience: float | None = PATIENCE, stdout: bool = False) -> None:
    """From now on stderr is Unfailing, and `stdout` where it is said.

    Those of the three standard files that are closed are opened on nothing: what is opened next would have their
    numbers, and get what is written there. Streams that are not the system's, as those of a test, stay as they are.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - for as long as the process lives
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = Unfailing(_STDERR, patience)
    if stdout and sys.stdout is sys.__stdout__:
        sys.stdout = Unfailing(_STDOUT, patience)
