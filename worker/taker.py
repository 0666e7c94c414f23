"""Takes leads out of their campaign, in the transaction of their chunk: deletes them, or moves them
to the archive.

Either by the identifiers of entries, or exactly those that a preview found and no other in their
place. All at once, which is fast; or around the leads that the database refuses to give up, and
those that somebody else has locked, for parts that met one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, Literal, NamedTuple

from sqlalchemy import TextClause, text

from shared.database import archive
from shared.database.arrays import bigint_array, text_array
from shared.identifiers.canonical import canonical_external_id, canonical_phone_number
from shared.states import Mode, Outcome, PhoneFallback
from worker.claimer import Claim
from worker.decider import Column, Copy, Kept, Row, decide
from worker.entries import Entries
from worker.part import Part
from worker.refusals import Refusals

Way = Literal["external_id", "phone_number", "lone_number"]

# `= ANY(sorted array)` takes row locks in index order: two jobs over the same leads seldom meet
# head-on.
BY: dict[Way, str] = {
    "external_id": "campaign_id = :campaign_id AND external_id = ANY(CAST(:identifiers AS text[]))",
    "phone_number": "campaign_id = :campaign_id AND phone_number = ANY(CAST(:identifiers AS text[]))",
    "lone_number": "campaign_id = :campaign_id AND phone_number = ANY(CAST(:identifiers AS text[])) AND external_id IS NULL",
}
"""The ways to name leads."""

_DELETE = "DELETE FROM leads WHERE CONDITION RETURNING external_id, phone_number, NULL"
_ARCHIVE = """
    WITH gone AS (DELETE FROM leads WHERE CONDITION RETURNING *),
    kept AS (INSERT INTO archived_leads (job_id, lead_id, lead) SELECT :job_id, id,
        row_to_json(gone.*) FROM gone)
    SELECT external_id, phone_number, NULL FROM gone
"""
_FIND_LEFT = "SELECT external_id, phone_number FROM leads WHERE CONDITION"

# What somebody else holds stays, without waiting for it: so locks may be taken in any order. To be
# sorted by id, all leads of all campaigns would be walked through. Of what is left and free a
# trigger would not let go.
_FREE = "SELECT id FROM leads WHERE CONDITION FOR UPDATE SKIP LOCKED"
_TAKE_FREE = """
    WITH named AS MATERIALIZED (SELECT id, external_id, phone_number FROM leads WHERE CONDITION),
    free AS MATERIALIZED (FREE),
    gone AS (DELETE FROM leads WHERE id = ANY(ARRAY(SELECT id FROM free)) RETURNING leads.*),
    kept AS (KEPT)
    SELECT external_id, phone_number, FATE FROM named
"""
_FATE = f"""
    CASE WHEN id IN (SELECT id FROM gone) THEN NULL
        WHEN id IN (SELECT id FROM free) THEN {Outcome.REFUSED:d}
            ELSE {Outcome.WAITS_FOR_LOCK:d} END
"""
_KEPT = {
    Mode.DELETE: "SELECT",
    Mode.ARCHIVE: "INSERT INTO archived_leads (job_id, lead_id, lead) SELECT :job_id, id, row_to_json(gone.*) FROM gone",
}


def by_each_way(statement: str) -> dict[Way, TextClause]:
    """`statement` with each way to name leads for its CONDITION."""
    return {way: text(statement.replace("CONDITION", condition)) for way, condition in BY.items()}


_TAKE = {Mode.DELETE: by_each_way(_DELETE), Mode.ARCHIVE: by_each_way(_ARCHIVE)}
_TAKE_UNLOCKED = {
    mode: by_each_way(
        _TAKE_FREE.replace("FREE", _FREE).replace("KEPT", kept).replace("FATE", _FATE)
    )
    for mode, kept in _KEPT.items()
}
_LEFT = by_each_way(_FIND_LEFT)

_NUMBERS = text("""
    SELECT phone_number FROM leads
    WHERE campaign_id = :campaign_id AND phone_number = ANY(CAST(:phone_numbers AS text[]))
        AND (NOT CAST(:identified AS boolean) OR external_id IS NOT NULL)
