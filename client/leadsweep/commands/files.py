"""Prepares the file that is sent to the server from the file, pipe or list that a person has:
checks its header and counts its rows.
"""

import gzip
import io
import json
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from leadsweep.rules.files.blocks import SIZE, Block, Unreadable, blocks
from leadsweep.rules.files.csv_reader import read_csv, without_blank_rows
from leadsweep.rules.files.kinds import other_kind
from leadsweep.rules.identifiers.columns import Naming, shown
from leadsweep.terminal.failure import Failure
from leadsweep.terminal.options import check_stdin
from leadsweep.terminal.progress import Show, watched

CSV, NDJSON = "text/csv", "application/x-ndjson"
Format = Literal["csv", "ndjson"]
Identifier = Literal["externalId", "phoneNumber"]

_MEDIA_TYPES: dict[str, str] = {"csv": CSV, "ndjson": NDJSON}
_BY_SUFFIX = {".csv": CSV, ".tsv": CSV, ".ndjson": NDJSON, ".jsonl": NDJSON}
_GZIP = b"\x1f\x8b"
_COUNTING = ("counting", "counting")  # what is shown on the way, and at the end
_NOT_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)


class Prepared(NamedTuple):
    """A file that can be read again from its beginning. `leads` is the number of its rows, broken
    ones included.
    """

    file: BinaryIO
    media_type: str
    compressed: bool
    leads: int


def prepare(
    stack: ExitStack,
    path: str,
    form: Format | None,
    by: Identifier | None,
    naming: Naming,
    show_progress: Show,
    *,
    needs_external_id: bool,
) -> Prepared:
    """The file at `path`, or stdin for `-`. With `by`, each of its lines is one identifier. The
    header of a CSV must fit `naming`.

    `stack` closes the file. Raises Failure where it cannot be read; OSError.
    """
    try:
        file = _opened(stack, path, show_progress)
        compressed = _begins_with(file, _GZIP)
        if by:
            listed = watched(file, show_progress, *_COUNTING)
            file = _as_ndjson(stack, _content(stack, listed, compressed=compressed), by)
            compressed = False
        media_type = NDJSON if by else _media_type(stack, path, form, file, compressed=compressed)
        counted = watched(file, show_progress, *_COUNTING)
        content = _content(stack, counted, compressed=compressed)
        count = _count(content, media_type, naming, needs_external_id=needs_external_id)
    except _NOT_GZIP:
        raise Failure("the file is not valid gzip") from None
    except Unreadable as error:
        raise failure_of(error) from None
    file.seek(0)
    return Prepared(file, media_type, compressed, count)


def failure_of(error: Unreadable) -> Failure:
    """The Failure for the person at the terminal, with the line."""
    return Failure(f"line {error.line}: {error.what}" if error.line else error.what, error.mend)


def _content(stack: ExitStack, file: BinaryIO, *, compressed: bool) -> BinaryIO | gzip.GzipFile:
    if not compressed:
        return file
    inflated = gzip.GzipFile(fileobj=file)
    stack.callback(inflated.close)
    return inflated


def _opened(stack: ExitStack, path: str, show_progress: Show) -> BinaryIO:
    if path == "-":
        check_stdin()
        # Copied even where stdin is a file: somebody may have read a part of it.
        return _copied(stack, sys.stdin.buffer, show_progress)
    return _seekable(stack, stack.enter_context(Path(path).open("rb")), show_progress)


def _temporary(stack: ExitStack) -> BinaryIO:
    return stack.enter_context(tempfile.TemporaryFile())


def _seekable(stack: ExitStack, file: BinaryIO, show_progress: Show) -> BinaryIO:
    """The file itself or a copy: it is read once to be counted, and perhaps sent twice."""
    return file if file.seekable() else _copied(stack, file, show_progress)


def _copied(stack: ExitStack, source: BinaryIO, show_progress: Show) -> BinaryIO:
    """A copy on disk."""
    copy = _temporary(stack)
    shutil.copyfileobj(watched(source, show_progress, "reading", "counting"), copy)
    copy.seek(0)
    return copy


def _begins_with(file: BinaryIO, mark: bytes) -> bool:
    begins = file.read(len(mark)) == mark
    file.seek(0)
    return begins


def _media_type(
    stack: ExitStack, path: str, form: Format | None, file: BinaryIO, *, compressed: bool
) -> str:
    """The media type by the option --format, else by the name, else by the first character."""
    if form:
        return _MEDIA_TYPES[form]
    suffixes = [suffix.lower() for suffix in Path(path).suffixes if suffix.lower() != ".gz"]
    if suffixes and suffixes[-1] in _BY_SUFFIX:
        return _BY_SUFFIX[suffixes[-1]]
    beginning = _content(stack, file, compressed=compressed).read(1000)
    is_json = beginning.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    file.seek(0)
    return NDJSON if is_json else CSV


def _as_ndjson(stack: ExitStack, file: BinaryIO | gzip.GzipFile, by: Identifier) -> BinaryIO:
    """A list of identifiers as NDJSON. Lines keep their numbers, so that an error names the line
    that it has in both.

    Raises Unreadable where the list is not text.
    """
    kind = other_kind(file.read(SIZE))
    if kind and not kind.is_text:
        raise Unreadable(f"the file is {kind.what}", kind.mend)
    file.seek(0)
    copy = _temporary(stack)
    encode = json.JSONEncoder(ensure_ascii=False).encode
    for line in io.TextIOWrapper(file, "utf-8-sig", "surrogateescape"):
        entry = encode({by: line.strip()}) if line.strip() else ""
        copy.write(f"{entry}\n".encode("utf-8", "surrogateescape"))
    copy.seek(0)
    return copy


def _count(
    content: BinaryIO | gzip.GzipFile, media_type: str, naming: Naming, *, needs_external_id: bool
) -> int:
    """How many rows there are. Raises Unreadable where it is not a file of leads."""
    coming = blocks(_parts(content))
    if media_type == NDJSON:
        return sum(map(_filled_lines, coming))
    header, records = read_csv(coming, naming.said)
    if not header.names:
        return 0
    external_id, _ = naming.places(header.names, header.line)
    if needs_external_id and external_id is None:
        what = "the file has no column externalId, which --no-phone-fallback needs"
        raise Unreadable(what, f"it has {shown(header.names)}")
    return sum(len(without_blank_rows(batch).lines) for batch in records)


def _filled_lines(block: Block) -> int:
    """How many lines of the block are not blank. A line that is too long counts as one."""
    if block.lines is None:
        return 1
    count = 0
    for line in block.lines.splitlines():
        count += bool(line.strip())
    return count


def _parts(content: BinaryIO | gzip.GzipFile) -> Iterator[bytes]:
    while part := content.read(SIZE):
        yield part
