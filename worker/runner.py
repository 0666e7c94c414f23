"""Runs chunks: claims one, decides it in the transaction of worker.transaction, and sees to what
comes in between. Whatever dies, that transaction happened wholly or not at all, and its chunk is
then done or claimable. A claim that is not the chunk's last any more (its lease ran out, or was
revoked for a pause) finds nothing to do.

Work goes by time, not by number: where a chunk takes long, it is done in parts, and between any two
of them its worker is free for others. A setback is written down with the chunk or its job
(worker.setbacks).
"""

import random
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypeVar

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from shared.broker.sender import JOBS_QUEUE
from shared.broker.wakeups import NOBODY, Wake
from shared.database.foreign_keys import reason_of_slowness
from shared.database.locks import locked_table
from shared.database.sqlstates import (
    in_words,
    is_cancelled,
    is_locked,
    is_lost,
    is_refusal,
    is_transient,
    sqlstate,
)
from shared.process.heartbeats import worker_processes
from shared.settings import LOCK_WAIT
from shared.states import Outcome
from worker.claimer import MAX_ATTEMPTS, Claim, claim, pass_over
from worker.finisher import ArchiveAppeared, finish, tell
from worker.part import LONGEST_PART, PART_SECONDS, Part, TimeIsUp
from worker.previewer import conclude
from worker.setbacks import cut, hold, put_off
from worker.steerer import carry_out_requests
from worker.transaction import CampaignLocked, NotNow, Try, decide_part

TURN = 0.1  # seconds of work for one message, so that one message costs 1 ms per 100
RETRIES = 5  # of a part whose transaction met a deadlock or a lost connection, while its time lasts
# Seconds before the first retry; the longest pause doubles with each, so that all fit into a lease.
FIRST_PAUSE = 0.1
# Seconds for which a worker tries to write down what happened, before it remembers it for later.
GIVE_BACK_TIMEOUT = 30.0
# Seconds after which a chunk whose row another worker holds is tried again.
PAUSE_IN_HAND = 10.0
# Seconds after which a part that takes long looks again whether it may begin.
PAUSE_UNTIL_FREE = 1.0
# Seconds that a lead gets, where there is no other worker for others' jobs meanwhile.
LONGEST_OF_LONE_WORKER = 4

Answer = TypeVar("Answer")
Word = Callable[[Connection, Claim], None]
"""Of worker.setbacks: writes down what happened to a chunk."""

log = structlog.get_logger()


def run_next(engine: Engine, queue: str, wake: Wake, lock_wait: timedelta = LOCK_WAIT) -> None:
    """Works on the queue's chunks for about TURN, carries out what was asked of jobs, and sends one
    message.

    Finding nothing to do, it just ends. Between chunks of another queue it looks for ordinary jobs:
    they never wait for longer than one chunk, and a queue's message still does one chunk of it at
    least.
    """
    end_of_turn = time.monotonic() + TURN
    _write_down_what_was_left(engine)
    if claimed := _claim_of(engine, queue):
        run_chunk(engine, claimed, wake, lock_wait)
    carry_out_requests(engine, wake)
    while claimed:
        if time.monotonic() >= end_of_turn:
            wake.workers(queue)
            return
        if claimed := _claim_of(engine, JOBS_QUEUE) or (
            _claim_of(engine, queue) if queue != JOBS_QUEUE else None
        ):
            run_chunk(engine, claimed, wake, lock_wait)


def _claim_of(engine: Engine, queue: str) -> Claim | None:
    """Raises DBAPIError, also where so many rows of jobs are locked that it finds no other job in
    time.
    """
    try:
        with engine.begin() as connection:
            return claim(connection, queue)
    except DBAPIError as error:
        if not is_locked(error):
            raise
    log.warning(
        "job locked",
        queue=queue,
        hint="end the transaction that holds a row of jobs; others' have their turn meanwhile",
    )
    with engine.begin() as connection:
        pass_over(connection, queue)
    with engine.begin() as connection:
        return claim(connection, queue)


def run_chunk(
    engine: Engine, claimed: Claim, wake: Wake = NOBODY, lock_wait: timedelta = LOCK_WAIT
) -> None:
    """Decides a part of a claimed chunk, all of it if it can, or writes down what came in
    between.
    """
    # If the trouble that the chunk waited for comes again, it has not passed: it may be about a
    # lead.
    how = Try(_deadline(claimed), around_refused=claimed.waited, doubtful=claimed.waited)
    if claimed.attempts > MAX_ATTEMPTS:
        how.verdict = Outcome.FAILED
        log.error(
            "chunk failed", job=str(claimed.job_id), chunk=claimed.number, attempts=MAX_ATTEMPTS
        )
    for retry in count():
        part = Part(how.deadline)
        try:
            with engine.begin() as part.connection:
                finished = decide_part(part, claimed, how, lock_wait)
            if finished is None:
                # The chunks that were pending then may have been committed meanwhile.
                with engine.begin() as connection:
                    finished = (conclude if claimed.dry_run else finish)(connection, claimed.job_id)
            if finished:
                tell(finished, wake)
        except ArchiveAppeared:
            continue
        except Exception as error:  # noqa: BLE001 - whatever it is, the chunk is given back
            if not _Setback(engine, claimed, how, part, error).handle(retry):
                return
        else:
            return


def _deadline(claimed: Claim) -> float:
    return time.monotonic() + (claimed.part_seconds or PART_SECONDS)


