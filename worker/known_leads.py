"""Takes exactly the leads that a preview found, and no other in their place: each where it still is
as it was then.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import TextClause, text

from shared.database import archive
from shared.database.arrays import bigint_array, text_array
from shared.identifiers.canonical import canonical_external_id, canonical_phone_number
from shared.states import Mode, Outcome
from worker.campaign import Kept
from worker.claimer import Claim
from worker.entries import Entries
from worker.part import Part
from worker.taker import Manner, fetch, in_mode, take_around, take_free_statement, take_statement

_KNOWN = """
    unnest(
        CAST(:ids AS bigint[]), CAST(:external_ids AS text[]), CAST(:phone_numbers AS text[])
    ) AS known (id, external_id, phone_number)
"""
# The same row, with both identifiers as they were when the preview found it, though they may be
# written in a newer form.
_IS_THE_SAME = """
    leads.campaign_id = :campaign_id AND leads.id = known.id
    AND (
        leads.external_id IS NOT DISTINCT FROM known.external_id
        OR leadsweep_canonical_external_id(leads.external_id)
            = leadsweep_canonical_external_id(known.external_id)
    )
    AND (
        leads.phone_number IS NOT DISTINCT FROM known.phone_number
        OR leadsweep_canonical_phone_number(leads.phone_number)
            = leadsweep_canonical_phone_number(known.phone_number)
    )
"""
_MODES = (Mode.DELETE, Mode.ARCHIVE)
_TAKE = {
    mode: take_statement(mode, f"USING {_KNOWN} WHERE {_IS_THE_SAME}", "leads.id")
    for mode in _MODES
}
_TAKE_FREE = {
    mode: take_free_statement(mode, f"leads, {_KNOWN} WHERE {_IS_THE_SAME}", "leads.id")
    for mode in _MODES
}
_LEFT = text(f"SELECT leads.id, NULL AS kept FROM leads, {_KNOWN} WHERE {_IS_THE_SAME}")

_ERASED = {
    Outcome.DELETED_BY_EXTERNAL_ID: Outcome.ERASED_BY_EXTERNAL_ID,
    Outcome.DELETED_BY_PHONE_NUMBER: Outcome.ERASED_BY_PHONE_NUMBER,
}


class KnownLeads(NamedTuple):
    """For each entry of a chunk, the lead that it stands for: id and identifiers. None where leads
    are to be looked up.
    """

    ids: Sequence[int | None] | None
    external_ids: Sequence[str | None] | None
    phone_numbers: Sequence[str | None] | None

    def at(self, place: slice) -> "KnownLeads":
        """Those of some of the entries."""
        return KnownLeads._make(column and column[place] for column in self)


class _Known(NamedTuple):
    """The lead of one entry, as the preview found it; all None where it found nobody."""

    id: int | None
    external_id: str | None
    phone_number: str | None


_NOBODY = _Known(None, None, None)


class _Fate(NamedTuple):
    """What became of a lead: it is gone, unless it is `kept`."""

    id: int
    kept: Kept | None


def take_known(
    part: Part, claimed: Claim, entries: Entries, leads: KnownLeads, manner: Manner
) -> bytes:
    """Takes the leads known, where they are as they were; the outcome of each entry. Raises as
    look_up_and_take.
    """
    columns = (leads.ids or (), leads.external_ids or (), leads.phone_numbers or ())
    known = [_Known._make(lead) for lead in zip(*columns, strict=True)]
    # A preview of a former version may have forgotten some.
    known += [_NOBODY] * (len(entries.outcomes) - len(known))
    undecided = {i: lead for i, lead in enumerate(known) if not entries.outcomes[i]}

    def run(statement: TextClause, some: Sequence[_Known]) -> Sequence[Any]:
        values = {
            "ids": bigint_array([lead.id for lead in some]),
            "external_ids": text_array([lead.external_id for lead in some]),
            "phone_numbers": text_array([lead.phone_number for lead in some]),
            "campaign_id": claimed.campaign_id,
            "job_id": claimed.job_id,
        }
        return fetch(part, statement, values)

    people = _People(part, claimed, undecided) if manner.has_archive else None
    statements = _TAKE_FREE if manner.skip_locked else _TAKE
    take, find = partial(run, statements[Mode(claimed.mode)]), partial(run, _LEFT)
    taken = take_around(sorted(undecided.values(), key=_by_id), take, find, manner, _Fate)
    fates: dict[int | None, Kept | None] = dict(taken)
    waiting = {i for i, lead in undecided.items() if _is_waiting(fates.get(lead.id))}
    erased = people.erase(undecided.keys() - waiting) if people else set()
    outcomes = list(entries.outcomes)
    for i, lead in undecided.items():
        if kept := fates.get(lead.id):
            outcomes[i] = kept.outcome
            part.details |= {i: kept.detail} if kept.detail else {}
        elif lead.id in fates or i in erased:
            same_id = _same_id(entries.external_ids[i], lead.external_id)
            deleted = Outcome.DELETED_BY_EXTERNAL_ID if same_id else Outcome.DELETED_BY_PHONE_NUMBER
            outcomes[i] = _ERASED[deleted] if i in erased else deleted
        else:
            outcomes[i] = Outcome.CHANGED
    return in_mode(claimed.mode, bytes(outcomes))


def _by_id(lead: _Known) -> int:
    """Locks are taken in one order."""
    return lead.id or 0


def _is_waiting(kept: Kept | None) -> bool:
    return kept is not None and kept.outcome == Outcome.WAITS_FOR_LOCK


def _same_id(one: str | None, other: str | None) -> bool:
    return (
        one is not None
        and other is not None
        and (one == other or canonical_external_id(one) == canonical_external_id(other))
    )


class _People:
    """Those whom a preview found: copies of them are erased whichever job archived them, before the
    preview or since. A person is known by the external id, or, without one, by the number.
    """

    def __init__(self, part: Part, claimed: Claim, known: Mapping[int, _Known]) -> None:
        """`known` by index of the entry. Locks their copies."""
        self._part, self._campaign_id = part, claimed.campaign_id
        self._by_external_id: dict[str, int] = {}
        self._by_phone_number: dict[str, int] = {}
        for i, lead in known.items():
            if lead.external_id is not None:
                self._by_external_id.setdefault(canonical_external_id(lead.external_id), i)
            elif lead.phone_number is not None:
                self._by_phone_number.setdefault(canonical_phone_number(lead.phone_number), i)
        part.execute(archive.HOLD, self._of(known.keys()))

    def erase(self, some: AbstractSet[int]) -> set[int]:
        """Erases the copies of some of them; returns of which there were any."""
        copies = self._part.execute(archive.ERASE, self._of(some))
        return {self._person(copy.external_id, copy.phone_number) for copy in copies}

    def _person(self, external_id: str | None, phone_number: str) -> int:
        if external_id is None:
            return self._by_phone_number[phone_number]
        return self._by_external_id[external_id]

    def _of(self, some: AbstractSet[int]) -> dict[str, Any]:
        external_ids = sorted(each for each, i in self._by_external_id.items() if i in some)
        phone_numbers = sorted(each for each, i in self._by_phone_number.items() if i in some)
        return archive.named(self._campaign_id, external_ids, phone_numbers, unidentified=True)
