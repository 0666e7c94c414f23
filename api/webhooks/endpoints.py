"""The standing endpoints of a company: where every end of its jobs is told. A secret is shown when
it is made, never again.
"""

from typing import Any, NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import case, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from api.database import LIMITS, AnyRow, rows
from api.http.answers import ApiError, InvalidRequest, time_text
from api.http.auth import Key
from api.http.callback_urls import check_host, checked_url
from api.http.paging import newest_first, page_of
from api.http.request import checked_flag, checked_text, decode_object
from shared.credentials import Vault, last_end, new_secret, retired
from shared.database.models import webhooks
from shared.database.plans import BY_INDEX
from shared.settings import Settings
from shared.states import JOB_EVENTS

FIELDS = frozenset({"url", "events", "description", "enabled"})
MOST = 50  # of one company: each is a delivery for each of its jobs

# Those who add one to a company take turns, or several would count the same, and make more than
# MOST. A process that stops in the middle lets go.
_TURN = text(f"""
    WITH {LIMITS}
    SELECT set_config('idle_in_transaction_session_timeout', '10s', true)
    FROM limits CROSS JOIN companies
    WHERE id = :company_id AND {BY_INDEX} FOR NO KEY UPDATE OF companies
""")

# Sent again with the same id, it finds what it wrote.
_ADD = text(f"""
    INSERT INTO webhooks (id, company_id, url, events, description, enabled, secret)
    SELECT :id, :company_id, :url, CAST(:events AS text[]), :description, :enabled, :secret
    WHERE (
        SELECT count(*) FROM webhooks WHERE company_id = :company_id AND id <> :id AND {BY_INDEX}
    ) < :most
    ON CONFLICT (id) DO UPDATE SET url = excluded.url
    RETURNING *
""")

# What is not wanted any more is given up, and not sent when the webhook is enabled again.
_CHANGE = text(f"""
    WITH changed AS (
        UPDATE webhooks SET url = coalesce(:url, url),
            events = coalesce(CAST(:events AS text[]), events),
            description = coalesce(:description, description),
            enabled = coalesce(:enabled, enabled),
            disabled_reason = CASE WHEN :enabled IS NULL THEN disabled_reason END,
            failing_since = CASE WHEN :enabled OR :url IS NOT NULL THEN NULL ELSE failing_since END
        WHERE id = :id AND company_id = :company_id AND {BY_INDEX}
        RETURNING *
    ),
    given_up AS (
        UPDATE deliveries SET state = 'failed', error = 'the webhook was disabled'
        FROM changed
        WHERE deliveries.company_id = changed.company_id AND receiver = CAST(changed.id AS text)
            AND state = 'pending' AND NOT :enabled
    )
    SELECT * FROM changed
""")

_REMOVE = text(
    f"DELETE FROM webhooks WHERE id = :id AND company_id = :company_id AND {BY_INDEX} RETURNING id"
)


class Registration(NamedTuple):
    """What a caller says of a webhook; None where that is left out."""

    url: str | None
    events: list[str] | None
    description: str | None
    enabled: bool | None


def parse_registration(body: bytes, *, whole: bool) -> Registration:
    """What is in `body`; where `whole`, there must be a URL. Raises InvalidRequest."""
    fields = decode_object(body, FIELDS)
    url = None if fields.get("url") is None else checked_url("url", fields["url"])
    if whole and url is None:
        raise InvalidRequest("url is required")
    events = fields.get("events")
    if events is not None and not (
        isinstance(events, list) and events and all(event in JOB_EVENTS for event in events)
    ):
        raise InvalidRequest("events must be some of job.completed, job.failed, job.cancelled")
    description = (
        None
        if fields.get("description") is None
        else checked_text("description", fields["description"])
    )
    enabled = (
        checked_flag(fields, "enabled", default=True)
        if whole or fields.get("enabled") is not None
        else None
    )
    return Registration(url, events and list(dict.fromkeys(events)), description, enabled)


