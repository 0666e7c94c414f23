"""The routes: each admits its caller, does one thing, and answers. What they promise is documented
in api.description.openapi.
"""

import re
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import datetime
from functools import partial
from hashlib import blake2b
from typing import Annotated, Any
from uuid import UUID, uuid4

from anyio import to_thread
from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BeforeValidator
from starlette.responses import Response

from api import health
from api.http.answers import Answer, ApiError, BrokenOff, InvalidRequest, RateLimited, success
from api.http.auth import Authenticator, Key
from api.http.request import (
    idempotency_key,
    json_body,
    preferred_wait,
    read_json,
    read_nothing,
    read_options,
)
from api.jobs import control, results
from api.jobs import status as jobs
from api.jobs.follow_up import follow
from api.jobs.idempotency import Asked
from api.jobs.schedules import parse_moment, parse_schedule
from api.jobs.submission import decode_object, is_quickly_parsed, parse, parse_rate
from api.jobs.submit import accept
from api.jobs.waiting import answer_accepted, answer_requested, wait_for
from shared.printable import brief
from shared.states import Action, JobState, Outcome, outcomes_of

router = APIRouter(redirect_slashes=False)

MAX_PAGE = 10_000


async def reader(request: Request) -> Key:
    """Admits a call that only reads."""
    return await authenticator_of(request).admit(request)


async def writer(request: Request) -> Key:
    """Admits a call by a key that may write."""
    return await authenticator_of(request).admit(request, writing=True)


Reader = Annotated[Key, Depends(reader)]
Writer = Annotated[Key, Depends(writer)]
JobId = Annotated[str, Path(alias="jobId")]


def authenticator_of(request: Request) -> Authenticator:
    """Who admits callers."""
    authenticator: Authenticator = request.app.state.authenticator
    return authenticator


@router.post(
    "/api/v1/records/bulk-delete",
    operation_id="bulkDeleteRecords",
    summary="The same, by another name",
    tags=["Bulk delete"],
)
@router.post(
    "/api/v1/leads/bulk-delete",
    operation_id="bulkDeleteLeads",
    summary="Delete leads in bulk",
    tags=["Bulk delete"],
)
async def bulk_delete(request: Request) -> Response:
    """Accepts a bulk delete as a job."""
    state = request.app.state
    key = await authenticator_of(request).admit(request, submitting=True)
    async with json_body(request) as body:
        submission = (
            parse(body) if is_quickly_parsed(body) else await to_thread.run_sync(parse, body)
        )
        idempotency = idempotency_key(request, body)
    refuse_unknown_parameters(request, set())
    preferred = preferred_wait(request)
    wait = state.settings.default_wait if preferred is None else preferred
    asked = Asked(key, idempotency, wait, uuid4())
    return await answer_accepted(
        request, asked, accept(state.engine, state.settings, asked, submission), preferred=preferred
    )


async def _follow(request: Request, job_id: JobId, action: Action) -> Response:
    """Makes the job that follows, and answers as a bulk delete does."""
    state = request.app.state
    key = await authenticator_of(request).admit(request, submitting=True)
    if action == Action.EXECUTE:
        body = await read_options(request)
        schedule = parse_schedule(
            decode_object(body.strip() or b"{}", frozenset({"schedule"})).get("schedule")
        )
    else:
        body, schedule = await read_nothing(request), None
    refuse_unknown_parameters(request, set())
    preferred = preferred_wait(request)
    asked = Asked(key, idempotency_key(request, body), preferred or 0, uuid4())
    accepted = follow(
        state.engine, state.settings, asked, jobs.parse_job_id(job_id), action, schedule
    )
    return await answer_accepted(request, asked, accepted, preferred=preferred)


async def _steer(request: Request, job_id: JobId, action: Action) -> Response:
    """Asks for the action, and answers once it is in force."""
    state = request.app.state
    key = await authenticator_of(request).admit(request, writing=True)
    body = await read_nothing(request)
    refuse_unknown_parameters(request, set())
    found = jobs.parse_job_id(job_id)
    asked = Asked(key, idempotency_key(request, body), 0, found)
    return await answer_requested(
        state, asked, action, control.request(state.engine, asked, found, action)
    )


