"""Reads a file of leads, CSV or NDJSON, row by row and in bounded memory.

A bad row does not raise: it is returned with the reason and the line where it begins, and the next
row is read. Only a file that cannot be read as a whole raises Failure.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Literal, NamedTuple

import msgspec
from leadsweep.terminal.failure import Failure

from cli.leads.rows import NOT_UTF_8, Flaw, Row, checked
from shared.files.blocks import SIZE, TOO_LONG, Block, Unreadable, blocks
from shared.files.csv_reader import Header, read_csv, without_blank_rows
from shared.files.spreadsheets import unwrapped
from shared.identifiers.columns import Naming, Unclear
from shared.identifiers.names import IDENTIFIERS

Format = Literal["csv", "ndjson"]

_DEFAULT_NAMING = Naming()
_WRAPPED = ("'", "=")  # how a cell begins that may mean something else than it says


class _Columns(NamedTuple):
    """The places of the columns; those of `others` hold metadata."""

    width: int
    external_id: int | None
    phone_number: int | None
    others: list[tuple[int, str]]


def read(
    file: BinaryIO,
    form: Format | None = None,
    naming: Naming = _DEFAULT_NAMING,
    region: str | None = None,
) -> Iterator[Row]:
    """The rows of `file`, blank ones left out, their phone numbers read as in `region`.

    Without `form`, a file that begins with `{` is NDJSON. Raises Failure if the file as a whole
    cannot be read. That includes NDJSON in which no entry has a key that `naming` names, which is
    known only at the end.
    """
    coming = blocks(iter(lambda: file.read(SIZE), b""))
    try:
        first = next(coming, Block(1, b""))
        is_json = form == "ndjson"
        if form is None and first.lines:
            is_json = first.lines.lstrip().startswith(b"{")
        read_rows = _read_json if is_json else _read_csv
        return read_rows(itertools.chain([first], coming), naming, region)
    except Unreadable as error:
        where = f"line {error.line}: " if error.line else ""
        raise Failure(f"{where}{error.what}", error.mend) from None


def _read_csv(coming: Iterable[Block], naming: Naming, region: str | None) -> Iterator[Row]:
    """Raises Unreadable, and Failure for a header that would lose columns."""
    header, records = read_csv(coming, naming.said)
    columns = _columns(header, naming)
    filled = map(without_blank_rows, records)
    return (
        _csv_row(line, fields, columns, region)
        for batch in filled
        for line, fields in batch.numbered()
    )


def _columns(header: Header, naming: Naming) -> _Columns:
    """Raises Unreadable, and Failure for a header that would lose columns."""
    if not header.names:
        raise Failure("the CSV header, line 1, is empty", "it must name the columns")
    external_id, phone_number = naming.places(header.names, header.line)
    names = [" ".join(name.split()) for name in header.names]
    for number, name in enumerate(names, 1):
        if not name or not name.isprintable() or name in names[: number - 1]:
            where = f"the CSV header, line {header.line}"
            raise Failure(
                f"{where}: the name of column {number} is missing, repeated or not printable"
            )
    others = [
        (place, name)
        for place, name in enumerate(names)
        if place not in {external_id, phone_number}
    ]
    return _Columns(len(names), external_id, phone_number, others)


def _csv_row(line: int, fields: list[str] | str, columns: _Columns, region: str | None) -> Row:
    if isinstance(fields, list) and len(fields) != columns.width:
        fields = f"{len(fields)} columns, the header has {columns.width}"
    if isinstance(fields, str):
        return Row(line, None, None, None, fields)
    try:
        external_id, phone_number = (
            _cell(fields, columns.external_id),
            _cell(fields, columns.phone_number),
        )
        metadata = {name: fields[place] for place, name in columns.others if fields[place]}
        return checked(line, external_id, phone_number, metadata, region)
    except Flaw as flaw:
        return Row(line, None, None, None, str(flaw))


def _cell(fields: list[str], place: int | None) -> str | None:
    if place is None:
        return None
    cell = fields[place]
    return unwrapped(cell) if cell.startswith(_WRAPPED) else cell


def _read_json(coming: Iterable[Block], naming: Naming, region: str | None) -> Iterator[Row]:
    unseen = {*naming.said}
    is_empty = True
    for block in coming:
        lines = [None] if block.lines is None else block.lines.splitlines()
        for number, line in enumerate(lines, block.first_line):
            if line is None or line.strip():
                is_empty = False
                try:
                    row = _json_row(number, line, naming, region, unseen)
                except Flaw as flaw:
                    row = Row(number, None, None, None, str(flaw))
                yield row
    if unseen and not is_empty:
        raise Failure(
            f"no entry has the key {', '.join(sorted(unseen))}", "look at how it is written"
        )


def _json_row(
    number: int, line: bytes | None, naming: Naming, region: str | None, unseen: set[str]
) -> Row:
    """The row of a line. Raises Flaw if it is not a lead. Its keys are removed from `unseen`."""
    entry = _decoded(line)
    if unseen:
        unseen.difference_update(entry)
    try:
        names = naming.names_of(entry, line or b"")
        meanings = naming.meanings(names)
    except Unclear as error:
        raise Flaw(f"the entry {error}") from None
    except (ValueError, RecursionError):
        raise Flaw("nested too deeply") from None
    identifiers = {
        meaning: entry.pop(name)
        for meaning, name in zip(meanings, names, strict=True)
        if meaning in IDENTIFIERS
    }
    external_id, phone_number = map(identifiers.get, IDENTIFIERS)
    if not isinstance(external_id, str | None):
        raise Flaw("externalId is not a string")
    if not isinstance(phone_number, str | None):
        raise Flaw("phoneNumber is not a string")
    nested = entry.pop("metadata", {})
    if not isinstance(nested, dict):
        raise Flaw("metadata is not an object")
    return checked(number, external_id, phone_number, nested | entry, region)


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
