"""Makes a file as the server takes it of what a person has: a file, a pipe, columns of other names, a list. And counts it."""

import csv
import gzip
import io
import json
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import click

from cli.failure import Failure
from shared.blocks import SIZE, Unreadable, blocks
from shared.csv_reader import DELIMITERS, read_csv

CSV, NDJSON = "text/csv", "application/x-ndjson"
Format = Literal["csv", "ndjson"]
Identifier = Literal["externalId", "phoneNumber"]

_MEDIA_TYPES: dict[str, str] = {"csv": CSV, "ndjson": NDJSON}
_BY_SUFFIX = {".csv": CSV, ".tsv": CSV, ".ndjson": NDJSON, ".jsonl": NDJSON}
_GZIP = b"\x1f\x8b"
_NOT_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)


class Prepared(NamedTuple):
    """A file that can be read again from its beginning; `leads` says how many rows it has, broken ones too."""

    file: BinaryIO
    media_type: str
    compressed: bool
    leads: int


def prepare(
    stack: ExitStack, path: str, form: Format | None, by: Identifier | None, columns: Mapping[str, Identifier]
) -> Prepared:
    """The file at `path`, `-` for stdin; with `by` it is one identifier a line; `columns` gives theirs by those of the file.

    Raises Failure where it cannot be read, OSError. `stack` closes it.
    """
    try:
        return _prepared(stack, path, form, by, columns)
    except _NOT_GZIP:
        raise Failure("the file is not valid gzip") from None


def _prepared(
    stack: ExitStack, path: str, form: Format | None, by: Identifier | None, columns: Mapping[str, Identifier]
) -> Prepared:
    file = _opened(stack, path)
    compressed = _begins_with(file, _GZIP)
    if compressed and (by or columns):
        file = _copied(stack, _content(stack, file, compressed=True))
        compressed = False
    if by:
        file = _as_ndjson(stack, file, by)
    media_type = NDJSON if by else _media_type(stack, path, form, file, compressed=compressed)
    if columns:
        if media_type == NDJSON:
            raise click.UsageError("--column is for CSV: this is NDJSON, whose entries name externalId and phoneNumber")
        file = _renamed(stack, file, columns)
    count = _count(_content(stack, file, compressed=compressed), media_type)
    file.seek(0)
    return Prepared(file, media_type, compressed, count)


def _content(stack: ExitStack, file: BinaryIO, *, compressed: bool) -> BinaryIO | gzip.GzipFile:
    if not compressed:
        return file
    inflated = gzip.GzipFile(fileobj=file)
    stack.callback(inflated.close)
    return inflated


def _opened(stack: ExitStack, path: str) -> BinaryIO:
    if path == "-":
        if not sys.stdin:
            raise Failure("stdin is closed", "name a file")
        return _copied(stack, sys.stdin.buffer)  # even of a file, of which somebody may have read a part
    return _seekable(stack, stack.enter_context(Path(path).open("rb")))


def _temporary(stack: ExitStack) -> BinaryIO:
    return stack.enter_context(tempfile.TemporaryFile())


def _seekable(stack: ExitStack, file: BinaryIO) -> BinaryIO:
    """It must be counted first, and perhaps sent twice."""
    return file if file.seekable() else _copied(stack, file)


def _copied(stack: ExitStack, source: BinaryIO | gzip.GzipFile) -> BinaryIO:
    """On disk."""
    copy = _temporary(stack)
    shutil.copyfileobj(source, copy)
    copy.seek(0)
    return copy


def _begins_with(file: BinaryIO, mark: bytes) -> bool:
    begins = file.read(len(mark)) == mark
    file.seek(0)
    return begins


def _media_type(stack: ExitStack, path: str, form: Format | None, file: BinaryIO, *, compressed: bool) -> str:
    """As it was said; else by the name; else by the first character."""
    if form:
        return _MEDIA_TYPES[form]
    suffixes = [suffix.lower() for suffix in Path(path).suffixes if suffix.lower() != ".gz"]
    if suffixes and suffixes[-1] in _BY_SUFFIX:
        return _BY_SUFFIX[suffixes[-1]]
    beginning = _content(stack, file, compressed=compressed).read(1000)
    is_json = beginning.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    file.seek(0)
    return NDJSON if is_json else CSV


def _as_ndjson(stack: ExitStack, file: BinaryIO, by: Identifier) -> BinaryIO:
    """A list of identifiers, one a line, as NDJSON: line by line, so that what is wrong is found in the same line of both."""
    copy = _temporary(stack)
    encode = json.JSONEncoder(ensure_ascii=False).encode
    for number, line in enumerate(file):
        text = line.decode("utf-8", "surrogateescape").removeprefix("\ufeff" if number == 0 else "")
        entry = encode({by: text.strip()}) if text.strip() else ""
        copy.write(f"{entry}\n".encode("utf-8", "surrogateescape"))
    copy.seek(0)
    return copy


def _renamed(stack: ExitStack, file: BinaryIO, columns: Mapping[str, Identifier]) -> BinaryIO:
    """A CSV whose header names the identifiers as the server does. Raises Failure for a column that is not there."""
    header = file.readline().decode("utf-8-sig", "surrogateescape").rstrip("\r\n")
    read = [next(csv.reader([header], delimiter=delimiter), []) for delimiter in DELIMITERS]
    delimiter, names = max(zip(DELIMITERS, read, strict=True), key=lambda one: (len({*one[1]} & {*columns}), len(one[1])))
    names = [name.strip() for name in names]
    for column in columns:
        if column not in names:
            raise Failure(f"the file has no column {column}", f"it has {', '.join(names)}")
    taken = set(columns.values())  # a column of that name which is not meant must not get in the way
    renamed = [columns.get(name) or (f"{name} of the file" if name in taken else name) for name in names]
    written = io.StringIO()
    csv.writer(written, delimiter=delimiter, lineterminator="\n").writerow(renamed)
    copy = _temporary(stack)
    copy.write(written.getvalue().encode("utf-8", "surrogateescape"))
    shutil.copyfileobj(file, copy)
    copy.seek(0)
    return copy


def _count(content: BinaryIO | gzip.GzipFile, media_type: str) -> int:
    """Raises Failure for what is no file of leads as a whole."""
    try:
        coming = blocks(_parts(content))
        if media_type == NDJSON:
            return sum(sum(map(bool, map(bytes.strip, (block.lines or b"x").split(b"\n")))) for block in coming)
        _, records = read_csv(coming)
        return sum(len(some.lines) for some in records)
    except Unreadable as error:
        raise Failure(error.what, error.mend) from None


def _parts(content: BinaryIO | gzip.GzipFile) -> Iterator[bytes]:
    while part := content.read(SIZE):
        yield part
