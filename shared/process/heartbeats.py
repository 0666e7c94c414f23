"""Signs of life of workers, deliverers and tickers, in the database. `/api/health` and `leadsweep
doctor` go by them.
"""

import os
import socket

from sqlalchemy import Connection, text

BEAT_SECONDS = 5.0
STALE_SECONDS = 15.0  # three beats missed

_BEAT = text("""
    INSERT INTO heartbeats (role, process, beat_at, processes)
    VALUES (:role, :process, clock_timestamp(), :processes)
    ON CONFLICT (role, process) DO UPDATE
    SET beat_at = excluded.beat_at, processes = excluded.processes
""")

_FORGET = text("DELETE FROM heartbeats WHERE beat_at < clock_timestamp() - interval '1 day'")

NEWEST_BEATS = text("""
    SELECT role, extract(epoch FROM clock_timestamp() - max(beat_at))::float AS age_seconds
    FROM heartbeats GROUP BY role
""")
"""One row a role: `role`, `age_seconds` since its newest beat."""


_WORKER_PROCESSES = text("""
    SELECT coalesce(sum(processes), 0)::int FROM heartbeats
    WHERE role = 'worker' AND beat_at > clock_timestamp() - :stale * interval '1 s'
""")


def beat(connection: Connection, role: str, processes: int = 1) -> None:
    """Says that this process is alive as `role`: "worker", whose pool has `processes`, "deliverer"
    or "ticker". The caller commits.
    """
    connection.execute(
        _BEAT,
        {"role": role, "process": f"{socket.gethostname()}:{os.getpid()}", "processes": processes},
    )


def worker_processes(connection: Connection) -> int:
    """How many processes run jobs, as far as their heartbeats tell."""
    return int(connection.execute(_WORKER_PROCESSES, {"stale": STALE_SECONDS}).scalar_one())


def forget_the_dead(connection: Connection) -> None:
    """Removes processes that have been silent for a day. The caller commits."""
    connection.execute(_FORGET)
