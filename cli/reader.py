"""Reads a file of leads, CSV or NDJSON, row by row and in bounded memory.

Nothing here raises because of one bad row: it comes out with the reason, at the line where it begins, and the next row is read.
Only a file that cannot be read as a whole is a Failure.
"""

import itertools
from collections.abc import Iterator
from typing import BinaryIO, Literal

import msgspec

from cli.csv_reader import TOO_LONG, read_csv
from cli.failure import Failure
from cli.rows import NOT_UTF_8, Flaw, Row, checked, meant

MAX_LINE = 1 << 20  # bytes; a longer line is rejected unread, so that a file without line ends cannot fill the memory

_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")

Format = Literal["csv", "ndjson"]


def read(file: BinaryIO, form: Format | None = None) -> Iterator[Row]:
    """The rows of `file`, blank lines left out. Without `form`, a file that begins with `{` is NDJSON.

    Raises Failure, at once or with the first row, if the file as a whole cannot be read.
    """
    lines = _lines(file)
    first = next(lines, b"")
    if first is not None:
        if first.startswith(_UTF_16):
            raise Failure("the file is UTF-16", "save it as UTF-8")
        first = first.removeprefix(_BOM)
    is_json = form == "ndjson" if form else bool(first and first.lstrip().startswith(b"{"))
    everything = itertools.chain([first], lines)
    return _read_json(everything) if is_json else read_csv(everything)


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """The lines with their ends; None for one that is too long."""
    while line := file.readline(MAX_LINE):
        if len(line) < MAX_LINE or line.endswith(b"\n"):
            yield line
        else:
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            yield None


def _read_json(lines: Iterator[bytes | None]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
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