def _add_actions() -> None:
    """A route for each action, named as the action is."""
    for action, (summary, does) in {
        Action.CANCEL: ("Cancel a job", _steer),
        Action.PAUSE: ("Pause a job", _steer),
        Action.RESUME: ("Resume a job", _steer),
        Action.RETRY: ("Retry what a job left unprocessed", _follow),
        Action.EXECUTE: ("Delete what a preview found", _follow),
        Action.RESTORE: ("Put back what a job archived", _follow),
    }.items():
        router.add_api_route(
            f"/api/v1/jobs/{{jobId}}/{action}",
            _route_of(does, action),
            methods=["POST"],
            operation_id=f"{action}Job",
            summary=summary,
            tags=["Actions"],
        )


def _route_of(
    does: Callable[..., Coroutine[Any, Any, Response]], action: Action
) -> Callable[..., Any]:
    async def route(request: Request, job_id: JobId) -> Response:
        return await does(request, job_id, action)

    return route


_add_actions()


@router.patch(
    "/api/v1/jobs/{jobId}",
    operation_id="changeJob",
    summary="Change a job's pace",
    tags=["Actions"],
)
async def change_job(
    request: Request, job_id: Annotated[str, Path(alias="jobId")], key: Writer
) -> Answer:
    """Lets an unfinished job work faster or slower; `null` as fast as it goes."""
    fields = decode_object(await read_json(request), frozenset({"maxLeadsPerSecond"}))
    refuse_unknown_parameters(request, set())
    if "maxLeadsPerSecond" not in fields:
        raise InvalidRequest("maxLeadsPerSecond is required")
    engine, found = request.app.state.engine, jobs.parse_job_id(job_id)
    await control.change_pace(engine, key, found, parse_rate(fields["maxLeadsPerSecond"]))
    return success((await jobs.read_job(engine, key, found)).body)


@router.get("/api/v1/jobs/{jobId}", operation_id="getJob", summary="Read a job", tags=["Jobs"])
async def get_job(
    request: Request, job_id: Annotated[str, Path(alias="jobId")], key: Reader
) -> Response:
    """The job as it stands now, with its identifiers; or, with `Prefer: wait=N`, as it stands when
    it ends or N is over.
    """
    refuse_unknown_parameters(request, set())
    state, found = request.app.state, jobs.parse_job_id(job_id)
    job = await jobs.read_job(state.engine, key, found)
    headers = {}
    if wait := preferred_wait(request):
        headers["Preference-Applied"] = f"wait={wait}"
        if job.retry_after:
            await _wait_for_its_end(state, found, wait)
            job = await jobs.read_job(
                state.engine, await authenticator_of(request).key_now(request), found
            )
    if job.retry_after:
        headers["Retry-After"] = str(job.retry_after)
    answer = success(job.body, headers=headers)
    answer.headers["ETag"] = tag = f'"{blake2b(bytes(answer.body), digest_size=12).hexdigest()}"'
    if _matches(tag, request.headers.getlist("if-none-match")):
        return Response(status_code=304, headers={"ETag": tag} | headers)
    return answer


async def _wait_for_its_end(state: Any, job_id: UUID, wait: int) -> None:
    with state.waiter.expecting(job_id) as ended:
        if await jobs.mark_awaited(state.engine, job_id):
            await wait_for(ended, wait)


def _matches(tag: str, headers: list[str]) -> bool:
    """Whether `If-None-Match` names the tag; weakly compared, as RFC 9110 has it."""
    named = {part.strip().removeprefix("W/") for header in headers for part in header.split(",")}
    return tag in named or "*" in named


def _moment(written: str) -> datetime:
    """A `+` that its caller did not escape arrives as a space."""
    if moment := parse_moment(re.sub(r" (?=[0-9]{2}:?[0-9]{2}\Z)", "+", written)):
        return moment
    raise ValueError("no ISO 8601 time with an offset")


CreatedAfter = Annotated[datetime | None, BeforeValidator(_moment), Query(alias="createdAfter")]
CreatedBefore = Annotated[datetime | None, BeforeValidator(_moment), Query(alias="createdBefore")]


