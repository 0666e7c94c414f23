"""Deliveries: what was sent to webhooks, and how often.

A key that sees a job sees its deliveries; the URL of a webhook is shown to its owner only. Of what
a receiver answered, the status and the time that it took are kept, and nothing else.
"""

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.database import LIMITS, AnyRow, rows
from api.http.answers import ApiError, time_text
from api.http.auth import Key
from api.http.paging import newest_first, page_of
from api.webhooks.endpoints import webhook_not_found
from shared.database.models import deliveries, jobs, webhooks
from shared.database.plans import BY_INDEX
from shared.states import DeliveryState, Event

# An attempt that is under way keeps its lease. The deliverer that makes it finds `attempts` at 0
# afterwards, and leaves the delivery to be sent again.
_RESTART = text(f"""
    UPDATE deliveries SET state = 'pending', error = NULL, attempts = 0,
        due_at = greatest(clock_timestamp(), claimed_until)
    WHERE id = :id AND {BY_INDEX} RETURNING id
""")

# It is in conflict with itself where a broken connection has it sent a second time.
_TEST = text(f"""
    WITH {LIMITS}
    INSERT INTO deliveries (id, company_id, webhook_id, event)
    SELECT :id, company_id, id, :event FROM limits CROSS JOIN webhooks
    WHERE id = :webhook_id AND company_id = :company_id AND {BY_INDEX} FOR KEY SHARE OF webhooks
    ON CONFLICT (id) DO UPDATE SET event = excluded.event
    RETURNING id
""")

_under_way = deliveries.c.claimed_until > func.clock_timestamp()
_select = (
    select(
        *(column for column in deliveries.c if column.name != "url"),
        func.coalesce(deliveries.c.url, webhooks.c.url).label("url"),
        func.coalesce(webhooks.c.enabled, True).label("enabled"),
        func.coalesce(_under_way, False).label("under_way"),
    )
    .outerjoin(webhooks, webhooks.c.id == deliveries.c.webhook_id)
    .outerjoin(jobs, jobs.c.id == deliveries.c.job_id)
)


async def list_deliveries(
    engine: AsyncEngine, key: Key, columns: dict[str, Any], cursor: str | None, limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of the deliveries that the key sees and of which `columns` have these values (None
    for any), newest first, and the cursor of the next page. Raises InvalidRequest.
    """
    statement = newest_first(_select.where(*_visible(key)), deliveries, cursor)
    for name, value in columns.items():
        if value is not None:
            statement = statement.where(deliveries.c[name] == value)
    page, next_cursor = page_of(await rows(engine, statement.limit(limit + 1)), limit)
    return [_described(row, key) for row in page], next_cursor


async def redeliver(engine: AsyncEngine, key: Key, written_id: str) -> dict[str, Any]:
    """Has a delivery sent again, from the first attempt on; where an attempt is under way, after
    it. Raises ApiError 404, 409.
    """
    delivery = await _read(engine, key, _parse_delivery_id(written_id))
    if not delivery.enabled:
        raise ApiError(409, "Cannot redeliver to a webhook that is disabled")
    await rows(engine, _RESTART, {"id": delivery.id})
    return _described(await _read(engine, key, delivery.id), key)


async def test(engine: AsyncEngine, key: Key, webhook_id: UUID) -> dict[str, Any]:
    """Writes a delivery of the event `webhook.test`. Raises ApiError 404."""
    delivery_id = uuid4()
    values = {
        "id": delivery_id,
        "company_id": key.company_id,
        "webhook_id": webhook_id,
        "event": Event.TEST,
    }
    if not await rows(engine, _TEST, values):
        raise webhook_not_found()
    return _described(await _read(engine, key, delivery_id), key)


async def _read(engine: AsyncEngine, key: Key, delivery_id: UUID) -> AnyRow:
    visible = await rows(engine, _select.where(deliveries.c.id == delivery_id, *_visible(key)))
    if not visible:
        raise _delivery_not_found()
    return visible[0]


def _parse_delivery_id(written: str) -> UUID:
    try:
        return UUID(written)
    except ValueError:
        raise _delivery_not_found() from None


def _delivery_not_found() -> ApiError:
    return ApiError(404, "Delivery not found")


def _visible(key: Key) -> list[Any]:
    """The conditions on a delivery that the key sees."""
    conditions = [deliveries.c.company_id == key.company_id, text(BY_INDEX)]
    if key.campaign_id is not None:
        conditions.append(jobs.c.campaign_id == key.campaign_id)
    return conditions


def _described(row: AnyRow, key: Key) -> dict[str, Any]:
    shows_url = row.webhook_id is None or key.owns_webhooks
    waiting = row.state == DeliveryState.PENDING and not row.under_way
    return {
        "deliveryId": str(row.id),
        "event": row.event,
        "jobId": str(row.job_id) if row.job_id else None,
        "webhookId": str(row.webhook_id) if row.webhook_id else None,
        "url": row.url if shows_url else None,
        "status": row.state,
        "error": row.error,
        "attempts": [_attempt(**attempt) for attempt in row.tried],
        "nextAttemptAt": time_text(row.due_at) if waiting else None,
        "createdAt": time_text(row.created_at),
    }


def _attempt(at: str, status: int | None, latency: int | None, error: str | None) -> dict[str, Any]:
    return {
        "at": time_text(datetime.fromisoformat(at)),
        "statusCode": status,
        "latencyMs": latency,
        "error": error,
    }
