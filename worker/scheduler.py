"""Brings scheduled jobs into their queues when they are due, and asks for those to be put back
whose window has shut.

Both are one statement for all jobs: ten thousand may be due at one moment. The database's clock
decides.
"""

from sqlalchemy import Connection, text

from shared.database.plans import NOW
from shared.states import ACTIVE_STATES, quoted

BATCH = 10_000  # jobs in one round

# A job that missed its whole window, as no ticker ran, is not queued but gets its next one. Where
# more are due than a batch takes, each company's first ones come first.
_QUEUE_DUE = text(f"""
    WITH ripe AS MATERIALIZED (
        SELECT id, company_id, run_at FROM jobs
        WHERE state = 'scheduled' AND run_at <= {NOW} AND wanted IS NULL
            AND (closes_at IS NULL OR closes_at > clock_timestamp())
    ),
    due AS (
        SELECT id, row_number() OVER (PARTITION BY company_id ORDER BY run_at, id) AS turn
        FROM ripe ORDER BY turn LIMIT :batch
    ),
    locked AS (
        SELECT jobs.id FROM due JOIN jobs ON jobs.id = due.id WHERE state = 'scheduled'
        FOR NO KEY UPDATE OF jobs SKIP LOCKED
    )
    UPDATE jobs SET state = 'queued', queued_at = clock_timestamp(),
        history = history || jsonb_build_object(
            'status', 'queued', 'at', clock_timestamp(), 'by', NULL
        )
    FROM locked WHERE jobs.id = locked.id AND state = 'scheduled' AND wanted IS NULL
        AND run_at <= clock_timestamp()
""")

_CLOSE = text(f"""
    WITH shut AS (
        SELECT id FROM jobs WHERE closes_at <= {NOW} AND wanted IS NULL
            AND state IN ({quoted(ACTIVE_STATES)})
        ORDER BY closes_at LIMIT :batch FOR NO KEY UPDATE SKIP LOCKED
    ),
    missed AS (
        SELECT id FROM jobs
        WHERE closes_at <= clock_timestamp() AND wanted IS NULL AND state = 'scheduled'
            AND run_at <= {NOW}
        ORDER BY run_at LIMIT :batch FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE jobs SET wanted = 'close'
    FROM (SELECT id FROM shut UNION ALL SELECT id FROM missed) AS shut WHERE jobs.id = shut.id
""")


def queue_due(connection: Connection) -> None:
    """Queues the jobs whose time has come. The caller commits."""
    connection.execute(_QUEUE_DUE, {"batch": BATCH})


def close_windows(connection: Connection) -> None:
    """Requests that jobs outside of their window be put back. The caller commits, and then has
    requests carried out.
    """
    connection.execute(_CLOSE, {"batch": BATCH})
