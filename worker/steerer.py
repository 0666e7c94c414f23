"""Carries out what was asked of jobs: pause, cancel, the end of a window, and the end of a job for
which the database was not well for a day.

A request is a mark on the job's row (`wanted`), from which on nothing of it is claimed. Here its
state changes, once no chunk is in hand: those that are being decided are waited for; those that are
claimed and not yet begun are taken back, as a claim whose lease has changed is void. Locks are
taken as a chunk's own transaction takes them, chunk before job.
"""

from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from shared.broker.wakeups import Wake
from shared.states import STARTED_STATES, SUM_OF_COUNTS, Outcome, Request, quoted
from shared.windows import next_opening, parse_window
from worker.finisher import Finished, tell
from worker.previewer import conclude
from worker.setbacks import NOT_WAITING

# Requests that a worker carries out in one turn: when a window shuts on thousands of jobs, its own
# work goes on.
REQUESTS_A_TURN = 10

_REQUESTS = text("""
    SELECT id, wanted FROM jobs WHERE wanted IS NOT NULL
    ORDER BY wanted = 'close', id LIMIT :limit
""")

# One at a time for each job: whoever else sees the request leaves it alone. A chunk in hand takes
# milliseconds. A frozen worker keeps its lock for 10 s: others' requests must not wait for it.
_BEGIN = text("""
    SELECT pg_try_advisory_xact_lock(hashtextextended(CAST(:job_id AS text), 0)) AS is_ours,
        set_config('lock_timeout', '500ms', true),
        set_config('idle_in_transaction_session_timeout', '10s', true)
""")

_WAIT_FOR_CHUNKS_IN_HAND = text("""
    SELECT 1 FROM chunks WHERE job_id = :job_id AND state = 'pending' AND retry_at > '-infinity'
        ORDER BY number FOR UPDATE
""")

_TAKE_BACK_CLAIMS = text("""
    UPDATE chunks SET retry_at = '-infinity', attempts = greatest(attempts - 1, 0)
    WHERE job_id = :job_id AND state = 'pending' AND retry_at > clock_timestamp()
""")

# After a job is resumed, locked leads are waited for as long again, and so is the database.
_FORGET_SETBACKS = text("""
    UPDATE chunks SET locked_since = NULL, held_since = NULL
    WHERE job_id = :job_id AND state = 'pending' AND coalesce(locked_since, held_since) IS NOT NULL
""")

_PAUSE = text(f"""
    UPDATE jobs SET state = 'paused', wanted = NULL, wanted_by = NULL,
        {NOT_WAITING},
        history = history || jsonb_build_object(
            'status', 'paused', 'at', clock_timestamp(), 'by', wanted_by
        )
    WHERE id = :job_id AND wanted = 'pause' AND state IN ({quoted(STARTED_STATES)})
""")

_WINDOW = text(
    "SELECT run_window, clock_timestamp() AS now FROM jobs WHERE id = :job_id AND wanted = 'close'"
)

# Until the window opens nothing is tried. That time does not count, nor does a window that was
# missed as a whole. Where the job waits for the database too, that wait ends first, and the time
# until then does not count for locks (worker.setbacks).
_STOP_THE_CLOCKS = text("""
    UPDATE chunks SET held_since = held_since + shut.time,
        locked_since = CASE
            WHEN waiting_since IS NULL THEN locked_since + shut.time ELSE locked_since
        END
    FROM jobs CROSS JOIN LATERAL (
        SELECT greatest(
            interval '0 s',
            :opens - CASE WHEN jobs.state = 'scheduled' THEN run_at ELSE clock_timestamp() END
        ) AS time
    ) AS shut
    WHERE jobs.id = :job_id AND job_id = :job_id AND chunks.state = 'pending'
        AND coalesce(locked_since, held_since) IS NOT NULL
""")

# The job goes on waiting for the database: in the next window that is over, or has lasted since.
_CLOSE = text(f"""
    UPDATE jobs SET state = 'scheduled', wanted = NULL, run_at = :opens, closes_at = :closes,
        history = CASE
            WHEN state = 'scheduled' THEN history
            ELSE history || jsonb_build_object(
                'status', 'scheduled', 'at', clock_timestamp(), 'by', NULL
            )
        END
    WHERE id = :job_id AND wanted = 'close' AND state IN ({quoted(STARTED_STATES)})
""")