class _Setback:
    """An error that came between a part and its end, and what to do about it."""

    def __init__(
        self, engine: Engine, claimed: Claim, how: Try, part: Part, error: Exception
    ) -> None:
        self._engine, self._claimed = engine, claimed
        self._how, self._part, self._error = how, part, error
        self._chunk = {"job": str(claimed.job_id), "chunk": claimed.number}

    def handle(self, retry: int) -> bool:
        """Deals with the error. True: the part is to be tried again at once. Otherwise the reason
        is written down.
        """
        error, how = self._error, self._how
        if isinstance(error, NotNow):
            self._write(partial(put_off, seconds=PAUSE_UNTIL_FREE))
        elif isinstance(error, CampaignLocked):
            hint = (
                "end the transaction that moves or deletes the campaign, or has it locked; "
                "work goes on by itself"
            )
            log.warning("campaign locked", hint=hint, **self._chunk)
            detail = "the campaign is being moved or deleted, or locked for that"
            self._write(partial(hold, reason="locked", detail=detail))
        elif isinstance(error, TimeIsUp) or (is_cancelled(error) and self._part.is_over):
            return self._give_more_time()
        elif is_locked(error):
            return self._lead_around_locks()
        elif is_transient(error) and retry < RETRIES:
            if is_lost(error):
                how.deadline = _deadline(self._claimed)
            log.info(
                "part tried again",
                error=type(error).__name__,
                sqlstate=sqlstate(error),
                **self._chunk,
            )
            time.sleep(random.uniform(0, FIRST_PAUSE * 2**retry))  # noqa: S311 - jitter, no secret
            return True
        elif is_refusal(error) and not how.around_refused:
            how.around_refused = True
            return True
        else:
            self._hold()
        return False

    def _give_more_time(self) -> bool:
        """A part that is cut is halved; a lead alone gets twice the time, until that is as much as
        one may have.
        """
        size, seconds = self._part.size, self._claimed.part_seconds or int(PART_SECONDS)
        if size is None:  # not even its chunk could be locked in time
            self._write(partial(put_off, seconds=PAUSE_UNTIL_FREE))
            return False
        reason = self._ask(reason_of_slowness)
        log.warning("leads take long", leads=size, seconds=seconds, hint=reason, **self._chunk)
        longest = LONGEST_PART if (self._ask(worker_processes) or 0) > 1 else LONGEST_OF_LONE_WORKER
        if size > 1:
            self._write(partial(cut, size=size // 2, of_job=True))
        elif seconds < longest:
            self._write(partial(cut, size=1, seconds=min(longest, seconds * 2)))
        else:
            return self._settle(Outcome.TOO_SLOW, reason)
        return False

    def _lead_around_locks(self) -> bool:
        """Tries again without the leads that are locked; where that is not enough, as rows that go
        with a lead are locked, lead by lead.
        """
        size = self._part.size
        if size and not self._how.skip_locked:
            self._how.skip_locked = True
            return True
        if table := self._ask(locked_table):
            detail = f"the table {table} is locked"
            hint = "end the transaction that holds it; pg_locks names it"
            log.warning("table locked", table=table, hint=hint, **self._chunk)
            state = sqlstate(self._error)
            self._write(partial(hold, reason="locked", detail=detail, sqlstate=state))
        elif size is None:
            self._write(partial(put_off, seconds=PAUSE_IN_HAND))
        elif size > 1:
            self._write(partial(cut, size=size // 2))
        else:
            return self._settle(Outcome.WAITS_FOR_LOCK, None)
        return False

    def _settle(self, verdict: Outcome, detail: str | None) -> bool:
        self._how.verdict, self._how.detail = verdict, detail
        self._how.deadline = time.monotonic() + PART_SECONDS
        return True

    def _hold(self) -> None:
        """The job waits for the database to be well."""
        error = self._error
        detail = (
            f"the database answers: {in_words(error)}"
            if isinstance(error, DBAPIError)
            else f"the worker met {_raised_at(error)}"
        )
        hint = "check the database, and its log; work goes on by itself"
        log.warning(
            "job waits", error=type(error).__name__, detail=detail, hint=hint, **self._chunk
        )
        self._write(partial(hold, reason="database", detail=detail, sqlstate=sqlstate(error)))

    def _ask(self, question: Callable[[Connection], Answer]) -> Answer | None:
        """None where the database cannot answer now."""
        try:
            with self._engine.begin() as connection:
                return question(connection)
        except DBAPIError:
            return None

    def _write(self, word: Word) -> None:
        """Writes `word` down, or remembers it: without it, the attempt would count."""
        deadline = time.monotonic() + GIVE_BACK_TIMEOUT
        while not _try_to_write(self._engine, self._claimed, word):
            if time.monotonic() > deadline:
                _unwritten.append((self._claimed, word))
                return
            time.sleep(1)


_unwritten: list[tuple[Claim, Word]] = []


def _write_down_what_was_left(engine: Engine) -> None:
    while _unwritten and _try_to_write(engine, *_unwritten[0]):
        _unwritten.pop(0)


def _try_to_write(engine: Engine, claimed: Claim, word: Word) -> bool:
    try:
        with engine.begin() as connection:
            word(connection, claimed)
    except DBAPIError:
        return False
    return True


def _raised_at(error: Exception) -> str:
    """Its kind and where it was raised, without its text, which may hold identifiers."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}"