@router.get("/api/v1/jobs", operation_id="listJobs", summary="List jobs", tags=["Jobs"])
async def get_jobs(
    request: Request,
    key: Reader,
    status: JobState | None = None,
    campaign_id: Annotated[str | None, Query(alias="campaignId")] = None,
    client_reference: Annotated[str | None, Query(alias="clientReference")] = None,
    created_after: CreatedAfter = None,
    created_before: CreatedBefore = None,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Answer:
    """The company's jobs, newest first."""
    known = {
        "status",
        "campaignId",
        "clientReference",
        "createdAfter",
        "createdBefore",
        "cursor",
        "limit",
    }
    refuse_unknown_parameters(request, known)
    filters = {"state": status, "campaign_id": campaign_id, "client_reference": client_reference}
    created = jobs.Created(created_after, created_before)
    items, following = await jobs.list_jobs(
        request.app.state.engine, key, filters, created, cursor, limit
    )
    return success({"items": items, "nextCursor": following})


@router.get(
    "/api/v1/jobs/{jobId}/results",
    operation_id="listResults",
    summary="List a job's results",
    tags=["Jobs"],
)
async def get_results(
    request: Request,
    job_id: Annotated[str, Path(alias="jobId")],
    key: Reader,
    outcome: str | None = None,
    cursor: Annotated[str, Query(pattern="^[0-9]{1,9}$")] = "0",
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 1000,
    raw: Annotated[str, Query(pattern="^[01]$")] = "0",
) -> Response:
    """What became of each entry, in request order: a page as JSON, or, as `Accept` says, all as CSV
    or NDJSON.
    """
    media_type = results.wanted_format(",".join(request.headers.getlist("accept")))
    known = {None: {"cursor", "limit"}, results.CSV: {"raw"}, results.NDJSON: set[str]()}
    refuse_unknown_parameters(request, {"outcome"} | known[media_type])
    wanted = list(Outcome) if outcome is None else outcomes_of(outcome)
    if not wanted:
        raise InvalidRequest("Invalid query parameter: outcome")
    engine, found = request.app.state.engine, jobs.parse_job_id(job_id)
    if media_type:
        job = await jobs.check_visible(engine, key, found)
        jobs.check_kept(job)
        parts = results.stream(engine, found, job.total, wanted, _writer(media_type, raw))
        place = request.app.state.exports.taken_by(key.company_id)
        return results.Export(media_type, found, _while_admitted(request, parts), place)
    items, following = await results.read_results(engine, key, found, wanted, int(cursor), limit)
    return success({"items": items, "nextCursor": None if following is None else str(following)})


def _writer(media_type: str, raw: str) -> Callable[[list[Any]], bytes]:
    return (
        results.as_ndjson
        if media_type == results.NDJSON
        else partial(results.as_csv, raw=raw == "1")
    )


async def _while_admitted(request: Request, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A slow reader reads for hours, and its key may be revoked meanwhile. Raises BrokenOff
    then.
    """
    async for part in parts:
        try:
            await authenticator_of(request).admit_again(request)
        except ApiError as error:
            if error.status in {401, 403}:  # else the database cannot tell, and is asked again
                raise BrokenOff("key not admitted any more") from error
        yield part


@router.get(
    "/api/health", operation_id="getHealth", summary="Ask whether everything is up", tags=["Health"]
)
async def get_health(request: Request) -> Answer:
    """Whether the database, the broker, a worker and a ticker are up."""
    state = request.app.state
    address = request.client.host if request.client else "unknown"
    allowance = await state.limiter.count(f"health:{address}", state.settings.rate_limit_health)
    if allowance.refused:
        raise RateLimited(allowance)
    parts: dict[str, Any] = await health.check(state.engine, state.settings.broker_url)
    if all(part == "up" for part in parts.values()):
        return success(parts)
    return Answer(
        {"success": False, "data": parts, "error": "Service temporarily unavailable"},
        503,
        {"Retry-After": "5"},
    )


def refuse_unknown_parameters(request: Request, known: set[str]) -> None:
    """A misspelt filter must not turn into none, nor `?dryRun=true` into a real deletion; one given
    twice is as unclear.
    """
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in known or names.count(name) > 1:
            raise InvalidRequest(f"Invalid query parameter: {brief(name)}")
