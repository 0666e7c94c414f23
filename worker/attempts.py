"""How long a delivery waits after a failed attempt: pure functions, with the schedule that the
Standard Webhooks show.
"""

import random
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from worker.poster import Reply

DELAYS = tuple(  # after each failed attempt; 75.6 hours in all, a fifth more or less
    timedelta(seconds=seconds)
    for seconds in (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
)
SPREAD = 0.2  # of a delay, either way: what failed together does not come back together
LONGEST_RETRY_AFTER = timedelta(hours=24)
_ASKS_TO_WAIT = {429, 503}


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
    asked = (
        parse_retry_after(reply.retry_after, now) if reply.status in _ASKS_TO_WAIT else timedelta(0)
    )
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
