"""Reads CSV in blocks, fast, and gets back on its feet after a damaged record.

csv.reader takes a quote that is never closed for one enormous field and would swallow the rest of the file with it. Here the
line with the quote is rejected, and those that it swallowed come again, each as a record of its own. A block without line ends
inside its fields, which is nearly every one, is read all at once.
"""

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from shared.blocks import MAX_LINE, TOO_LONG, Block, Unreadable

DELIMITERS = ",;\t"

_IDENTIFIERS = {"externalId", "phoneNumber"}
_ENDS_TOO_SOON = "unexpected end"
_ERRORS = {  # a part of what csv.reader says: what people understand
    _ENDS_TOO_SOON: "a quote is never closed",
    "expected after": "a quoted field goes on after its closing quote",
    "field limit": "a quote is never closed, or a field is longer than 128 KiB",
    "new-line character": "a carriage return within the line",
}


class Records(NamedTuple):
    """Records in file order: where each begins, and its fields; a text in their place says why it cannot be read.

    What is not UTF-8 comes as lone surrogates. Blank lines are left out.
    """

    lines: Sequence[int]
    fields: Sequence[list[str] | str]


class _Rest(NamedTuple):
    """Lines at the end of a block whose record goes on in the next one."""

    first_line: int
    lines: list[str]


_NOTHING = _Rest(0, [])


def read_csv(blocks: Iterable[Block]) -> tuple[list[str], Iterator[Records]]:
    """The names of the columns, and the records below them. Raises Unreadable, and whatever `blocks` raises."""
    coming = iter(blocks)
    first = next(coming, Block(1, b""))
    if first.lines is None:
        raise Unreadable(f"the CSV header, line 1, cannot be read: {TOO_LONG}", "it names the columns")
    header, _, below = _decoded(first.lines).partition("\n")
    delimiter = _delimiter(header)
    try:
        names = next(csv.reader([header.removesuffix("\r")], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise Unreadable(f"the CSV header, line 1, cannot be read: {_words(error)}", "it names the columns") from None
    rest = Block(2, below.encode("utf-8", "surrogateescape"))
    return [name.strip() for name in names], _records(itertools.chain([rest], coming), delimiter)


def _decoded(lines: bytes) -> str:
    return lines.decode("utf-8", "surrogateescape")


def _delimiter(header: str) -> str:
    """The one with which `header` names an identifier, else a comma."""

    def names(delimiter: str) -> set[str]:
        return {name.strip(' "\r') for name in header.split(delimiter)}

    return next((delimiter for delimiter in DELIMITERS if names(delimiter) & _IDENTIFIERS), ",")


def _records(blocks: Iterable[Block], delimiter: str) -> Iterator[Records]:
    rest = _NOTHING
    for block in blocks:
        if block.lines is None:
            if rest.lines:
                yield _read_with_care(rest, delimiter, at_end=True)[0]
                rest = _NOTHING
            yield Records([block.first_line], [TOO_LONG])
            continue
        text = _decoded(block.lines)
        records = None if rest.lines else _read_at_once(block.first_line, text, delimiter)
        if records is None:
            lines = [*rest.lines, *io.StringIO(text, newline="\n")]
            first_line = rest.first_line if rest.lines else block.first_line
            records, rest = _read_with_care(_Rest(first_line, lines), delimiter, at_end=False)
        yield records
    if rest.lines:
        yield _read_with_care(rest, delimiter, at_end=True)[0]


def _read_at_once(first_line: int, text: str, delimiter: str) -> Records | None:
    """All of a block, or None where a record is damaged or longer than a line."""
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, strict=True)
    try:
        rows = list(reader)
    except csv.Error:
        return None
    if reader.line_num != len(rows):
        return None
    if [] in rows:
        numbered = [(line, row) for line, row in enumerate(rows, first_line) if row]
        return Records([line for line, _ in numbered], [row for _, row in numbered])
    return Records(range(first_line, first_line + len(rows)), rows)


def _read_with_care(source: _Rest, delimiter: str, *, at_end: bool) -> tuple[Records, _Rest]:
    """Record by record; what may go on in the next block is left over.

    The lines that a damaged record swallowed are read each on its own: a quote that is open at the end of one of them would lead
    to the very place where that record failed. So no line is read more than three times, however many quotes are never closed.
    """
    lines: list[int] = []
    fields: list[list[str] | str] = []
    place = swallowed = 0  # the lines before `swallowed` are those
    why = ""
    while (begin := place) < len(source.lines):
        end = begin + 1 if begin < swallowed else len(source.lines)
        reader = csv.reader(map(source.lines.__getitem__, range(begin, end)), delimiter=delimiter, strict=True)
        try:
            for row in reader:
                if row:
                    lines.append(source.first_line + place)
                    fields.append(row)
                place = begin + reader.line_num
        except csv.Error as error:
            is_open = _ENDS_TOO_SOON in str(error)
            if place >= swallowed:
                if is_open and not at_end and sum(map(len, source.lines[place:])) < MAX_LINE:
                    return Records(lines, fields), _Rest(source.first_line + place, source.lines[place:])
                swallowed = begin + reader.line_num - (not is_open)
                why = _words(error)
            lines.append(source.first_line + place)
            fields.append(why if is_open else _words(error))
            place += 1
    return Records(lines, fields), _NOTHING


def _words(error: csv.Error) -> str:
    return next((words for cause, words in _ERRORS.items() if cause in str(error)), str(error))
