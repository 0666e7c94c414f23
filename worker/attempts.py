"""What follows an attempt to deliver: its record, the time of the next one, and the end of a
webhook that fails for days.

The times between attempts are a pure function, with the schedule that the Standard Webhooks show.
"""

import random
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import structlog
from sqlalchemy import Connection, text

from shared.states import DeliveryState
from worker.outbox import Claimed
from worker.poster import Reply

DELAYS = tuple(  # after each failed attempt; 75.6 hours in all, a fifth more or less
    timedelta(seconds=seconds)
    for seconds in (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
)
SPREAD = 0.2  # of a delay, either way: what failed together does not come back together
LONGEST_RETRY_AFTER = timedelta(hours=24)
_ASKS_TO_WAIT = {429, 503}
DISABLE_AFTER = timedelta(days=5)  # that a webhook failed
GONE = 410

# `webhook`: it is locked before the delivery, as by whoever changes or deletes a webhook with its
# deliveries: else two wait for each other. One that works, and is answered well, is not touched at
# all; nor one that leads elsewhere by now.
#
# Without attempts, the delivery was asked for again while this one was under way: that is still to
# be done, and at once.
_RECORD = text("""
    WITH webhook AS MATERIALIZED (
        SELECT FROM webhooks
        WHERE id = :webhook_id AND url = :url
            AND (failing_since IS NOT NULL OR :state <> 'delivered')
        FOR NO KEY UPDATE
    )
    UPDATE deliveries SET claimed_until = NULL,
        state = CASE
            WHEN attempts > 0 AND (state = 'pending' OR :state = 'delivered') THEN :state
            ELSE state
        END,
        error = CASE
            WHEN attempts > 0 AND (state = 'pending' OR :state = 'delivered') THEN :error
            ELSE error
        END,
        due_at = clock_timestamp() + coalesce(
            CASE WHEN attempts > 0 THEN CAST(:delay AS interval) END, interval '0'
        ),
        tried = tried - (-1) || (tried -> -1 || jsonb_build_object(
            'status', CAST(:status AS int), 'latency', CAST(:latency AS int),
            'error', CAST(:failure AS text)
        ))
    FROM (SELECT count(*) > 0 AS is_locked FROM webhook) AS webhook
    WHERE id = :id AND claimed_until = :claimed_until
    RETURNING state, webhook.is_locked AS webhook_is_locked
""")

_NOTE_SUCCESS = text("UPDATE webhooks SET failing_since = NULL WHERE id = :webhook_id")

# Everything goes by one moment, so that a webhook that stays enabled gets no reason. A disabled
# webhook can be sent tests, which change nothing about it.
_NOTE_FAILURE = text("""
    UPDATE webhooks SET failing_since = coalesce(failing_since, statement_timestamp()),
        enabled = NOT :gone
            AND coalesce(failing_since > statement_timestamp() - :disable_after, true),
        disabled_reason = CASE
            WHEN :gone THEN 'It answered 410 Gone'
            WHEN failing_since <= statement_timestamp() - :disable_after
                THEN 'Every attempt failed for 5 days'
        END
    WHERE id = :webhook_id AND enabled
    RETURNING disabled_reason
""")

_GIVE_UP_THE_REST = text("""
    UPDATE deliveries SET state = 'failed', error = 'the webhook was disabled'
    WHERE company_id = :company_id AND receiver = CAST(CAST(:webhook_id AS uuid) AS text)
        AND state = 'pending'
""")

log = structlog.get_logger()


def record(connection: Connection, claimed: Claimed, reply: Reply, seconds: float) -> None:
    """Writes down an attempt and its consequences. The caller commits."""
    delivered = reply.status is not None and 200 <= reply.status < 300  # noqa: PLR2004
    gone = reply.status == GONE
    delay = None if delivered or gone else next_delay(claimed.attempts, reply, datetime.now(UTC))
    if delivered:
        state = DeliveryState.DELIVERED
    else:
        state = DeliveryState.PENDING if delay else DeliveryState.FAILED
    why = "answered 410 Gone" if gone else "all attempts failed"
    values = {
        "id": claimed.id,
        "webhook_id": claimed.webhook_id if reply.sent else None,
        "url": claimed.url,
        "claimed_until": claimed.claimed_until,
        "state": state,
        "error": why if state == DeliveryState.FAILED else None,
        "delay": delay,
        "status": reply.status,
        "latency": round(seconds * 1000),
        "failure": reply.error,
    }
    recorded = connection.execute(_RECORD, values).one_or_none()
    if recorded is None:
        return  # the lease ran out, and somebody else has it in hand
    log.info(
        "webhook sent",
        delivery=str(claimed.id),
        status=reply.status,
        error=reply.error,
        state=recorded.state,
    )
    if recorded.webhook_is_locked and delivered:
        connection.execute(_NOTE_SUCCESS, values)
    elif recorded.webhook_is_locked:
        _note_failure(connection, claimed, gone=gone)


def _note_failure(connection: Connection, claimed: Claimed, *, gone: bool) -> None:
    values: dict[str, Any] = {"webhook_id": claimed.webhook_id, "company_id": claimed.company_id}
    values |= {"gone": gone, "disable_after": DISABLE_AFTER}
    reason = connection.execute(_NOTE_FAILURE, values).scalar_one_or_none()
    if reason:
        connection.execute(_GIVE_UP_THE_REST, values)
        log.warning("webhook disabled", webhook=str(claimed.webhook_id), reason=reason)


def next_delay(
    attempts: int, reply: Reply, now: datetime, spread: float | None = None
) -> timedelta | None:
    """How long to wait after the last of so many failed attempts; None: no further one.

    `spread` is from -1 to 1, random by default. Of 429 and 503 `Retry-After` is honoured, where it
    asks for longer.
    """
    if attempts > len(DELAYS):
        return None
    chosen = random.uniform(-1, 1) if spread is None else spread  # noqa: S311 - jitter, no secret
    delay = DELAYS[attempts - 1] * (1 + SPREAD * chosen)
    if reply.status not in _ASKS_TO_WAIT:
        return delay
    return max(delay, min(parse_retry_after(reply.retry_after, now), LONGEST_RETRY_AFTER))


def parse_retry_after(written: str | None, now: datetime) -> timedelta:
    """Reads seconds or a date, as RFC 9110 has them. Anything else, and None, is 0."""
    if written is None:
        return timedelta(0)
    if written.strip().isascii() and written.strip().isdigit():
        return timedelta(seconds=min(int(written.strip()[:9]), 10**6))
    try:
        moment = parsedate_to_datetime(written)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now
    except (ValueError, OverflowError):
        return timedelta(0)
