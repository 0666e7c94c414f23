"""Stderr, and stdout where it is a log too: a process goes on as if nothing had happened if a line
cannot be written.

A disk may be full, a terminal be closed, or nobody read the other end of a pipe. Then lines are
lost, and counted: once lines can be written again, the next one says how many were lost.
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

# Seconds for which a reader that does not read is waited for, once: no request may wait longer for
# the log.
READER_TIMEOUT = 0.1

# Characters that steer a terminal. A library, or an error that nobody caught, may write them past
# what makes text harmless. Our own colours and progress are let through to a terminal.
_STEERING = re.compile(
    r"(\r|\x1b\[(?:[0-9;]*[mKA]|\?25[lh]))"
    r"|[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)
_PAUSE = 0.005  # seconds, where there is room, but too little for what is written
_STDOUT, _STDERR = 1, 2


class Unfailing(io.TextIOBase):
    """Writes to a file of the system, and never raises. It has no buffer, which would fail once
    more when the process ends.
    """

    encoding = "utf-8"

    def __init__(self, number: int, reader_timeout: float | None) -> None:
        """`number` is that of the open file. A reader is waited for so many seconds, or for ever
        where it is None.
        """
        self._number = number
        self.reader_timeout = reader_timeout
        self._file = _not_blocking(number)
        self._is_stuck = False
        self._lost = 0  # lines since the last that was written
        self._is_torn = False  # whether a part of the last one was
        self.notice: Callable[[int], str | None] = _lines_lost
        """The line that says how many were lost."""

    def fileno(self) -> int:
        """The number of the open file."""
        return self._number

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._number)

    def writable(self) -> bool:
        """Always true."""
        return True

    def write(self, text: str) -> int:
        """Writes all of it, or loses what cannot be written. Characters that steer a terminal are
        escaped.
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

        def escaped(steering: re.Match[str]) -> str:
            is_our_own = steering[1] is not None
            if is_our_own and is_terminal:
                return steering[0]
            return steering[0].encode("unicode_escape").decode()

        return _STEERING.sub(escaped, text)

    def _write(self, part: memoryview) -> int:
        """Writes as much as there is room for, once there is some. Raises BlockingIOError if there
        is none in time.
        """
        seconds = 0 if self._is_stuck else self.reader_timeout
        deadline = None if seconds is None else time.monotonic() + seconds
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
    """Opens a pipe or a terminal once more, as a file of our own on which no write blocks. Returns
    any other file as it is.

    The file that was given is shared with other processes, which would be surprised if it did not
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


def guard_streams(*, reader_timeout: float | None = READER_TIMEOUT, stdout: bool = False) -> None:
    """Makes stderr Unfailing, and `stdout` too if asked. A second call changes the time-out.

    A standard file that is closed is opened on /dev/null: otherwise the next file that is opened
    would get its number, and all that is written to it. Streams that are not the system's, such as
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
        sys.stderr.reader_timeout = reader_timeout
    elif (
        sys.stderr is None
        or sys.stderr is sys.__stderr__
        # The client has this module too, by another name: it has guarded the `leadsweep` command.
        or type(sys.stderr).__qualname__ == Unfailing.__qualname__
    ):
        sys.stderr = Unfailing(_STDERR, reader_timeout)
    if stdout and sys.stdout is sys.__stdout__:
        sys.stdout = Unfailing(_STDOUT, reader_timeout)
