"""One row of a file of leads: what makes it a lead, and what is wrong with it otherwise.

The limits are those of the API, so that every lead that is imported can also be named in a request.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from shared.identifiers.canonical import (
    canonical_external_id,
    canonical_phone_number,
    is_spreadsheet_number,
)
from shared.identifiers.phone_regions import NOT_A_PHONE_NUMBER, SPREADSHEET_NUMBER, phone_number

MAX_EXTERNAL_ID = 255  # code points, before trimming
MAX_PHONE_NUMBER = 32
MAX_LEVELS = 64  # of nested metadata, far below what exhausts a stack here or in PostgreSQL

NOT_UTF_8 = "not valid UTF-8"
_NUL = b"\\u0000"  # as msgspec writes it


class Row(NamedTuple):
    """A lead in canonical form (`metadata` is JSON text), or the `reason` why the row that begins
    at `line` is not a lead.
    """

    line: int
    external_id: str | None
    phone_number: str | None
    metadata: str | None
    reason: str | None


class Flaw(Exception):
    """Why a row is not a lead, in a few words for the operator."""


def checked(
    line: int,
    external_id: str | None,
    number: str | None,
    metadata: Mapping[str, object],
    region: str | None,
) -> Row:
    """The row in canonical form, its number read as in `region`. Raises Flaw with the first thing
    that is wrong with it.
    """
    _check("externalId", external_id, MAX_EXTERNAL_ID)
    _check("phoneNumber", number, MAX_PHONE_NUMBER)
    canonical_id = canonical_external_id(external_id or "") or None
    canonical_number = (phone_number(number, region) or None) if number else None
    if number and not canonical_number and canonical_phone_number(number):
        raise Flaw(SPREADSHEET_NUMBER if is_spreadsheet_number(number) else NOT_A_PHONE_NUMBER)
    if not canonical_id and not canonical_number:
        raise Flaw("neither externalId nor phoneNumber")
    return Row(line, canonical_id, canonical_number, _json(metadata), None)


def _check(name: str, text: str | None, limit: int) -> None:
    if not text:
        return
    if len(text) > limit:
        raise Flaw(f"{name} is longer than {limit} characters")
    if "\0" in text:
        raise Flaw(f"{name} contains U+0000")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise Flaw(f"{name} is {NOT_UTF_8}")


def _json(metadata: Mapping[str, object]) -> str:
    """`metadata` as JSON that PostgreSQL accepts. What it refused would fail the whole file, not
    just one row.
    """
    try:
        written = msgspec.json.encode(metadata)
    except UnicodeEncodeError:
        raise Flaw(f"metadata is {NOT_UTF_8}") from None
    if _NUL in written or written.count(b"{") + written.count(b"[") > MAX_LEVELS:
        _check_inside(metadata, MAX_LEVELS)
    return written.decode()


def _check_inside(value: object, levels: int) -> None:
    if isinstance(value, str) and "\0" in value:
        raise Flaw("metadata contains U+0000")
    if levels == 0:
        raise Flaw(f"metadata is nested more than {MAX_LEVELS} levels deep")
    if isinstance(value, Mapping):
        value = list(itertools.chain(value, value.values()))
    if isinstance(value, list):
        for item in value:
            _check_inside(item, levels - 1)
