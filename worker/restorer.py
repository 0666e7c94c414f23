"""Puts archived leads back, as they were, into their campaign. A lead whose identifier or id is
taken again stays archived; of one that was erased meanwhile there is nothing to put back.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import TextClause, text

from shared.database.arrays import bigint_array
from shared.states import Outcome
from worker.entries import Entries
from worker.known_leads import KnownLeads
from worker.part import Part
from worker.taker import Manner

# A restoration that is retried follows another restoration. So source_job_id is followed back to
# the first job that is not a restoration: its archive holds the leads.
_ARCHIVE = text("""
    WITH RECURSIVE followed AS (
        SELECT source_job_id AS id FROM jobs WHERE id = :job_id
        UNION ALL
        SELECT source_job_id FROM jobs JOIN followed ON followed.id = jobs.id WHERE mode = 'restore'
    )
    SELECT followed.id FROM followed LEFT JOIN jobs ON jobs.id = followed.id
    WHERE mode IS DISTINCT FROM 'restore'
""")

_NAMED = "job_id = :archive_id AND lead_id = ANY(CAST(:ids AS bigint[]))"


def _restore_statement(named: str, lock: str) -> TextClause:
    """Of those `named`, the ones that are not `kept` are locked by somebody else. Columns that the
    table has got since are filled as the row leaves them: with null.
    """
    return text(f"""
        WITH named AS MATERIALIZED ({named}),
        kept AS (
            SELECT lead_id, lead FROM archived_leads WHERE {_NAMED}
            ORDER BY lead_id FOR UPDATE {lock}
        ),
        restored AS (
            INSERT INTO leads SELECT (json_populate_record(NULL::leads, lead)).* FROM kept
            WHERE lead IS NOT NULL
            ON CONFLICT DO NOTHING RETURNING id
        ),
        gone AS (
            DELETE FROM archived_leads USING restored
            WHERE archived_leads.job_id = :archive_id AND archived_leads.lead_id = restored.id
            RETURNING archived_leads.lead_id
        )
        SELECT lead_id, CASE
            WHEN lead IS NULL THEN :erased
            WHEN gone.lead_id IS NULL THEN :conflict
            ELSE :restored
        END AS outcome
        FROM kept LEFT JOIN gone USING (lead_id)
        UNION ALL
        SELECT lead_id, :waits FROM named WHERE lead_id NOT IN (SELECT lead_id FROM kept)
    """)


# A deletion that holds a copy is waited for; the lock then shows the row as it left it.
_RESTORE = _restore_statement("SELECT CAST(NULL AS bigint) AS lead_id WHERE false", "")
_RESTORE_FREE = _restore_statement(
    f"SELECT lead_id FROM archived_leads WHERE {_NAMED}", "SKIP LOCKED"
)

_OUTCOMES = {
    "restored": Outcome.RESTORED,
    "conflict": Outcome.CONFLICT,
    "erased": Outcome.ERASED,
    "waits": Outcome.WAITS_FOR_LOCK,
}


class _Fate(NamedTuple):
    """What became of an archived lead."""

    lead_id: int
    outcome: int


def restore(
    part: Part, job_id: UUID, entries: Entries, archived: KnownLeads, manner: Manner
) -> bytes:
    """Puts back the archived leads of a part; the outcome of each entry. Raises TimeIsUp,
    DBAPIError, for which `is_refusal` may hold.
    """

    def run(some: Sequence[Any]) -> Sequence[Any]:
        values = {"archive_id": archive_id, "ids": bigint_array(some)}
        return part.execute(statement, _OUTCOMES | values).all()

    def refused(some: Sequence[Any], detail: str) -> Sequence[Any]:
        (lead_id,) = some
        part.details[indexes[lead_id]] = detail
        return [_Fate(lead_id, Outcome.REFUSED)]

    def is_restored(fate: Any) -> bool:
        return bool(fate.outcome == Outcome.RESTORED)

    archive_id = part.execute(_ARCHIVE, {"job_id": job_id}).scalar_one()
    indexes = {
        archived_id: i
        for i, archived_id in enumerate(archived.ids or ())
        if not entries.outcomes[i]
    }
    statement = _RESTORE_FREE if manner.skip_locked else _RESTORE
    ids = list(indexes)
    fates = manner.refusals.around(ids, run, refused, is_restored) if manner.refusals else run(ids)
    outcomes = list(entries.outcomes)
    for i in indexes.values():
        outcomes[i] = Outcome.PURGED
    for fate in fates:
        outcomes[indexes[fate.lead_id]] = fate.outcome
    return bytes(outcomes)
