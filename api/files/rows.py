"""Reads the entries of a file, CSV or NDJSON, as it arrives: batch by batch, in bounded memory.

Where a row is not an entry, the file is refused, with the number of the line; or, if invalid rows
are to be skipped, the row gets its outcome at once.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
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

_Entry = tuple[str | None, str | None, str | None, str | None]  # the fields of Identifiers


class Manner(NamedTuple):
    """How a file is to be read. If it `needs_external_id`, a CSV row without one is invalid. Phone
    numbers that begin without a `+` are read by the rules of the country `region`.
    """

    skip_invalid: bool = False
    naming: Naming = Naming()
    needs_external_id: bool = False
    region: str | None = None


class Batch(NamedTuple):
    """Entries in file order, and those of their outcomes that are settled already, 0 for the
    others; None where none is settled.
    """

    identifiers: Identifiers
    outcomes: list[int] | None


class _Row(NamedTuple):
    """A row as far as it can be read: its two identifiers, of whatever type, and what is wrong with
    it, if anything is.
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
    header, parts = read_csv(coming, manner.naming.said)
    if not header.names and not any(records.lines for records in parts):
        return
    width = len(header.names)
    places = manner.naming.places(header.names, header.line)
    if manner.needs_external_id and places[0] is None:
        problem = "phoneFallback=false needs a column externalId"
        raise Unreadable(problem, f"the header has: {shown(header.names)}", header.line)
    row_of = partial(_csv_row, width=width, places=places, manner=manner)
    for records in parts:
        if batch := _all_rows(records, width, places, manner):
            yield batch
            continue
        filled = without_blank_rows(records)
        if not filled.lines:
            continue
        if batch := _all_rows(filled, width, places, manner):
            yield batch
        else:
            yield _one_by_one(filled.lines, map(row_of, filled.fields), manner)


def _csv_row(fields: list[str] | str, *, width: int, places: Places, manner: Manner) -> _Row:
    """Reads one record. Where it has no fields, `fields` is a text that says why."""
    if isinstance(fields, str):
        return _unreadable(fields)
    if len(fields) != width:
        return _unreadable(f"{len(fields)} columns, the header has {width}")
    external_id, number = (_cell(fields, place) for place in places)
    row = _row(external_id, number, manner.region)
    if row.flaw or not manner.needs_external_id or canonical_external_id(external_id or ""):
        return row
    why = "externalId is required where phoneFallback is false"
    return row._replace(flaw=Flaw(why, Outcome.NO_IDENTIFIER))


def _cell(fields: list[str], place: int | None) -> str | None:
    """What a cell means; None where the file has no such column."""
    return None if place is None else unwrapped(fields[place])


def _all_rows(records: Records, width: int, places: Places, manner: Manner) -> Batch | None:
    """The entries of rows that are an entry each; None where any is not, or there are none."""
    rows: Sequence[Any] = records.fields
    if {*map(type, rows)} != {list} or {*map(len, rows)} != {width}:
        return None
    external_ids, numbers = (_cells(records, place) for place in places)
    try:
        identifiers = identified_texts(external_ids, numbers, manner.region, strict=True)
    except ValueError:
        return None
    if manner.needs_external_id and None in identifiers.canonical_external_ids:
        return None
    return Batch(identifiers, None)


def _cells(records: Records, place: int | None) -> list[str | None]:
    """The cells of one column: what they mean, None where they are empty."""
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
        problem = f"no entry has the key {shown(sorted(unseen))}"
        raise Unreadable(problem, "look at how it is written")


def _all_entries(block: Block, texts: Sequence[bytes | None], manner: Manner) -> Batch | None:
    """The entries of lines that are an entry each; None where any is not, or there are none.

    They are decoded line by line, by the decoder that has the last word on a line: what a line is
    must not depend on those around it.
    """
    try:
        entries = [_decode(text) for text in texts if text]
        if not entries or {*map(type, entries)} != {dict}:
            return None
        columns = [[entry.get(name) for entry in entries] for name in IDENTIFIERS]
        written = filter(None, texts)
        if errors_in_names(entries, columns, block.lines or b"", lambda: map(keys_of, written)):
            return None
        external_ids, numbers = columns
        return Batch(identified(external_ids, numbers, manner.region, strict=True), None)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _json_row(text: bytes | None, manner: Manner, unseen: set[str]) -> _Row:
    """Reads one line; None is a line that is too long. Takes the keys that it has from `unseen`."""
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
    values = {meaning: entry[name] for meaning, name in zip(meanings, names, strict=True)}
    return _row(values.get(EXTERNAL_ID), values.get(PHONE_NUMBER), manner.region)


def _row(external_id: Any, number: Any, region: str | None) -> _Row:
    return _Row(external_id, number, flaw(external_id, number, region, strict=True))


def _one_by_one(lines: Sequence[int], rows: Iterable[_Row], manner: Manner) -> Batch:
    """A batch of rows of which some may not be entries. Raises InvalidRequest for the first that is
    not, unless such rows are skipped.
    """
    entries: list[_Entry] = []
    outcomes: list[int] = []
    for line, row in zip(lines, rows, strict=True):
        if row.flaw is None:
            entries.append(_valid_entry(row, manner.region))
            outcomes.append(Outcome.PENDING)
        elif manner.skip_invalid:
            entries.append(_invalid_entry(row))
            outcomes.append(row.flaw.outcome)
        else:
            way_out = "with onInvalid=skip the other rows are done without it"
            raise InvalidRequest(f"line {line}: {row.flaw.text}; {way_out}")
    columns = [list(column) for column in zip(*entries, strict=True)]
    return Batch(Identifiers(*columns), outcomes if any(outcomes) else None)


def _valid_entry(row: _Row, region: str | None) -> _Entry:
    canonical_id = canonical_external_id(row.external_id or "") or None
    number = canonical_number = None
    if row.phone_number and canonical_phone_number(row.phone_number):
        number = row.phone_number
        canonical_number = phone_number(number, region) or None
    return canonical_id and row.external_id, number, canonical_id, canonical_number


def _invalid_entry(row: _Row) -> _Entry:
    """An entry without canonical identifiers, which names no lead. What was written is recorded as
    far as it can be stored.
    """
    external_id = _if_storable(row.external_id, MAX_EXTERNAL_ID)
    return external_id, _if_storable(row.phone_number, MAX_PHONE_NUMBER), None, None


def _if_storable(value: Any, max_length: int) -> str | None:
    if not isinstance(value, str) or len(value) > max_length:
        return None
    if "\0" in value or not encodable(value):
        return None
    return value or None
