"""Takes leads out of their campaign, in the transaction of their chunk: deletes them, or moves them to the archive.

Either by the identifiers of entries, or exactly those that a preview found and no other in their place. All at once, which is
fast; or `careful`, halving around the leads that the database refuses to give up, for chunks in which it refused one.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, TextClause, text

from shared import archive
from shared.arrays import bigint_array, text_array
from shared.identifiers import canonical_external_id, canonical_phone_number
from shared.states import Mode, Outcome, PhoneFallback
from worker.claimer import Claim
from worker.decider import Column, Copy, TakenLead, decide
from worker.entries import Entries
from worker.refusals import around_refused

Way = Literal["external_id", "phone_number", "lone_number"]

# `= ANY(sorted array)` takes row locks in index order: two jobs over the same leads seldom meet head-on.
BY: dict[Way, str] = {
    "external_id": "campaign_id = :campaign_id AND external_id = ANY(CAST(:identifiers AS text[]))",
    "phone_number": "campaign_id = :campaign_id AND phone_number = ANY(CAST(:identifiers AS text[]))",
    "lone_number": "campaign_id = :campaign_id AND phone_number = ANY(CAST(:identifiers AS text[])) AND external_id IS NULL",
}
"""The ways to name leads."""

_DELETE = "DELETE FROM leads WHERE CONDITION RETURNING external_id, phone_number, false"
_ARCHIVE = """
    WITH gone AS (DELETE FROM leads WHERE CONDITION RETURNING *),
    kept AS (INSERT INTO archived_leads (job_id, lead_id, lead) SELECT :job_id, id, row_to_json(gone) FROM gone)
    SELECT external_id, phone_number, false FROM gone
"""
_FIND_REFUSED = "SELECT external_id, phone_number, true FROM leads WHERE CONDITION"


def by_each_way(statement: str) -> dict[Way, TextClause]:
    """`statement` with each way to name leads for its CONDITION."""
    return {way: text(statement.replace("CONDITION", condition)) for way, condition in BY.items()}


_TAKE = {Mode.DELETE: by_each_way(_DELETE), Mode.ARCHIVE: by_each_way(_ARCHIVE)}
_REFUSED = by_each_way(_FIND_REFUSED)

_NUMBERS = text("""
    SELECT phone_number FROM leads
    WHERE campaign_id = :campaign_id AND phone_number = ANY(CAST(:phone_numbers AS text[]))
        AND (NOT CAST(:identified AS boolean) OR external_id IS NOT NULL)
""")

# The same row, with both identifiers as they were when the preview found it, though they may be written in a newer form.
_KNOWN = """
    leads.campaign_id = :campaign_id AND leads.id = known.id
    AND (leads.external_id IS NOT DISTINCT FROM known.external_id
        OR leadsweep_canonical_external_id(leads.external_id) = leadsweep_canonical_external_id(known.external_id))
    AND (leads.phone_number IS NOT DISTINCT FROM known.phone_number
        OR leadsweep_canonical_phone_number(leads.phone_number) = leadsweep_canonical_phone_number(known.phone_number))
"""
_KNOWN_LEADS = """
    unnest(CAST(:ids AS bigint[]), CAST(:external_ids AS text[]), CAST(:phone_numbers AS text[])) AS known (
        id, external_id, phone_number)
