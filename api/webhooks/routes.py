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
    """Registers a URL that is told when any job of the company ends."""
    registration = endpoints.parse_registration(await read_json(request), whole=True)
    refuse_unknown_parameters(request)
    services = services_of(request)
    webhook = await endpoints.add(services.engine, services.settings, key, registration)
    return success(webhook, 201, {"Location": f"/api/v1/webhooks/{webhook['webhookId']}"})


@router.get(
    "/api/v1/webhooks", operation_id="listWebhooks", summary="List webhooks", tags=["Webhooks"]
)
async def get_webhooks(
    request: Request, key: Owner, cursor: str | None = None, limit: Limit = 50
) -> Answer:
    """The company's webhooks, newest first."""
    refuse_unknown_parameters(request, "cursor", "limit")
    engine = services_of(request).engine
    items, next_cursor = await endpoints.list_webhooks(engine, key, cursor, limit)
    return success({"items": items, "nextCursor": next_cursor})


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
    parsed_id = endpoints.parse_webhook_id(webhook_id)
    return success(await endpoints.read(services_of(request).engine, key, parsed_id))


@router.patch(
    "/api/v1/webhooks/{webhookId}",
    operation_id="changeWebhook",
    summary="Change a webhook",
    tags=["Webhooks"],
)
async def patch_webhook(
    request: Request, key: Owner, webhook_id: Annotated[str, Path(alias="webhookId")]
) -> Answer:
    """Changes the fields that are sent, and leaves the others as they are."""
    registration = endpoints.parse_registration(await read_json(request), whole=False)
    refuse_unknown_parameters(request)
    services, parsed_id = services_of(request), endpoints.parse_webhook_id(webhook_id)
    webhook = await endpoints.change(
        services.engine, services.settings, key, parsed_id, registration
    )
    return success(webhook)


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
    parsed_id = endpoints.parse_webhook_id(webhook_id)
    await endpoints.remove(services_of(request).engine, key, parsed_id)
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
    """Makes a new secret. The one before it goes on signing for 24 hours, even if you rotate again
    meanwhile; at most five earlier secrets do so at once.
    """
    await read_nothing(request)
    refuse_unknown_parameters(request)
    services, parsed_id = services_of(request), endpoints.parse_webhook_id(webhook_id)
    return success(await endpoints.rotate(services.engine, services.settings, key, parsed_id))


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
    services, parsed_id = services_of(request), endpoints.parse_webhook_id(webhook_id)
    delivery = await deliveries.test(services.engine, key, parsed_id)
    services.sender.send(WEBHOOKS_QUEUE)
    return success(delivery, 202)


class DeliveryFilters(NamedTuple):
    """Which deliveries a page lists: those of which a column has this value, None for any."""

    columns: dict[str, Any]
    cursor: str | None
    limit: int


async def delivery_filters(
    request: Request,
    _key: Reader,
    status: DeliveryState | None = None,
    event: Event | None = None,
    cursor: str | None = None,
    limit: Limit = 50,
) -> DeliveryFilters:
    """Reads the parameters that both lists of deliveries take. Raises InvalidRequest."""
    refuse_unknown_parameters(request, "status", "event", "cursor", "limit")
    return DeliveryFilters({"state": status, "event": event}, cursor, limit)


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
    filters: Annotated[DeliveryFilters, Depends(delivery_filters)],
) -> Answer:
    """What was sent to the webhook about jobs that the key sees, newest first."""
    parsed_id = endpoints.parse_webhook_id(webhook_id)
    await endpoints.read(services_of(request).engine, key, parsed_id)
    return await _page(request, key, filters, webhook_id=parsed_id)


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
    filters: Annotated[DeliveryFilters, Depends(delivery_filters)],
) -> Answer:
    """What was sent when the job ended, to its `callbackUrl` and to webhooks, newest first."""
    parsed_id = parse_job_id(job_id)
    await check_visible(services_of(request).engine, key, parsed_id)
    return await _page(request, key, filters, job_id=parsed_id)


async def _page(request: Request, key: Key, filters: DeliveryFilters, **owner_id: UUID) -> Answer:
    """Lists the deliveries of `owner_id`: one column, which names a webhook or a job."""
    engine, columns = services_of(request).engine, filters.columns | owner_id
    items, next_cursor = await deliveries.list_deliveries(
        engine, key, columns, filters.cursor, filters.limit
    )
    return success({"items": items, "nextCursor": next_cursor})


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
    services = services_of(request)
    delivery = await deliveries.redeliver(services.engine, key, delivery_id)
    services.sender.send(WEBHOOKS_QUEUE)
    return success(delivery, 202)
