"""The route of files: a bulk delete of millions, sent as CSV or NDJSON, with the options of the
JSON form in the query.
"""

import csv
import io
from typing import Any
from uuid import uuid4

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.files.body import Upload
from api.files.rows import Manner
from api.http.answers import InvalidRequest
from api.http.request import preferred_wait, written_key
from api.jobs.idempotency import Accepted, Asked
from api.jobs.routes import authenticator_of, refuse_unknown_parameters
from api.jobs.submission import OPTIONS, Options, parse_campaign_id, parse_options
from api.jobs.waiting import answer_accepted
from shared.identifiers.columns import Naming
from shared.identifiers.names import IDENTIFIERS
from shared.states import PhoneFallback

router = APIRouter(redirect_slashes=False)

_FLAGS = {"true": True, "false": False}
_ON_INVALID = {"fail": False, "skip": True}


@router.post(
    "/api/v1/records/bulk-delete/files",
    operation_id="bulkDeleteRecordsFile",
    summary="The same, by another name",
    tags=["Bulk delete"],
)
@router.post(
    "/api/v1/leads/bulk-delete/files",
    operation_id="bulkDeleteLeadsFile",
    summary="Delete the leads of a file",
    tags=["Bulk delete"],
)
async def bulk_delete_file(request: Request) -> Response:
    """Accepts a file of leads as one job."""
    state = request.app.state
    key = await authenticator_of(request).admit(request, submitting=True)
    upload_key = written_key(request)
    query = request.query_params
    upload = Upload(request, upload_key)
    refuse_unknown_parameters(request, {"campaignId", "onInvalid", "columns", "ignore", *OPTIONS})
    if query.get("onInvalid", "fail") not in _ON_INVALID:
        raise InvalidRequest("onInvalid must be fail or skip")
    naming = _naming(query)
    options = _options(query)
    campaign_id = parse_campaign_id(query.get("campaignId"))
    preferred = preferred_wait(request)
    wait = state.settings.default_wait if preferred is None else preferred
    asked = Asked(
        key, upload.idempotency, wait, uuid4()
    )  # its hash is complete once all has been read
    manner = Manner(
        _ON_INVALID[query.get("onInvalid", "fail")],
        naming,
        options.phone_fallback == PhoneFallback.NEVER,
    )

    async def receive() -> Accepted:
        accepted: Accepted = await state.receiver.receive(
            upload, asked, campaign_id, options, manner
        )
        if (
            accepted.replayed
        ):  # a job that is new was made only after its key had been looked at again
            await authenticator_of(request).admit_again(request)
        return accepted

    return await answer_accepted(request, asked, receive(), preferred=preferred)


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


def _options(query: Any) -> Options:
    """Raises InvalidRequest, with the texts that the JSON form has."""
    fields: dict[str, Any] = {name: value for name, value in query.items() if name in OPTIONS}
    for name in ("phoneFallback", "dryRun"):
        if name in fields:
            fields[name] = _FLAGS.get(fields[name], fields[name])
    pace = fields.get("maxLeadsPerSecond", "")
    if pace.isascii() and pace.isdecimal():
        fields["maxLeadsPerSecond"] = int(pace[:12])
    if "schedule" in fields:
        try:
            fields["schedule"] = msgspec.json.decode(fields["schedule"])
        except (msgspec.MsgspecError, RecursionError):
            raise InvalidRequest("schedule must be an object") from None
    return parse_options(fields)
