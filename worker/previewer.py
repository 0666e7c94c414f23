"""Previews: jobs that find leads and change none. What was found is written down, lead by lead, so that the preview can be
executed later on exactly these.

Chunks are decided apart, so two of them may have found one lead, by its two identifiers. A real job would have deleted it for
the first; so before a preview ends, the later entry is made a duplicate.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from shared.arrays import bigint_array, text_array
from shared.states import Outcome, PhoneFallback
from worker.claimer import Claim
from worker.decider import Column, Entries, TakenLead, decide
from worker.finisher import Finished, finish
from worker.taker import KnownLeads

_FIND: dict[Column, Any] = {
    "external_id": text("""
        SELECT external_id, phone_number, id FROM leads
        WHERE campaign_id = :campaign_id AND external_id = ANY(CAST(:identifiers AS text[]))
    """),
    "phone_number": text("""
        SELECT external_id, phone_number, id FROM leads
        WHERE campaign_id = :campaign_id AND phone_number = ANY(CAST(:identifiers AS text[]))
    """),
}

_WRITE_DOWN = text("""
    UPDATE chunks SET lead_ids = CAST(:ids AS bigint[]), lead_external_ids = CAST(:external_ids AS text[]),
        lead_phone_numbers = CAST(:phone_numbers AS text[])
    WHERE job_id = :job_id AND number = :number AND state = 'pending'
""")

# Held until the job is finished: two who settle it at once would count its duplicates twice.
_LOCK_PREVIEW = text("""
    SELECT 1 FROM jobs WHERE id = :job_id AND dry_run AND finished_at IS NULL
        AND NOT EXISTS (SELECT FROM chunks WHERE job_id = :job_id AND state = 'pending')
    FOR NO KEY UPDATE
""")

_SETTLE = text("""
    WITH found AS (
        SELECT number, position, row_number() OVER (PARTITION BY lead_id ORDER BY number, position) AS turn
        FROM chunks CROSS JOIN unnest(lead_ids) WITH ORDINALITY AS found (lead_id, position)
        WHERE job_id = :job_id AND lead_id IS NOT NULL
    ),
    repeated AS (SELECT number, array_agg(position) AS positions FROM found WHERE turn > 1 GROUP BY number)
    UPDATE chunks SET
        outcomes = (
            SELECT array_agg(CASE WHEN position = ANY(positions) THEN :duplicate ELSE outcome END ORDER BY position)
            FROM unnest(outcomes) WITH ORDINALITY AS entry (outcome, position)
        ),
        lead_ids = (
            SELECT array_agg(CASE WHEN position <> ALL(positions) THEN lead_id END ORDER BY position)
            FROM unnest(lead_ids) WITH ORDINALITY AS entry (lead_id, position)
        ),
        would_delete = would_delete - cardinality(positions), not_found = not_found + cardinality(positions)
    FROM repeated WHERE job_id = :job_id AND chunks.number = repeated.number
""")

_WOULD_DELETE = bytes.maketrans(
    bytes((Outcome.DELETED_BY_EXTERNAL_ID, Outcome.DELETED_BY_PHONE_NUMBER)),
    bytes((Outcome.WOULD_DELETE_BY_EXTERNAL_ID, Outcome.WOULD_DELETE_BY_PHONE_NUMBER)),
)


class Place(NamedTuple):
    """Where the entries in hand stand in their chunk, of `length`, and the leads that were found for those before them."""

    part: slice
    found: KnownLeads
    length: int

    def filled(self, column: Sequence[Any], before: Sequence[Any] | None) -> list[Any]:
        """A column of the whole chunk: what was there before, those in hand, and nothing for the rest."""
        return [*(before or ())[: self.part.start], *column, *[None] * (self.length - self.part.stop)]


def preview(connection: Connection, claimed: Claim, entries: Entries, place: Place) -> bytes:
    """Finds the leads that the entries name and writes them down with the chunk; the outcome of each entry."""
    found: dict[tuple[Column, str], tuple[str | None, str | None, int]] = {}

    def take(column: Column, identifiers: Sequence[str]) -> list[TakenLead]:
        values = {"campaign_id": claimed.campaign_id, "identifiers": text_array(identifiers)}
        leads = connection.execute(_FIND[column], values).all()
        found.update({(column, getattr(lead, column)): tuple(lead) for lead in leads})
        return [TakenLead(lead.external_id, lead.phone_number, refused=False) for lead in leads]

    outcomes = decide(entries, phone_fallback=claimed.phone_fallback != PhoneFallback.NEVER, take=take)
    leads = [
        found["external_id", external_id or ""]
        if outcome == Outcome.DELETED_BY_EXTERNAL_ID
        else found["phone_number", phone_number or ""]
        if outcome == Outcome.DELETED_BY_PHONE_NUMBER
        else (None, None, None)
        for outcome, external_id, phone_number in zip(outcomes, entries.external_ids, entries.phone_numbers, strict=True)
    ]
    external_ids, phone_numbers, ids = zip(*leads, strict=True)
    arrays = {
        "ids": bigint_array(place.filled(ids, place.found.ids)),
        "external_ids": text_array(place.filled(external_ids, place.found.external_ids)),
        "phone_numbers": text_array(place.filled(phone_numbers, place.found.phone_numbers)),
    }
    connection.execute(_WRITE_DOWN, {"job_id": claimed.job_id, "number": claimed.number} | arrays)
    return bytes(outcomes).translate(_WOULD_DELETE)


def conclude(connection: Connection, job_id: UUID, *, cancelled: bool = False) -> Finished | None:
    """Finishes a job of any kind if nothing of it is pending; what a preview found twice is settled first. The caller commits."""
    if connection.execute(_LOCK_PREVIEW, {"job_id": job_id}).one_or_none():
        connection.execute(_SETTLE, {"job_id": job_id, "duplicate": Outcome.DUPLICATE})
    return finish(connection, job_id, cancelled=cancelled)
