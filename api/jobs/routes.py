"""The routes of jobs: each admits its caller, does one thing, and answers. What they promise is
documented in api.description.openapi.
"""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from hashlib import blake2b
from typing import Annotated, Any, NamedTuple
from uuid import UUID, uuid4

from anyio import to_thread
from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BeforeValidator
from starlette.responses import Response

from api.http.answers import Answer, ApiError, BrokenOff, InvalidRequest, success
from api.http.auth import Reader, Writer
from api.http.request import (
    Caller,
    decode_object,
    idempotency_key,
    json_body,
    preferred_wait,
    read_json,
    read_nothing,
    read_options,
    refuse_unknown_parameters,
    services_of,
    submitter,
)
from api.http.services import Services
from api.jobs import results, status
from api.jobs.actions import control
from api.jobs.actions.follow_up import follow
from api.jobs.options import parse_moment, parse_rate, parse_schedule
from api.jobs.status import Filters
from api.jobs.submission import is_quickly_parsed, parse
from api.jobs.submit import answer, submit
from api.jobs.waiting import mark_awaited, wait_for
from shared.states import Action, JobState, Outcome, outcomes_of

router = APIRouter(redirect_slashes=False)

MAX_PAGE = 10_000  # results

JobId = Annotated[str, Path(alias="jobId")]


@router.post(
    "/api/v1/leads/bulk-delete",
    operation_id="bulkDeleteLeads",
    summary="Delete leads in bulk",
    tags=["Bulk delete"],
)
@router.post(
    "/api/v1/records/bulk-delete",
    operation_id="bulkDeleteRecords",
    summary="As /api/v1/leads/bulk-delete",
    tags=["Records"],
)
async def bulk_delete(request: Request) -> Response:
    """Accepts a bulk delete as a job."""
    services = services_of(request)
    key = await services.authenticator.admit(request, submitting=True)
    async with json_body(request) as body:
        if is_quickly_parsed(body):
            submission = parse(body)
        else:
            submission = await to_thread.run_sync(parse, body)
        idempotency = idempotency_key(request, body)
    refuse_unknown_parameters(request)
    caller = submitter(request, key, idempotency)
    with services.waiter.expecting(caller.job_id) if caller.wait else nullcontext() as ended:
        accepted = await submit(services.engine, services.settings, caller, submission)
        return await answer(request, caller, accepted, ended)


async def _follow(request: Request, job_id: JobId, action: Action) -> Response:
    """Makes the job that follows, and answers as a bulk delete does."""
    services = services_of(request)
    key = await services.authenticator.admit(request, submitting=True)
    schedule = None
    if action == Action.EXECUTE:
        body = await read_options(request)
        fields = decode_object(body.strip() or b"{}", frozenset({"schedule"}))
        schedule = parse_schedule(fields.get("schedule"))
    else:
        body = await read_nothing(request)
    refuse_unknown_parameters(request)
    wait = preferred_wait(request) or 0
    caller = Caller(key, idempotency_key(request, body), wait, uuid4())
    source_id = status.parse_job_id(job_id)
    with services.waiter.expecting(caller.job_id) if caller.wait else nullcontext() as ended:
        accepted = await follow(
            services.engine, services.settings, caller, source_id, action, schedule
        )
        return await answer(request, caller, accepted, ended)


async def _act(request: Request, job_id: JobId, action: Action) -> Response:
    """Asks for the action, and answers once it is in force."""
    services = services_of(request)
    key = await services.authenticator.admit(request, writing=True)
    body = await read_nothing(request)
    refuse_unknown_parameters(request)
    subject_id = status.parse_job_id(job_id)
    caller = Caller(key, idempotency_key(request, body), 0, subject_id)
    return await control.act(services, caller, subject_id, action)


class _Action(NamedTuple):
    """What a route does, and what /docs says of it."""

    does: Callable[..., Any]
    summary: str
    description: str


_ACTIONS = {
    Action.CANCEL: _Action(
        _act,
        "Cancel a job",
        "Ends an unfinished job. What is decided stays decided; the rest is `unprocessed`, reason "
        "`cancelled`.",
    ),
    Action.PAUSE: _Action(
        _act,
        "Pause a job",
        "Holds an unfinished job once no chunk of it is in hand, until it is resumed or cancelled.",
    ),
    Action.RESUME: _Action(
        _act,
        "Resume a job",
        "Lets a paused job go on, or takes back a pause that is not in force yet. Outside of its "
        "window it is scheduled.",
    ),
    Action.RETRY: _Action(
        _follow,
        "Retry what a job left unprocessed",
        "Makes a new job of the `unprocessed` entries of a failed or cancelled one, which itself "
        "stays as it is. There is one such job: asking again answers with the same.",
    ),
    Action.EXECUTE: _Action(
        _follow,
        "Delete what a preview found",
        "Makes a job of the leads that a completed preview found, within 24 hours of its end, and "
        "of no others. A lead that has changed since is left alone.",
    ),
    Action.RESTORE: _Action(
        _follow,
        "Put back what a job archived",
        "Makes a job that puts archived leads back, as they were, while they are kept. One whose "
        "identifier is taken again is a `conflict`.",
    ),
}


def _add_actions() -> None:
    """A route for each action, named as the action is."""
    for action, route in _ACTIONS.items():
        router.add_api_route(
            f"/api/v1/jobs/{{jobId}}/{action}",
            _route_of(route.does, action),
            methods=["POST"],
            operation_id=f"{action}Job",
            summary=route.summary,
            description=route.description,
            tags=["Actions"],
        )


def _route_of(does: Callable[..., Any], action: Action) -> Callable[..., Any]:
    async def route(request: Request, job_id: JobId) -> Response:
        response: Response = await does(request, job_id, action)
        return response

    return route


