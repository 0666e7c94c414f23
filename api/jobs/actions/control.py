"""Records what callers ask of a job: pause, resume, cancel, which a worker or the ticker carries
out once no chunk is in hand; and another pace, which is in force at once.
"""

from uuid import UUID

from sqlalchemy import Integer, TextClause, bindparam, text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.database import LIMITS, rows
from api.http.answers import Accepted, Answer, ApiError
from api.http.auth import Key
from api.http.request import Caller
from api.http.services import Services
from api.jobs.idempotency import KEYED, in_progress, note_answer, replayed
from api.jobs.status import check_visible, job_not_found
from api.jobs.waiting import wait_for
from shared.database.arrays import text_array
from shared.database.plans import BY_INDEX
from shared.states import POSSIBLE_IN, Action, JobState

IN_FORCE_WITHIN = 1.0  # seconds in which an action is in force, unless a chunk is stuck


def _acting(answered_state: str, change: str) -> TextClause:
    """A statement that makes a `change` to the job of `go`. The row is locked before the key is
    taken: an action that is not possible leaves no key behind.
    """
    return text(f"""
        WITH {LIMITS},
        subject AS MATERIALIZED (
            SELECT id AS job_id, company_id, {answered_state} AS state, run_at, total, created_at
            FROM limits CROSS JOIN jobs
            WHERE id = CAST(:subject_id AS uuid) AND state = ANY(CAST(:possible AS text[]))
                AND wanted IS DISTINCT FROM :unless_wanted AND {BY_INDEX}
            FOR NO KEY UPDATE OF jobs
        ),
        {KEYED},
        changed AS ({change})
        SELECT job_id, state, total, created_at, run_at FROM go
    """)


_REQUEST = _acting(
    "jobs.state",
    """
        UPDATE jobs SET wanted = :action, wanted_by = :key_name, awaited = true
        FROM go
        WHERE jobs.id = go.job_id AND jobs.state <> :already
            AND jobs.wanted IS DISTINCT FROM :action
    """,
)

# A job that is not due, or outside of its window, is scheduled; where it has missed the window, the
# ticker finds the next. Also takes back a pause that is not in force yet.
_RESUME = _acting(
    """
        CASE WHEN jobs.state <> 'paused' THEN jobs.state
            WHEN run_at > clock_timestamp() OR closes_at <= clock_timestamp() THEN 'scheduled'
            ELSE 'queued' END
    """,
    """
        UPDATE jobs SET state = go.state, wanted = NULL, wanted_by = NULL,
            queued_at = clock_timestamp(),
            history = CASE WHEN jobs.state = go.state THEN history ELSE history
                || jsonb_build_object('status', go.state, 'at', clock_timestamp(),
                    'by', CAST(:key_name AS text)) END
        FROM go WHERE jobs.id = go.job_id AND (jobs.state = 'paused' OR jobs.wanted = 'pause')
    """,
)

# A new pace counts from now. What the job has to wait for by the old pace becomes a wait by the new
# one: otherwise a caller could let more through by setting the same pace again and again.
_CHANGE = text(f"""
    UPDATE jobs SET max_leads_per_second = :rate,
        paced_at = CASE WHEN CAST(:rate AS int) IS NOT NULL THEN coalesce(
            CASE WHEN paced_at > clock_timestamp()
                THEN clock_timestamp() + (paced_at - clock_timestamp())
                    * max_leads_per_second / CAST(:rate AS int)
                ELSE paced_at END,
            clock_timestamp()
        ) END
    WHERE id = :job_id AND finished_at IS NULL AND {BY_INDEX} RETURNING id
""").bindparams(bindparam("rate", type_=Integer))

_STATE = text(f"SELECT state, wanted FROM jobs WHERE id = :job_id AND {BY_INDEX}")

_LEADS_TO = {Action.PAUSE: JobState.PAUSED, Action.CANCEL: JobState.CANCELLED}


async def act(services: Services, caller: Caller, job_id: UUID, action: Action) -> Answer:
    """Asks for `action`, and answers 200 once it is in force, or 202 if that takes long.

    Raises ApiError 404, 409 and 422, DBAPIError.
    """
    engine = services.engine
    with services.waiter.expecting(job_id) as settled:
        accepted = await request_action(engine, caller, job_id, action)
        if accepted.replayed:
            return _answer(accepted, action)
        services.sender.send()
        state, requested = await _state_of(engine, job_id)
        if requested:
            await wait_for(settled, IN_FORCE_WITHIN)
            state, _ = await _state_of(engine, job_id)
    answered = accepted._replace(state=state)
    if answered != accepted:
        await note_answer(engine, caller, answered)
    return _answer(answered, action)


async def request_action(
    engine: AsyncEngine, caller: Caller, job_id: UUID, action: Action
) -> Accepted:
    """Asks for `action`, unless that was done or asked for before. Returns the job as it stands.

    Raises ApiError 404, 409 and 422, DBAPIError.
    """
    await check_visible(engine, caller.key, job_id)
    if earlier := await replayed(engine, caller):
        return earlier
    values = caller.values() | {
        "subject_id": job_id,
        "action": action,
        "already": _LEADS_TO.get(action),
        "possible": text_array(sorted(POSSIBLE_IN[action])),
        # What is being cancelled is neither paused nor resumed.
        "unless_wanted": "" if action == Action.CANCEL else Action.CANCEL,
    }
    statement = _RESUME if action == Action.RESUME else _REQUEST
    acted = await rows(engine, statement, values, if_locked=in_progress)
    if acted:
        job = acted[0]
        return Accepted(job.job_id, job.state, job.total, job.created_at, job.run_at, wait=0)
    if earlier := await replayed(engine, caller):  # the key was taken meanwhile
        return earlier
    state, requested = await _state_of(engine, job_id)
    if requested == Action.CANCEL:
        state = "being cancelled"
    raise ApiError(409, f"Cannot {action} a job that is {state}")


async def change_pace(engine: AsyncEngine, key: Key, job_id: UUID, rate: int | None) -> None:
    """Lets the job work on up to `rate` leads a second from now on; None: as fast as it goes.
    Raises ApiError 404, 409.
    """
    await check_visible(engine, key, job_id)
    if not await rows(engine, _CHANGE, {"job_id": job_id, "rate": rate}):
        state, _ = await _state_of(engine, job_id)
        raise ApiError(409, f"Cannot change a job that is {state}")


async def _state_of(engine: AsyncEngine, job_id: UUID) -> tuple[str, str | None]:
    """The job's state, and the action that is asked for and not yet in force."""
    job = await rows(engine, _STATE, {"job_id": job_id})
    if not job:
        raise job_not_found()
    return job[0].state, job[0].wanted


def _answer(accepted: Accepted, action: Action) -> Answer:
    """200 where the action has taken effect, or the job ended before it could; else 202."""
    state = JobState(accepted.state)
    in_force = state.final or _LEADS_TO.get(action, state) == state
    return accepted.answer(200 if in_force else 202)