""")

# The same row, with both identifiers as they were when the preview found it, though they may be
# written in a newer form.
_KNOWN = """
    leads.campaign_id = :campaign_id AND leads.id = known.id
    AND (leads.external_id IS NOT DISTINCT FROM known.external_id
        OR leadsweep_canonical_external_id(leads.external_id) =
            leadsweep_canonical_external_id(known.external_id))
    AND (leads.phone_number IS NOT DISTINCT FROM known.phone_number
        OR leadsweep_canonical_phone_number(leads.phone_number) =
            leadsweep_canonical_phone_number(known.phone_number))
"""
_KNOWN_LEADS = """
    unnest(CAST(:ids AS bigint[]), CAST(:external_ids AS text[]),
        CAST(:phone_numbers AS text[])) AS known (
        id, external_id, phone_number)
"""
_TAKE_KNOWN = {
    Mode.DELETE: text(
        f"DELETE FROM leads USING {_KNOWN_LEADS} WHERE {_KNOWN} RETURNING leads.id, NULL"
    ),
    Mode.ARCHIVE: text(f"""
        WITH gone AS (DELETE FROM leads USING {_KNOWN_LEADS} WHERE {_KNOWN} RETURNING leads.*),
        kept AS (INSERT INTO archived_leads (job_id, lead_id, lead) SELECT :job_id, id,
            row_to_json(gone.*) FROM gone)
        SELECT id, NULL FROM gone
    """),
}
_TAKE_KNOWN_UNLOCKED = {
    mode: text(f"""
        WITH named AS MATERIALIZED (SELECT leads.id FROM leads, {_KNOWN_LEADS} WHERE {_KNOWN}),
        free AS MATERIALIZED (
            SELECT leads.id FROM leads, {_KNOWN_LEADS} WHERE {_KNOWN}
                FOR UPDATE OF leads SKIP LOCKED
        ),
        gone AS (DELETE FROM leads WHERE id = ANY(ARRAY(SELECT id FROM free)) RETURNING leads.*),
        kept AS ({kept})
        SELECT id, {_FATE} FROM named
    """)
    for mode, kept in _KEPT.items()
}
_LEFT_KNOWN = text(f"SELECT leads.id FROM leads, {_KNOWN_LEADS} WHERE {_KNOWN}")

# What the decider calls deleted is called archived where it was.
ARCHIVED = bytes.maketrans(
    bytes((Outcome.DELETED_BY_EXTERNAL_ID, Outcome.DELETED_BY_PHONE_NUMBER)),
    bytes((Outcome.ARCHIVED_BY_EXTERNAL_ID, Outcome.ARCHIVED_BY_PHONE_NUMBER)),
)

_ERASED = {
    Outcome.DELETED_BY_EXTERNAL_ID: Outcome.ERASED_BY_EXTERNAL_ID,
    Outcome.DELETED_BY_PHONE_NUMBER: Outcome.ERASED_BY_PHONE_NUMBER,
}


class Manner(NamedTuple):
    """How leads are taken: around those that the database refuses, where it refused one; looking
    afterwards, as triggers, whose names these are, may `veto` without a word; leaving alone what
    somebody else has locked; with their copies in the archive, where the campaign `has_archive`; in
    a former form too, where some may be stored so.
    """

    refusals: Refusals | None
    veto: str | None
    skip_locked: bool
    has_archive: bool
    try_former: bool


class KnownLeads(NamedTuple):
    """For each entry of a chunk, the lead that it stands for: id and identifiers. None where leads
    are to be looked up.
    """

    ids: Sequence[int | None] | None
    external_ids: Sequence[str | None] | None
    phone_numbers: Sequence[str | None] | None


class Leads:
    """What any job looks up in its campaign, and which of what it finds there its phoneFallback
    lets it have.
    """

    def __init__(self, part: Part, claimed: Claim, manner: Manner) -> None:
        self.has_archive = manner.has_archive
        self._part, self._claimed, self._manner = part, claimed, manner
        self._unidentified = claimed.phone_fallback == PhoneFallback.IF_UNIDENTIFIED

    def existing(self, phone_numbers: Sequence[str], *, identified: bool = False) -> set[str]:
        """Those that leads or copies have; `identified`, such as have an external id."""
        values = {
            "campaign_id": self._claimed.campaign_id,
            "phone_numbers": text_array(phone_numbers),
            "identified": identified,
        }
        statements = (_NUMBERS, archive.NUMBERS) if self.has_archive else (_NUMBERS,)
        return {
            number
            for statement in statements
            for (number,) in self._part.execute(statement, values)
        }

    def _way(self, column: Column) -> Way:
        return "lone_number" if column == "phone_number" and self._unidentified else column

    def _copies(self, external_ids: Sequence[str], phone_numbers: Sequence[str]) -> dict[str, Any]:
        return archive.named(
            self._claimed.campaign_id, external_ids, phone_numbers, unidentified=self._unidentified
        )


class _Taken(Leads):
    """What is found is deleted, or archived."""

    def take(self, column: Column, identifiers: Sequence[str]) -> Sequence[Row]:
        def run(statement: TextClause, some: Sequence[str]) -> Sequence[Any]:
            values = {
                "campaign_id": claimed.campaign_id,
                "identifiers": text_array(some),
                "job_id": claimed.job_id,
            }
            return _fetch(self._part, statement, values)

        claimed, way = self._claimed, self._way(column)
        statements = _TAKE_UNLOCKED if self._manner.skip_locked else _TAKE
        take, find = partial(run, statements[Mode(claimed.mode)][way]), partial(run, _LEFT[way])
        return _take(identifiers, take, find, self._manner)

    def hold(self, external_ids: Sequence[str], phone_numbers: Sequence[str]) -> None:
        self._part.execute(archive.HOLD, self._copies(external_ids, phone_numbers))

    def erase(self, external_ids: Sequence[str], phone_numbers: Sequence[str]) -> Iterable[Copy]:
        return map(
            Copy._make, self._part.execute(archive.ERASE, self._copies(external_ids, phone_numbers))
        )


def look_up_and_take(part: Part, claimed: Claim, entries: Entries, manner: Manner) -> bytes:
    """Takes the leads that the entries name; the outcome of each. Raises TimeIsUp, DBAPIError: for
    some, `is_refusal` holds.
    """
    outcomes = bytes(
        decide(
            entries,
            phone_fallback=claimed.phone_fallback,
            campaign=_Taken(part, claimed, manner),
            try_former=manner.try_former,
            details=part.details,
        )
    )
    return outcomes.translate(ARCHIVED) if claimed.mode == Mode.ARCHIVE else outcomes


Known = tuple[int | None, str | None, str | None]

_NOBODY: Known = (None, None, None)


def take_known(
    part: Part, claimed: Claim, entries: Entries, leads: KnownLeads, manner: Manner
) -> bytes:
    """Takes the leads known, where they are as they were; the outcome of each entry. Raises as
    look_up_and_take.
    """
    known: list[Known] = list(
        zip(leads.ids or (), leads.external_ids or (), leads.phone_numbers or (), strict=True)
    )
    # A preview of a former version may have forgotten some.
    known += [_NOBODY] * (len(entries.outcomes) - len(known))
    undecided = {i: lead for i, lead in enumerate(known) if not entries.outcomes[i]}

    def run(statement: TextClause, some: Sequence[Any]) -> Sequence[Any]:
        ids, external_ids, phone_numbers = zip(*some, strict=True)
        values = {
            "ids": bigint_array(ids),
            "external_ids": text_array(external_ids),
            "phone_numbers": text_array(phone_numbers),
        }
        return _fetch(
            part, statement, values | {"campaign_id": claimed.campaign_id, "job_id": claimed.job_id}
        )

    people = _People(part, claimed, undecided) if manner.has_archive else None
    statements = _TAKE_KNOWN_UNLOCKED if manner.skip_locked else _TAKE_KNOWN
    take, find = partial(run, statements[Mode(claimed.mode)]), partial(run, _LEFT_KNOWN)
    fates: dict[int | None, Kept | None] = dict(
        _take(sorted(undecided.values(), key=_by_id), take, find, manner)
    )
    waiting = {i for i, lead in undecided.items() if _is_waiting(fates.get(lead[0]))}
    erased = people.erase(undecided.keys() - waiting) if people else set()
    outcomes = list(entries.outcomes)
    for i, (id_, external_id, _) in undecided.items():
        if kept := fates.get(id_):
            outcomes[i] = kept.outcome
            part.details |= {i: kept.detail} if kept.detail else {}
        elif id_ in fates or i in erased:
            same_id = _same_id(entries.external_ids[i], external_id)
            deleted = Outcome.DELETED_BY_EXTERNAL_ID if same_id else Outcome.DELETED_BY_PHONE_NUMBER
            outcomes[i] = _ERASED[deleted] if i in erased else deleted
        else:
            outcomes[i] = Outcome.CHANGED
    return bytes(outcomes).translate(ARCHIVED) if claimed.mode == Mode.ARCHIVE else bytes(outcomes)


def _by_id(lead: Known) -> int:
    """Locks are taken in one order."""
    return lead[0] or 0


def _is_waiting(kept: Kept | None) -> bool:
    return kept is not None and kept.outcome == Outcome.WAITS_FOR_LOCK


def _same_id(one: str | None, other: str | None) -> bool:
    return (
        one is not None
        and other is not None
        and (one == other or canonical_external_id(one) == canonical_external_id(other))
    )


class _People:
    """Whom a preview found: copies of them are erased whichever job archived them, before the
    preview or since. One is known by the external id; who has none, by the number.
    """

    def __init__(self, part: Part, claimed: Claim, known: Mapping[int, Known]) -> None:
        """`known` by index of the entry. Locks their copies."""
        self._part, self._campaign_id = part, claimed.campaign_id
        self._by_external_id: dict[str, int] = {}
        self._by_phone_number: dict[str, int] = {}
        for i, (_, external_id, phone_number) in known.items():
            if external_id is not None:
                self._by_external_id.setdefault(canonical_external_id(external_id), i)
            elif phone_number is not None:
                self._by_phone_number.setdefault(canonical_phone_number(phone_number), i)
        part.execute(archive.HOLD, self._of(known.keys()))

    def erase(self, some: AbstractSet[int]) -> set[int]:
        """Erases the copies of some of them; whose there were."""
        return {
            self._by_phone_number[number]
            if external_id is None
            else self._by_external_id[external_id]
            for external_id, number in self._part.execute(archive.ERASE, self._of(some))
        }

    def _of(self, some: AbstractSet[int]) -> dict[str, Any]:
        named = (
            [identifier for identifier, i in by.items() if i in some]
            for by in (self._by_external_id, self._by_phone_number)
        )
        return archive.named(self._campaign_id, *map(sorted, named), unidentified=True)


Run = Callable[[Sequence[Any]], Sequence[Any]]


def _take(items: Sequence[Any], take: Run, find: Run, manner: Manner) -> Sequence[Any]:
    """The leads that are gone, and those that are there still, each with why: a BEFORE DELETE
    trigger that returns NULL says nothing of them.
    """

    def take_some(some: Sequence[Any]) -> Sequence[Any]:
        if manner.skip_locked:
            return [(*row[:-1], _kept(row[-1], manner)) for row in take(some)]
        return [*take(some), *left(some, f"trigger {manner.veto}")] if manner.veto else take(some)

    def left(some: Sequence[Any], detail: str) -> Sequence[Any]:
        return [(*lead, Kept(Outcome.REFUSED, detail)) for lead in find(some)]

    return (
        manner.refusals.around(items, take_some, left, _is_gone)
        if manner.refusals
        else take_some(items)
    )


def _is_gone(row: Any) -> bool:
    return row[-1] is None


def _kept(outcome: int | None, manner: Manner) -> Kept | None:
    if outcome is None:
        return None
    return Kept(Outcome(outcome), f"trigger {manner.veto}" if outcome == Outcome.REFUSED else None)


def _fetch(part: Part, statement: TextClause, values: dict[str, Any]) -> Sequence[Any]:
    """The driver's own rows: SQLAlchemy's would take as long as the deletion."""
    result = part.execute(statement, values)
    return result.cursor.fetchall() if result.cursor else []
