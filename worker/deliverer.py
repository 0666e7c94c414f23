"""Delivers webhooks: takes one that is due, signs and sends it, and records the attempt.

A delivery is written in the transaction that ends its job, and stays due until an attempt is recorded. A deliverer that dies in
between leaves a lease that runs out: the same delivery is sent again, with the same webhook-id, and none is lost. Nothing is
open across the POST but the lease.
"""

import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text

from shared.broker import WEBHOOKS_QUEUE
from shared.destinations import Network
from shared.signatures import BOTH_SIGN, Vault, new_secret, sign
from shared.states import DeliveryState
from worker.composer import compose, compose_test
from worker.finisher import Wake
from worker.poster import Reply, post

TURN = 1.0  # seconds of work for one message; a message wakes one thread
LEASE = timedelta(seconds=60)  # longer than an exchange, even where the look-up of its name takes long
AT_ONCE = 2  # to one receiver
AT_ONCE_OF_COMPANY = 16  # so that one company with many receivers that hang leaves threads to the others
RETRIES_AT_ONCE = 32  # of all: receivers that failed before never take all threads from those that did not
DELAYS = tuple(  # after each failed attempt; Standard Webhooks' example, and three days in all
    timedelta(seconds=seconds) for seconds in (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
)
SPREAD = 0.2  # of a delay, either way: what failed together does not come back together
LONGEST_RETRY_AFTER = timedelta(hours=24)
PATIENCE = timedelta(days=5)  # with a webhook that fails, before it is disabled
GONE = 410
_ASKS_TO_WAIT = {429, 503}
_KEPT_ATTEMPTS = 50

# One claim at a time, of all deliverers: so each sees what the others have under way, and the limits hold exactly.
_TAKE_TURNS = text("""
    SELECT set_config('synchronous_commit', 'off', true), set_config('lock_timeout', '5s', true),
        set_config('idle_in_transaction_session_timeout', '5s', true), pg_advisory_xact_lock(2718281828)
""")

# `waiting` goes from receiver to receiver along deliveries_due_idx, so that the backlog of one that hangs costs nothing. The
# company with the fewest under way comes first, then what has been due the longest.
_CLAIM = text("""
    WITH RECURSIVE under_way AS MATERIALIZED (
        SELECT company_id, receiver, attempts > 1 AS again FROM deliveries WHERE claimed_until > clock_timestamp()
    ),
    waiting (company_id, receiver) AS (
        (SELECT company_id, receiver FROM deliveries WHERE state = 'pending' ORDER BY company_id, receiver LIMIT 1)
        UNION ALL
        SELECT further.* FROM waiting CROSS JOIN LATERAL (
            SELECT company_id, receiver FROM deliveries
            WHERE state = 'pending' AND (company_id, receiver) > (waiting.company_id, waiting.receiver)
            ORDER BY company_id, receiver LIMIT 1
        ) AS further
    ),
    busy AS (
        SELECT waiting.*, (SELECT count(*) FROM under_way WHERE under_way.company_id = waiting.company_id) AS of_company, (
            SELECT count(*) FROM under_way
            WHERE under_way.company_id = waiting.company_id AND under_way.receiver = waiting.receiver
        ) AS of_receiver
        FROM waiting
    ),
    chosen AS MATERIALIZED (
        SELECT due.id, row_number() OVER (ORDER BY of_company, due.due_at) AS place
        FROM busy CROSS JOIN LATERAL (
            SELECT id, due_at FROM deliveries
            WHERE state = 'pending' AND company_id = busy.company_id AND receiver = busy.receiver AND due_at <= clock_timestamp()
                AND (attempts = 0 OR (SELECT count(*) FROM under_way WHERE again) < :retries_at_once)
            ORDER BY due_at LIMIT :at_once - of_receiver
        ) AS due
        WHERE of_receiver < :at_once AND of_company < :at_once_of_company
        ORDER BY place LIMIT 2
    ),
    claimed AS (
        UPDATE deliveries SET claimed_until = now_and.then, due_at = now_and.then, attempts = attempts + 1,
            tried = CASE WHEN jsonb_array_length(tried) < :kept THEN tried ELSE tried - 0 END
                || jsonb_build_object('at', now_and.now, 'status', NULL, 'latency', NULL, 'error', NULL)
        FROM chosen, (SELECT clock_timestamp() AS now, clock_timestamp() + :lease AS then) AS now_and
        WHERE deliveries.id = chosen.id AND place = 1 AND state = 'pending'
        RETURNING deliveries.*
    )
    SELECT claimed.id, claimed.company_id, claimed.job_id, claimed.webhook_id, claimed.event, claimed.created_at,
        claimed.claimed_until, claimed.attempts, claimed.due_at - :lease AS now, coalesce(claimed.url, webhooks.url) AS url,
        failing_since, coalesce(secret, webhook_secret) AS secret, coalesce(old_secret, old_webhook_secret) AS old_secret,
        coalesce(secret_rotated_at, webhook_secret_rotated_at) > clock_timestamp() - :both_sign AS both_sign,
        (SELECT count(*) FROM chosen) > 1 AS more
    FROM claimed LEFT JOIN webhooks ON webhooks.id = claimed.webhook_id
        LEFT JOIN companies ON companies.id = claimed.company_id AND claimed.webhook_id IS NULL
""")

_JOB = text("SELECT * FROM jobs WHERE id = :job_id")

# Of a company that its operator made with SQL of his own.
_GIVE_SECRET = text("""
    UPDATE companies SET webhook_secret = coalesce(webhook_secret, :secret) WHERE id = :company_id RETURNING webhook_secret
""")

_RECORD = text("""
    UPDATE deliveries SET claimed_until = NULL,
        state = CASE WHEN state = 'pending' OR :state = 'delivered' THEN :state ELSE state END,
        error = CASE WHEN :state = 'delivered' THEN NULL WHEN state = 'pending' THEN :error ELSE error END,
        due_at = clock_timestamp() + coalesce(:delay, interval '0'),
        tried = tried - (-1) || (tried -> -1 || jsonb_build_object(
            'status', CAST(:status AS int), 'latency', CAST(:latency AS int), 'error', CAST(:failure AS text)))
    WHERE id = :id AND claimed_until = :claimed_until RETURNING id
""")

_NOTE_SUCCESS = text("UPDATE webhooks SET failing_since = NULL WHERE id = :webhook_id AND failing_since IS NOT NULL")

_NOTE_FAILURE = text("""
    UPDATE webhooks SET failing_since = coalesce(failing_since, clock_timestamp()),
        enabled = enabled AND NOT :gone AND coalesce(failing_since > clock_timestamp() - :patience, true),
        disabled_reason = CASE WHEN NOT enabled THEN disabled_reason WHEN :gone THEN 'It answered 410 Gone'
            WHEN failing_since <= clock_timestamp() - :patience THEN 'Every attempt failed for 5 days' END
    WHERE id = :webhook_id
    RETURNING enabled, disabled_reason
""")

_GIVE_UP_THE_REST = text("""
    UPDATE deliveries SET state = 'failed', error = 'the webhook was disabled'
    WHERE webhook_id = :webhook_id AND state = 'pending'
""")

log = structlog.get_logger()


class Outbound(NamedTuple):
    """A claimed delivery, ready to be sent unless it has a `flaw`."""

    id: UUID
    webhook_id: UUID | None
    claimed_until: datetime
    attempts: int
    was_failing: bool
    more: bool
    url: str
    headers: dict[str, str]
    body: bytes
    flaw: str | None = None


class Terms(NamedTuple):
    """What a deliverer needs beside the database: the key of the secrets, and networks that are allowed though not public."""

    vault: Vault
    allowed: Sequence[Network]


def deliver_next(engine: Engine, terms: Terms, wake: Wake) -> None:
    """Delivers what is due, one after another, for about TURN. Raises DBAPIError; what receivers do is recorded."""
    end_of_turn = time.monotonic() + TURN
    while outbound := _claim(engine, terms.vault):
        if outbound.more:
            wake.workers(WEBHOOKS_QUEUE)  # another thread begins meanwhile
        began = time.monotonic()
        reply = (
            Reply(error=outbound.flaw) if outbound.flaw else post(outbound.url, outbound.headers, outbound.body, terms.allowed)
        )
        with engine.begin() as connection:
            record(connection, outbound, reply, time.monotonic() - began)
        if time.monotonic() >= end_of_turn:
            wake.workers(WEBHOOKS_QUEUE)
            return


def _claim(engine: Engine, vault: Vault) -> Outbound | None:
    with engine.begin() as connection:
        return claim(connection, vault)


def claim(connection: Connection, vault: Vault) -> Outbound | None:
    """Takes on what is due next, or returns None. The caller commits, then sends."""
    connection.execute(_TAKE_TURNS)
    limits = {"at_once": AT_ONCE, "at_once_of_company": AT_ONCE_OF_COMPANY, "retries_at_once": RETRIES_AT_ONCE}
    times = {"lease": LEASE, "both_sign": BOTH_SIGN, "kept": _KEPT_ATTEMPTS}
    row = connection.execute(_CLAIM, limits | times).one_or_none()
    if row is None:
        return None
    if row.job_id is None:
        body = compose_test(row)
    else:
        body = compose(connection, row.event, connection.execute(_JOB, {"job_id": row.job_id}).one())
    was_failing = row.failing_since is not None
    outbound = Outbound(row.id, row.webhook_id, row.claimed_until, row.attempts, was_failing, row.more, row.url, {}, body)
    try:
        signing = [vault.unlock(locked) for locked in _locked_secrets(connection, vault, row)]
    except ValueError as error:  # it must not keep the others from being delivered
        log.error("webhook not signed", delivery=str(row.id), error=str(error), mend="add the old key after a comma")  # noqa: TRY400
        return outbound._replace(flaw="not signed")
    return outbound._replace(headers=sign(signing, str(row.id), row.now, body))


def _locked_secrets(connection: Connection, vault: Vault, row: Any) -> list[bytes]:
    """Those that sign, encrypted. A company that has none yet gets one. Raises ValueError where there is no such company."""
    secret = row.secret
    if secret is None:
        values = {"secret": vault.lock(new_secret()), "company_id": row.company_id}
        secret = connection.execute(_GIVE_SECRET, values).scalar_one_or_none()
    if secret is None:
        raise ValueError("the company is gone")
    return [secret, row.old_secret] if row.both_sign and row.old_secret else [secret]


def record(connection: Connection, outbound: Outbound, reply: Reply, seconds: float) -> None:
    """Writes down an attempt and what follows from it. The caller commits."""
    delivered = reply.status is not None and 200 <= reply.status < 300  # noqa: PLR2004
    delay = None if delivered or reply.status == GONE else next_delay(outbound.attempts, reply, datetime.now(UTC))
    state = DeliveryState.DELIVERED if delivered else DeliveryState.PENDING if delay else DeliveryState.FAILED
    recorded = connection.execute(
        _RECORD,
        {
            "id": outbound.id,
            "claimed_until": outbound.claimed_until,
            "state": state,
            "error": None
            if state != DeliveryState.FAILED
            else "answered 410 Gone"
            if reply.status == GONE
            else "all attempts failed",
            "delay": delay,
            "status": reply.status,
            "latency": round(seconds * 1000),
            "failure": reply.error,
        },
    ).all()
    if not recorded:
        return  # the lease ran out, and somebody else has it in hand
    log.info(
        "webhook sent", delivery=str(outbound.id), status=reply.status, error=reply.error, state=state, seconds=round(seconds, 3)
    )
    if outbound.webhook_id and delivered and outbound.was_failing:
        connection.execute(_NOTE_SUCCESS, {"webhook_id": outbound.webhook_id})
    elif outbound.webhook_id and not delivered:
        _note_failure(connection, outbound.webhook_id, gone=reply.status == GONE)


def _note_failure(connection: Connection, webhook_id: UUID, *, gone: bool) -> None:
    values: dict[str, Any] = {"webhook_id": webhook_id, "gone": gone, "patience": PATIENCE}
    webhook = connection.execute(_NOTE_FAILURE, values).one_or_none()
    if webhook and webhook.disabled_reason:
        connection.execute(_GIVE_UP_THE_REST, {"webhook_id": webhook_id})
        log.warning("webhook disabled", webhook=str(webhook_id), reason=webhook.disabled_reason)


def next_delay(attempts: int, reply: Reply, now: datetime, spread: float | None = None) -> timedelta | None:
    """How long to wait after the last of so many failed attempts; None: no further one.

    `spread` is from -1 to 1, random by default. Of 429 and 503 `Retry-After` is honoured, where it asks for longer.
    """
    if attempts > len(DELAYS):
        return None
    chosen = random.uniform(-1, 1) if spread is None else spread  # noqa: S311 - jitter, no secret
    delay = DELAYS[attempts - 1] * (1 + SPREAD * chosen)
    asked = parse_retry_after(reply.retry_after, now) if reply.status in _ASKS_TO_WAIT else timedelta(0)
    return max(delay, min(asked, LONGEST_RETRY_AFTER))


def parse_retry_after(written: str | None, now: datetime) -> timedelta:
    """Seconds or a date, as RFC 9110 has them; nothing, and what is neither, is 0."""
    if written is None:
        return timedelta(0)
    if written.strip().isascii() and written.strip().isdigit():
        return timedelta(seconds=min(int(written.strip()[:9]), 10**6))
    try:
        moment = parsedate_to_datetime(written)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now
    except (ValueError, OverflowError):
        return timedelta(0)
