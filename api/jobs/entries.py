"""Checks the identifiers of entries, and brings them into canonical form: those of a request, and
those of a file.

Entries without errors, which is nearly all, are checked all at once; only where that finds
something unusual are they gone through one by one, to say which and what.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from shared.identifiers.canonical import (
    IGNORED,
    canonical_external_id,
    canonical_phone_number,
    is_spreadsheet_number,
)
from shared.identifiers.phone_regions import NOT_A_PHONE_NUMBER, SPREADSHEET_NUMBER, phone_number
from shared.states import Outcome

MAX_EXTERNAL_ID = 255  # code points, before trimming
MAX_PHONE_NUMBER = 32

_TEXT_OR_NOTHING = {str, type(None)}
_ASCII_BLANKS = "".join(filter(str.isascii, IGNORED))
_DIGITS, _BESIDE_DIGITS = b"0123456789", b"+\0"
# A number has 3 to 20 digits that are not all alike.
_SHORTEST_PLAIN, _LONGEST_PLAIN = 4, 20  # with or without a plus
_ALIKE = frozenset(
    plus + digit * length for plus in ("", "+") for digit in "0123456789" for length in range(3, 21)
)

Texts = Sequence[str | None]


class Identifiers(NamedTuple):
    """Of entries: four sequences of one length, None where an identifier is missing or blank.

    A text in the place of a phone number that is not one is in `phone_numbers` only.
    """

    external_ids: Texts
    phone_numbers: Texts
    canonical_external_ids: Texts
    canonical_phone_numbers: Texts


class Flaw(NamedTuple):
    """What is wrong with an entry: for its caller, and, where the others are to go on without it,
    for the record.
    """

    text: str
    outcome: Outcome


def identified(
    external_ids: list[Any], phone_numbers: list[Any], region: str | None = None, *, strict: bool
) -> Identifiers:
    """The identifiers of entries that are all right, with numbers read as in `region`. Raises
    ValueError if one of them is wrong; `flaw` says which one, and why.

    If `strict`, an entry is also wrong that has nothing but a phone number which is not one.
    """
    if not {*map(type, external_ids), *map(type, phone_numbers)} <= _TEXT_OR_NOTHING:
        raise ValueError
    return identified_texts(external_ids, phone_numbers, region, strict=strict)


def identified_texts(
    external_ids: list[str | None],
    phone_numbers: list[str | None],
    region: str | None = None,
    *,
    strict: bool,
) -> Identifiers:
    """As `identified`, of what is known to be texts or None."""
    ids = _canonical(external_ids, MAX_EXTERNAL_ID, _are_plain_ids, canonical_external_id)
    numbers = _canonical(
        phone_numbers,
        MAX_PHONE_NUMBER,
        partial(_are_plain_numbers, region),
        partial(phone_number, region=region),
    )
    written_ids, written_numbers = ids, numbers
    if external_ids != ids:
        written_ids = [text if kept else None for text, kept in zip(external_ids, ids, strict=True)]
    if phone_numbers != numbers:
        written_numbers = list(map(_unless_blank, phone_numbers))
    if (None, None) in zip(ids, numbers if strict else written_numbers, strict=True):
        raise ValueError
    return Identifiers(written_ids, written_numbers, ids, numbers)


def read_again(entries: Identifiers, region: str | None) -> Identifiers:
    """The same entries, their numbers read as in `region`."""
    return identified(list(entries.external_ids), list(entries.phone_numbers), region, strict=False)


def is_blank(text: str) -> bool:
    """Whether nothing is left of it in the canonical form of an external id."""
    return not text.strip(IGNORED)


def _unless_blank(number: str | None) -> str | None:
    return number if number and canonical_phone_number(number) else None


def flaw(external_id: Any, number: Any, region: str | None = None, *, strict: bool) -> Flaw | None:
    """The first thing that is wrong with an entry, in the contract's order; None if it is right.
    `region` and `strict` mean what they do for `identified`.
    """
    named = (
        ("externalId", external_id, MAX_EXTERNAL_ID),
        ("phoneNumber", number, MAX_PHONE_NUMBER),
    )
    for name, value, _ in named:
        if value is not None and not isinstance(value, str):
            return Flaw(f"{name} must be a string", Outcome.UNREADABLE)
    if not canonical_external_id(external_id or "") and not canonical_phone_number(number or ""):
        return Flaw("At least one of phoneNumber or externalId is required", Outcome.NO_IDENTIFIER)
    for name, value, longest in named:
        if value and len(value) > longest:
            return Flaw(f"{name} is longer than {longest} characters", Outcome.TOO_LONG)
    for name, value, _ in named:
        if value and "\0" in value:
            return Flaw(f"{name} contains U+0000", Outcome.UNUSABLE_CHARACTER)
    for name, value, _ in named:
        if value and not encodable(value):
            return Flaw(f"{name} is not valid UTF-8", Outcome.UNUSABLE_CHARACTER)
    return (
        phone_flaw(number, region)
        if strict and not canonical_external_id(external_id or "")
        else None
    )


def phone_flaw(number: str | None, region: str | None) -> Flaw | None:
    """Why `number` is not a phone number; None if it is one, or is blank."""
    if not number or not canonical_phone_number(number) or phone_number(number, region):
        return None
    if is_spreadsheet_number(number):
        return Flaw(SPREADSHEET_NUMBER, Outcome.INVALID_SPREADSHEET_NUMBER)
    return Flaw(NOT_A_PHONE_NUMBER, Outcome.INVALID_PHONE_NUMBER)


def encodable(text: str) -> bool:
    """Whether `text` is without lone surrogates, which stand for bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _canonical(
    written: list[str | None],
    longest: int,
    are_plain: Callable[[str, list[str], set[int]], bool],
    canonical: Callable[[str], str],
) -> list[str | None]:
    """The canonical form of each, None where that is empty. Raises ValueError if any is too long or
    cannot be stored.

    All are looked at as one long text first: nearly always they `are_plain`, and each is its own
    canonical form.
    """
    present = list(filter(None, written))
    joined = "\0".join(present)
    lengths = {*map(len, present)}
    if present and (max(lengths) > longest or joined.count("\0") >= len(present)):
        raise ValueError
    if not joined.isascii() and not encodable(joined):
        raise ValueError
    if not present or are_plain(joined, present, lengths):
        return [text or None for text in written]
    return [canonical(text) or None if text else None for text in written]


