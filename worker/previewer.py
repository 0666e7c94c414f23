"""Previews: jobs that find leads and do not change them. The leads found are written down, so that
the preview can be executed later on exactly these.

Chunks are decided apart, so two of them may have found one lead, by its two identifiers. A real job
would have deleted it for the first; so before a preview ends, all of them but one are made
duplicates.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from shared.database import archive
from shared.database.arrays import bigint_array, text_array
from shared.identifiers.canonical import canonical_external_id
from shared.states import Outcome
from worker.campaign import Column, Copy, Found, TakenLead
from worker.claimer import Claim
from worker.decider import decide
from worker.entries import Entries
from worker.finisher import Finished, finish
from worker.known_leads import KnownLeads
from worker.part import Part
from worker.taker import NAMED_BY, Leads, Manner

_FIND = {
    way: text(f"SELECT id, external_id, phone_number FROM leads WHERE {named}")
    for way, named in NAMED_BY.items()
}

_WRITE_DOWN = text("""
    UPDATE chunks SET lead_ids = CAST(:ids AS bigint[]),
        lead_external_ids = CAST(:external_ids AS text[]),
        lead_phone_numbers = CAST(:phone_numbers AS text[])
    WHERE job_id = :job_id AND number = :number AND state = 'pending'
""")

# Held until the job is finished: two workers at once would count its duplicates twice.
_LOCK_PREVIEW = text("""
    SELECT 1 FROM jobs WHERE id = :job_id AND dry_run AND finished_at IS NULL
        AND (
            SELECT true FROM chunks
            WHERE job_id = :job_id AND state = 'pending' AND number >= jobs.first_pending
            ORDER BY number DESC LIMIT 1
        ) IS NULL
    FOR NO KEY UPDATE
""")

# `person`: somebody who was found, as lead or as copy, is known by the external id, or, without
# one, by the lead.
#
# `in_turn`: the copies of a lead that is found go with it, but the lead does not go with a copy. So
# the first entry that found the lead has it, and not one that found a copy before.
_SETTLE = text("""
    WITH found AS (
        SELECT number, position, lead_id, person, count(*) OVER (PARTITION BY person) AS times
        FROM chunks
            CROSS JOIN unnest(lead_ids, lead_external_ids) WITH ORDINALITY
                AS found (lead_id, external_id, position)
            CROSS JOIN LATERAL (
                SELECT coalesce('e' || external_id, 'l' || lead_id) AS person
            ) AS known
        WHERE job_id = :job_id AND lead_id IS NOT NULL
    ),
    in_turn AS (
        SELECT number, position, row_number() OVER (
            PARTITION BY person
            ORDER BY EXISTS (SELECT FROM leads WHERE leads.id = found.lead_id) DESC,
                number, position
        ) AS turn
        FROM found WHERE times > 1
    ),
    repeated AS (
        SELECT number, array_agg(position) AS positions FROM in_turn WHERE turn > 1 GROUP BY number
    )
    UPDATE chunks SET
        outcomes = (
            SELECT array_agg(
                CASE WHEN position = ANY(positions) THEN :duplicate ELSE outcome END
                ORDER BY position
            )
            FROM unnest(outcomes) WITH ORDINALITY AS entry (outcome, position)
        ),
        lead_ids = (
            SELECT array_agg(
                CASE WHEN position <> ALL(positions) THEN lead_id END ORDER BY position
            )
            FROM unnest(lead_ids) WITH ORDINALITY AS entry (lead_id, position)
        ),
        would_delete = would_delete - cardinality(positions),
        not_found = not_found + cardinality(positions),
        other_external_id = (
            SELECT count(*) FROM unnest(outcomes) WITH ORDINALITY AS entry (outcome, position)
            WHERE outcome = :would_delete_other AND position <> ALL(positions)
        )
    FROM repeated WHERE job_id = :job_id AND chunks.number = repeated.number
