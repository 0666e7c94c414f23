"""The deliveries that wait to be sent, and which of them is next.

A delivery is written in the transaction that ends its job, and stays due until an attempt is
recorded (worker.attempts). A deliverer that dies in between leaves a lease that runs out: the same
delivery is sent again, with the same webhook-id, and none is lost.
"""

from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from shared.database.plans import NOW
from shared.states import Event

LEASE = timedelta(seconds=60)  # much longer than an exchange, with what is done before and after it
AT_ONCE = 2  # to one receiver
# So that one company with many receivers that hang leaves threads to the others.
AT_ONCE_OF_COMPANY = 16
# Of all: receivers that failed before never take all threads from those that did not.
RETRIES_AT_ONCE = 32
ATTEMPTS_KEPT = 50  # of a delivery, for its owner to see
CHEAP_BACKLOG = 200  # deliveries that are due; so many are cheaply looked through

# One claim at a time, of all deliverers: so each sees what the others have under way, and the
# limits hold exactly.
_TAKE_TURNS = text("""
    SELECT set_config('synchronous_commit', 'off', true), set_config('lock_timeout', '5s', true),
        set_config('idle_in_transaction_session_timeout', '5s', true),
        pg_advisory_xact_lock(2718281828)
""")

# `overdue`: mostly little is due; then those are the receivers to choose from.
#
# `walk`: where much is due, it goes from receiver to receiver along deliveries_by_receiver_idx, so
# that the backlog of one that hangs costs nothing.
#
# `chosen`: the company with the fewest under way comes first, then what has been due the longest.
_CLAIM = text(f"""
    WITH RECURSIVE under_way AS MATERIALIZED (
        SELECT company_id, receiver, attempts > 1 AS again FROM deliveries
        WHERE claimed_until > {NOW}
    ),
    overdue AS MATERIALIZED (
        SELECT company_id, receiver FROM deliveries WHERE state = 'pending' AND due_at <= {NOW}
        ORDER BY due_at LIMIT :cheap_backlog
    ),
    walk (company_id, receiver) AS (
        (
            SELECT company_id, receiver FROM deliveries
            WHERE state = 'pending' AND (SELECT count(*) FROM overdue) = :cheap_backlog
            ORDER BY company_id, receiver LIMIT 1
        )
        UNION ALL
        SELECT further.* FROM walk CROSS JOIN LATERAL (
            SELECT company_id, receiver FROM deliveries
            WHERE state = 'pending' AND (company_id, receiver) > (walk.company_id, walk.receiver)
            ORDER BY company_id, receiver LIMIT 1
        ) AS further
    ),
    waiting AS (
        SELECT company_id, receiver FROM overdue UNION SELECT company_id, receiver FROM walk
    ),
    busy AS (
        SELECT waiting.*, (
            SELECT count(*) FROM under_way WHERE under_way.company_id = waiting.company_id
        ) AS of_company, (
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
                AND due_at <= {NOW} AND (
                    attempts = 0
                    OR (SELECT count(*) FROM under_way WHERE again) < :retries_at_once
                )
            ORDER BY due_at LIMIT :at_once - of_receiver
        ) AS due
        WHERE of_receiver < :at_once AND of_company < :at_once_of_company
        ORDER BY place LIMIT 2
    ),
    claimed AS (
        UPDATE deliveries SET claimed_until = now_and.then, due_at = now_and.then,
            attempts = attempts + 1,
            tried = CASE WHEN jsonb_array_length(tried) < :kept THEN tried ELSE tried - 0 END
                || jsonb_build_object(
                    'at', now_and.now, 'status', NULL, 'latency', NULL, 'error', NULL
                )
        FROM chosen, (
            SELECT clock_timestamp() AS now, clock_timestamp() + :lease AS then
        ) AS now_and
        WHERE deliveries.id = chosen.id AND place = 1 AND state = 'pending'
        RETURNING deliveries.*
    )
    SELECT claimed.id, claimed.company_id, claimed.job_id, claimed.webhook_id, claimed.event,
        claimed.created_at, claimed.claimed_until, claimed.attempts,
        claimed.due_at - :lease AS now,
        coalesce(claimed.url, webhooks.url) AS url,
        coalesce(secret, webhook_secret) AS secret,
        coalesce(old_secrets, old_webhook_secrets, '[]') AS old_secrets,
        (SELECT count(*) FROM chosen) > 1 AS more,
        event = '{Event.TEST}' OR coalesce(enabled, true) AS wanted
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


class Claimed(NamedTuple):
    """A delivery in hand. `url` and the encrypted secrets are those of now; `claimed_until` tells
    this claim from others.

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
    values = {
        "at_once": AT_ONCE,
        "at_once_of_company": AT_ONCE_OF_COMPANY,
        "retries_at_once": RETRIES_AT_ONCE,
        "cheap_backlog": CHEAP_BACKLOG,
        "kept": ATTEMPTS_KEPT,
        "lease": LEASE,
    }
    row = connection.execute(_CLAIM, values).mappings().one_or_none()
    if row is None:
        return None
    claimed = Claimed(**row)
    if not claimed.wanted:
        connection.execute(_GIVE_UP, {"id": claimed.id})
    return claimed


def lies_idle(connection: Connection, seconds: float) -> bool:
    """Whether there is a delivery that has been due for so long."""
    return bool(connection.execute(_LIES_IDLE, {"seconds": seconds}).scalar_one())
