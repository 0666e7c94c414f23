"""Takes leads out of their campaign, in the transaction of their chunk: deletes them, or moves them
to the archive.

All at once, which is fast; or around the leads that the database refuses to give up, and those that
somebody else has locked, for parts that met one.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from sqlalchemy import TextClause, text

from shared.database import archive
from shared.database.arrays import text_array
from shared.states import Mode, Outcome, PhoneFallback
from worker.campaign import Column, Copy, Kept, Row, TakenLead
from worker.claimer import Claim
from worker.decider import decide
from worker.entries import Entries
from worker.part import Part
from worker.refusals import Refusals

Way = Literal["external_id", "phone_number", "lone_number"]

# `= ANY(sorted array)` takes row locks in index order: two jobs over the same leads seldom meet
# head-on.
_BY_NUMBER = "campaign_id = :campaign_id AND phone_number = ANY(CAST(:identifiers AS text[]))"
NAMED_BY: dict[Way, str] = {
    "external_id": "campaign_id = :campaign_id AND external_id = ANY(CAST(:identifiers AS text[]))",
    "phone_number": _BY_NUMBER,
    "lone_number": f"{_BY_NUMBER} AND external_id IS NULL",
}
"""The ways to name leads of a campaign by identifiers."""

# What becomes of the rows in `gone`, by mode.
_KEEP = {
    Mode.DELETE: "SELECT",
    Mode.ARCHIVE: """
        INSERT INTO archived_leads (job_id, lead_id, lead)
        SELECT :job_id, id, row_to_json(gone.*) FROM gone
    """,
}


def take_statement(mode: Mode, deleted: str, key: str) -> TextClause:
    """Takes all leads of a DELETE statement, whose rest is `deleted`. Returns for each the columns
    of its `key`, and `kept`, which is null.
    """
    if mode == Mode.DELETE:
        return text(f"DELETE FROM leads {deleted} RETURNING {key}, NULL AS kept")
    return text(f"""
        WITH gone AS (DELETE FROM leads {deleted} RETURNING leads.*), kept AS ({_KEEP[mode]})
        SELECT {key}, NULL AS kept FROM gone AS leads
    """)


def take_free_statement(mode: Mode, named: str, key: str) -> TextClause:
    """Takes those of the leads that are `named`, a FROM list and its condition, that nobody else
    has locked. Returns for each the columns of its `key`, and `kept`: null, or why it is left, an
    Outcome.
    """
    # A lead that somebody else holds stays, and is not waited for: so locks may be taken in any
    # order. To sort by id, all leads of all campaigns would be walked through. A lead that was free
    # and is left was kept by a trigger.
    return text(f"""
        WITH named AS MATERIALIZED (SELECT leads.id AS lead_id, {key} FROM {named}),
        free AS MATERIALIZED (SELECT leads.id FROM {named} FOR UPDATE OF leads SKIP LOCKED),
        gone AS (DELETE FROM leads WHERE id = ANY(ARRAY(SELECT id FROM free)) RETURNING leads.*),
        kept AS ({_KEEP[mode]})
        SELECT {key}, CASE
            WHEN lead_id IN (SELECT id FROM gone) THEN NULL
            WHEN lead_id IN (SELECT id FROM free) THEN {Outcome.REFUSED:d}
            ELSE {Outcome.WAITS_FOR_LOCK:d}
        END AS kept FROM named AS leads
    """)


_KEY = "leads.external_id, leads.phone_number"

_TAKE = {
    mode: {way: take_statement(mode, f"WHERE {named}", _KEY) for way, named in NAMED_BY.items()}
    for mode in _KEEP
}
_TAKE_FREE = {
    mode: {
        way: take_free_statement(mode, f"leads WHERE {named}", _KEY)
        for way, named in NAMED_BY.items()
    }
    for mode in _KEEP
}
_LEFT = {
    way: text(f"SELECT {_KEY}, NULL AS kept FROM leads WHERE {named}")
    for way, named in NAMED_BY.items()
}

_NUMBERS = text("""
    SELECT phone_number FROM leads
    WHERE campaign_id = :campaign_id AND phone_number = ANY(CAST(:phone_numbers AS text[]))
        AND (NOT CAST(:identified AS boolean) OR external_id IS NOT NULL)
