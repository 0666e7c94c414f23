"""Signs of life of workers and tickers, in the database: what `/api/health` and `leadsweep doctor` go by."""

import os
import socket

from sqlalchemy import Connection, text

BEAT_SECONDS = 5.0
STALE_SECONDS = 15.0  # three beats missed

_BEAT = text("""
    INSERT INTO heartbeats (role, process, beat_at) VALUES (:role, :process, clock_timestamp())
    ON CONFLICT (role, process) DO UPDATE SET beat_at = excluded.beat_at
""")

_FORGET = text("DELETE FROM heartbeats WHERE beat_at < clock_timestamp() - interval '1 day'")

NEWEST_BEATS = text("""
    SELECT role, extract(epoch FROM clock_timestamp() - max(beat_at))::float AS age_seconds FROM heartbeats GROUP BY role
""")
"""One row a role: `role`, `age_seconds` since its newest beat."""


def beat(connection: Connection, role: str) -> None:
    """Says that this process is alive as `role` ("worker" or "ticker"). The caller commits."""
    connection.execute(_BEAT, {"role": role, "process": f"{socket.gethostname()}:{os.getpid()}"})


def forget_the_dead(connection: Connection) -> None:
    """Removes processes that have been silent for a day. The caller commits."""
    connection.execute(_FORGET)
