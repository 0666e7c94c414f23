"""Reads the entries of a file, CSV or NDJSON, as it arrives: batch by batch, in bounded memory.

A row that is no entry ends it with the number of its line; or, where the others are to go on
without it, has an outcome already.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from api.http.answers import InvalidRequest
from api.jobs.entries import (
    MAX_EXTERNAL_ID,
    MAX_PHONE_NUMBER,
    Flaw,
    Identifiers,
    encodable,
    flaw,
    identified,
    identified_texts,
)
from api.jobs.submission import errors_in_names
from shared.files.blocks import TOO_LONG, Block, Unreadable, blocks
from shared.files.csv_reader import Records, read_csv, without_blank_rows
from shared.files.spreadsheets import unwrapped
from shared.identifiers.canonical import canonical_external_id, canonical_phone_number
from shared.identifiers.columns import Naming, Places, Unclear, keys_of, shown
from shared.identifiers.names import EXTERNAL_ID, IDENTIFIERS, PHONE_NUMBER
from shared.identifiers.phone_regions import phone_number
from shared.states import Outcome

CSV, NDJSON = "text/csv", "application/x-ndjson"

_decode = msgspec.json.Decoder().decode


class Manner(NamedTuple):
    """How a file is to be read."""

    skip_invalid: bool = False
    naming: Naming = Naming()
    needs_external_id: bool = False
    """Of a CSV: a row without one is invalid."""
    region: str | None = None
    """Whose phone numbers are meant that begin without a `+`."""


class Batch(NamedTuple):
    """Entries in file order. `outcomes` are those that are settled already, 0 for the others; None
    where none is settled.
    """

    identifiers: Identifiers
    outcomes: list[int] | None


class _Row(NamedTuple):
    """What can be read of a row: its two identifiers, of whatever type; or what is wrong with
    it.
    """

    external_id: Any
    phone_number: Any
    flaw: Flaw | None


def _unreadable(why: str) -> _Row:
    return _Row(None, None, Flaw(why, Outcome.UNREADABLE))


def read(parts: Iterable[bytes], media_type: str, manner: Manner) -> Iterator[Batch]:
    """The entries of the file that comes in `parts`. Raises InvalidRequest, and whatever `parts`
    raises.
    """
    try:
        coming = blocks(parts)
        yield from _read_csv(coming, manner) if media_type == CSV else _read_ndjson(coming, manner)
    except Unreadable as error:
        raise InvalidRequest(f"line {error.line or 1}: {error}") from None


def _read_csv(coming: Iterable[Block], manner: Manner) -> Iterator[Batch]:
    header, records = read_csv(coming, manner.naming.said)
    if not header.names and not any(some.lines for some in records):
        return
    width = len(header.names)
    places = manner.naming.places(header.names, header.line)
    if manner.needs_external_id and places[0] is None:
        what = "phoneFallback=false needs a column externalId"
        raise Unreadable(what, f"the header has: {shown(header.names)}", header.line)

    def row(fields: list[str] | str) -> _Row:
        if isinstance(fields, str):
            return _unreadable(fields)
        if len(fields) != width:
            return _unreadable(f"{len(fields)} columns, the header has {width}")
        external_id, number = (
            None if place is None else unwrapped(fields[place]) for place in places
        )
        found = _row(external_id, number, manner.region)
        if (
            manner.needs_external_id
            and not found.flaw
            and not canonical_external_id(external_id or "")
        ):
            return found._replace(
                flaw=Flaw(
                    "externalId is required where phoneFallback is false", Outcome.NO_IDENTIFIER
                )
            )
        return found

    for some in records:
        if batch := _all_rows(some, width, places, manner):
            yield batch
            continue
        filled = without_blank_rows(some)
        if filled.lines:
            yield _all_rows(filled, width, places, manner) or _one_by_one(
                filled.lines, map(row, filled.fields), manner
            )


def _all_rows(records: Records, width: int, places: Places, manner: Manner) -> Batch | None:
    """The entries of rows that are one each; None where any is not, or there are none."""
    rows: Sequence[Any] = records.fields
    if {*map(type, rows)} != {list} or {*map(len, rows)} != {width}:
        return None
    try:
        found = identified_texts(
            _cells(records, places[0]), _cells(records, places[1]), manner.region, strict=True
        )
    except ValueError:
        return None
    return (
        None
        if manner.needs_external_id and None in found.canonical_external_ids
        else Batch(found, None)
    )


def _cells(records: Records, place: int | None) -> list[str | None]:
    """Those of one column: what they mean, None where they are empty."""
    rows: Sequence[Any] = records.fields
    if place is None:
        return [None] * len(rows)
    if records.may_be_wrapped:
        return [unwrapped(row[place]) or None for row in rows]
    return [row[place] or None for row in rows]


def _read_ndjson(coming: Iterable[Block], manner: Manner) -> Iterator[Batch]:
    unseen = {*manner.naming.said}
    is_empty = True
    for block in coming:
        texts = [None] if block.lines is None else block.lines.splitlines()
        if not manner.naming.said and (batch := _all_entries(block, texts, manner)):
            yield batch
            continue
        numbered = [
            (line, text)
            for line, text in enumerate(texts, block.first_line)
            if text is None or text.strip()
        ]
        if numbered:
            is_empty = False
            rows = (_json_row(text, manner, unseen) for _, text in numbered)
            yield _one_by_one([line for line, _ in numbered], rows, manner)
    if unseen and not is_empty:
        raise Unreadable(
            f"no entry has the key {shown(sorted(unseen))}", "look at how it is written"
        )


def _all_entries(block: Block, texts: Sequence[bytes | None], manner: Manner) -> Batch | None:
    """The entries of lines that are one each; None where any is not, or there are none.

    Line by line, and by the decoder that has the last word on a line: what one is must not depend
    on those around it.
    """
    try:
        found = [_decode(text) for text in texts if text]
        if not found or {*map(type, found)} != {dict}:
            return None
        external_ids, numbers = ([entry.get(name) for entry in found] for name in IDENTIFIERS)
        if errors_in_names(
            found,
            [external_ids, numbers],
            block.lines or b"",
            lambda: map(keys_of, filter(None, texts)),
        ):
            return None
        return Batch(identified(external_ids, numbers, manner.region, strict=True), None)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _json_row(text: bytes | None, manner: Manner, unseen: set[str]) -> _Row:
    """Takes the keys that it has from `unseen`."""
    if text is None:
        return _unreadable(TOO_LONG)
    try:
        entry = _decode(text)
        if not isinstance(entry, dict):
            return _unreadable("must be an object")
        names = manner.naming.names_of(entry, text)
        meanings = manner.naming.meanings(names)
    except Unclear as error:
        return _unreadable(f"the entry {error}")
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _unreadable("not valid JSON")
    unseen.difference_update(names)
    meant = {meaning: entry[name] for meaning, name in zip(meanings, names, strict=True)}
    return _row(meant.get(EXTERNAL_ID), meant.get(PHONE_NUMBER), manner.region)


def _row(external_id: Any, number: Any, region: str | None) -> _Row:
    return _Row(external_id, number, flaw(external_id, number, region, strict=True))


def _one_by_one(lines: Sequence[int], rows: Iterable[_Row], manner: Manner) -> Batch:
    """A batch of which some rows may be no entries. Raises InvalidRequest for the first of them
    unless they are skipped.
    """
    entries: list[tuple[str | None, str | None, str | None, str | None]] = []
    outcomes: list[int] = []
    for line, (external_id, number, wrong) in zip(lines, rows, strict=True):
        if wrong:
            if not manner.skip_invalid:
                way_out = "with onInvalid=skip the other rows are done without it"
                raise InvalidRequest(f"line {line}: {wrong.text}; {way_out}")
            entries.append(
                (
                    _storable(external_id, MAX_EXTERNAL_ID),
                    _storable(number, MAX_PHONE_NUMBER),
                    None,
                    None,
                )
            )
            outcomes.append(wrong.outcome)
        else:
            canonical_id = canonical_external_id(external_id or "") or None
            written_number = number if number and canonical_phone_number(number) else None
            canonical_number = (
                phone_number(number, manner.region) or None if written_number else None
            )
            entries.append(
                (canonical_id and external_id, written_number, canonical_id, canonical_number)
            )
            outcomes.append(Outcome.PENDING)
    columns = [list(column) for column in zip(*entries, strict=True)]
    return Batch(Identifiers(*columns), outcomes if any(outcomes) else None)


def _storable(value: Any, longest: int) -> str | None:
    """What is wrong is recorded as it was written, as far as it can be."""
    if not isinstance(value, str) or len(value) > longest or "\0" in value or not encodable(value):
        return None
    return value or None
