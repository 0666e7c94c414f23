"""Takes leads out of their campaign, in the transaction of their chunk: deletes them, or moves them to the archive.

Either by the identifiers of entries, or exactly those that a preview found and no other in their place. All at once, which is
fast; or `careful`, halving around the leads that the database refuses to give up, for chunks in which it refused one.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Connection, TextClause, text

from shared.arrays import bigint_array, text_array
from shared.states import Mode, Outcome, PhoneFallback
from worker.claimer import Claim
from worker.decider import Column, Entries, TakenLead, decide
from worker.refusals import around_refused

# `= ANY(sorted array)` takes row locks in index order: two jobs over the same leads seldom meet head-on.
_BY_EXTERNAL_ID = "campaign_id = :campaign_id AND external_id = ANY(CAST(:identifiers AS text[]))"
_BY_PHONE_NUMBER = "campaign_id = :campaign_id AND phone_number = ANY(CAST(:identifiers AS text[]))"

_DELETE = "DELETE FROM leads WHERE CONDITION RETURNING external_id, phone_number, false"
_ARCHIVE = """
    WITH gone AS (DELETE FROM leads WHERE CONDITION RETURNING *),
    kept AS (INSERT INTO archived_leads (job_id, lead_id, lead) SELECT :job_id, id, row_to_json(gone) FROM gone)
    SELECT external_id, phone_number, false FROM gone
"""
_FIND_REFUSED = "SELECT external_id, phone_number, true FROM leads WHERE CONDITION"


def _by_column(statement: str) -> dict[Column, TextClause]:
    conditions: dict[Column, str] = {"external_id": _BY_EXTERNAL_ID, "phone_number": _BY_PHONE_NUMBER}
    return {column: text(statement.replace("CONDITION", condition)) for column, condition in conditions.items()}


_TAKE = {Mode.DELETE: _by_column(_DELETE), Mode.ARCHIVE: _by_column(_ARCHIVE)}
_REFUSED = _by_column(_FIND_REFUSED)

# The same row, with both identifiers as they were when the preview found it.
_KNOWN = """
    leads.campaign_id = :campaign_id AND leads.id = known.id AND leads.external_id IS NOT DISTINCT FROM known.external_id
    AND leads.phone_number IS NOT DISTINCT FROM known.phone_number
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


class Manner(NamedTuple):
    """How leads are taken: `careful`, as the database refused one; looking afterwards, as a trigger may `veto` without a word."""

    careful: bool
    veto: bool


class KnownLeads(NamedTuple):
    """For each entry of a chunk, the lead that it stands for: id and identifiers. None where leads are to be looked up."""

    ids: Sequence[int | None] | None
    external_ids: Sequence[str | None] | None
    phone_numbers: Sequence[str | None] | None


def look_up_and_take(connection: Connection, claimed: Claim, entries: Entries, manner: Manner) -> bytes:
    """Takes the leads that the entries name; the outcome of each. Raises DBAPIError, for which `is_refusal` may hold."""
    mode = Mode(claimed.mode)

    def take(column: Column, identifiers: Sequence[str]) -> Iterable[TakenLead]:
        def run(statement: TextClause, some: Sequence[str]) -> Sequence[Any]:
            values = {"campaign_id": claimed.campaign_id, "identifiers": text_array(some), "job_id": claimed.job_id}
            return _fetch(connection, statement, values)

        return _take(connection, identifiers, partial(run, _TAKE[mode][column]), partial(run, _REFUSED[column]), manner)

    prepare(connection, careful=manner.careful)
    outcomes = bytes(decide(entries, phone_fallback=claimed.phone_fallback != PhoneFallback.NEVER, take=take))
    return outcomes.translate(ARCHIVED) if mode == Mode.ARCHIVE else outcomes


def take_known(connection: Connection, claimed: Claim, entries: Entries, leads: KnownLeads, manner: Manner) -> bytes:
    """Takes the leads known, where they are as they were; the outcome of each entry. Raises DBAPIError as look_up_and_take."""
    known = list(zip(leads.ids or (), leads.external_ids or (), leads.phone_numbers or (), strict=True))

    def run(statement: TextClause, some: Sequence[Any]) -> Sequence[Any]:
        ids, external_ids, phone_numbers = zip(*some, strict=True)
        values = {"ids": bigint_array(ids), "external_ids": text_array(external_ids), "phone_numbers": text_array(phone_numbers)}
        return _fetch(connection, statement, values | {"campaign_id": claimed.campaign_id, "job_id": claimed.job_id})

    prepare(connection, careful=manner.careful)
    take, find = partial(run, _TAKE_KNOWN[Mode(claimed.mode)]), partial(run, _REFUSED_KNOWN)
    refused = dict(_take(connection, sorted(known), take, find, manner))  # by id: locks are taken in one order
    outcomes = bytes(
        outcome or _outcome_of_known(refused.get(lead[0]), by_external_id=entries.external_ids[i] in {lead[1]} - {None})
        for i, (outcome, lead) in enumerate(zip(entries.outcomes, known, strict=True))
    )
    return outcomes.translate(ARCHIVED) if claimed.mode == Mode.ARCHIVE else outcomes


Run = Callable[[Sequence[Any]], Sequence[Any]]


def _take(connection: Connection, items: Sequence[Any], take: Run, find: Run, manner: Manner) -> Sequence[Any]:
    """The leads that are gone, and those that are there still: a BEFORE DELETE trigger that returns NULL says nothing of them."""

    def take_some(some: Sequence[Any]) -> Sequence[Any]:
        return [*take(some), *find(some)] if manner.veto else take(some)

    return list(around_refused(connection, items, take_some, find)) if manner.careful else take_some(items)


def _outcome_of_known(refused: bool | None, *, by_external_id: bool) -> Outcome:
    if refused is None:
        return Outcome.CHANGED
    if refused:
        return Outcome.REFUSED
    return Outcome.DELETED_BY_EXTERNAL_ID if by_external_id else Outcome.DELETED_BY_PHONE_NUMBER


def prepare(connection: Connection, *, careful: bool) -> None:
    """A deferred constraint would refuse at COMMIT, when it is too late to say which lead."""
    if careful:
        connection.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))


def _fetch(connection: Connection, statement: TextClause, values: dict[str, Any]) -> Sequence[Any]:
    """The driver's own rows: SQLAlchemy's would take as long as the deletion."""
    result = connection.execute(statement, values)
    return result.cursor.fetchall() if result.cursor else []
