"""Runs chunks: the second transaction of each, in which its leads are deleted, its outcomes written and, with the last one,
its job finished. Whatever dies, that transaction happened wholly or not at all, and its chunk is then done or claimable.
"""

import random
import time
from collections.abc import Callable
from itertools import count

import structlog
from psycopg import OperationalError, errors
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from shared.states import Outcome
from worker.claimer import MAX_ATTEMPTS, Claim, claim, give_back
from worker.decider import Entries, decide
from worker.finisher import DecidedChunk, Finished, finish, tell
from worker.taker import careful_taker, fast_taker, is_refusal

TURN = 0.1  # seconds of work for one message, so that one message costs 1 ms per 100
RETRIES = 5  # of a chunk whose transaction met a deadlock, a lock time-out or a lost connection
LOCKED_RETRIES = 1  # where somebody holds a lead: waiting keeps the worker from jobs that nobody holds up
FIRST_PAUSE = 0.1  # seconds before the first retry; the longest pause doubles with each, so that all fit into a lease

# Lock waits end long before the lease does, and a frozen worker keeps its locks for 10 s at most. The limits are in force
# before the row is locked: a locking clause works on the rows of the join.
_LOCK_CHUNK = text("""
    WITH limits AS MATERIALIZED (
        SELECT set_config('lock_timeout', '2s', true), set_config('statement_timeout', '15s', true),
            set_config('idle_in_transaction_session_timeout', '10s', true)
    )
    SELECT external_ids, phone_numbers, outcomes FROM limits CROSS JOIN chunks
    WHERE job_id = :job_id AND number = :number AND state = 'pending' FOR UPDATE OF chunks
""")

_TRANSIENT = (
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.LockNotAvailable,
    errors.ReadOnlySqlTransaction,  # a primary that has just been demoted
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.IdleInTransactionSessionTimeout,
)

log = structlog.get_logger()


def run_next(engine: Engine, queue: str, send: Callable[[str], None]) -> None:
    """Works on the queue's chunks for about TURN, then sends one message; finding nothing to do, it just ends."""
    end_of_turn = time.monotonic() + TURN
    while True:
        with engine.begin() as connection:
            claimed = claim(connection, queue)
        if claimed is None:
            return
        run_chunk(engine, claimed)
        if time.monotonic() >= end_of_turn:
            send(queue)
            return


def run_chunk(engine: Engine, claimed: Claim) -> None:
    """Decides a claimed chunk, retrying what is nobody's fault; else its lease runs out and the attempt counts."""
    careful = False
    for retry in count():
        try:
            with engine.begin() as connection:
                finished = _decide_chunk(connection, claimed, careful=careful)
            if finished is None:  # the chunks that were pending then may have been committed meanwhile
                with engine.begin() as connection:
                    finished = finish(connection, claimed.job_id)
            if finished:
                tell(finished)
        except DBAPIError as error:
            if is_refusal(error) and not careful:
                careful = True
            elif not _is_transient(error):
                raise
            elif retry < (LOCKED_RETRIES if isinstance(error.orig, errors.LockNotAvailable) else RETRIES):
                log.info("chunk retried", job=str(claimed.job_id), chunk=claimed.number, error=type(error.orig).__name__)
                time.sleep(random.uniform(0, FIRST_PAUSE * 2**retry))  # noqa: S311 - jitter, no secret
            else:
                log.warning("chunk given back", job=str(claimed.job_id), chunk=claimed.number, error=type(error.orig).__name__)
                _give_back_when_possible(engine, claimed)
                return
        else:
            return


def _give_back_when_possible(engine: Engine, claimed: Claim) -> None:
    """Where the database is away, nothing else can be done meanwhile. Raises OperationalError after half a minute."""
    for patience in reversed(range(30)):
        try:
            with engine.begin() as connection:
                give_back(connection, claimed)
        except DBAPIError:
            if not patience:
                raise
            time.sleep(1)
        else:
            return


def _is_transient(error: DBAPIError) -> bool:
    lost = isinstance(error.orig, OperationalError) and error.orig.sqlstate is None
    return lost or error.connection_invalidated or isinstance(error.orig, _TRANSIENT)


def _decide_chunk(connection: Connection, claimed: Claim, *, careful: bool) -> Finished | None:
    """The transaction of a chunk, and of its job's end if it is the last. A chunk that is done already is left alone."""
    row = connection.execute(_LOCK_CHUNK, {"job_id": claimed.job_id, "number": claimed.number}).one_or_none()
    if row is None:
        return None
    entries = Entries._make(row)
    if claimed.attempts > MAX_ATTEMPTS:
        outcomes = [outcome or Outcome.FAILED for outcome in entries.outcomes]
        log.error("chunk failed", job=str(claimed.job_id), chunk=claimed.number, attempts=MAX_ATTEMPTS)
    else:
        take = (careful_taker if careful else fast_taker)(connection, claimed.campaign_id)
        outcomes = decide(entries, phone_fallback=claimed.phone_fallback, take=take)
    return finish(connection, claimed.job_id, DecidedChunk(claimed.number, outcomes))
