"""Answers POSTs: at once, or after waiting for the job as long as its caller is ready to.

The answer to a submission is a function of what stands in the database: 200 with the results if the
job completed within the time that the first caller was ready to wait, else 202. So a repeated POST
gets the same answer, whenever it comes.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.datastructures import State
from starlette.requests import Request

from api.http.answers import Answer, success, time_text
from api.http.errors import ApiError
from api.jobs.control import is_in_force, state_of
from api.jobs.idempotency import Accepted, Asked, note_answer
from api.jobs.status import mark_awaited, read_job
from api.jobs.waiting import wait_for
from shared.states import Action, JobState

_UNSEEN = frozenset({401, 404})  # what a key gets that is revoked, or limited, while it waits

IN_FORCE_WITHIN = 1.0  # seconds in which an action is in force, unless a chunk is stuck

_PUBLISHED = ("deleted", "notFound", "deletedIdentifiers", "notFoundIdentifiers", "jobId", "status")
_FURTHER = ("wouldDelete", "restored", "conflict", "invalid")  # counts that only some jobs have


async def answer_accepted(
    request: Request,
    asked: Asked,
    accepting: Coroutine[Any, Any, Accepted],
    *,
    preferred: int | None,
) -> Answer:
    """202 with the job, or 200 with its results, which a key that is revoked meanwhile does not
    get.

    Raises what `accepting` raises.
    """
    state = request.app.state
    with state.waiter.expecting(asked.job_id) as ended:
        accepted = await accepting
        if accepted.state == JobState.QUEUED and not accepted.replayed:
            state.sender.send(accepted.queue)
        headers = {"Idempotency-Replayed": "true"} if accepted.replayed else {}
        if _may_end_in_time(accepted) and (
            published := await _results_in_time(request, asked, accepted, ended)
        ):
            applied = (
                {"Preference-Applied": f"wait={accepted.wait}"} if preferred is not None else {}
            )
            return success(published, headers=headers | applied)
    return _accepted(accepted, headers)


async def answer_requested(
    state: State, asked: Asked, action: Action, requesting: Coroutine[Any, Any, Accepted]
) -> Answer:
    """200 with the job once the action is in force, or 202 if that takes long. Raises what
    `requesting` raises.
    """
    with state.waiter.expecting(asked.job_id) as settled:
        accepted = await requesting
        if accepted.replayed:
            return _requested(accepted, action, {"Idempotency-Replayed": "true"})
        state.sender.send()
        now, wanted = await state_of(state.engine, asked.job_id)
        if wanted:
            await wait_for(settled, IN_FORCE_WITHIN)
            now, wanted = await state_of(state.engine, asked.job_id)
    answered = accepted._replace(state=now)
    if answered != accepted:
        await note_answer(state.engine, asked, answered)
    return _requested(answered, action, {})


def _may_end_in_time(accepted: Accepted) -> bool:
    late = (
        accepted.run_at and (accepted.run_at - accepted.created_at).total_seconds() >= accepted.wait
    )
    return accepted.wait > 0 and not late


async def _results_in_time(
    request: Request, asked: Asked, accepted: Accepted, ended: asyncio.Event
) -> dict[str, Any] | None:
    """The published synchronous shape, if the job completes within the time that its first caller
    was ready to wait.
    """
    state = request.app.state
    if accepted.job_id == asked.job_id:
        await wait_for(ended, accepted.wait)
    else:
        with state.waiter.expecting(accepted.job_id) as the_other_ended:
            job = await read_job(state.engine, asked.key, accepted.job_id)
            if (
                job.took is None
                and job.age < accepted.wait
                and await mark_awaited(state.engine, accepted.job_id)
            ):
                await wait_for(the_other_ended, accepted.wait - job.age)
    try:
        job = await read_job(
            state.engine, await state.authenticator.key_now(request), accepted.job_id
        )
    except ApiError as error:
        if error.status not in _UNSEEN:
            raise
        return None
    if job.body["status"] != JobState.COMPLETED or job.took is None or job.took > accepted.wait:
        return None
    further = [
        name for count in _FURTHER if job.body[count] for name in (count, f"{count}Identifiers")
    ]
    omitted = ["identifiersOmitted", "resultsUrl"] if job.body["identifiersOmitted"] else []
    return {name: job.body[name] for name in (*_PUBLISHED, *further, *omitted) if name in job.body}


def _accepted(accepted: Accepted, headers: dict[str, str]) -> Answer:
    status_url = f"/api/v1/jobs/{accepted.job_id}"
    return success(
        _body(accepted, status_url), 202, {"Location": status_url, "Retry-After": "1"} | headers
    )


def _requested(accepted: Accepted, action: Action, headers: dict[str, str]) -> Answer:
    if not is_in_force(action, JobState(accepted.state)):
        return _accepted(accepted, headers)
    status_url = f"/api/v1/jobs/{accepted.job_id}"
    return success(_body(accepted, status_url), headers={"Location": status_url} | headers)


def _body(accepted: Accepted, status_url: str) -> dict[str, Any]:
    return {
        "jobId": str(accepted.job_id),
        "status": accepted.state,
        "statusUrl": status_url,
        "total": accepted.total,
        "createdAt": time_text(accepted.created_at),
        "runAt": time_text(accepted.run_at),
    }
