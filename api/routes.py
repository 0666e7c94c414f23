"""The routes: each admits its caller, does one thing, and answers. What they promise is documented in api.openapi."""

from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Depends, Path, Query, Request

from api import health, jobs, results
from api.acceptor import accept
from api.answers import Answer, success, time_text
from api.authenticator import Authenticator, Key
from api.body import read_body
from api.errors import InvalidRequest, RateLimited
from api.parser import parse
from shared.states import JobState, Outcome, outcomes_of

router = APIRouter(redirect_slashes=False)

MAX_PAGE = 10_000


async def reader(request: Request) -> Key:
    """Admits a call that only reads."""
    return await _authenticator(request).admit(request, submitting=False)


Reader = Annotated[Key, Depends(reader)]


def _authenticator(request: Request) -> Authenticator:
    authenticator: Authenticator = request.app.state.authenticator
    return authenticator


@router.post(
    "/api/v1/records/bulk-delete", operation_id="bulkDeleteRecords", summary="The same, by another name", tags=["Bulk delete"]
)
@router.post("/api/v1/leads/bulk-delete", operation_id="bulkDeleteLeads", summary="Delete leads in bulk", tags=["Bulk delete"])
async def bulk_delete(request: Request) -> Answer:
    """Accepts a bulk delete as a job."""
    state = request.app.state
    key = await _authenticator(request).admit(request, submitting=True)
    submission = parse(await read_body(request))
    _refuse_unknown_parameters(request, set())
    job_id = uuid4()
    created_at = await accept(state.engine, key, submission, job_id, state.settings.chunk_size)
    state.sender.send()
    status_url = f"/api/v1/jobs/{job_id}"
    body = {
        "jobId": str(job_id),
        "status": JobState.QUEUED,
        "statusUrl": status_url,
        "total": len(submission.external_ids),
        "createdAt": time_text(created_at),
        "runAt": None,
    }
    return success(body, 202, {"Location": status_url, "Retry-After": "1"})


@router.get("/api/v1/jobs/{jobId}", operation_id="getJob", summary="Read a job", tags=["Jobs"])
async def get_job(request: Request, job_id: Annotated[str, Path(alias="jobId")], key: Reader) -> Answer:
    """The job as it stands now, with its identifiers."""
    _refuse_unknown_parameters(request, set())
    body, retry_after = await jobs.read_job(request.app.state.engine, key, job_id)
    return success(body, headers={"Retry-After": str(retry_after)} if retry_after else None)


@router.get("/api/v1/jobs", operation_id="listJobs", summary="List jobs", tags=["Jobs"])
async def get_jobs(
    request: Request,
    key: Reader,
    status: JobState | None = None,
    campaign_id: Annotated[str | None, Query(alias="campaignId")] = None,
    client_reference: Annotated[str | None, Query(alias="clientReference")] = None,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Answer:
    """The company's jobs, newest first."""
    _refuse_unknown_parameters(request, {"status", "campaignId", "clientReference", "cursor", "limit"})
    filters = {"state": status, "campaign_id": campaign_id, "client_reference": client_reference}
    items, following = await jobs.list_jobs(request.app.state.engine, key, filters, cursor, limit)
    return success({"items": items, "nextCursor": following})


@router.get("/api/v1/jobs/{jobId}/results", operation_id="listResults", summary="List a job's results", tags=["Jobs"])
async def get_results(
    request: Request,
    job_id: Annotated[str, Path(alias="jobId")],
    key: Reader,
    outcome: str | None = None,
    cursor: Annotated[str, Query(pattern="^[0-9]{1,9}$")] = "0",
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 1000,
) -> Answer:
    """What became of each entry, in request order."""
    _refuse_unknown_parameters(request, {"outcome", "cursor", "limit"})
    wanted = list(Outcome) if outcome is None else outcomes_of(outcome)
    if not wanted:
        raise InvalidRequest("Invalid query parameter: outcome")
    engine, found = request.app.state.engine, jobs.parse_job_id(job_id)
    await jobs.check_visible(engine, key, found)
    items, following = await results.read_results(engine, found, wanted, int(cursor), limit)
    return success({"items": items, "nextCursor": None if following is None else str(following)})


@router.get("/api/health", operation_id="getHealth", summary="Ask whether everything is up", tags=["Health"])
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
    return Answer({"success": False, "data": parts, "error": "Service temporarily unavailable"}, 503, {"Retry-After": "5"})


def _refuse_unknown_parameters(request: Request, known: set[str]) -> None:
    """A misspelt filter must not turn into none, nor `?dryRun=true` into a real deletion; one given twice is as unclear."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in known or names.count(name) > 1:
            raise InvalidRequest(f"Invalid query parameter: {''.join(c if c.isprintable() else '?' for c in name[:64])}")
