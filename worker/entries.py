"""The entries of a chunk, and what can be learnt from the way in which they were written, where
that is not the canonical form.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from shared.identifiers.canonical import (
    canonical_external_id,
    canonical_phone_number,
    former_external_id,
    former_phone_number,
    is_spreadsheet_id,
    is_spreadsheet_number,
)
from shared.identifiers.phone_regions import phone_number, rival
from shared.states import Outcome

_MAY_BE_FLOAT = re.compile("[^a-df-zA-DF-Z_]*")  # the one letter is that of an exponent

Texts = Sequence[str | None]


class Entries(NamedTuple):
    """In request order, sequences of one length: canonical identifiers, and those written, None
    where that is the same.
    """

    external_ids: Texts
    phone_numbers: Texts
    outcomes: Sequence[int]
    written_external_ids: Texts | None = None
    written_phone_numbers: Texts | None = None

    def at(self, place: slice) -> "Entries":
        """Some of them."""
        return Entries._make(column and column[place] for column in self)


def read_again(entries: Entries, region: str | None) -> Entries:
    """Entries that were accepted by former rules, as today's have them. Of those that now are the
    same, the first counts.
    """
    outcomes = list(entries.outcomes)
    written_ids = entries.written_external_ids or entries.external_ids
    written_numbers = entries.written_phone_numbers or entries.phone_numbers
    external_ids = [canonical_external_id(text) or None if text else None for text in written_ids]
    phone_numbers = [
        phone_number(text, region) or None if text else None for text in written_numbers
    ]
    seen: set[tuple[str, str]] = set()
    for i, (external_id, number) in enumerate(zip(external_ids, phone_numbers, strict=True)):
        if outcomes[i] or not (external_id or number):
            continue
        identifier = ("externalId", external_id) if external_id else ("phoneNumber", number or "")
        if identifier in seen:
            outcomes[i] = Outcome.DUPLICATE
        seen.add(identifier)
    return Entries(external_ids, phone_numbers, outcomes, written_ids, written_numbers)


def rivals(entries: Entries) -> dict[int, str]:
    """The number that the same digits are behind a plus, by index of the entry, where a number was
    read for a country.
    """
    return {
        i: other
        for i, (written, number) in _written_otherwise(
            entries.written_phone_numbers, entries.phone_numbers
        )
        if not entries.outcomes[i] and (other := rival(written, number))
    }


def former_external_ids(entries: Entries) -> dict[int, str]:
    """The ids that an earlier form made of what was written, where they differ."""
    return {
        i: former
        for i, (written, external_id) in _written_otherwise(
            entries.written_external_ids, entries.external_ids
        )
        if (former := former_external_id(written)) != external_id
    }


def former_phone_numbers(entries: Entries) -> dict[int, str]:
    """As former_external_ids; a number that was read for a country had no earlier form."""
    return {
        i: former
        for i, (written, number) in _written_otherwise(
            entries.written_phone_numbers, entries.phone_numbers
        )
        if (former := former_phone_number(written)) != number
        and canonical_phone_number(former) == number
    }


def _written_otherwise(
    written: Texts | None, canonical: Texts
) -> list[tuple[int, tuple[str, str]]]:
    if written is None:
        return []
    return [
        (i, (text, identifier))
        for i, (text, identifier) in enumerate(zip(written, canonical, strict=True))
        if text is not None and identifier is not None and text != identifier
    ]


def reason_of_none(entries: Entries, i: int) -> Outcome:
    """Why an entry has no identifier: what was written for its phone number is not one."""
    written = entries.written_phone_numbers[i] if entries.written_phone_numbers else None
    return (
        Outcome.SPREADSHEET_NUMBER
        if is_spreadsheet_number(written or "")
        else Outcome.NOT_A_PHONE_NUMBER
    )


def with_id_of_a_spreadsheet(entries: Entries, indexes: Sequence[int]) -> list[int]:
    """Which of these have an id like 12345.0. All the ids of a file may be unknown, and most are
    plainly something else.
    """
    external_ids = entries.external_ids
    return [
        i
        for i in indexes
        if (external_id := external_ids[i])
        and not external_id[0].isalpha()
        and not external_id.isdecimal()
        and _MAY_BE_FLOAT.fullmatch(external_id)
        and is_spreadsheet_id(external_id)
    ]
