"""Webhooks: the URLs of a company that are told when any of its jobs ends. A secret is shown when
it is made, and never again.
"""

from typing import Any, NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import case, select, text, update
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
WEBHOOKS_OF_ONE_COMPANY = 50  # each is a delivery for each of its jobs
NOT_EVENTS = f"events must be some of {', '.join(JOB_EVENTS)}"

# Calls that add a webhook to one company take turns: otherwise several would count the same, and
# make more than WEBHOOKS_OF_ONE_COMPANY. The time-out frees the lock of a process that stops in the
# middle.
_TURN = text(f"""
    WITH {LIMITS}
    SELECT set_config('idle_in_transaction_session_timeout', '10s', true)
    FROM limits CROSS JOIN companies
    WHERE id = :company_id AND {BY_INDEX} FOR NO KEY UPDATE OF companies
""")

# Where a broken connection has it sent again with the same id, it finds what it wrote.
_ADD = text(f"""
    INSERT INTO webhooks (id, company_id, url, events, description, enabled, secret)
    SELECT :id, :company_id, :url, CAST(:events AS text[]), :description, :enabled, :secret
    WHERE (
        SELECT count(*) FROM webhooks WHERE company_id = :company_id AND id <> :id AND {BY_INDEX}
    ) < :webhooks_of_one_company
    ON CONFLICT (id) DO UPDATE SET url = excluded.url
    RETURNING *
""")

# Where the webhook is disabled, its pending deliveries are given up: they are not sent when it is
# enabled again.
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
    """A webhook as its owner describes it; None stands for what is left out."""

    url: str | None
    events: list[str] | None
    description: str | None
    enabled: bool | None


def parse_registration(body: bytes, *, whole: bool) -> Registration:
    """The registration in `body`. One that is `whole`, of a webhook to be made, has a URL, and is
    enabled unless it says otherwise. Raises InvalidRequest.
    """
    fields = decode_object(body, FIELDS)
    url = description = enabled = None
    if fields.get("url") is not None:
        url = checked_url("url", fields["url"])
    elif whole:
        raise InvalidRequest("url is required")
    events = _checked_events(fields.get("events"))
    if fields.get("description") is not None:
        description = checked_text("description", fields["description"])
    if whole or fields.get("enabled") is not None:
        enabled = checked_flag(fields, "enabled", default=True)
    return Registration(url, events, description, enabled)


def _checked_events(events: Any) -> list[str] | None:
    """The events that are named, each once; None where none are. Raises InvalidRequest."""
    if events is None:
        return None
    is_filled = isinstance(events, list) and events
    if not is_filled or any(event not in JOB_EVENTS for event in events):
        raise InvalidRequest(NOT_EVENTS)
    return list(dict.fromkeys(events))


async def add(
    engine: AsyncEngine, settings: Settings, key: Key, registration: Registration
) -> dict[str, Any]:
    """Adds a webhook. Returns it as its owner sees it, with its secret. Raises InvalidRequest,
    ApiError 409.
    """
    await check_host("url", registration.url or "", settings.webhook_allow)
    secret = new_secret()
    values = registration._asdict() | {
        "id": uuid4(),
        "company_id": key.company_id,
        "events": registration.events or list(JOB_EVENTS),
        "description": registration.description or "",
        "secret": Vault(settings.secrets_key).lock(secret),
        "webhooks_of_one_company": WEBHOOKS_OF_ONE_COMPANY,
    }
    added = await rows(engine, _ADD, values, turn=_TURN)
    if not added:
        raise ApiError(409, f"A company can have {WEBHOOKS_OF_ONE_COMPANY} webhooks")
    return _described(added[0]) | {"secret": secret}


async def change(
    engine: AsyncEngine, settings: Settings, key: Key, webhook_id: UUID, registration: Registration
) -> dict[str, Any]:
    """Changes what the registration says, and leaves the rest. Disabling a webhook gives up what is
    still to be sent. Raises InvalidRequest, ApiError 404.
    """
    if registration.url is not None:
        await check_host("url", registration.url, settings.webhook_allow)
    changed = await rows(engine, _CHANGE, registration._asdict() | _place(key, webhook_id))
    if not changed:
        raise webhook_not_found()
    return _described(changed[0])


async def rotate(
    engine: AsyncEngine, settings: Settings, key: Key, webhook_id: UUID
) -> dict[str, Any]:
    """Gives a webhook a new secret, which is in the answer; earlier ones sign too for a while.
    Raises ApiError 404.
    """
    secret = new_secret()
    locked = Vault(settings.secrets_key).lock(secret)
    rotated = await rows(engine, _rotation(key, webhook_id, locked))
    if not rotated:
        raise webhook_not_found()
    return _described(rotated[0]) | {"secret": secret}


def _rotation(key: Key, webhook_id: UUID, locked: bytes) -> Any:
    """The statement that makes `locked` the secret. Where it is sent again, it changes nothing."""
    now, old = webhooks.c.secret, webhooks.c.old_secrets
    values = {"secret": locked, "old_secrets": case((now == locked, old), else_=retired(now, old))}
    is_named = (webhooks.c.id == webhook_id) & (webhooks.c.company_id == key.company_id)
    return update(webhooks).where(is_named, text(BY_INDEX)).values(values).returning(*webhooks.c)


async def remove(engine: AsyncEngine, key: Key, webhook_id: UUID) -> None:
    """Removes a webhook with its deliveries. Raises ApiError 404."""
    # _REMOVE alone cannot tell: where it is sent a second time, it finds nothing.
    await read(engine, key, webhook_id)
    await rows(engine, _REMOVE, _place(key, webhook_id))


async def read(engine: AsyncEngine, key: Key, webhook_id: UUID) -> dict[str, Any]:
    """Reads a webhook as its owner sees it. Raises ApiError 404."""
    named = await rows(engine, _select(key).where(webhooks.c.id == webhook_id))
    if not named:
        raise webhook_not_found()
    return _described(named[0])


async def list_webhooks(
    engine: AsyncEngine, key: Key, cursor: str | None, limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of the company's webhooks, newest first, and the cursor of the next page. Raises
    InvalidRequest.
    """
    statement = newest_first(_select(key), webhooks, cursor)
    page, next_cursor = page_of(await rows(engine, statement.limit(limit + 1)), limit)
    return [_described(row) for row in page], next_cursor


def parse_webhook_id(written: str) -> UUID:
    """The id in a path. Raises ApiError 404 for what cannot be a webhook's id."""
    try:
        return UUID(written)
    except ValueError:
        raise webhook_not_found() from None


def webhook_not_found() -> ApiError:
    """The same answer for unknown webhooks and those of other companies."""
    return ApiError(404, "Webhook not found")


def _select(key: Key) -> Any:
    is_own = webhooks.c.company_id == key.company_id
    return select(*webhooks.c).where(is_own, text(BY_INDEX))


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