"""
_TAKE_KNOWN = {
    Mode.DELETE: text(f"DELETE FROM leads USING {_KNOWN_LEADS} WHERE {_KNOWN} RETURNING leads.id, false"),
    Mode.ARCHIVE: text(f"""
        WITH gone AS (DELETE FROM leads USING {_KNOWN_LEADS} WHERE {_KNOWN} RETURNING leads.*),
        kept AS (INSERT INTO archived_leads (job_id, lead_id, lead) SELECT :job_id, id, row_to_json(gone) FROM gone)
        SELECT id, false FROM gone
    """),
}
_REFUSED_KNOWN = text(f"SELECT leads.id, true FROM leads, {_KNOWN_LEADS} WHERE {_KNOWN}")

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
    """How leads are taken: `careful`, as the database refused one; looking afterwards, as a trigger may `veto` without a word;
    with their copies in the archive, where the campaign `has_archive`; in a former form too, where some may be stored so.
    """

    careful: bool
    veto: bool
    has_archive: bool
    try_former: bool


class KnownLeads(NamedTuple):
    """For each entry of a chunk, the lead that it stands for: id and identifiers. None where leads are to be looked up."""

    ids: Sequence[int | None] | None
    external_ids: Sequence[str | None] | None
    phone_numbers: Sequence[str | None] | None


class Leads:
    """What any job looks up in its campaign, and which of what it finds there its phoneFallback lets it have."""

    def __init__(self, connection: Connection, claimed: Claim, manner: Manner) -> None:
        self.has_archive = manner.has_archive
        self._connection, self._claimed, self._manner = connection, claimed, manner
        self._unidentified = claimed.phone_fallback == PhoneFallback.IF_UNIDENTIFIED

    def existing(self, phone_numbers: Sequence[str], *, identified: bool = False) -> set[str]:
        """Those that leads or copies have; `identified`, such as have an external id."""
        values = {
            "campaign_id": self._claimed.campaign_id,
            "phone_numbers": text_array(phone_numbers),
            "identified": identified,
        }
        statements = (_NUMBERS, archive.NUMBERS) if self.has_archive else (_NUMBERS,)
        return {number for statement in statements for (number,) in self._connection.execute(statement, values)}

    def _way(self, column: Column) -> Way:
        return "lone_number" if column == "phone_number" and self._unidentified else column

    def _copies(self, external_ids: Sequence[str], phone_numbers: Sequence[str]) -> dict[str, Any]:
        return archive.named(self._claimed.campaign_id, external_ids, phone_numbers, unidentified=self._unidentified)


class _Taken(Leads):
    """What is found is deleted, or archived."""

    def take(self, column: Column, identifiers: Sequence[str]) -> Sequence[TakenLead]:
        def run(statement: TextClause, some: Sequence[str]) -> Sequence[Any]:
            values = {"campaign_id": claimed.campaign_id, "identifiers": text_array(some), "job_id": claimed.job_id}
            return _fetch(self._connection, statement, values)

        claimed, way = self._claimed, self._way(column)
        take, find = partial(run, _TAKE[Mode(claimed.mode)][way]), partial(run, _REFUSED[way])
        return _take(self._connection, identifiers, take, find, self._manner)

    def hold(self, external_ids: Sequence[str], phone_numbers: Sequence[str]) -> None:
        self._connection.execute(archive.HOLD, self._copies(external_ids, phone_numbers))

    def erase(self, external_ids: Sequence[str], phone_numbers: Sequence[str]) -> Iterable[Copy]:
        return map(Copy._make, self._connection.execute(archive.ERASE, self._copies(external_ids, phone_numbers)))


def look_up_and_take(connection: Connection, claimed: Claim, entries: Entries, manner: Manner) -> bytes:
    """Takes the leads that the entries name; the outcome of each. Raises DBAPIError, for which `is_refusal` may hold."""
    prepare(connection, careful=manner.careful)
    leads = _Taken(connection, claimed, manner)
    outcomes = bytes(decide(entries, phone_fallback=claimed.phone_fallback, campaign=leads, try_former=manner.try_former))
    return outcomes.translate(ARCHIVED) if claimed.mode == Mode.ARCHIVE else outcomes


def take_known(connection: Connection, claimed: Claim, entries: Entries, leads: KnownLeads, manner: Manner) -> bytes:
    """Takes the leads known, where they are as they were; the outcome of each entry. Raises DBAPIError as look_up_and_take."""
    known = list(zip(leads.ids or (), leads.external_ids or (), leads.phone_numbers or (), strict=True))

    def run(statement: TextClause, some: Sequence[Any]) -> Sequence[Any]:
        ids, external_ids, phone_numbers = zip(*some, strict=True)
        values = {"ids": bigint_array(ids), "external_ids": text_array(external_ids), "phone_numbers": text_array(phone_numbers)}
        return _fetch(connection, statement, values | {"campaign_id": claimed.campaign_id, "job_id": claimed.job_id})

    prepare(connection, careful=manner.careful)
    people = _People(connection, claimed, known) if manner.has_archive else None
    take, find = partial(run, _TAKE_KNOWN[Mode(claimed.mode)]), partial(run, _REFUSED_KNOWN)
    refused = dict(_take(connection, sorted(known, key=_by_id), take, find, manner))  # locks are taken in one order
    erased = people.erase() if people else set()
    outcomes = bytes(
        outcome
        or _outcome_of_known(refused.get(lead[0]), erased=i in erased, by_external_id=_same_id(entries.external_ids[i], lead[1]))
        for i, (outcome, lead) in enumerate(zip(entries.outcomes, known, strict=True))
    )
    return outcomes.translate(ARCHIVED) if claimed.mode == Mode.ARCHIVE else outcomes


def _by_id(lead: tuple[int | None, str | None, str | None]) -> int:
    return lead[0] or 0


def _same_id(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and (one == other or canonical_external_id(one) == canonical_external_id(other))


class _People:
    """Whom a preview found: copies of them are erased whichever job archived them, before the preview or since. One is known by
    the external id; who has none, by the number.
    """

    def __init__(
        self, connection: Connection, claimed: Claim, known: Sequence[tuple[int | None, str | None, str | None]]
    ) -> None:
        """Locks their copies."""
        self._connection = connection
        self._by_external_id: dict[str, int] = {}
        self._by_phone_number: dict[str, int] = {}
        for i, (_, external_id, phone_number) in enumerate(known):
            if external_id is not None:
                self._by_external_id.setdefault(canonical_external_id(external_id), i)
            elif phone_number is not None:
                self._by_phone_number.setdefault(canonical_phone_number(phone_number), i)
        named = sorted(self._by_external_id), sorted(self._by_phone_number)
        self._values = archive.named(claimed.campaign_id, *named, unidentified=True)
        connection.execute(archive.HOLD, self._values)

    def erase(self) -> set[int]:
        """Erases the copies; whose there were."""
        return {
            self._by_phone_number[number] if external_id is None else self._by_external_id[external_id]
            for external_id, number in self._connection.execute(archive.ERASE, self._values)
        }


Run = Callable[[Sequence[Any]], Sequence[Any]]


def _take(connection: Connection, items: Sequence[Any], take: Run, find: Run, manner: Manner) -> Sequence[Any]:
    """The leads that are gone, and those that are there still: a BEFORE DELETE trigger that returns NULL says nothing of them."""

    def take_some(some: Sequence[Any]) -> Sequence[Any]:
        return [*take(some), *find(some)] if manner.veto else take(some)

    return list(around_refused(connection, items, take_some, find)) if manner.careful else take_some(items)


def _outcome_of_known(refused: bool | None, *, erased: bool, by_external_id: bool) -> Outcome:
    if refused:
        return Outcome.REFUSED
    if refused is None and not erased:
        return Outcome.CHANGED
    deleted = Outcome.DELETED_BY_EXTERNAL_ID if by_external_id else Outcome.DELETED_BY_PHONE_NUMBER
    return _ERASED[deleted] if erased else deleted


def prepare(connection: Connection, *, careful: bool) -> None:
    """A deferred constraint would refuse at COMMIT, when it is too late to say which lead."""
    if careful:
        connection.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))


def _fetch(connection: Connection, statement: TextClause, values: dict[str, Any]) -> Sequence[Any]:
    """The driver's own rows: SQLAlchemy's would take as long as the deletion."""
    result = connection.execute(statement, values)
    return result.cursor.fetchall() if result.cursor else []