async def add(
    engine: AsyncEngine, settings: Settings, key: Key, asked: Registration
) -> dict[str, Any]:
    """Adds a webhook; what callers see of it, with its secret. Raises InvalidRequest, ApiError
    409.
    """
    await check_host("url", asked.url or "", settings.webhook_allow)
    secret = new_secret()
    values = asked._asdict() | {
        "id": uuid4(),
        "company_id": key.company_id,
        "events": asked.events or list(JOB_EVENTS),
        "description": asked.description or "",
        "secret": Vault(settings.secrets_key).lock(secret),
        "most": MOST,
    }
    found = await rows(engine, _ADD, values, turn=_TURN)
    if not found:
        raise ApiError(409, f"A company can have {MOST} webhooks")
    return _described(found[0]) | {"secret": secret}


async def change(
    engine: AsyncEngine, settings: Settings, key: Key, webhook_id: UUID, asked: Registration
) -> dict[str, Any]:
    """Changes what was said. Disabling it gives up what is still to be sent. Raises InvalidRequest,
    ApiError 404.
    """
    if asked.url is not None:
        await check_host("url", asked.url, settings.webhook_allow)
    found = await rows(engine, _CHANGE, asked._asdict() | _place(key, webhook_id))
    if not found:
        raise webhook_not_found()
    return _described(found[0])


async def rotate(
    engine: AsyncEngine, settings: Settings, key: Key, webhook_id: UUID
) -> dict[str, Any]:
    """Gives it a new secret, which is in the answer; those before sign too for a while. Raises
    ApiError 404.
    """
    secret = new_secret()
    found = await rows(engine, _rotation(key, webhook_id, Vault(settings.secrets_key).lock(secret)))
    if not found:
        raise webhook_not_found()
    return _described(found[0]) | {"secret": secret}


def _rotation(key: Key, webhook_id: UUID, locked: bytes) -> Any:
    """The statement; sent again, it changes nothing."""
    now, old = webhooks.c.secret, webhooks.c.old_secrets
    values = {"secret": locked, "old_secrets": case((now == locked, old), else_=retired(now, old))}
    named = (webhooks.c.id == webhook_id) & (webhooks.c.company_id == key.company_id)
    return update(webhooks).where(named, text(BY_INDEX)).values(values).returning(*webhooks.c)


async def remove(engine: AsyncEngine, key: Key, webhook_id: UUID) -> None:
    """Removes it with its deliveries. Raises ApiError 404."""
    await read(engine, key, webhook_id)
    await rows(engine, _REMOVE, _place(key, webhook_id))  # if that is sent twice, it finds nothing


async def read(engine: AsyncEngine, key: Key, webhook_id: UUID) -> dict[str, Any]:
    """One. Raises ApiError 404."""
    found = await rows(engine, _select(key).where(webhooks.c.id == webhook_id))
    if not found:
        raise webhook_not_found()
    return _described(found[0])


async def list_webhooks(
    engine: AsyncEngine, key: Key, cursor: str | None, limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of the company's, newest first, and the cursor of the next one. Raises
    InvalidRequest.
    """
    found = await rows(engine, newest_first(_select(key), webhooks, cursor).limit(limit + 1))
    items, following = page_of(found, limit)
    return [_described(row) for row in items], following


def parse_webhook_id(written: str) -> UUID:
    """Raises ApiError 404 for what cannot be a webhook's id."""
    try:
        return UUID(written)
    except ValueError:
        raise webhook_not_found() from None


def webhook_not_found() -> ApiError:
    """One answer for unknown webhooks and those of others."""
    return ApiError(404, "Webhook not found")


def _select(key: Key) -> Any:
    return select(*webhooks.c, func.clock_timestamp().label("now")).where(
        webhooks.c.company_id == key.company_id, text(BY_INDEX)
    )


def _place(key: Key, webhook_id: UUID) -> dict[str, Any]:
    return {"id": webhook_id, "company_id": key.company_id}


def _described(row: AnyRow) -> dict[str, Any]:
    return {
        "webhookId": str(row.id),
        "url": row.url,
        "events": row.events,
        "description": row.description,
        "enabled": row.enabled,
        "disabledReason": row.disabled_reason,
        "failingSince": time_text(row.failing_since),
        "oldSecretUntil": time_text(last_end(row.old_secrets)),
        "createdAt": time_text(row.created_at),
    }
