"""Reads CSV in blocks, fast, and gets back on its feet after a damaged record.

csv.reader takes a quote that is never closed for the beginning of one enormous field, which would
swallow the rest of the file. Here the line with the quote is rejected, and the lines that it
swallowed are read again, each as a record of its own. A block without line ends inside its fields,
as nearly every block is, is read all at once. Blanks before a quoted field do not belong to it.
"""

import csv
import io
import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

from ..identifiers.canonical import IGNORED
from ..identifiers.names import IDENTIFIERS, meant
from ..printable import brief
from .blocks import MAX_LINE, TOO_LONG, Block, Unreadable

DELIMITERS = ",;\t|"

_BLANKS = " \t\u00a0\u3000"  # those that may stand before a quoted field
_NO_BLANKS = str.maketrans("", "", _BLANKS)
_BLANK = IGNORED + DELIMITERS
_SEPARATOR = re.compile(r"""\s*"?sep=([^"\w\s]|\t)"?\s*""", re.IGNORECASE)
_QUOTED = re.compile(rf"""(?:^|(?<=[{DELIMITERS}]))\s*"(?:[^"]|"")*\"""")
_ENDS_TOO_SOON = "unexpected end"
_ERRORS = {  # a part of csv.reader's message: words that people understand
    _ENDS_TOO_SOON: "a quote is never closed",
    "expected after": "a quoted field goes on after its closing quote",
    "field limit": "a quote is never closed, or a field is longer than 128 KiB",
}


class Records(NamedTuple):
    """Records in file order: the line where each begins, and its fields. A text in the place of
    fields says why the record cannot be read.

    Bytes that are not UTF-8 come as lone surrogates. Blank lines are left out.
    """

    lines: Sequence[int]
    fields: Sequence[list[str] | str]
    may_be_wrapped: bool = True
    """Whether a field may mean something else than what is written: what it means, the function
    `unwrapped` of spreadsheets.py tells.
    """

    def numbered(self) -> Iterator[tuple[int, list[str] | str]]:
        """Each with its line."""
        return zip(self.lines, self.fields, strict=True)


class _Rest(NamedTuple):
    """Lines at the end of a block whose record goes on in the next one."""

    first_line: int
    lines: list[str]


_NOTHING = _Rest(0, [])


class Header(NamedTuple):
    """The names of the columns, the line where they are, and what stands between them."""

    names: list[str]
    line: int
    delimiter: str


def read_csv(
    blocks: Iterable[Block], said: Collection[str] = ()
) -> tuple[Header, Iterator[Records]]:
    """The header, and the records below it. `said` has names of columns that the caller has given.

    Raises Unreadable, and whatever `blocks` raises.
    """
    coming = iter(blocks)
    first = next(coming, Block(1, b""))
    if first.lines is None:
        raise Unreadable(
            f"the CSV header, line 1, cannot be read: {TOO_LONG}", "it names the columns"
        )
    text = _decoded(first.lines)
    place, line, delimiter = _begin(text)
    header, height = _header(text[place:], line, delimiter, said)
    below = io.StringIO(text, newline="")
    below.seek(place)
    for _ in range(height):
        next(below)
    rest = Block(line + height, below.read().encode("utf-8", "surrogateescape"))
    return header, _records(itertools.chain([rest], coming), header.delimiter)


def without_blank_rows(records: Records) -> Records:
    """The `records` without those whose cells hold nothing but blanks: spreadsheets write such
    records for empty rows.
    """
    kept = [(line, row) for line, row in records.numbered() if "".join(row).strip(IGNORED)]
    return Records([line for line, _ in kept], [row for _, row in kept], records.may_be_wrapped)


def _decoded(lines: bytes) -> str:
    return lines.decode("utf-8", "surrogateescape")


def _begin(text: str) -> tuple[int, int, str | None]:
    """Where the header begins, below blank lines and Excel's `sep=;`: its place, its line, and the
    delimiter that was said.
    """
    place, delimiter = 0, None
    for line, written in enumerate(io.StringIO(text, newline=""), 1):
        if line == 1 and (said := _SEPARATOR.fullmatch(written)):
            delimiter = said[1]
        elif written.strip(_BLANK):
            return place, line, delimiter
        place += len(written)
    return place, 1, delimiter


