"""Puts archived leads back, as they were, into their campaign. A lead whose identifier or id is taken again stays archived."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text

from shared.arrays import bigint_array
from shared.states import Outcome
from worker.decider import Entries
from worker.refusals import around_refused
from worker.taker import KnownLeads, prepare

# Columns that the table has got since are filled as the row leaves them: with null.
_RESTORE = text("""
    WITH kept AS (
        SELECT id, (lead ->> 'id')::bigint AS lead_id, lead FROM archived_leads
        WHERE id = ANY(CAST(:ids AS bigint[])) ORDER BY id FOR UPDATE
    ),
    restored AS (
        INSERT INTO leads SELECT (jsonb_populate_record(NULL::leads, lead)).* FROM kept ON CONFLICT DO NOTHING RETURNING id
    ),
    gone AS (
        DELETE FROM archived_leads USING kept, restored WHERE archived_leads.id = kept.id AND kept.lead_id = restored.id
        RETURNING archived_leads.id
    )
    SELECT kept.id, CASE WHEN gone.id IS NULL THEN :conflict ELSE :restored END
    FROM kept LEFT JOIN gone ON gone.id = kept.id
""")


def restore(connection: Connection, entries: Entries, archived: KnownLeads, *, careful: bool) -> bytes:
    """Puts back the archived leads of a chunk; the outcome of each entry. Raises DBAPIError, for which `is_refusal` may hold."""

    def run(ids: Sequence[Any]) -> Sequence[Any]:
        values = {"ids": bigint_array(ids), "restored": Outcome.RESTORED, "conflict": Outcome.CONFLICT}
        return connection.execute(_RESTORE, values).all()

    prepare(connection, careful=careful)
    ids = archived.ids or ()
    rows = around_refused(connection, ids, run, lambda some: [(some[0], Outcome.REFUSED)]) if careful else run(ids)
    outcome_of = {row[0]: row[1] for row in rows}
    return bytes(
        outcome or outcome_of.get(archived_id, Outcome.PURGED) for outcome, archived_id in zip(entries.outcomes, ids, strict=True)
    )