@router.get("/api/v1/jobs/{jobId}", operation_id="getJob", summary="Read a job", tags=["Jobs"])
async def get_job(
    request: Request, job_id: Annotated[str, Path(alias="jobId")], key: Reader
) -> Response:
    """The job as it stands now, with its identifiers; or, with `Prefer: wait=N`, as it stands when
    it ends or N is over.
    """
    refuse_unknown_parameters(request)
    services, subject_id = services_of(request), status.parse_job_id(job_id)
    job = await status.read_job(services.engine, key, subject_id)
    headers = {}
    if wait := preferred_wait(request):
        headers["Preference-Applied"] = f"wait={wait}"
        if job.retry_after:
            await _wait_for_its_end(services, subject_id, wait)
            key = await services.authenticator.key_now(request)
            job = await status.read_job(services.engine, key, subject_id)
    if job.retry_after:
        headers["Retry-After"] = str(job.retry_after)
    now = success(job.body, headers=headers)
    now.headers["ETag"] = tag = f'"{blake2b(bytes(now.body), digest_size=12).hexdigest()}"'
    if _matches(tag, request.headers.getlist("if-none-match")):
        return Response(status_code=304, headers={"ETag": tag} | headers)
    return now


async def _wait_for_its_end(services: Services, job_id: UUID, wait: int) -> None:
    with services.waiter.expecting(job_id) as ended:
        if await mark_awaited(services.engine, job_id):
            await wait_for(ended, wait)


def _matches(tag: str, headers: list[str]) -> bool:
    """Whether `If-None-Match` names the tag; weakly compared, as RFC 9110 has it."""
    named = {part.strip().removeprefix("W/") for header in headers for part in header.split(",")}
    return tag in named or "*" in named


def _moment(written: str) -> datetime:
    """Reads a time. A `+` that the caller did not escape arrives as a space."""
    if moment := parse_moment(re.sub(r" (?=[0-9]{2}:?[0-9]{2}\Z)", "+", written)):
        return moment
    raise ValueError("not an ISO 8601 time with an offset")


CreatedAfter = Annotated[datetime | None, BeforeValidator(_moment), Query(alias="createdAfter")]
CreatedBefore = Annotated[datetime | None, BeforeValidator(_moment), Query(alias="createdBefore")]
_FILTERS = ("status", "campaignId", "clientReference", "createdAfter", "createdBefore")


def filters(
    status: JobState | None = None,
    campaign_id: Annotated[str | None, Query(alias="campaignId")] = None,
    client_reference: Annotated[str | None, Query(alias="clientReference")] = None,
    created_after: CreatedAfter = None,
    created_before: CreatedBefore = None,
) -> Filters:
    """Which jobs a caller asks for."""
    columns = {"state": status, "campaign_id": campaign_id, "client_reference": client_reference}
    return Filters(columns, created_after, created_before)


@router.get("/api/v1/jobs", operation_id="listJobs", summary="List jobs", tags=["Jobs"])
async def get_jobs(
    request: Request,
    key: Reader,
    which: Annotated[Filters, Depends(filters)],
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Answer:
    """The company's jobs, newest first."""
    refuse_unknown_parameters(request, *_FILTERS, "cursor", "limit")
    engine = services_of(request).engine
    items, following = await status.list_jobs(engine, key, which, cursor, limit)
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
    services = services_of(request)
    media_type = results.preferred_format(",".join(request.headers.getlist("accept")))
    refuse_unknown_parameters(request, "outcome", *_PARAMETERS_OF[media_type])
    outcomes = list(Outcome) if outcome is None else outcomes_of(outcome)
    if not outcomes:
        raise InvalidRequest("Invalid query parameter: outcome")
    subject_id = status.parse_job_id(job_id)
    if media_type is None:
        items, following = await results.read_results(
            services.engine, key, subject_id, outcomes, int(cursor), limit
        )
        next_cursor = None if following is None else str(following)
        return success({"items": items, "nextCursor": next_cursor})
    job = await status.check_visible(services.engine, key, subject_id)
    status.check_kept(job)
    write = results.as_ndjson
    if media_type == results.CSV:
        write = partial(results.as_csv, raw=raw == "1")
    parts = results.stream(services.engine, subject_id, job.total, outcomes, write)
    place = services.exports.taken_by(key.company_id)
    return results.Export(media_type, subject_id, _while_admitted(request, parts), place)


_PARAMETERS_OF = {None: ("cursor", "limit"), results.CSV: ("raw",), results.NDJSON: ()}


async def _while_admitted(request: Request, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A slow reader reads for hours, and its key may be revoked meanwhile. Raises BrokenOff
    then.
    """
    authenticator = services_of(request).authenticator
    async for part in parts:
        try:
            await authenticator.admit_again(request)
        except ApiError as error:
            if error.status in {401, 403}:  # else the database cannot tell, and is asked again
                raise BrokenOff("key not admitted any more") from error
        yield part


@router.patch(
    "/api/v1/jobs/{jobId}",
    operation_id="changeJob",
    summary="Change a job's pace",
    tags=["Actions"],
)
async def change_job(
    request: Request, job_id: Annotated[str, Path(alias="jobId")], key: Writer
) -> Answer:
    """Lets an unfinished job work faster or slower; with `null`, as fast as it goes."""
    fields = decode_object(await read_json(request), frozenset({"maxLeadsPerSecond"}))
    refuse_unknown_parameters(request)
    if "maxLeadsPerSecond" not in fields:
        raise InvalidRequest("maxLeadsPerSecond is required")
    engine, subject_id = services_of(request).engine, status.parse_job_id(job_id)
    await control.change_pace(engine, key, subject_id, parse_rate(fields["maxLeadsPerSecond"]))
    return success((await status.read_job(engine, key, subject_id)).body)


_add_actions()
