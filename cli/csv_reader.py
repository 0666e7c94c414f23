"""Reads leads from CSV, and gets back on its feet after a damaged record.

csv.reader takes a quote that is never closed for one enormous field and would swallow the rest of the file with it. Here the
line with the quote is rejected, and those that it swallowed come again, each as a record of its own.
"""

import csv
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from cli.failure import Failure
from cli.rows import Flaw, Row, checked, meant

TOO_LONG = "line is longer than 1 MiB"

_ERRORS = {  # a part of what csv.reader says: what an operator understands
    "unexpected end": "a quote is never closed",
    "expected after": "a quoted field goes on after its closing quote",
    "field limit": "a quote is never closed, or a field is longer than 128 KiB",
    "new-line character": "a carriage return within the line",
}


class _Columns(NamedTuple):
    """Where the header says that things are; `others` are metadata."""

    width: int
    external_id: int | None
    phone_number: int | None
    others: list[tuple[int, str]]


class _Record(NamedTuple):
    """One record, by its first line; `flaw` says why it cannot be read."""

    line: int
    fields: list[str]
    flaw: str | None


def read_csv(lines: Iterator[bytes | None]) -> Iterator[Row]:
    """The rows after the header, blank lines left out; None is a line too long to be read. Raises Failure for a bad header."""
    records = _records(_Source(lines))
    columns = _columns(next(records, _Record(1, [], None)))
    for record in records:
        if record.fields or record.flaw:
            try:
                row = _row(record, columns)
            except Flaw as flaw:
                row = Row(record.line, None, None, None, str(flaw))
            yield row


class _Source:
    """Hands lines to csv.reader and can take them back. Bytes that are not UTF-8 pass as surrogates, to be found later."""

    def __init__(self, lines: Iterator[bytes | None]) -> None:
        self._lines = lines
        self._again: deque[bytes | None] = deque()
        self._record: list[bytes | None] = []
        self._number = 0

    def __iter__(self) -> "_Source":
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self._number += 1
        self._record.append(line)
        if line is None:
            raise csv.Error(TOO_LONG)
        return line.decode("utf-8", "surrogateescape")

    def begin_record(self) -> int:
        """The number of the line that comes next."""
        self._record.clear()
        return self._number + 1

    def take_back(self) -> None:
        """All lines of the record but its first will come again."""
        swallowed = self._record[1:]
        self._again.extendleft(reversed(swallowed))
        self._number -= len(swallowed)


def _records(source: _Source) -> Iterator[_Record]:
    reader = csv.reader(source, strict=True)
    while True:
        line = source.begin_record()
        try:
            record = _Record(line, next(reader), None)
        except StopIteration:
            return
        except csv.Error as error:
            source.take_back()
            record = _Record(line, [], next((words for cause, words in _ERRORS.items() if cause in str(error)), str(error)))
        yield record


def _columns(header: _Record) -> _Columns:
    """Raises Failure for a header that would lose columns, or turn identifiers into metadata."""
    names = [name.strip() for name in header.fields]
    if header.flaw or not names:
        raise Failure(f"the CSV header, line 1, cannot be read: {header.flaw or 'it is empty'}", "it names the columns")
    for number, name in enumerate(names, 1):
        if not name or not name.isprintable() or name in names[: number - 1]:
            raise Failure(f"the CSV header, line 1: the name of column {number} is missing, repeated or not printable")
        if right := meant(name):
            raise Failure(f"the CSV header, line 1: column {name} would become metadata", f"write {right}, or rename it")
    places = {name: place for place, name in enumerate(names)}
    external_id, phone_number = places.pop("externalId", None), places.pop("phoneNumber", None)
    if external_id is None and phone_number is None:
        raise Failure("the CSV header, line 1, names neither externalId nor phoneNumber", "separate the columns by commas")
    return _Columns(len(names), external_id, phone_number, [(place, name) for name, place in places.items()])


def _row(record: _Record, columns: _Columns) -> Row:
    """Raises Flaw if it is no lead."""
    fields = record.fields
    if record.flaw:
        raise Flaw(record.flaw)
    if len(fields) != columns.width:
        raise Flaw(f"{len(fields)} columns, the header has {columns.width}")
    external_id = None if columns.external_id is None else fields[columns.external_id]
    phone_number = None if columns.phone_number is None else fields[columns.phone_number]
    metadata = {name: fields[place] for place, name in columns.others if fields[place]}
    return checked(record.line, external_id, phone_number, metadata)
