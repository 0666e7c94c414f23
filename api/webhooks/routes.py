"""The routes of webhooks and deliveries. A webhook tells of all of a company's jobs, so its owner
must see all of them.
"""

from typing import Annotated, Any, NamedTuple
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request

from api.http.answers import Answer, Forbidden, success
from api.http.auth import Key, Reader, Writer
from api.http.request import read_json, read_nothing, refuse_unknown_parameters, services_of
from api.jobs.status import check_visible, parse_job_id
from api.webhooks import deliveries, endpoints
from shared.broker.sender import WEBHOOKS_QUEUE
from shared.states import DeliveryState, Event

router = APIRouter(redirect_slashes=False)

Limit = Annotated[int, Query(ge=1, le=200)]


async def owner(key: Writer) -> Key:
    """Admits a call by a company-wide write key."""
    if not key.owns_webhooks:
        raise Forbidden
    return key


Owner = Annotated[Key, Depends(owner)]


@router.post(
    "/api/v1/webhooks", operation_id="createWebhook", summary="Create a webhook", tags=["Webhooks"]
)
async def create_webhook(request: Request, key: Owner) -> Answer:
    """Tells a URL of the ends of all jobs."""
    asked = endpoints.parse_registration(await read_json(request), whole=True)
    refuse_unknown_parameters(request)
    webhook = await endpoints.add(
        services_of(request).engine, services_of(request).settings, key, asked
    )
    return success(webhook, 201, {"Location": f"/api/v1/webhooks/{webhook['webhookId']}"})


@router.get(
    "/api/v1/webhooks", operation_id="listWebhooks", summary="List webhooks", tags=["Webhooks"]
)
async def get_webhooks(
    request: Request, key: Owner, cursor: str | None = None, limit: Limit = 50
) -> Answer:
    """The company's webhooks, newest first."""
    refuse_unknown_parameters(request, "cursor", "limit")
    items, following = await endpoints.list_webhooks(
        services_of(request).engine, key, cursor, limit
    )
    return success({"items": items, "nextCursor": following})


@router.get(
    "/api/v1/webhooks/{webhookId}",
    operation_id="getWebhook",
    summary="Read a webhook",
    tags=["Webhooks"],
)
async def get_webhook(
    request: Request, key: Owner, webhook_id: Annotated[str, Path(alias="webhookId")]
) -> Answer:
    """The webhook as it stands."""
    refuse_unknown_parameters(request)
    return success(
        await endpoints.read(
            services_of(request).engine, key, endpoints.parse_webhook_id(webhook_id)
        )
    )


@router.patch(
    "/api/v1/webhooks/{webhookId}",
    operation_id="changeWebhook",
    summary="Change a webhook",
    tags=["Webhooks"],
)
async def patch_webhook(
    request: Request, key: Owner, webhook_id: Annotated[str, Path(alias="webhookId")]
) -> Answer:
    """Changes what is said, and leaves the rest."""
    asked = endpoints.parse_registration(await read_json(request), whole=False)
    refuse_unknown_parameters(request)
    state, found = services_of(request), endpoints.parse_webhook_id(webhook_id)
    return success(await endpoints.change(state.engine, state.settings, key, found, asked))


@router.delete(
    "/api/v1/webhooks/{webhookId}",
    operation_id="deleteWebhook",
    summary="Delete a webhook",
    tags=["Webhooks"],
)
async def delete_webhook(
    request: Request, key: Owner, webhook_id: Annotated[str, Path(alias="webhookId")]
) -> Answer:
    """Removes the webhook and the record of its deliveries."""
    await read_nothing(request)
    refuse_unknown_parameters(request)
    await endpoints.remove(services_of(request).engine, key, endpoints.parse_webhook_id(webhook_id))
    return success({"deleted": True})


