"""Decides a chunk: which entry takes which lead, by the two passes of the contract. Pure but for `take`, which it is given.

It never reads what it could not also delete: `take` deletes leads and says which there were, so nothing can come between
looking a lead up and deleting it.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Protocol

from shared.states import Outcome

DELETED_BY_EXTERNAL_ID, DELETED_BY_PHONE_NUMBER, REFUSED = (
    Outcome.DELETED_BY_EXTERNAL_ID,
    Outcome.DELETED_BY_PHONE_NUMBER,
    Outcome.REFUSED,
)

Column = Literal["external_id", "phone_number"]


class TakenLead(NamedTuple):
    """A lead that an entry has taken: deleted, or found but `refused` by the database."""

    external_id: str | None
    phone_number: str | None
    refused: bool


class Take(Protocol):
    """Deletes the job's leads whose `column` is one of `identifiers` (sorted, canonical) and returns those there were."""

    def __call__(self, column: Column, identifiers: Sequence[str]) -> Iterable[TakenLead]:
        """Raises whatever the database does."""


class Entries(NamedTuple):
    """The entries of a chunk, in request order: three sequences of one length."""

    external_ids: Sequence[str | None]
    phone_numbers: Sequence[str | None]
    outcomes: Sequence[int]


def decide(entries: Entries, *, phone_fallback: bool, take: Take) -> list[int]:
    """The outcome of every entry; those that already had one (duplicates found at acceptance) keep it."""
    outcomes = list(entries.outcomes)
    undecided = [i for i, outcome in enumerate(outcomes) if not outcome]
    taken_numbers = _by_external_id(entries.external_ids, undecided, outcomes, take)
    candidates = [
        (i, number)
        for i in undecided
        if not outcomes[i]
        and (number := entries.phone_numbers[i]) is not None
        and (phone_fallback or entries.external_ids[i] is None)
    ]
    taken_numbers |= _by_phone_number(candidates, taken_numbers, outcomes, take)
    for i, number in candidates:
        if not outcomes[i] and number in taken_numbers:
            outcomes[i] = Outcome.DUPLICATE
    return [outcome or Outcome.NO_SUCH_LEAD for outcome in outcomes]


def _by_external_id(external_ids: Sequence[str | None], undecided: list[int], outcomes: list[int], take: Take) -> set[str | None]:
    """The first pass: writes its outcomes, returns the phone numbers of the leads it took."""
    wanted = {external_id: i for i in undecided if (external_id := external_ids[i]) is not None}
    taken = take("external_id", sorted(wanted)) if wanted else ()
    taken_numbers: set[str | None] = set()
    for external_id, phone_number, refused in taken:
        if external_id is not None:
            outcomes[wanted[external_id]] = REFUSED if refused else DELETED_BY_EXTERNAL_ID
        taken_numbers.add(phone_number)
    return taken_numbers


def _by_phone_number(
    candidates: list[tuple[int, str]], taken_numbers: set[str | None], outcomes: list[int], take: Take
) -> set[str | None]:
    """The second pass: writes its outcomes, returns the phone numbers of the leads it took."""
    wanted: dict[str, int] = {}
    for i, number in candidates:  # in request order: the first entry that names a number gets the lead
        if number not in taken_numbers:
            wanted.setdefault(number, i)
    taken = take("phone_number", sorted(wanted)) if wanted else ()
    now_taken: set[str | None] = set()
    for _, phone_number, refused in taken:
        if phone_number is not None:
            outcomes[wanted[phone_number]] = REFUSED if refused else DELETED_BY_PHONE_NUMBER
        now_taken.add(phone_number)
    return now_taken
