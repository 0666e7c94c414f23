"""Records what callers ask of a job: pause, resume, cancel, which a worker or the ticker carries
out once no chunk is in hand; and another pace, which is in force at once.
"""

from uuid import UUID

from sqlalchemy import Integer, bindparam, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.database import LIMITS, rows
from api.http.answers import ApiError
from api.http.auth import Key
from api.jobs.idempotency import KEYED, Accepted, Asked, in_progress, is_in_progress, replayed
from api.jobs.status import check_visible, job_not_found
from shared.database.arrays import text_array
from shared.database.plans import BY_INDEX
from shared.states import POSSIBLE_IN, Action, JobState

# The row is locked before the key is taken: an action that is not possible leaves no key behind.
# `state` is what is answered.
_SUBJECT = f"""
    WITH {LIMITS},
    subject AS MATERIALIZED (
        SELECT id AS job_id, company_id, STATE AS state, run_at, total, created_at
        FROM limits CROSS JOIN jobs
        WHERE id = CAST(:subject_id AS uuid) AND state = ANY(CAST(:possible AS text[])) AND wanted IS DISTINCT FROM :unless_wanted
            AND {BY_INDEX}
        FOR NO KEY UPDATE OF jobs
    ),
"""

_REQUEST = text(f"""
    {_SUBJECT.replace("STATE", "jobs.state")} {KEYED},
    requested AS (
        UPDATE jobs SET wanted = :action, wanted_by = :key_name, awaited = true
        FROM go WHERE jobs.id = go.job_id AND jobs.state <> :already AND jobs.wanted IS DISTINCT FROM :action
    )
    SELECT job_id, state, total, created_at, run_at FROM go
""")

# A job that is not due, or outside of its window, is scheduled; where it has missed the window, the
# ticker finds the next.
_RESUMED = """
    CASE WHEN jobs.state <> 'paused' THEN jobs.state
        WHEN run_at > clock_timestamp() OR closes_at <= clock_timestamp() THEN 'scheduled' ELSE 'queued' END
"""

# Also takes back a pause that is not in force yet.
_RESUME = text(f"""
    {_SUBJECT.replace("STATE", _RESUMED)} {KEYED},
    resumed AS (
        UPDATE jobs SET state = go.state, wanted = NULL, wanted_by = NULL, queued_at = clock_timestamp(),
            history = CASE WHEN jobs.state = go.state THEN history ELSE history
                || jsonb_build_object('status', go.state, 'at', clock_timestamp(), 'by', CAST(:key_name AS text)) END
        FROM go WHERE jobs.id = go.job_id AND (jobs.state = 'paused' OR jobs.wanted = 'pause')
    )
    SELECT job_id, state, total, created_at, run_at FROM go
""")

# A new pace counts from now; what the old one still owes is paid at the new one, or saying a pace
# again would let more through.
_CHANGE = text(f"""
    UPDATE jobs SET max_leads_per_second = :rate, paced_at = CASE WHEN CAST(:rate AS int) IS NOT NULL THEN coalesce(
        CASE WHEN paced_at > clock_timestamp()
            THEN clock_timestamp() + (paced_at - clock_timestamp()) * max_leads_per_second / CAST(:rate AS int) ELSE paced_at END,
        clock_timestamp()
    ) END
    WHERE id = :job_id AND finished_at IS NULL AND {BY_INDEX} RETURNING id
""").bindparams(bindparam("rate", type_=Integer))

_STATE = text(f"SELECT state, wanted FROM jobs WHERE id = :job_id AND {BY_INDEX}")

_LEADS_TO = {Action.PAUSE: JobState.PAUSED, Action.CANCEL: JobState.CANCELLED}


async def request(engine: AsyncEngine, asked: Asked, job_id: UUID, action: Action) -> Accepted:
    """Asks for `action`, or finds that it was done, or asked for, before; the job as it stands now.

    Raises ApiError 404, 409 and 422, DBAPIError.
    """
    await check_visible(engine, asked.key, job_id)
    if earlier := await replayed(engine, asked):
        return earlier
    values = asked.values() | {
        "subject_id": job_id,
        "action": action,
        "already": _LEADS_TO.get(action),
        "possible": text_array(sorted(POSSIBLE_IN[action])),
        # What is being cancelled is neither paused nor resumed.
        "unless_wanted": "" if action == Action.CANCEL else Action.CANCEL,
    }
    try:
        found = await rows(engine, _RESUME if action == Action.RESUME else _REQUEST, values)
    except DBAPIError as error:
        if is_in_progress(error):
            raise in_progress() from None
        raise
    if found:
        subject_id, state, total, created_at, run_at = found[0]
        return Accepted(subject_id, state, total, created_at, run_at, wait=0)
    if earlier := await replayed(engine, asked):  # the key was taken meanwhile
        return earlier
    raise await _impossible(engine, job_id, action)


async def change_pace(engine: AsyncEngine, key: Key, job_id: UUID, rate: int | None) -> None:
    """Lets the job work on up to `rate` leads a second from now on; None: as fast as it goes.
    Raises ApiError 404, 409.
    """
    await check_visible(engine, key, job_id)
    if not await rows(engine, _CHANGE, {"job_id": job_id, "rate": rate}):
        state, _ = await state_of(engine, job_id)
        raise ApiError(409, f"Cannot change a job that is {state}")


async def state_of(engine: AsyncEngine, job_id: UUID) -> tuple[str, str | None]:
    """The job's state, and the action that is asked for and not yet in force."""
    found = await rows(engine, _STATE, {"job_id": job_id})
    if not found:
        raise job_not_found()
    return found[0].state, found[0].wanted


def is_in_force(action: Action, state: JobState) -> bool:
    """Whether the action has taken effect on a job in this state, or the job ended before it
    could.
    """
    return state.final or _LEADS_TO.get(action, state) == state


async def _impossible(engine: AsyncEngine, job_id: UUID, action: Action) -> ApiError:
    state, wanted = await state_of(engine, job_id)
    return ApiError(
        409,
        f"Cannot {action} a job that is {'being cancelled' if wanted == Action.CANCEL else state}",
    )
