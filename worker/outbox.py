"""The deliveries that wait to be sent: which is next, and what is written down of an attempt.

A delivery is written in the transaction that ends its job, and stays due until an attempt is
recorded. A deliverer that dies in between leaves a lease that runs out: the same delivery is sent
again, with the same webhook-id, and none is lost.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from sqlalchemy import Connection, text

from shared.database.plans import NOW
from shared.states import DeliveryState
from worker.attempts import next_delay
from worker.poster import Reply

LEASE = timedelta(seconds=60)  # much longer than an exchange, with what is done before and after it
AT_ONCE = 2  # to one receiver
AT_ONCE_OF_COMPANY = (
    16  # so that one company with many receivers that hang leaves threads to the others
)
RETRIES_AT_ONCE = (
    32  # of all: receivers that failed before never take all threads from those that did not
)
PATIENCE = timedelta(days=5)  # with a webhook that fails, before it is disabled
GONE = 410
KEPT_ATTEMPTS = 50
MUCH = 200  # deliveries that are due; so many are cheaply looked through

# One claim at a time, of all deliverers: so each sees what the others have under way, and the
# limits hold exactly.
_TAKE_TURNS = text("""
    SELECT set_config('synchronous_commit', 'off', true), set_config('lock_timeout', '5s', true),
        set_config('idle_in_transaction_session_timeout', '5s', true),
            pg_advisory_xact_lock(2718281828)
""")

# Mostly little is due: then those are the receivers to choose from. Where it is much, `walk` goes
# from receiver to receiver along deliveries_by_receiver_idx, so that the backlog of one that hangs
# costs nothing. The company with the fewest under way comes first, then what has been due the
# longest.
_CLAIM = text(f"""
    WITH RECURSIVE under_way AS MATERIALIZED (
        SELECT company_id, receiver, attempts > 1 AS again FROM deliveries
            WHERE claimed_until > {NOW}
    ),
    overdue AS MATERIALIZED (
        SELECT company_id, receiver FROM deliveries WHERE state = 'pending' AND due_at <= {NOW}
        ORDER BY due_at LIMIT :much
    ),
    walk (company_id, receiver) AS (
        (
            SELECT company_id, receiver FROM deliveries
                WHERE state = 'pending' AND (SELECT count(*) FROM overdue) = :much
            ORDER BY company_id, receiver LIMIT 1
        )
        UNION ALL
        SELECT further.* FROM walk CROSS JOIN LATERAL (
            SELECT company_id, receiver FROM deliveries
            WHERE state = 'pending' AND (company_id, receiver) > (walk.company_id, walk.receiver)
            ORDER BY company_id, receiver LIMIT 1
        ) AS further
    ),
    waiting AS (SELECT company_id, receiver FROM overdue UNION SELECT company_id, receiver
        FROM walk),
    busy AS (
        SELECT waiting.*, (SELECT count(*) FROM under_way
            WHERE under_way.company_id = waiting.company_id) AS of_company, (
            SELECT count(*) FROM under_way
            WHERE under_way.company_id = waiting.company_id
                AND under_way.receiver = waiting.receiver
        ) AS of_receiver
        FROM waiting
    ),
    chosen AS MATERIALIZED (
        SELECT due.id, row_number() OVER (ORDER BY of_company, due.due_at) AS place
        FROM busy CROSS JOIN LATERAL (
            SELECT id, due_at FROM deliveries
            WHERE state = 'pending' AND company_id = busy.company_id AND receiver = busy.receiver
                AND due_at <= {NOW}
                AND (attempts = 0 OR (SELECT count(*) FROM under_way
                    WHERE again) < :retries_at_once)
            ORDER BY due_at LIMIT :at_once - of_receiver
        ) AS due
        WHERE of_receiver < :at_once AND of_company < :at_once_of_company
        ORDER BY place LIMIT 2
    ),
    claimed AS (
        UPDATE deliveries SET claimed_until = now_and.then, due_at = now_and.then,
            attempts = attempts + 1,
            tried = CASE WHEN jsonb_array_length(tried) < :kept THEN tried ELSE tried - 0 END
                || jsonb_build_object('at', now_and.now, 'status', NULL, 'latency', NULL, 'error',
                    NULL)
        FROM chosen, (SELECT clock_timestamp() AS now,
            clock_timestamp() + :lease AS then) AS now_and
        WHERE deliveries.id = chosen.id AND place = 1 AND state = 'pending'
        RETURNING deliveries.*
    )
    SELECT claimed.id, claimed.company_id, claimed.job_id, claimed.webhook_id, claimed.event,
        claimed.created_at,
        claimed.claimed_until, claimed.attempts, claimed.due_at - :lease AS now,
            coalesce(claimed.url, webhooks.url) AS url,
        coalesce(secret, webhook_secret) AS secret,
            coalesce(old_secrets, old_webhook_secrets, '[]') AS old_secrets,
        (SELECT count(*) FROM chosen) > 1 AS more, event = 'webhook.test'
            OR coalesce(enabled, true) AS wanted
    FROM claimed LEFT JOIN webhooks ON webhooks.id = claimed.webhook_id
        LEFT JOIN companies ON companies.id = claimed.company_id AND claimed.webhook_id IS NULL
