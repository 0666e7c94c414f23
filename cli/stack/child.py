"""One process of the stack and its restarts: how soon it is started again, and what is printed
about its death.
"""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from leadsweep.terminal.failure import Failure

from cli.stack.processes import last_words

_LONGEST_PAUSE = 1.0  # seconds before a child that keeps dying is started again
_SETTLED_SECONDS = 5.0  # a child that has lived longer did not die because of its start

Process = subprocess.Popen[bytes]


class Child:
    """A process that is started anew as often as it dies."""

    def __init__(
        self,
        role: str,
        start: Callable[[], Process],
        log: Path,
        first: Callable[[], Process] | None = None,
    ) -> None:
        """Starts the process: by `first` if it is given, later by `start`."""
        self.role = role
        self.deaths = 0
        self._start = start
        self._log = log
        self._pause = 0.0  # seconds
        self._died_at: float | None = None  # by the monotonic clock, as the next
        self._started_at = time.monotonic()
        self._log_size = self._size_of_log()
        self.process = (first or start)()

    def look(self) -> str | None:
        """Starts the process again if it is dead and its pause is over. Returns a line about that.
        The pause grows while the process dies soon after each start.
        """
        if self.process.poll() is None:
            return None
        if self._died_at is None:
            self.deaths += 1
            self._died_at = time.monotonic()
            settled = self._died_at - self._started_at > _SETTLED_SECONDS
            self._pause = 0.0 if settled else min(_LONGEST_PAUSE, self._pause * 2 + 0.05)
        if time.monotonic() < self._died_at + self._pause:
            return None
        return self._start_again()

    def _start_again(self) -> str:
        words, dead, size = last_words(self._log, self._log_size), self.process, self._size_of_log()
        try:
            self.process = self._start()
        except (OSError, Failure) as error:
            self._died_at, self._pause = time.monotonic(), _LONGEST_PAUSE
            return f"{self.role} could not be started: {error}; will try again"
        self._died_at, self._started_at, self._log_size = None, time.monotonic(), size
        return (
            f"{self.role} (pid {dead.pid}) {_fate(dead)}, started again as pid "
            f"{self.process.pid}; its last words: {words}"
        )

    def _size_of_log(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0


def _fate(process: Process) -> str:
    code = process.returncode
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