# Once it is locked, no other request can take its place.
_STILL_FAILS = text("SELECT 1 FROM jobs WHERE id = :job_id AND wanted = 'fail' FOR NO KEY UPDATE")

_WAIT_FOR_ALL_CHUNKS = text(
    "SELECT 1 FROM chunks WHERE job_id = :job_id AND state = 'pending' ORDER BY number FOR UPDATE"
)

_END_THE_REST = text(f"""
    UPDATE chunks SET state = 'done',
        outcomes = array_replace(
            array_replace(outcomes, {Outcome.PENDING:d}::smallint, CAST(:outcome AS smallint)),
            {Outcome.WAITS_FOR_LOCK:d}::smallint, CAST(:outcome AS smallint)
        ),
        unprocessed = unprocessed + cardinality(outcomes) - ({SUM_OF_COUNTS}),
        locked = 0, locked_since = NULL
    WHERE job_id = :job_id AND state = 'pending'
""")

log = structlog.get_logger()


def carry_out_requests(engine: Engine, wake: Wake, limit: int = REQUESTS_A_TURN) -> None:
    """Carries out the requests of up to `limit` jobs. A job whose chunk in hand takes long is left
    for the next time.

    Raises DBAPIError where the connection is lost.
    """
    with engine.begin() as connection:
        requests = connection.execute(_REQUESTS, {"limit": limit}).all()
    for request in requests:
        about = {"job": str(request.id), "wanted": request.wanted}
        try:
            with engine.begin() as connection:
                if not connection.execute(_BEGIN, {"job_id": request.id}).one().is_ours:
                    continue
                finished = _CARRY_OUT[request.wanted](connection, request.id)
        # A ValueError comes from a window that this machine's time zones do not know.
        except (DBAPIError, ValueError) as error:
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise
            cause = getattr(error, "orig", error)
            log.warning("request put off", error=type(cause).__name__, **about)
            continue
        if finished:
            tell(finished, wake)
        else:
            wake.callers(request.id)
        log.info("request carried out", **about)


def _pause(connection: Connection, job_id: UUID) -> Finished | None:
    connection.execute(_WAIT_FOR_CHUNKS_IN_HAND, {"job_id": job_id})
    connection.execute(_TAKE_BACK_CLAIMS, {"job_id": job_id})
    connection.execute(_FORGET_SETBACKS, {"job_id": job_id})
    connection.execute(_PAUSE, {"job_id": job_id})
    return conclude(connection, job_id)


def _close(connection: Connection, job_id: UUID) -> Finished | None:
    job = connection.execute(_WINDOW, {"job_id": job_id}).one_or_none()
    if job is None:  # another request took its place
        return None
    opening = next_opening(parse_window(job.run_window), job.now)
    connection.execute(_WAIT_FOR_CHUNKS_IN_HAND, {"job_id": job_id})
    connection.execute(_TAKE_BACK_CLAIMS, {"job_id": job_id})
    connection.execute(_STOP_THE_CLOCKS, {"job_id": job_id, "opens": opening.opens})
    connection.execute(_CLOSE, {"job_id": job_id, "opens": opening.opens, "closes": opening.closes})
    return conclude(connection, job_id)


def _cancel(connection: Connection, job_id: UUID) -> Finished | None:
    connection.execute(_WAIT_FOR_ALL_CHUNKS, {"job_id": job_id})
    rest = _end_the_rest(connection, job_id, Outcome.CANCELLED)
    return conclude(connection, job_id, cancelled=rest > 0)


def _fail(connection: Connection, job_id: UUID) -> Finished | None:
    connection.execute(_WAIT_FOR_ALL_CHUNKS, {"job_id": job_id})
    if connection.execute(_STILL_FAILS, {"job_id": job_id}).one_or_none():
        _end_the_rest(connection, job_id, Outcome.FAILED)
    return conclude(connection, job_id)


def _end_the_rest(connection: Connection, job_id: UUID, outcome: Outcome) -> int:
    """Gives all entries without an outcome this one; returns the number of their chunks, which the
    caller has locked.
    """
    return connection.execute(_END_THE_REST, {"job_id": job_id, "outcome": outcome}).rowcount


_CARRY_OUT = {
    Request.PAUSE: _pause,
    Request.CLOSE: _close,
    Request.CANCEL: _cancel,
    Request.FAIL: _fail,
}