""")

_ARCHIVED = bytes.maketrans(
    bytes((Outcome.DELETED_BY_EXTERNAL_ID, Outcome.DELETED_BY_PHONE_NUMBER)),
    bytes((Outcome.ARCHIVED_BY_EXTERNAL_ID, Outcome.ARCHIVED_BY_PHONE_NUMBER)),
)


class Manner(NamedTuple):
    """How leads are taken. `refusals`: around those that the database refuses, once it has refused
    one. `veto`: the names of triggers that may keep a lead without an error, so that somebody must
    look afterwards. `skip_locked`: without leads that somebody else has locked. `has_archive`: with
    their copies in the archive. `try_former`: also leads that are stored in a former form.
    """

    refusals: Refusals | None
    veto: str | None
    skip_locked: bool
    has_archive: bool
    try_former: bool


class Leads:
    """The leads of a job's campaign, as any kind of job looks them up; its phoneFallback says which
    of those found it may have.
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
            for number in self._part.execute(statement, values).scalars()
        }

    def _way(self, column: Column) -> Way:
        return "lone_number" if column == "phone_number" and self._unidentified else column

    def _copies(self, external_ids: Sequence[str], phone_numbers: Sequence[str]) -> dict[str, Any]:
        return archive.named(
            self._claimed.campaign_id, external_ids, phone_numbers, unidentified=self._unidentified
        )


class _Taken(Leads):
    """Deletes or archives the leads that are found."""

    def take(self, column: Column, identifiers: Sequence[str]) -> Sequence[Row]:
        def run(statement: TextClause, some: Sequence[str]) -> Sequence[Any]:
            values = {
                "campaign_id": claimed.campaign_id,
                "identifiers": text_array(some),
                "job_id": claimed.job_id,
            }
            return fetch(self._part, statement, values)

        claimed, way = self._claimed, self._way(column)
        statements = _TAKE_FREE if self._manner.skip_locked else _TAKE
        take, find = partial(run, statements[Mode(claimed.mode)][way]), partial(run, _LEFT[way])
        return take_around(identifiers, take, find, self._manner, TakenLead)

    def hold(self, external_ids: Sequence[str], phone_numbers: Sequence[str]) -> None:
        self._part.execute(archive.HOLD, self._copies(external_ids, phone_numbers))

    def erase(self, external_ids: Sequence[str], phone_numbers: Sequence[str]) -> Iterable[Copy]:
        rows = self._part.execute(archive.ERASE, self._copies(external_ids, phone_numbers))
        return [Copy(row.external_id, row.phone_number) for row in rows]


def look_up_and_take(part: Part, claimed: Claim, entries: Entries, manner: Manner) -> bytes:
    """Takes the leads that the entries name; the outcome of each. Raises TimeIsUp, DBAPIError: for
    some, `is_refusal` holds.
    """
    outcomes = decide(
        entries,
        phone_fallback=claimed.phone_fallback,
        campaign=_Taken(part, claimed, manner),
        try_former=manner.try_former,
        details=part.details,
    )
    return in_mode(claimed.mode, bytes(outcomes))


def in_mode(mode: str, outcomes: bytes) -> bytes:
    """What the decider calls deleted is called archived where it was."""
    return outcomes.translate(_ARCHIVED) if mode == Mode.ARCHIVE else outcomes


def take_around(
    items: Sequence[Any],
    take: Callable[[Sequence[Any]], Sequence[Any]],
    find: Callable[[Sequence[Any]], Sequence[Any]],
    manner: Manner,
    shape: type[Any],
) -> Sequence[Any]:
    """Takes the leads of the `items`; returns those that are gone, and those that are there still,
    each with why it is `kept`: a BEFORE DELETE trigger that returns NULL says nothing of them.

    `take` and `find` return the driver's rows. They become named tuples of `shape`, except where
    nothing is in the way: there they would take as long as the deletion.
    """
    if not (manner.refusals or manner.skip_locked or manner.veto):
        return take(items)
    veto = f"trigger {manner.veto}"

    def take_some(some: Sequence[Any]) -> Sequence[Any]:
        leads = [shape(*row) for row in take(some)]
        if manner.skip_locked:
            return [lead._replace(kept=_kept(lead.kept, veto)) for lead in leads]
        return [*leads, *left(some, veto)] if manner.veto else leads

    def left(some: Sequence[Any], detail: str) -> Sequence[Any]:
        why = Kept(Outcome.REFUSED, detail)
        return [shape(*row)._replace(kept=why) for row in find(some)]

    if manner.refusals is None:
        return take_some(items)
    return manner.refusals.around(items, take_some, left, _is_gone)


def _is_gone(lead: Any) -> bool:
    return lead.kept is None


def _kept(outcome: int | None, veto: str) -> Kept | None:
    if outcome is None:
        return None
    return Kept(Outcome(outcome), veto if outcome == Outcome.REFUSED else None)


def fetch(part: Part, statement: TextClause, values: dict[str, Any]) -> Sequence[Any]:
    """The driver's own rows: SQLAlchemy's would take as long as the deletion."""
    result = part.execute(statement, values)
    return result.cursor.fetchall() if result.cursor else []
