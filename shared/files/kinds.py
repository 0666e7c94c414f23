"""Tells by its beginning what a file is that is neither CSV nor NDJSON, so that an error can name
what was sent by mistake.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from ..identifiers.names import IDENTIFIERS

_SAVE = "save it as CSV, in UTF-8"
_UNPACK = "unpack it, and send what is inside"
_LINES = "write it as NDJSON: one entry on each line"

# How files begin: what they are, and the way out.
_MARKS = (
    (b"\xff\xfe\0\0", "UTF-32", "save it as UTF-8"),
    (b"\0\0\xfe\xff", "UTF-32", "save it as UTF-8"),
    (b"\xff\xfe", "UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "UTF-16", "save it as UTF-8"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook (xls, or encrypted)", _SAVE),
    (b"\x09\x08", "an Excel workbook (xls)", _SAVE),
    (b"\x09\x00\x04\x00", "an Excel workbook (xls)", _SAVE),
    (b"PAR1", "Parquet", "write it as CSV or NDJSON"),
    (b"ARROW1", "Arrow", "write it as CSV or NDJSON"),
    (b"FEA1", "Feather", "write it as CSV or NDJSON"),
    (b"Obj\x01", "Avro", "write it as CSV or NDJSON"),
    (b"ORC", "ORC", "write it as CSV or NDJSON"),
    (b"SQLite format 3\0", "a SQLite database", "write it as CSV or NDJSON"),
    (b"\x1f\x8b", "gzip", "unpack it, or over HTTP send it with Content-Encoding: gzip"),
    (b"BZh", "bzip2", _UNPACK),
    (b"\xfd7zXZ\0", "xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "zstd", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!", "a rar archive", _UNPACK),
    (b"%PDF", "PDF", _SAVE),
    (b"{\\rtf", "RTF", _SAVE),
)
# The same for the zip archives that office programs write, by the names of the files in them.
_IN_ZIP = (
    (b"opendocument.spreadsheet", "an OpenDocument spreadsheet (ods)", _SAVE),
    (b"opendocument", "an OpenDocument file", _SAVE),
    (b"xl/", "an Excel workbook (xlsx)", _SAVE),
    (b"[Content_Types].xml", "an Office document (xlsx, or another)", _SAVE),
    (b"Index/", "a Numbers spreadsheet", _SAVE),
    (b"", "a zip archive", _UNPACK),
)
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")

_HTML = re.compile(rb"<(?:!doctype\s+html|html|head|meta|body|table|style|div)\b", re.IGNORECASE)
_XML = re.compile(rb"<[?!a-z]", re.IGNORECASE)
_ARRAY = re.compile(rb"""\[\s*(?:[\[{"\]0-9-]|null|true|false|\Z)""")
# An object, as far as the first thing that is inside it; and where entries are kept in one.
_NESTED = re.compile(rb'\{([^\[{]*)"([^"]+)"\s*:\s*[\[{]')
_WRAPPERS = frozenset(
    [
        "leads",
        "records",
        "contacts",
        "items",
        "data",
        "results",
        "rows",
        "entries",
        "value",
        "values",
    ]
)

LOOKED_AT = 1000  # bytes
_FEW = 8  # bytes that are zero may be so by accident


class Kind(NamedTuple):
    """What a file is, what to do about that, and whether it is text all the same."""

    what: str
    mend: str
    is_text: bool = False


def other_kind(beginning: bytes) -> Kind | None:
    """The kind of a file with this beginning; None if it can be CSV or NDJSON."""
    for mark, what, mend in _MARKS:
        if beginning.startswith(mark):
            return Kind(what, mend)
    if beginning.startswith(_ZIP):
        return next(Kind(what, mend) for name, what, mend in _IN_ZIP if name in beginning)
    return _of_wide_characters(beginning[:LOOKED_AT]) or _of_marked_up_text(
        beginning.removeprefix(b"\xef\xbb\xbf").lstrip()
    )


def _of_wide_characters(beginning: bytes) -> Kind | None:
    """UTF-16 and UTF-32 without a mark. In texts that are mostly ASCII every second byte, or three
    of four, are zero.
    """
    zeros = [beginning[place::4].count(0) for place in range(4)]
    if 8 * sorted(zeros)[1] > len(beginning) and max(zeros) > 4 * min(zeros):
        return Kind("UTF-32", "save it as UTF-8")
    even, odd = zeros[0] + zeros[2], zeros[1] + zeros[3]
    if (
        max(even, odd) >= _FEW
        and max(even, odd) > 4 * min(even, odd)
        and 10 * max(even, odd) > len(beginning)
    ):
        return Kind("UTF-16", "save it as UTF-8")
    return None


def _of_marked_up_text(beginning: bytes) -> Kind | None:
    if _XML.match(beginning):
        return Kind("HTML" if _HTML.search(beginning[:LOOKED_AT]) else "XML", _SAVE, is_text=True)
    if _ARRAY.match(beginning):
        return Kind(
            "a JSON array", f"{_LINES}, and no brackets or commas around them", is_text=True
        )
    if _is_object_of_entries(beginning):
        return Kind("one JSON object", f"{_LINES}, and nothing around them", is_text=True)
    return None


def _is_object_of_entries(beginning: bytes) -> bool:
    """Whether a JSON object has the entries inside it, as in {"leads": […]}, on one line or over
    several.
    """
    nested = _NESTED.match(beginning)
    if not nested or any(b'"%b"' % name.encode() in nested[1] for name in IDENTIFIERS):
        return False
    try:
        entry = msgspec.json.decode(beginning.splitlines()[0])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return b"\n" in nested[0] or nested[2].decode(errors="replace") in _WRAPPERS
    return entry.keys().isdisjoint(IDENTIFIERS) and _has_entries(entry)


def _has_entries(wrapper: Mapping[str, object]) -> bool:
    """Whether a list of objects is in it, or in an object in it, by a name that says so."""
    for name, value in wrapper.items():
        if name in _WRAPPERS and isinstance(value, dict) and _has_entries(value):
            return True
        if (
            name in _WRAPPERS
            and isinstance(value, list)
            and any(isinstance(one, dict) for one in value)
        ):
            return True
    return False