@router.post(
    "/api/v1/webhooks/{webhookId}/rotate",
    operation_id="rotateWebhook",
    summary="Change its secret",
    tags=["Webhooks"],
)
async def rotate_webhook(
    request: Request, key: Owner, webhook_id: Annotated[str, Path(alias="webhookId")]
) -> Answer:
    """A new secret; the one before signs too for 24 hours, whatever follows. Of those before, at
    most five do.
    """
    await read_nothing(request)
    refuse_unknown_parameters(request)
    state, found = services_of(request), endpoints.parse_webhook_id(webhook_id)
    return success(await endpoints.rotate(state.engine, state.settings, key, found))


@router.post(
    "/api/v1/webhooks/{webhookId}/test",
    operation_id="testWebhook",
    summary="Send a test",
    tags=["Webhooks"],
)
async def test_webhook(
    request: Request, key: Owner, webhook_id: Annotated[str, Path(alias="webhookId")]
) -> Answer:
    """Sends an event of the type `webhook.test`, at once, also to a webhook that is disabled."""
    await read_nothing(request)
    refuse_unknown_parameters(request)
    state, found = services_of(request), endpoints.parse_webhook_id(webhook_id)
    delivery = await deliveries.test(state.engine, key, found)
    state.sender.send(WEBHOOKS_QUEUE)
    return success(delivery, 202)


class Wanted(NamedTuple):
    """Which deliveries a caller asks for."""

    filters: dict[str, Any]
    cursor: str | None
    limit: int


async def wanted(
    request: Request,
    _key: Reader,
    status: DeliveryState | None = None,
    event: Event | None = None,
    cursor: str | None = None,
    limit: Limit = 50,
) -> Wanted:
    """Reads the parameters of both lists of deliveries."""
    refuse_unknown_parameters(request, "status", "event", "cursor", "limit")
    return Wanted({"state": status, "event": event}, cursor, limit)


@router.get(
    "/api/v1/webhooks/{webhookId}/deliveries",
    operation_id="listWebhookDeliveries",
    summary="List a webhook's deliveries",
    tags=["Deliveries"],
)
async def get_webhook_deliveries(
    request: Request,
    webhook_id: Annotated[str, Path(alias="webhookId")],
    key: Reader,
    asked: Annotated[Wanted, Depends(wanted)],
) -> Answer:
    """What was sent to it, of the jobs that the key sees; newest first."""
    found = endpoints.parse_webhook_id(webhook_id)
    await endpoints.read(services_of(request).engine, key, found)
    return await _page(request, key, asked, webhook_id=found)


@router.get(
    "/api/v1/jobs/{jobId}/deliveries",
    operation_id="listJobDeliveries",
    summary="List a job's deliveries",
    tags=["Deliveries"],
)
async def get_job_deliveries(
    request: Request,
    job_id: Annotated[str, Path(alias="jobId")],
    key: Reader,
    asked: Annotated[Wanted, Depends(wanted)],
) -> Answer:
    """What was sent when the job ended, to its callback and to webhooks; newest first."""
    found = parse_job_id(job_id)
    await check_visible(services_of(request).engine, key, found)
    return await _page(request, key, asked, job_id=found)


async def _page(request: Request, key: Key, asked: Wanted, **place: UUID) -> Answer:
    engine = services_of(request).engine
    items, following = await deliveries.list_deliveries(
        engine, key, asked.filters | place, asked.cursor, asked.limit
    )
    return success({"items": items, "nextCursor": following})


@router.post(
    "/api/v1/deliveries/{deliveryId}/redeliver",
    operation_id="redeliver",
    summary="Send it again",
    tags=["Deliveries"],
)
async def redeliver(
    request: Request, key: Writer, delivery_id: Annotated[str, Path(alias="deliveryId")]
) -> Answer:
    """Sends the same event again, with the same `webhook-id`, at once and from the first attempt
    on.

    Where an attempt is under way, it is sent once more after that.
    """
    await read_nothing(request)
    refuse_unknown_parameters(request)
    delivery = await deliveries.redeliver(services_of(request).engine, key, delivery_id)
    services_of(request).sender.send(WEBHOOKS_QUEUE)
    return success(delivery, 202)
