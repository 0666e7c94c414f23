"""Answers a repeated POST as it was answered the first time, by its Idempotency-Key.

The key is stored in the transaction of what it was used for, so a crash leaves both or neither;
errors are never stored.
"""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import errors
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.database import rows
from api.http.answers import ApiError
from api.http.auth import Key
from api.http.request import IdempotencyKey
from shared.broker.sender import JOBS_QUEUE
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

# Part of every statement that acts, after LIMITS: the key is taken for `subject`, unless it is
# taken already. Whoever has it in hand just now is waited for. A key that has expired is taken
# over.
KEYED = """
    keyed AS (
        INSERT INTO idempotency_keys (company_id, key, request_hash, media_type, job_id, state, run_at, wait)
        SELECT subject.company_id, CAST(:idempotency_key AS text), CAST(:request_hash AS bytea),
            CAST(:media_type AS text), subject.job_id, subject.state, subject.run_at, CAST(:wait AS smallint)
        FROM subject, limits WHERE CAST(:idempotency_key AS text) IS NOT NULL
        ON CONFLICT (company_id, key) DO UPDATE SET request_hash = excluded.request_hash,
            media_type = excluded.media_type, job_id = excluded.job_id, state = excluded.state,
            run_at = excluded.run_at, wait = excluded.wait, created_at = clock_timestamp()
            WHERE idempotency_keys.created_at < clock_timestamp() - interval '72 h'
        RETURNING job_id
    ),
    go AS (SELECT subject.* FROM subject WHERE CAST(:idempotency_key AS text) IS NULL OR EXISTS (SELECT FROM keyed))
"""


class Asked(NamedTuple):
    """Who asks, and how: `job_id` is that of the job to be made, if one is; `wait` is in
    seconds.
    """

    key: Key
    idempotency: IdempotencyKey | None
    wait: int
    job_id: UUID

    def values(self) -> dict[str, Any]:
        """The parameters of KEYED, and who acts."""
        key, request_hash, media_type = self.idempotency or (None, None, None)
        return {
            "company_id": self.key.company_id,
            "key_id": self.key.id,
            "key_name": self.key.name or str(self.key.id),
            "idempotency_key": key,
            "request_hash": request_hash,
            "media_type": media_type,
            "wait": self.wait,
            "job_id": self.job_id,
        }


class Accepted(NamedTuple):
    """What a POST is answered with: a job as it stood when it was accepted, and how long its caller
    is ready to wait.
    """

    job_id: UUID
    state: str
    total: int
    created_at: datetime
    run_at: datetime | None
    wait: int
    replayed: bool = False
    queue: str = JOBS_QUEUE


async def replayed(engine: AsyncEngine, asked: Asked) -> Accepted | None:
    """The answer that this key already had, or None. Raises ApiError 422 where it was for something
    else.
    """
    if asked.idempotency is None:
        return None
    found = await rows(
        engine, _FIND, {"company_id": asked.key.company_id, "key": asked.idempotency.key}
    )
    if not found:
        return None
    job_id, request_hash, media_type, *answer = found[0]  # the rest is as in Accepted
    _, asked_hash, asked_type = (
        asked.idempotency
    )  # one that an older version has stored has no media type
    if request_hash != asked_hash or media_type not in {None, asked_type}:
        raise ApiError(422, "Idempotency-Key was already used with a different request")
    return Accepted._make((job_id, *answer, True, JOBS_QUEUE))


async def is_taken(engine: AsyncEngine, asked: Asked) -> bool:
    """Whether this key has an answer already, for whatever it was."""
    if asked.idempotency is None:
        return False
    return bool(
        await rows(
            engine, _FIND, {"company_id": asked.key.company_id, "key": asked.idempotency.key}
        )
    )


async def note_answer(engine: AsyncEngine, asked: Asked, accepted: Accepted) -> None:
    """Writes down another state than the one that was stored, where a call has waited for it."""
    if asked.idempotency is not None:
        values = {
            "company_id": asked.key.company_id,
            "key": asked.idempotency.key,
            "job_id": accepted.job_id,
        }
        await rows(engine, _ANSWERED, values | {"state": accepted.state})


def is_in_progress(error: DBAPIError) -> bool:
    """Whether the statement gave up waiting for another that has the same key, or the job, in
    hand.
    """
    return isinstance(error.orig, errors.LockNotAvailable)


def in_progress() -> ApiError:
    """The answer then."""
    return ApiError(409, "Another request is in progress; try again", {"Retry-After": "1"})
