"""The routes of leads, as the published API of the same family has them."""

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator

from api.http.answers import Answer, InvalidRequest, success
from api.http.auth import Reader, Writer
from api.http.request import read_json, refuse_unknown_parameters, services_of
from api.jobs.options import parse_region
from api.leads.create import create, parse_new
from api.leads.delete import delete
from api.leads.find import find, list_leads
from api.leads.named import Named
from shared.identifiers.canonical import canonical_external_id, canonical_phone_number

router = APIRouter(redirect_slashes=False)

MAX_PAGE = 8000

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
CampaignId = Annotated[str | None, Query(alias="campaignId")]
ExternalId = Annotated[str | None, Query(alias="externalId")]


def _with_plus(written: str | None) -> str | None:
    """A `+` that its caller did not escape arrives as a space, with which no number begins."""
    return re.sub(r"\A (?=[0-9])", "+", written) if written else written


PhoneRegion = Annotated[str | None, Query(alias="phoneRegion")]
PhoneNumber = Annotated[str | None, AfterValidator(_with_plus), Query(alias="phoneNumber")]


@router.post(
    "/api/v1/records/bulk",
    operation_id="createRecords",
    summary="As /api/v1/leads/bulk",
    tags=["Records"],
)
@router.post(
    "/api/v1/leads/bulk", operation_id="createLeads", summary="Create leads", tags=["Leads"]
)
async def create_leads(request: Request, key: Writer) -> Answer:
    """Creates up to 1000 leads; those whose identifiers are taken are skipped."""
    new = parse_new(await read_json(request))
    refuse_unknown_parameters(request)
    return success(
        await create(services_of(request).engine, services_of(request).settings, key, new)
    )


@router.get(
    "/api/v1/records",
    operation_id="listRecords",
    summary="As /api/v1/leads",
    tags=["Records"],
)
@router.get("/api/v1/leads", operation_id="listLeads", summary="List leads", tags=["Leads"])
async def get_leads(
    request: Request,
    key: Reader,
    campaign_id: CampaignId = None,
    cursor: str | None = None,
    limit: Limit = 1000,
    external_id: ExternalId = None,
    phone_number: PhoneNumber = None,
    phone_region: PhoneRegion = None,
) -> Answer:
    """A campaign's leads, a page at a time; or the one with an identifier."""
    refuse_unknown_parameters(
        request, "campaignId", "cursor", "limit", "externalId", "phoneNumber", "phoneRegion"
    )
    state, campaign_id = services_of(request), _named(campaign_id)
    if external_id is not None or phone_number is not None:
        named = Named(external_id, phone_number, parse_region(phone_region))
        return success(await find(state.engine, state.settings, key, campaign_id, named))
    return success(await list_leads(state.engine, state.settings, key, campaign_id, cursor, limit))


@router.delete(
    "/api/v1/records",
    operation_id="deleteRecord",
    summary="As /api/v1/leads",
    tags=["Records"],
)
@router.delete(
    "/api/v1/leads", operation_id="deleteLead", summary="Delete one lead", tags=["Leads"]
)
async def delete_lead(
    request: Request,
    key: Writer,
    campaign_id: CampaignId = None,
    external_id: ExternalId = None,
    phone_number: PhoneNumber = None,
    phone_region: PhoneRegion = None,
) -> Answer:
    """Deletes a lead at once, and its copies in the archive."""
    refuse_unknown_parameters(request, "campaignId", "externalId", "phoneNumber", "phoneRegion")
    campaign_id = _named(campaign_id)
    if not canonical_external_id(external_id or "") and not canonical_phone_number(
        phone_number or ""
    ):
        raise InvalidRequest(
            "At least one of phoneNumber or externalId query parameter is required"
        )
    named = Named(external_id, phone_number, parse_region(phone_region))
    erased = await delete(services_of(request).engine, key, campaign_id, named)
    return success({"deleted": True, "erasedFromArchive": erased} if erased else {"deleted": True})


def _named(campaign_id: str | None) -> str:
    if not canonical_external_id(campaign_id or ""):
        raise InvalidRequest("campaignId query parameter is required")
    return str(campaign_id)