def _header(
    text: str, line: int, delimiter: str | None, said: Collection[str]
) -> tuple[Header, int]:
    """The header with which `text` begins, and how many lines it has. Raises Unreadable."""
    readings = []
    for one in delimiter or DELIMITERS:
        spaced = _before_quotes(one).sub(_as_spaces, text)
        reader = csv.reader(
            io.StringIO(spaced, newline=""), delimiter=one, strict=True, skipinitialspace=True
        )
        try:
            names = [name.strip() for name in next(reader, [])]
            readings.append((Header(names, line, one), reader.line_num))
        except csv.Error as error:
            why = error
    if not readings:
        read = brief(text.partition("\n")[0])
        raise Unreadable(
            f"the CSV header, line {line}, cannot be read: {_words(why)}", f"it begins: {read}"
        ) from None

    def rank(reading: tuple[Header, int]) -> tuple[int, int, int]:
        names = {*reading[0].names}
        return len(names & {*IDENTIFIERS, *said}), sum(map(bool, map(meant, names))), len(names)

    header, lines = max(readings, key=rank)
    known = {*header.names}
    bare = _QUOTED.sub("", text).partition("\n")[0].partition("\r")[0]
    for piece in map(str.strip, re.split(f"[{re.escape(DELIMITERS + header.delimiter)}]", bare)):
        if piece not in known and (meant(piece) or piece in said):
            what = f"The header can be split in more than one way: {brief(bare)}"
            raise Unreadable(
                what, "write it with one delimiter, and in quotes what has another", line
            )
    return header, lines


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
            lines = [*rest.lines, *io.StringIO(text, newline="")]
            first_line = rest.first_line if rest.lines else block.first_line
            records, rest = _read_with_care(_Rest(first_line, lines), delimiter, at_end=False)
        yield records
    if rest.lines:
        yield _read_with_care(rest, delimiter, at_end=True)[0]


def _read_at_once(first_line: int, text: str, delimiter: str) -> Records | None:
    """All of a block, or None where a record is damaged, longer than a line, or has blanks before
    its quotes.
    """
    if _has_blanks_before_quotes(text, delimiter):
        return None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = list(reader)
    except csv.Error:
        return None
    if reader.line_num != len(rows):
        return None
    may_be_wrapped = "'" in text or "=" in text
    if [] in rows:
        numbered = [(line, row) for line, row in enumerate(rows, first_line) if row]
        return Records([line for line, _ in numbered], [row for _, row in numbered], may_be_wrapped)
    return Records(range(first_line, first_line + len(rows)), rows, may_be_wrapped)


def _read_with_care(source: _Rest, delimiter: str, *, at_end: bool) -> tuple[Records, _Rest]:
    """Reads record by record. Returns also the lines whose record may go on in the next block.

    The lines that a damaged record has swallowed are read one by one: a quote that is open at the
    end of such a line would lead to the very place where that record failed. So no line is read
    more than three times, however many quotes are never closed.
    """
    written = source.lines
    if closer := _has_blanks_before_quotes("".join(written), delimiter):
        source = source._replace(
            lines=[_before_quotes(delimiter).sub(_as_spaces, line) for line in written]
        )
    lines: list[int] = []
    fields: list[list[str] | str] = []
    place = swallowed = 0  # the lines before `swallowed` are those
    why = ""
    while (begin := place) < len(source.lines):
        end = begin + 1 if begin < swallowed else len(source.lines)
        reading = map(source.lines.__getitem__, range(begin, end))
        reader = csv.reader(reading, delimiter=delimiter, strict=True, skipinitialspace=closer)
        try:
            for row in reader:
                if row:
                    record = written[place : begin + reader.line_num]
                    lines.append(source.first_line + place)
                    fields.append(_with_its_blanks(row, record, delimiter) if closer else row)
                place = begin + reader.line_num
        except csv.Error as error:
            is_open = _ENDS_TOO_SOON in str(error)
            if place >= swallowed:
                if is_open and not at_end and sum(map(len, source.lines[place:])) < MAX_LINE:
                    return Records(lines, fields), _Rest(source.first_line + place, written[place:])
                swallowed = begin + reader.line_num - (not is_open)
                why = _words(error)
            lines.append(source.first_line + place)
            fields.append(why if is_open else _words(error))
            place += 1
    return Records(lines, fields), _NOTHING


def _has_blanks_before_quotes(text: str, delimiter: str) -> bool:
    """Whether a quoted field may begin behind blanks, which csv.reader takes for a field that has
    quotes in it.
    """
    if '"' not in text or not any(
        blank in text and f'{blank}"' in text for blank in _BLANKS if blank != delimiter
    ):
        return False
    return _before_quotes(delimiter).search(text) is not None


@cache
def _before_quotes(delimiter: str) -> re.Pattern[str]:
    return re.compile(
        rf"(?:^|(?<=[\r\n{re.escape(delimiter)}]))[{_BLANKS.replace(delimiter, '')}]+(?=\")"
    )


def _as_spaces(blanks: re.Match[str]) -> str:
    """As many spaces: they are the only blanks that csv.reader can leave out."""
    return " " * len(blanks[0])


def _with_its_blanks(row: list[str], record: list[str], delimiter: str) -> list[str]:
    """`row` was read of `record` without the blanks before its fields. Returns it with those blanks
    that do not stand before a quote.
    """
    reader = csv.reader(record, delimiter=delimiter, strict=True)
    try:
        written = next(reader, [])
    except csv.Error:
        return row
    if len(written) != len(row) or reader.line_num < len(record):
        return row
    return [
        field if field.translate(_NO_BLANKS) == read.translate(_NO_BLANKS) else read
        for field, read in zip(written, row, strict=True)
    ]


def _words(error: csv.Error) -> str:
    return next((words for cause, words in _ERRORS.items() if cause in str(error)), str(error))
