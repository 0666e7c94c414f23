"""Reads the entries of a file, CSV or NDJSON, as it arrives: batch by batch, in bounded memory.

A row that is no entry ends it with the number of its line; or, where the others are to go on without it, has an outcome already.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from api.entries import MAX_EXTERNAL_ID, MAX_PHONE_NUMBER, Flaw, Identifiers, encodable, flaw, identified
from api.errors import InvalidRequest
from shared.blocks import TOO_LONG, Block, Unreadable, blocks
from shared.csv_reader import read_csv
from shared.identifiers import canonical_external_id, canonical_phone_number
from shared.states import Outcome

CSV, NDJSON = "text/csv", "application/x-ndjson"

_decode = msgspec.json.Decoder().decode


class Batch(NamedTuple):
    """Entries in file order. `outcomes` are those that are settled already, 0 for the others; None where none is settled."""

    identifiers: Identifiers
    outcomes: list[int] | None


class _Row(NamedTuple):
    """What can be read of a row: its two identifiers, of whatever type; or what is wrong with it."""

    external_id: Any
    phone_number: Any
    flaw: Flaw | None


def _unreadable(why: str) -> _Row:
    return _Row(None, None, Flaw(why, Outcome.UNREADABLE))


def read(parts: Iterable[bytes], media_type: str, *, skip_invalid: bool) -> Iterator[Batch]:
    """The entries of the file that comes in `parts`. Raises InvalidRequest, and whatever `parts` raises."""
    try:
        coming = blocks(parts)
        yield from _read_csv(coming, skip_invalid) if media_type == CSV else _read_ndjson(coming, skip_invalid)
    except Unreadable as error:
        raise InvalidRequest(f"line 1: {error}") from None


def _read_csv(coming: Iterable[Block], skip_invalid: bool) -> Iterator[Batch]:
    names, records = read_csv(coming)
    if not names and not any(some.lines for some in records):
        return
    external_id, phone_number = _place("externalId", names), _place("phoneNumber", names)
    if external_id is None and phone_number is None:
        raise InvalidRequest("line 1: The header names neither externalId nor phoneNumber")
    width = len(names)

    def row(fields: list[str] | str) -> _Row:
        if isinstance(fields, str):
            return _unreadable(fields)
        if len(fields) != width:
            return _unreadable(f"{len(fields)} columns, the header has {width}")
        identifiers = (None if place is None else fields[place] for place in (external_id, phone_number))
        return _row(*identifiers)

    for lines, rows in records:
        if not rows:
            continue
        if {*map(type, rows)} == {list} and {*map(len, rows)} == {width}:
            external_ids = [None] * len(rows) if external_id is None else [fields[external_id] or None for fields in rows]
            phone_numbers = [None] * len(rows) if phone_number is None else [fields[phone_number] or None for fields in rows]
            try:
                yield Batch(identified(external_ids, phone_numbers), None)
                continue
            except ValueError:
                pass
        yield _one_by_one(lines, map(row, rows), skip_invalid)


def _place(name: str, names: list[str]) -> int | None:
    if names.count(name) > 1:
        raise InvalidRequest(f"line 1: The header names {name} twice")
    return names.index(name) if name in names else None


def _read_ndjson(coming: Iterable[Block], skip_invalid: bool) -> Iterator[Batch]:
    for block in coming:
        texts = [None] if block.lines is None else block.lines.split(b"\n")
        if batch := _all_entries(texts):
            yield batch
            continue
        numbered = [(line, text) for line, text in enumerate(texts, block.first_line) if text is None or text.strip()]
        if numbered:
            yield _one_by_one([line for line, _ in numbered], (_json_row(text) for _, text in numbered), skip_invalid)


def _all_entries(texts: Sequence[bytes | None]) -> Batch | None:
    """The entries of lines that are one each; None where any is not, or there are none.

    Line by line, and by the decoder that has the last word on a line: what one is must not depend on those around it.
    """
    try:
        found = [_decode(text) for text in texts if text]
        if found and {*map(type, found)} == {dict}:
            return Batch(identified([row.get("externalId") for row in found], [row.get("phoneNumber") for row in found]), None)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    return None


def _json_row(text: bytes | None) -> _Row:
    if text is None:
        return _unreadable(TOO_LONG)
    try:
        entry = _decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _unreadable("not valid JSON")
    if not isinstance(entry, dict):
        return _unreadable("must be an object")
    return _row(entry.get("externalId"), entry.get("phoneNumber"))


def _row(external_id: Any, phone_number: Any) -> _Row:
    return _Row(external_id, phone_number, flaw(external_id, phone_number))


def _one_by_one(lines: Sequence[int], rows: Iterable[_Row], skip_invalid: bool) -> Batch:
    """A batch of which some rows may be no entries. Raises InvalidRequest for the first of them unless they are skipped."""
    entries: list[tuple[str | None, str | None, str | None, str | None]] = []
    outcomes: list[int] = []
    for line, (external_id, phone_number, wrong) in zip(lines, rows, strict=True):
        if wrong:
            if not skip_invalid:
                raise InvalidRequest(f"line {line}: {wrong.text}")
            entries.append((_storable(external_id, MAX_EXTERNAL_ID), _storable(phone_number, MAX_PHONE_NUMBER), None, None))
            outcomes.append(wrong.outcome)
        else:
            canonical_id = canonical_external_id(external_id or "") or None
            canonical_number = canonical_phone_number(phone_number or "") or None
            entries.append((canonical_id and external_id, canonical_number and phone_number, canonical_id, canonical_number))
            outcomes.append(Outcome.PENDING)
    columns = [list(column) for column in zip(*entries, strict=True)]
    return Batch(Identifiers(*columns), outcomes if any(outcomes) else None)


def _storable(value: Any, longest: int) -> str | None:
    """What is wrong is recorded as it was written, as far as it can be."""
    if not isinstance(value, str) or len(value) > longest or "\0" in value or not encodable(value):
        return None
    return value or None
