"""Watches a job from outside: how much is done, how fast, how long it will take. Survives the
server's restarts.
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

    Of one that was just `accepted` no first answer is needed to know that it is there.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    progress = _Progress()
    server.tell = progress.say
    try:
        left = LOOK_TIMEOUT if timeout is None else timeout
        job = (
            _look(server, job_id, left, progress)
            if accepted
            else server.job(job_id, timeout=timeout)
        )
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
    """The job, if the server is there."""
    from leadsweep import RateLimited, ServerFailed, ServerNotReached

    try:
        return server.job(job_id, timeout=min(LOOK_TIMEOUT, left))
    except (ServerNotReached, ServerFailed):
        progress.say("the server is not reached; trying again")
    except RateLimited:
        progress.say("the key has used up its calls; trying again")
        time.sleep(min(LOOK_TIMEOUT, left))
    return None


def _again(job_id: str) -> str:
    return f"watch it again: leadsweep watch {job_id}"


class _Progress:
    """One line on a terminal, redrawn; a line now and then in a pipe."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._seen: deque[tuple[float, int]] = deque()
        self._last = ("", 0.0)
        self._drawn = False

    def show(self, job: "Job") -> None:
        """Where it stands now."""
        now = time.monotonic()
        self._seen.append((now, job.processed))
        while now - self._seen[0][0] > RATE_SPAN:
            self._seen.popleft()
        began, before = self._seen[0]
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
        """Says `text`; in a pipe only if it is of another kind than the last, or that is a while
        ago.
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
        """Leaves the terminal's line empty."""
        if self._drawn:
            remark("", head=_BACK, end="")
            self._drawn = False


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds) + 1, 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min"
        if hours
        else f"{minutes} min {rest} s"
        if minutes
        else f"{rest} s"
    )
