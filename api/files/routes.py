"""The route of files: a bulk delete of millions, sent as CSV or NDJSON, with the options of the
JSON form in the query.
"""

import csv
import io
from contextlib import nullcontext
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.files.body import Upload
from api.files.rows import Manner
from api.http.answers import InvalidRequest
from api.http.request import refuse_unknown_parameters, services_of, submitter, written_key
from api.jobs.options import NAMES, options_in_query
from api.jobs.submission import parse_campaign_id, parse_options
from api.jobs.submit import answer
from shared.identifiers.columns import Naming
from shared.identifiers.names import IDENTIFIERS
from shared.states import PhoneFallback

router = APIRouter(redirect_slashes=False)

_ON_INVALID = {"fail": False, "skip": True}


@router.post(
    "/api/v1/leads/bulk-delete/files",
    operation_id="bulkDeleteLeadsFile",
    summary="Delete the leads of a file",
    tags=["Bulk delete"],
)
@router.post(
    "/api/v1/records/bulk-delete/files",
    operation_id="bulkDeleteRecordsFile",
    summary="As /api/v1/leads/bulk-delete/files",
    tags=["Records"],
)
async def bulk_delete_file(request: Request) -> Response:
    """Accepts a file of leads as one job."""
    services = services_of(request)
    key = await services.authenticator.admit(request, submitting=True)
    upload = Upload(request, written_key(request))
    query = request.query_params
    refuse_unknown_parameters(request, "campaignId", "onInvalid", "columns", "ignore", *NAMES)
    if query.get("onInvalid", "fail") not in _ON_INVALID:
        raise InvalidRequest("onInvalid must be fail or skip")
    naming = _naming(query)
    options = parse_options(options_in_query(query))
    campaign_id = parse_campaign_id(query.get("campaignId"))
    # The hash of its idempotency key is complete once all has been read.
    caller = submitter(request, key, upload.idempotency)
    manner = Manner(
        skip_invalid=_ON_INVALID[query.get("onInvalid", "fail")],
        naming=naming,
        needs_external_id=options["phone_fallback_rule"] == PhoneFallback.NEVER,
    )
    with services.waiter.expecting(caller.job_id) if caller.wait else nullcontext() as ended:
        accepted = await services.receiver.receive(upload, caller, campaign_id, options, manner)
        if accepted.replayed:  # a job that is new was made only after its key was looked at again
            await services.authenticator.admit_again(request)
        return await answer(request, caller, accepted, ended)


def _naming(query: Any) -> Naming:
    """Raises InvalidRequest."""
    pairs = [cell.partition(":") for cell in _cells(query, "columns")]
    if not all(identifier in IDENTIFIERS and name for identifier, _, name in pairs):
        raise InvalidRequest("columns must be written as externalId:NAME,phoneNumber:NAME")
    ignored = _cells(query, "ignore")
    names = [name for _, _, name in pairs]
    if len({identifier for identifier, _, _ in pairs}) < len(pairs) or len(
        {*names, *ignored}
    ) < len(names) + len(ignored):
        raise InvalidRequest("columns and ignore must name each identifier and each column once")
    return Naming({name: identifier for identifier, _, name in pairs}, frozenset(ignored))


def _cells(query: Any, parameter: str) -> list[str]:
    """Of a parameter that is one line of CSV. Raises InvalidRequest."""
    written = query.get(parameter)
    if written is None:
        return []
    try:
        cells = next(
            csv.reader(io.StringIO(written, newline=""), strict=True, skipinitialspace=True), []
        )
    except csv.Error:
        cells = []
    if not all(map(str.strip, cells)) or not cells:
        raise InvalidRequest(
            f"{parameter} must be names separated by commas, those that have commas in quotes"
        )
    return cells
