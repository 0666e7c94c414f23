"""Watches a job: how much is done, how fast, how long it will take. It keeps watching while the
server restarts.
"""

import math
import sys
import time
from collections import deque
from typing import TYPE_CHECKING

import click

from leadsweep.commands.jobs.view import summary
from leadsweep.commands.server import INTERRUPTED, WaitFailure
from leadsweep.terminal.output import remark

if TYPE_CHECKING:
    from leadsweep import Job
    from leadsweep.commands.caller import Caller

LOOK_EVERY = 0.5  # seconds between two looks
LOOK_TIMEOUT = 5.0  # seconds for one look, before the next is begun
PLAIN_EVERY = 10.0  # seconds between two lines in a pipe
RATE_SPAN = 10.0  # seconds over which the rate is averaged

_BACK = "\r\x1b[K"  # to the beginning of the line, and erase it


def watch(server: "Caller", job_id: str, timeout: float | None, *, accepted: bool = False) -> "Job":
    """The job once it is final; progress goes to stderr. Raises Failure when the time is over, Exit
    when interrupted.

    A job that was just `accepted` is known to exist, so the server may be away from the beginning.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    progress = _Progress()
    server.tell = progress.say
    try:
        if accepted:
            left = LOOK_TIMEOUT if timeout is None else timeout
            job = _look(server, job_id, left, progress)
        else:
            job = server.job(job_id, timeout=timeout)
        while not (job and job.final):
            if job:
                progress.show(job)
            left = deadline - time.monotonic()
            if left <= 0:
                state = job.status if job else "under way"
                raise WaitFailure(
                    f"job {job_id} is still {state} after {timeout:g} s; it goes on", _again(job_id)
                )
            time.sleep(min(LOOK_EVERY, left))
            job = _look(server, job_id, max(0.0, deadline - time.monotonic()), progress) or job
    except KeyboardInterrupt:
        progress.end()
        remark(f"detached; the job goes on. {_again(job_id).capitalize()}")
        raise click.exceptions.Exit(INTERRUPTED) from None
    finally:
        progress.end()
    remark(summary(job))
    return job


def _look(server: "Caller", job_id: str, left: float, progress: "_Progress") -> "Job | None":
    """The job; None where the server does not answer now."""
    from leadsweep import RateLimited, ServerFailed, ServerNotReached

    try:
        return server.job(job_id, timeout=min(LOOK_TIMEOUT, left))
    except (ServerNotReached, ServerFailed):
        progress.say("the server does not answer; trying again")
    except RateLimited:
        progress.say("the key has used up its calls for now; trying again")
        time.sleep(min(LOOK_TIMEOUT, left))
    return None


def _again(job_id: str) -> str:
    return f"watch it again: leadsweep watch {job_id}"


class _Progress:
    """One line on a terminal, redrawn; a line now and then in a pipe."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._samples: deque[tuple[float, int]] = deque()
        self._last = ("", 0.0)
        self._drawn = False

    def show(self, job: "Job") -> None:
        """Shows how far the job is."""
        now = time.monotonic()
        self._samples.append((now, job.processed))
        while now - self._samples[0][0] > RATE_SPAN:
            self._samples.popleft()
        began, before = self._samples[0]
        rate = (job.processed - before) / (now - began) if now > began else 0.0
        words = [
            job.status,
            f"{job.processed:,} of {job.total:,} ({job.processed * 100 // job.total} %)",
        ]
        if rate:
            words += [f"{rate:,.0f}/s", f"{_span((job.total - job.processed) / rate)} left"]
        if job.waiting_for:
            words.append(f"waits: {job.waiting_for.detail}")
        self.say("  ".join(words), kind=job.waiting_for.detail if job.waiting_for else job.status)

    def say(self, text: str, kind: str = "trouble") -> None:
        """Prints `text`. In a pipe it does so only if the last text was of another kind, or is a
        while ago.
        """
        if self._terminal:
            remark(text, head=_BACK, end="")
            self._drawn = True
            return
        last, at = self._last
        if kind != last or time.monotonic() - at >= PLAIN_EVERY:
            remark(text)
            self._last = (kind, time.monotonic())

    def end(self) -> None:
        """Erases the line on the terminal."""
        if self._drawn:
            remark("", head=_BACK, end="")
            self._drawn = False


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds) + 1, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