def _are_plain_ids(joined: str, _present: list[str], _lengths: set[int]) -> bool:
    """Whether all are ASCII and have no blanks, which are looked for anywhere."""
    return joined.isascii() and not any(map(joined.__contains__, _ASCII_BLANKS))


def _are_plain_numbers(
    region: str | None, joined: str, present: list[str], lengths: set[int]
) -> bool:
    """Whether all are digits, perhaps behind a `+`, and numbers; those without a `+` mean something
    else in a region.
    """
    if not joined.isascii() or min(lengths) < _SHORTEST_PLAIN or max(lengths) > _LONGEST_PLAIN:
        return False
    if joined.encode().translate(None, _DIGITS).translate(None, _BESIDE_DIGITS):
        return False
    in_front = joined.count("\0+") + joined.startswith("+")
    if joined.count("+") > in_front or (region and in_front < len(present)):
        return False
    if in_front < len(present) and ("\x0000" in joined or joined.startswith("00")):
        return False
    return _ALIKE.isdisjoint(present)


class Cut(NamedTuple):
    """A chunk of a submission: entries from `first_index` up to, not including, `end_index`."""

    first_index: int
    end_index: int
    duplicates: int


def find_duplicates(external_ids: Texts, phone_numbers: Texts) -> set[int]:
    """The indexes of entries that repeat an earlier entry's external id or, having none, an earlier
    such entry's number.
    """
    lone_numbers = [
        None if external_id else number
        for external_id, number in zip(external_ids, phone_numbers, strict=True)
    ]
    return _repeated(external_ids) | _repeated(lone_numbers)


def _repeated(texts: Texts) -> set[int]:
    present = [identifier for identifier in texts if identifier is not None]
    if len(set(present)) == len(present):
        return set()
    seen: set[str] = set()
    repeated = set()
    for index, identifier in enumerate(texts):
        if identifier in seen:
            repeated.add(index)
        elif identifier is not None:
            seen.add(identifier)
    return repeated


def cut(total: int, duplicates: set[int], chunk_size: int) -> list[Cut]:
    """Chunks in request order, each of up to `chunk_size` entries, not counting duplicates. None of
    them begins with a duplicate.
    """
    starts: Sequence[int] = range(0, total, chunk_size)
    if duplicates:
        starts = [index for index in range(total) if index not in duplicates][::chunk_size]
    cuts = []
    for start, end in zip(starts, [*starts[1:], total], strict=True):
        inside = sum(start <= index < end for index in duplicates)
        cuts.append(Cut(start, end, inside))
    return cuts
