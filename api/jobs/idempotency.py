"""Answers a repeated POST as it was answered the first time, by its Idempotency-Key.

The key is stored in the transaction of what it was used for, so a crash leaves both or neither;
errors are never stored.
"""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.database import AnyRow, rows
from api.http.answers import Accepted, ApiError
from api.http.request import Caller
from shared.database.plans import BY_INDEX

_FIND = text(f"""
    SELECT job_id, request_hash, media_type, idempotency_keys.state, total, jobs.created_at,
        idempotency_keys.run_at, wait
    FROM idempotency_keys JOIN jobs ON jobs.id = job_id
    WHERE idempotency_keys.company_id = :company_id AND key = :key
        AND idempotency_keys.created_at >= clock_timestamp() - interval '72 h' AND {BY_INDEX}
""")

_ANSWERED = text(f"""
    UPDATE idempotency_keys SET state = :state
    WHERE company_id = :company_id AND key = :key AND job_id = :job_id AND {BY_INDEX} RETURNING key
""")

# Part of every statement that acts, after LIMITS. It takes the Idempotency-Key for the row of
# `subject`, unless that key is taken already, and waits for a call that is just taking it. A key
# that has expired is taken over. `go` has the row if the statement may act.
KEYED = """
    keyed AS (
        INSERT INTO idempotency_keys (company_id, key, request_hash, media_type, job_id, state,
            run_at, wait)
        SELECT subject.company_id, CAST(:idempotency_key AS text), CAST(:request_hash AS bytea),
            CAST(:media_type AS text), subject.job_id, subject.state, subject.run_at,
            CAST(:wait AS smallint)
        FROM subject, limits WHERE CAST(:idempotency_key AS text) IS NOT NULL
        ON CONFLICT (company_id, key) DO UPDATE SET request_hash = excluded.request_hash,
            media_type = excluded.media_type, job_id = excluded.job_id, state = excluded.state,
            run_at = excluded.run_at, wait = excluded.wait, created_at = clock_timestamp()
            WHERE idempotency_keys.created_at < clock_timestamp() - interval '72 h'
        RETURNING job_id
    ),
    go AS (
        SELECT subject.* FROM subject
        WHERE CAST(:idempotency_key AS text) IS NULL OR EXISTS (SELECT FROM keyed)
    )
"""


async def replayed(engine: AsyncEngine, caller: Caller) -> Accepted | None:
    """The answer that this key already had, or None. Raises ApiError 422 where it was for something
    else.
    """
    earlier = await _earlier(engine, caller)
    if earlier is None or caller.idempotency is None:
        return None
    # One that an older version has stored has no media type.
    is_same_type = earlier.media_type in {None, caller.idempotency.media_type}
    if earlier.request_hash != caller.idempotency.request_hash or not is_same_type:
        raise ApiError(422, "Idempotency-Key was already used with a different request")
    return Accepted(
        job_id=earlier.job_id,
        state=earlier.state,
        total=earlier.total,
        created_at=earlier.created_at,
        run_at=earlier.run_at,
        wait=earlier.wait,
        replayed=True,
    )


async def is_taken(engine: AsyncEngine, caller: Caller) -> bool:
    """Whether this key has an answer already, for whatever it was."""
    return await _earlier(engine, caller) is not None


async def _earlier(engine: AsyncEngine, caller: Caller) -> AnyRow | None:
    if caller.idempotency is None:
        return None
    key = {"company_id": caller.key.company_id, "key": caller.idempotency.key}
    stored = await rows(engine, _FIND, key)
    return stored[0] if stored else None


async def note_answer(engine: AsyncEngine, caller: Caller, accepted: Accepted) -> None:
    """Writes down another state than the one that was stored, where a call has waited for it."""
    if caller.idempotency is None:
        return
    values = {
        "company_id": caller.key.company_id,
        "key": caller.idempotency.key,
        "job_id": accepted.job_id,
        "state": accepted.state,
    }
    await rows(engine, _ANSWERED, values)


def in_progress() -> ApiError:
    """The answer where another call has the same key, or the job, in hand."""
    return ApiError(409, "Another request is in progress; try again", {"Retry-After": "1"})
