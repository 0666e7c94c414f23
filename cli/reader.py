"""Reads a file of leads, CSV or NDJSON, row by row and in bounded memory.

Nothing here raises because of one bad row: it comes out with the reason, at the line where it begins, and the next row is read.
Only a file that cannot be read as a whole is a Failure.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Literal, NamedTuple

import msgspec

from cli.failure import Failure
from cli.rows import NOT_UTF_8, Flaw, Row, checked, meant
from shared.blocks import SIZE, TOO_LONG, Block, Unreadable, blocks
from shared.csv_reader import read_csv

Format = Literal["csv", "ndjson"]


class _Columns(NamedTuple):
    """Where the header says that things are; `others` are metadata."""

    width: int
    external_id: int | None
    phone_number: int | None
    others: list[tuple[int, str]]


def read(file: BinaryIO, form: Format | None = None) -> Iterator[Row]:
    """The rows of `file`, blank lines left out. Without `form`, a file that begins with `{` is NDJSON.

    Raises Failure if the file as a whole cannot be read.
    """
    coming = blocks(iter(lambda: file.read(SIZE), b""))
    try:
        first = next(coming, Block(1, b""))
        is_json = form == "ndjson" if form else bool(first.lines and first.lines.lstrip().startswith(b"{"))
        everything = itertools.chain([first], coming)
        return _read_json(everything) if is_json else _read_csv(everything)
    except Unreadable as error:
        raise Failure(error.what, error.mend) from None


def _read_csv(coming: Iterable[Block]) -> Iterator[Row]:
    """Raises Unreadable, and Failure for a header that would lose columns."""
    names, records = read_csv(coming)
    columns = _columns(names)
    return (_csv_row(line, fields, columns) for some in records for line, fields in zip(*some, strict=True))


def _columns(names: list[str]) -> _Columns:
    """Raises Failure for a header that would lose columns, or turn identifiers into metadata."""
    if not names:
        raise Failure("the CSV header, line 1, cannot be read: it is empty", "it names the columns")
    for number, name in enumerate(names, 1):
        if not name or not name.isprintable() or name in names[: number - 1]:
            raise Failure(f"the CSV header, line 1: the name of column {number} is missing, repeated or not printable")
        if right := meant(name):
            raise Failure(f"the CSV header, line 1: column {name} would become metadata", f"write {right}, or rename it")
    places = {name: place for place, name in enumerate(names)}
    external_id, phone_number = places.pop("externalId", None), places.pop("phoneNumber", None)
    if external_id is None and phone_number is None:
        raise Failure("the CSV header, line 1, names neither externalId nor phoneNumber", "it names the columns")
    return _Columns(len(names), external_id, phone_number, [(place, name) for name, place in places.items()])


def _csv_row(line: int, fields: list[str] | str, columns: _Columns) -> Row:
    if isinstance(fields, list) and len(fields) != columns.width:
        fields = f"{len(fields)} columns, the header has {columns.width}"
    if isinstance(fields, str):
        return Row(line, None, None, None, fields)
    try:
        external_id = None if columns.external_id is None else fields[columns.external_id]
        phone_number = None if columns.phone_number is None else fields[columns.phone_number]
        return checked(line, external_id, phone_number, {name: fields[place] for place, name in columns.others if fields[place]})
    except Flaw as flaw:
        return Row(line, None, None, None, str(flaw))


def _read_json(coming: Iterable[Block]) -> Iterator[Row]:
    for block in coming:
        lines = [None] if block.lines is None else block.lines.split(b"\n")
        for number, line in enumerate(lines, block.first_line):
            if line is None or line.strip():
                try:
                    row = _json_row(number, line)
                except Flaw as flaw:
                    row = Row(number, None, None, None, str(flaw))
                yield row


def _json_row(number: int, line: bytes | None) -> Row:
    """Raises Flaw if it is no lead."""
    entry = _decoded(line)
    for key in entry:
        if right := meant(key):
            raise Flaw(f"key {key!a} would become metadata; write {right}")
    external_id, phone_number = entry.pop("externalId", None), entry.pop("phoneNumber", None)
    if not isinstance(external_id, str | None):
        raise Flaw("externalId is not a string")
    if not isinstance(phone_number, str | None):
        raise Flaw("phoneNumber is not a string")
    nested = entry.pop("metadata", {})
    if not isinstance(nested, dict):
        raise Flaw("metadata is not an object")
    return checked(number, external_id, phone_number, nested | entry)


def _decoded(line: bytes | None) -> dict[str, object]:
    if line is None:
        raise Flaw(TOO_LONG)
    try:
        entry = msgspec.json.decode(line)
    except UnicodeDecodeError:
        raise Flaw(NOT_UTF_8) from None
    except msgspec.DecodeError:
        raise Flaw("not valid JSON") from None
    except RecursionError:
        raise Flaw("nested too deeply") from None
    if not isinstance(entry, dict):
        raise Flaw("not a JSON object")
    return entry
