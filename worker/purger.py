"""Removes what has been kept long enough: identifiers and references of finished jobs, archived
leads, idempotency keys.

What was done stays on record: who, when, what and how many. A little in each round, so that a
backlog holds up nothing else.
"""

from datetime import timedelta

import structlog
from sqlalchemy import Connection, text

from shared.database.plans import NOW

KEYS_KEPT = timedelta(hours=72)  # as the contract says
JOBS_A_ROUND = 50  # whose identifiers go
ENTRIES_A_ROUND = 1_000_000  # of such jobs; a bigger job is one round's work alone
LEADS_A_ROUND = 10_000  # archived ones that go

# The caller's reference of the job goes with its identifiers: it may name a person.
_PURGE_IDENTIFIERS = text(f"""
    WITH oldest AS (
        SELECT id, finished_at, total FROM jobs
        WHERE identifiers_purged_at IS NULL AND finished_at IS NOT NULL
            AND finished_at < {NOW} - :kept
        ORDER BY finished_at LIMIT :jobs FOR NO KEY UPDATE SKIP LOCKED
    ),
    old AS (
        SELECT id FROM (
            SELECT id, sum(total) OVER (ORDER BY finished_at, id) - total AS before FROM oldest
        ) AS added_up
        WHERE before < :entries
    ),
    gone AS (DELETE FROM chunks USING old WHERE job_id = old.id)
    UPDATE jobs SET identifiers_purged_at = clock_timestamp(), client_reference = NULL
    FROM old WHERE jobs.id = old.id
""")

_PURGE_ARCHIVE = text(f"""
    WITH old AS (
        SELECT id FROM jobs
        WHERE mode = 'archive' AND archive_purged_at IS NULL AND finished_at IS NOT NULL
            AND finished_at < {NOW} - :kept
        ORDER BY finished_at LIMIT :jobs FOR NO KEY UPDATE SKIP LOCKED
    ),
    kept AS (
        SELECT job_id, lead_id FROM archived_leads JOIN old ON job_id = old.id LIMIT :leads
    ),
    gone AS (
        DELETE FROM archived_leads USING kept
        WHERE archived_leads.job_id = kept.job_id AND archived_leads.lead_id = kept.lead_id
    )
    UPDATE jobs SET archive_purged_at = clock_timestamp() FROM old
    WHERE jobs.id = old.id AND (SELECT count(*) FROM kept) < :leads
""")

# Somebody has deleted the job's row: nobody can restore these leads, and nothing says when the job
# ended. The search goes from job to job, and only where some copy is old: the copies of one job,
# which may run for long, are too many to be read every second.
_PURGE_FORSAKEN = text("""
    WITH RECURSIVE archive (job_id) AS (
        SELECT job_id FROM (SELECT job_id FROM archived_leads ORDER BY job_id LIMIT 1) AS first
        WHERE (SELECT archived_at FROM archived_leads ORDER BY archived_at LIMIT 1)
            < clock_timestamp() - :kept
        UNION ALL
        SELECT (
            SELECT job_id FROM archived_leads WHERE job_id > archive.job_id
            ORDER BY job_id LIMIT 1
        )
        FROM archive WHERE job_id IS NOT NULL
    ),
    without_job AS MATERIALIZED (
        SELECT job_id FROM archive
        WHERE job_id IS NOT NULL
            AND NOT EXISTS (SELECT FROM jobs WHERE jobs.id = archive.job_id)
    ),
    forsaken AS (
        SELECT copy.* FROM without_job CROSS JOIN LATERAL (
            SELECT job_id, lead_id FROM archived_leads
            WHERE job_id = without_job.job_id AND archived_at < clock_timestamp() - :kept
            LIMIT :leads
        ) AS copy LIMIT :leads
    )
    DELETE FROM archived_leads USING forsaken
    WHERE archived_leads.job_id = forsaken.job_id AND archived_leads.lead_id = forsaken.lead_id
""")

_PURGE_KEYS = text(f"DELETE FROM idempotency_keys WHERE created_at < {NOW} - :kept")

log = structlog.get_logger()


def purge_identifiers(connection: Connection, kept: timedelta) -> None:
    """Removes the entries, outcomes and references of jobs that finished more than `kept` ago. The
    caller commits.
    """
    if purged := connection.execute(
        _PURGE_IDENTIFIERS, {"kept": kept, "jobs": JOBS_A_ROUND, "entries": ENTRIES_A_ROUND}
    ).rowcount:
        log.info("identifiers purged", jobs=purged)


def purge_archive(connection: Connection, kept: timedelta) -> None:
    """Removes the archived leads of jobs that finished more than `kept` ago, and those as old of no
    job. The caller commits.
    """
    if purged := connection.execute(
        _PURGE_ARCHIVE, {"kept": kept, "jobs": JOBS_A_ROUND, "leads": LEADS_A_ROUND}
    ).rowcount:
        log.info("archive purged", jobs=purged)
    if purged := connection.execute(
        _PURGE_FORSAKEN, {"kept": kept, "leads": LEADS_A_ROUND}
    ).rowcount:
        log.info("archive purged", leads=purged)


def purge_keys(connection: Connection) -> None:
    """Removes idempotency keys that do not count any more. The caller commits."""
    connection.execute(_PURGE_KEYS, {"kept": KEYS_KEPT})
