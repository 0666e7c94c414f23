"""Checks the identifiers of entries, and brings them into canonical form: those of a request, and those of a file.

Entries without errors, which is nearly all, are checked all at once; only where that finds something unusual are they gone
through one by one, to say which and what.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from shared.identifiers import canonical_external_id, canonical_phone_number
from shared.states import Outcome

MAX_EXTERNAL_ID = 255  # code points, before trimming
MAX_PHONE_NUMBER = 32

_TEXT_OR_NOTHING = {str, type(None)}
# What shared.identifiers takes away.
_SPACE = " \t\n\r\f\v\u00a0"
_NOISE = _SPACE + ".-()"

Texts = Sequence[str | None]


class Identifiers(NamedTuple):
    """Of entries: four sequences of one length, None where an identifier is missing or blank."""

    external_ids: Texts
    phone_numbers: Texts
    canonical_external_ids: Texts
    canonical_phone_numbers: Texts


class Flaw(NamedTuple):
    """What is wrong with an entry: for its caller, and, where the others are to go on without it, for the record."""

    text: str
    outcome: Outcome


def identified(external_ids: list[Any], phone_numbers: list[Any]) -> Identifiers:
    """The identifiers of entries that are right. Raises ValueError if any is not; `flaw` says which and why."""
    if not {*map(type, external_ids), *map(type, phone_numbers)} <= _TEXT_OR_NOTHING:
        raise ValueError
    canonical_ids = _canonical(external_ids, MAX_EXTERNAL_ID, _unusual_in_ids, canonical_external_id)
    canonical_numbers = _canonical(phone_numbers, MAX_PHONE_NUMBER, _unusual_in_numbers, canonical_phone_number)
    if (None, None) in zip(canonical_ids, canonical_numbers, strict=True):
        raise ValueError
    return Identifiers(
        _as_written(external_ids, canonical_ids),
        _as_written(phone_numbers, canonical_numbers),
        canonical_ids,
        canonical_numbers,
    )


def flaw(external_id: Any, phone_number: Any) -> Flaw | None:
    """The first thing that is wrong with an entry, in the contract's order; None if it is right."""
    named = (("externalId", external_id, MAX_EXTERNAL_ID), ("phoneNumber", phone_number, MAX_PHONE_NUMBER))
    for name, value, _ in named:
        if value is not None and not isinstance(value, str):
            return Flaw(f"{name} must be a string", Outcome.UNREADABLE)
    if not canonical_external_id(external_id or "") and not canonical_phone_number(phone_number or ""):
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
    return None


def encodable(text: str) -> bool:
    """Whether `text` is without lone surrogates, which stand for bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _canonical(
    written: list[str | None], longest: int, unusual: Callable[[str], bool], canonical: Callable[[str], str]
) -> list[str | None]:
    """The canonical form of each, None where that is empty. Raises ValueError if any is too long or cannot be stored.

    All are looked at as one long text first: nearly always it has nothing `unusual`, and each is its own canonical form.
    """
    present = list(filter(None, written))
    joined = "\0".join(present)
    if present and (max(map(len, present)) > longest or joined.count("\0") >= len(present)):
        raise ValueError
    if not joined.isascii() and not encodable(joined):
        raise ValueError
    if unusual(joined):
        return [canonical(text) or None if text else None for text in written]
    return [text or None for text in written]


def _unusual_in_ids(joined: str) -> bool:
    return any(map(joined.__contains__, _SPACE))


def _unusual_in_numbers(joined: str) -> bool:
    return any(map(joined.__contains__, _NOISE)) or joined.startswith("00") or "\x0000" in joined


def _as_written(written: list[str | None], canonical: list[str | None]) -> list[str | None]:
    """`canonical` itself where nothing was written otherwise; blank identifiers count as missing."""
    if written == canonical:
        return canonical
    return [text if kept else None for text, kept in zip(written, canonical, strict=True)]