""")

_LIES_IDLE = text(f"""
    SELECT (
        SELECT true FROM deliveries
            WHERE state = 'pending' AND due_at < {NOW} - :seconds * interval '1 s'
        ORDER BY due_at LIMIT 1
    ) IS NOT NULL
""")

# Of a job that ended while its webhook was being disabled. It was not tried.
_GIVE_UP = text("""
    UPDATE deliveries SET claimed_until = NULL, attempts = attempts - 1, tried = tried - (-1),
        state = 'failed', error = 'the webhook was disabled'
    WHERE id = :id
""")

# The webhook is locked before the delivery, as by who changes or deletes a webhook with its
# deliveries: else two wait for each other. One that works, and is answered well, is not touched at
# all; nor one that leads elsewhere by now. Without attempts, the delivery was asked for again while
# this one was under way: that is still to be done, and at once.
_RECORD = text("""
    WITH webhook AS MATERIALIZED (
        SELECT FROM webhooks
        WHERE id = :webhook_id AND url = :url
            AND (failing_since IS NOT NULL OR :state <> 'delivered')
        FOR NO KEY UPDATE
    )
    UPDATE deliveries SET claimed_until = NULL,
        state = CASE WHEN attempts > 0 AND (state = 'pending' OR :state = 'delivered') THEN :state
            ELSE state END,
        error = CASE WHEN attempts > 0 AND (state = 'pending' OR :state = 'delivered') THEN :error
            ELSE error END,
        due_at = clock_timestamp() + coalesce(CASE
            WHEN attempts > 0 THEN CAST(:delay AS interval) END, interval '0'),
        tried = tried - (-1) || (tried -> -1 || jsonb_build_object(
            'status', CAST(:status AS int), 'latency', CAST(:latency AS int), 'error',
                CAST(:failure AS text)))
    FROM (SELECT count(*) > 0 AS is_locked FROM webhook) AS webhook
    WHERE id = :id AND claimed_until = :claimed_until
        RETURNING state, webhook.is_locked AS webhook_is_locked
""")

_NOTE_SUCCESS = text("UPDATE webhooks SET failing_since = NULL WHERE id = :webhook_id")

# All by one moment: what stays enabled has no reason why not. Tests go to what is disabled too, and
# change nothing about it.
_NOTE_FAILURE = text("""
    UPDATE webhooks SET failing_since = coalesce(failing_since, statement_timestamp()),
        enabled = NOT :gone AND coalesce(failing_since > statement_timestamp() - :patience, true),
        disabled_reason = CASE WHEN :gone THEN 'It answered 410 Gone'
            WHEN failing_since <= statement_timestamp() - :patience
                THEN 'Every attempt failed for 5 days' END
    WHERE id = :webhook_id AND enabled
    RETURNING disabled_reason
""")

_GIVE_UP_THE_REST = text("""
    UPDATE deliveries SET state = 'failed', error = 'the webhook was disabled'
    WHERE company_id = :company_id AND receiver = CAST(CAST(:webhook_id AS uuid) AS text)
        AND state = 'pending'
""")

log = structlog.get_logger()


class Claimed(NamedTuple):
    """A delivery in hand. `url` and the encrypted secrets are those of now; `claimed_until` is
    whose claim it is.

    `more`: another is due that could be sent now. One that is not `wanted`, as its webhook is
    disabled, has been given up.
    """

    id: UUID
    company_id: str
    job_id: UUID | None
    webhook_id: UUID | None
    event: str
    created_at: datetime
    claimed_until: datetime
    attempts: int
    now: datetime
    url: str
    secret: bytes | None
    old_secrets: list[dict[str, str]]
    more: bool
    wanted: bool


def claim(connection: Connection) -> Claimed | None:
    """Takes on what is due next, or returns None where nothing may be sent now. The caller
    commits.
    """
    connection.execute(_TAKE_TURNS)
    limits = {
        "at_once": AT_ONCE,
        "at_once_of_company": AT_ONCE_OF_COMPANY,
        "retries_at_once": RETRIES_AT_ONCE,
        "much": MUCH,
    }
    row = connection.execute(_CLAIM, limits | {"lease": LEASE, "kept": KEPT_ATTEMPTS}).one_or_none()
    if row and not row.wanted:
        connection.execute(_GIVE_UP, {"id": row.id})
    return Claimed._make(row) if row else None


def lies_idle(connection: Connection, seconds: float) -> bool:
    """Whether there is a delivery that has been due for so long."""
    return bool(connection.execute(_LIES_IDLE, {"seconds": seconds}).scalar_one())


def record(connection: Connection, claimed: Claimed, reply: Reply, seconds: float) -> None:
    """Writes down an attempt and what follows from it. The caller commits."""
    delivered = reply.status is not None and 200 <= reply.status < 300  # noqa: PLR2004
    gone = reply.status == GONE
    delay = None if delivered or gone else next_delay(claimed.attempts, reply, datetime.now(UTC))
    state = (
        DeliveryState.DELIVERED
        if delivered
        else DeliveryState.PENDING
        if delay
        else DeliveryState.FAILED
    )
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
    values |= {"gone": gone, "patience": PATIENCE}
    reason = connection.execute(_NOTE_FAILURE, values).scalar_one_or_none()
    if reason:
        connection.execute(_GIVE_UP_THE_REST, values)
        log.warning("webhook disabled", webhook=str(claimed.webhook_id), reason=reason)