""")

_WOULD_DELETE = {
    Outcome.DELETED_BY_EXTERNAL_ID: Outcome.WOULD_DELETE_BY_EXTERNAL_ID,
    Outcome.ERASED_BY_EXTERNAL_ID: Outcome.WOULD_DELETE_BY_EXTERNAL_ID,
    Outcome.DELETED_BY_PHONE_NUMBER: Outcome.WOULD_DELETE_BY_PHONE_NUMBER,
    Outcome.ERASED_BY_PHONE_NUMBER: Outcome.WOULD_DELETE_BY_PHONE_NUMBER,
}


class Place(NamedTuple):
    """The place of the entries in hand: where they begin in their chunk, of `length`; and the leads
    that other parts found for entries of it.
    """

    start: int
    length: int
    found: KnownLeads

    def with_new(self, new: Mapping[int, Any], before: Sequence[Any] | None) -> list[Any]:
        """A column of the whole chunk: what is `new`, by index of the entry in hand, and all else
        as it was. Those in hand may begin before the first that is undecided, and end behind others
        that an earlier part decided.
        """
        column = list(before or [None] * self.length)
        for i, value in new.items():
            column[self.start + i] = value
        return column


class _Finder(Leads):
    """Finds leads, which stay, and notes their ids."""

    def __init__(self, part: Part, claimed: Claim, manner: Manner) -> None:
        super().__init__(part, claimed, manner)
        self.ids: dict[TakenLead | Copy, int] = {}
        self._erased: set[tuple[UUID, int]] = set()

    def take(self, column: Column, identifiers: Sequence[str]) -> Sequence[TakenLead]:
        values = {"campaign_id": self._claimed.campaign_id, "identifiers": text_array(identifiers)}
        taken = []
        for row in self._part.execute(_FIND[self._way(column)], values):
            lead = TakenLead(row.external_id, row.phone_number, kept=None)
            self.ids[lead] = row.id
            taken.append(lead)
        return taken

    def hold(self, external_ids: Sequence[str], phone_numbers: Sequence[str]) -> None:
        """Nothing happens to them."""

    def erase(self, external_ids: Sequence[str], phone_numbers: Sequence[str]) -> Iterable[Copy]:
        """Not those that the first pass found: they would be gone in the second."""
        rows = self._part.execute(archive.FIND, self._copies(external_ids, phone_numbers)).all()
        copies = []
        for row in rows:
            if (row.job_id, row.lead_id) not in self._erased:
                self._erased.add((row.job_id, row.lead_id))
                copy = Copy(row.external_id, row.phone_number)
                self.ids.setdefault(copy, row.lead_id)
                copies.append(copy)
        return copies


def preview(part: Part, claimed: Claim, entries: Entries, place: Place, manner: Manner) -> bytes:
    """Finds the leads that the entries name and writes them down with the chunk; the outcome of
    each entry.
    """
    finder = _Finder(part, claimed, manner)
    found: Found = {}
    outcomes = decide(
        entries,
        phone_fallback=claimed.phone_fallback,
        campaign=finder,
        try_former=manner.try_former,
        found=found,
    )
    new = {i: leads[0] for i, leads in found.items()}
    ids = {i: finder.ids[lead] for i, lead in new.items()}
    external_ids = {i: lead.external_id for i, lead in new.items()}
    phone_numbers = {i: lead.phone_number for i, lead in new.items()}
    arrays = {
        "ids": bigint_array(place.with_new(ids, place.found.ids)),
        "external_ids": text_array(place.with_new(external_ids, place.found.external_ids)),
        "phone_numbers": text_array(place.with_new(phone_numbers, place.found.phone_numbers)),
    }
    part.execute(_WRITE_DOWN, {"job_id": claimed.job_id, "number": claimed.number} | arrays)
    decided = zip(outcomes, entries.external_ids, strict=True)
    return bytes(
        _would(Outcome(outcome), external_id, found.get(i, ()))
        for i, (outcome, external_id) in enumerate(decided)
    )


def _would(outcome: Outcome, external_id: str | None, leads: Sequence[TakenLead | Copy]) -> Outcome:
    would = _WOULD_DELETE.get(outcome, outcome)
    if would == Outcome.WOULD_DELETE_BY_PHONE_NUMBER and external_id is not None:
        people = {canonical_external_id(lead.external_id) for lead in leads if lead.external_id}
        if people - {external_id}:
            return Outcome.WOULD_DELETE_OTHER
    return would


def conclude(connection: Connection, job_id: UUID, *, cancelled: bool = False) -> Finished | None:
    """Finishes a job of any kind if nothing of it is pending; what a preview found twice is settled
    first. The caller commits.
    """
    if connection.execute(_LOCK_PREVIEW, {"job_id": job_id}).one_or_none():
        values = {
            "job_id": job_id,
            "duplicate": Outcome.DUPLICATE,
            "would_delete_other": Outcome.WOULD_DELETE_OTHER,
        }
        connection.execute(_SETTLE, values)
    return finish(connection, job_id, cancelled=cancelled)
