"""Runs chunks: the second transaction of each, in which its leads are deleted, its outcomes written and, with the last one,
its job finished. Whatever dies, that transaction happened wholly or not at all, and its chunk is then done or claimable.

A claim that is not the chunk's last any more (its lease ran out, or was revoked for a pause) finds nothing to do.
"""

import random
import time
from collections.abc import Sequence
from itertools import count

import structlog
from psycopg import errors
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from shared.archive import HAS_ARCHIVE
from shared.broker import JOBS_QUEUE
from shared.identifiers import FORM
from shared.sqlstates import is_refusal, is_transient
from shared.states import Mode, Outcome
from worker.claimer import MAX_ATTEMPTS, Claim, claim, give_back
from worker.entries import Entries, read_again
from worker.finisher import NOBODY, ArchiveAppeared, DecidedChunk, Finished, Wake, finish, tell
from worker.previewer import Place, conclude, preview
from worker.restorer import restore
from worker.steerer import carry_out_requests
from worker.taker import KnownLeads, Manner, look_up_and_take, take_known

TURN = 0.1  # seconds of work for one message, so that one message costs 1 ms per 100
RETRIES = 5  # of a chunk whose transaction met a deadlock, a lock time-out or a lost connection
LOCKED_RETRIES = 1  # where somebody holds a lead: waiting keeps the worker from jobs that nobody holds up
FIRST_PAUSE = 0.1  # seconds before the first retry; the longest pause doubles with each, so that all fit into a lease

# Lock waits end long before the lease does, and a frozen worker keeps its locks for 10 s at most. The limits are in force
# before the row is locked: a locking clause works on the rows of the join.
_LOCK_CHUNK = text(f"""
    WITH limits AS MATERIALIZED (
        SELECT set_config('lock_timeout', '2s', true), set_config('statement_timeout', '15s', true),
            set_config('idle_in_transaction_session_timeout', '10s', true)
    )
    SELECT external_ids, phone_numbers, outcomes, written_external_ids, written_phone_numbers,
        lead_ids, lead_external_ids, lead_phone_numbers,
        EXISTS ( -- row, before, delete
            SELECT FROM pg_trigger WHERE tgrelid = 'leads'::regclass AND NOT tgisinternal AND tgtype & 11 = 11
        ) AS has_veto,
        CASE WHEN :is_old OR written_external_ids IS NOT NULL OR written_phone_numbers IS NOT NULL
            THEN (SELECT form FROM canonical_forms) END AS stored_form,
        :erases AND {HAS_ARCHIVE} AS has_archive
    FROM limits CROSS JOIN chunks
    WHERE job_id = :job_id AND number = :number AND state = 'pending' AND retry_at = :lease_end FOR UPDATE OF chunks
""")

log = structlog.get_logger()


def run_next(engine: Engine, queue: str, wake: Wake) -> None:
    """Works on the queue's chunks for about TURN, carries out what was asked of jobs, and sends one message.

    Finding nothing to do, it just ends. Between chunks of another queue it looks for ordinary jobs: they never wait for longer
    than one chunk, and a queue's message still does one chunk of it at least.
    """
    end_of_turn = time.monotonic() + TURN
    if claimed := _claim_of(engine, queue):
        run_chunk(engine, claimed, wake)
    carry_out_requests(engine, wake)
    while claimed:
        if time.monotonic() >= end_of_turn:
            wake.workers(queue)
            return
        if claimed := _claim_of(engine, JOBS_QUEUE) or (_claim_of(engine, queue) if queue != JOBS_QUEUE else None):
            run_chunk(engine, claimed, wake)


def _claim_of(engine: Engine, queue: str) -> Claim | None:
    with engine.begin() as connection:
        return claim(connection, queue)


def run_chunk(engine: Engine, claimed: Claim, wake: Wake = NOBODY) -> None:
    """Decides a claimed chunk, retrying what is nobody's fault; else its lease runs out and the attempt counts."""
    careful = False
    for retry in count():
        try:
            with engine.begin() as connection:
                finished = _decide_chunk(connection, claimed, careful=careful)
            if finished is None:  # the chunks that were pending then may have been committed meanwhile
                with engine.begin() as connection:
                    finished = (conclude if claimed.dry_run else finish)(connection, claimed.job_id)
            if finished:
                tell(finished, wake)
        except ArchiveAppeared:
            continue
        except DBAPIError as error:
            if is_refusal(error) and not careful:
                careful = True
            elif not is_transient(error):
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


def _decide_chunk(connection: Connection, claimed: Claim, *, careful: bool) -> Finished | None:
    """The transaction of a chunk, and of its job's end if it is the last. A chunk that is done already is left alone."""
    erases = claimed.mode == Mode.DELETE
    values = {"job_id": claimed.job_id, "number": claimed.number, "lease_end": claimed.lease_end}
    values |= {"campaign_id": claimed.campaign_id, "erases": erases, "is_old": claimed.form < FORM}
    row = connection.execute(_LOCK_CHUNK, values).one_or_none()
    if row is None:
        return None
    part = _part_of(row.outcomes, claimed.most)
    entries = Entries(*(column and column[part] for column in row[:5]))
    known = KnownLeads(row.lead_ids, row.lead_external_ids, row.lead_phone_numbers)
    leads = KnownLeads._make(column and column[part] for column in known)
    try_former = row.stored_form is not None and row.stored_form < FORM
    manner = Manner(careful, veto=row.has_veto, has_archive=row.has_archive, try_former=try_former)
    takes = not claimed.dry_run and claimed.attempts <= MAX_ATTEMPTS
    if claimed.attempts > MAX_ATTEMPTS:
        outcomes = bytes(outcome or Outcome.FAILED for outcome in entries.outcomes)
        log.error("chunk failed", job=str(claimed.job_id), chunk=claimed.number, attempts=MAX_ATTEMPTS)
    elif claimed.dry_run:
        outcomes = preview(connection, claimed, _today(claimed, entries), Place(part, known, len(row.outcomes)), manner)
    elif claimed.mode == Mode.RESTORE:
        outcomes = restore(connection, claimed.job_id, entries, leads, careful=careful)
    elif leads.ids is not None:
        outcomes = take_known(connection, claimed, entries, leads, manner)
    else:
        outcomes = look_up_and_take(connection, claimed, _today(claimed, entries), manner)
    before, after = bytes(row.outcomes[: part.start]), bytes(row.outcomes[part.stop :])
    archiveless = claimed.campaign_id if takes and erases and not row.has_archive else None
    return finish(connection, claimed.job_id, DecidedChunk(claimed.number, before + outcomes + after, archiveless))


def _today(claimed: Claim, entries: Entries) -> Entries:
    """The entries as today's rules read them, where the job was accepted by former ones."""
    return read_again(entries, claimed.phone_region) if claimed.form < FORM else entries


def _part_of(outcomes: Sequence[int], most: int | None) -> slice:
    """The entries to be worked on now: all of a chunk, or those up to the last that the job's pace allows."""
    if most is None:
        return slice(0, len(outcomes))
    undecided = [i for i, outcome in enumerate(outcomes) if not outcome]
    return slice(undecided[0], undecided[most] if most < len(undecided) else len(outcomes))
