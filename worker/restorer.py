"""Puts archived leads back, as they were, into their campaign. A lead whose identifier or id is taken again stays archived; of
one that was erased meanwhile there is nothing to put back.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from shared.arrays import bigint_array
from shared.states import Outcome
from worker.entries import Entries
from worker.refusals import around_refused
from worker.taker import KnownLeads, prepare

# A restoration that is retried follows another restoration: the archive's job is the first before them that is none.
_ARCHIVE = text("""
    WITH RECURSIVE followed AS (
        SELECT source_job_id AS id FROM jobs WHERE id = :job_id
        UNION ALL SELECT source_job_id FROM jobs JOIN followed ON followed.id = jobs.id WHERE mode = 'restore'
    )
    SELECT followed.id FROM followed LEFT JOIN jobs ON jobs.id = followed.id WHERE mode IS DISTINCT FROM 'restore'
""")

# Columns that the table has got since are filled as the row leaves them: with null. A deletion that holds a copy is waited for;
# the lock then shows the row as it left it.
_RESTORE = text("""
    WITH kept AS (
        SELECT lead_id, lead FROM archived_leads
        WHERE job_id = :archive_id AND lead_id = ANY(CAST(:ids AS bigint[])) ORDER BY lead_id FOR UPDATE
    ),
    restored AS (
        INSERT INTO leads SELECT (json_populate_record(NULL::leads, lead)).* FROM kept WHERE lead IS NOT NULL
        ON CONFLICT DO NOTHING RETURNING id
    ),
    gone AS (
        DELETE FROM archived_leads USING restored
        WHERE archived_leads.job_id = :archive_id AND archived_leads.lead_id = restored.id
        RETURNING archived_leads.lead_id
    )
    SELECT kept.lead_id, CASE WHEN lead IS NULL THEN :erased WHEN gone.lead_id IS NULL THEN :conflict ELSE :restored END
    FROM kept LEFT JOIN gone ON gone.lead_id = kept.lead_id
""")

_OUTCOMES = {"restored": Outcome.RESTORED, "conflict": Outcome.CONFLICT, "erased": Outcome.ERASED}


def restore(connection: Connection, job_id: UUID, entries: Entries, archived: KnownLeads, *, careful: bool) -> bytes:
    """Puts back the archived leads of a chunk; the outcome of each entry. Raises DBAPIError, for which `is_refusal` may hold."""

    def run(ids: Sequence[Any]) -> Sequence[Any]:
        return connection.execute(_RESTORE, _OUTCOMES | {"archive_id": archive_id, "ids": bigint_array(ids)}).all()

    archive_id = connection.execute(_ARCHIVE, {"job_id": job_id}).scalar_one()
    prepare(connection, careful=careful)
    ids = archived.ids or ()
    rows = around_refused(connection, ids, run, lambda some: [(some[0], Outcome.REFUSED)]) if careful else run(ids)
    outcome_of = {row[0]: row[1] for row in rows}
    return bytes(
        outcome or outcome_of.get(archived_id, Outcome.PURGED) for outcome, archived_id in zip(entries.outcomes, ids, strict=True)
    )
