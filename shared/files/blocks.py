"""Cuts a file that comes in parts, from a disk or over the network, into blocks of whole lines, in
bounded memory.

A line ends as it does anywhere: with a line feed, a carriage return, or both.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .kinds import other_kind

# Bytes; a longer line is dropped unread, so that a file without line ends cannot fill the memory.
MAX_LINE = 1 << 20
# Bytes gathered before a block is cut. Blocks of a few lines would cost more than the lines do.
SIZE = 1 << 16

_BOM = b"\xef\xbb\xbf"

TOO_LONG = "line is longer than 1 MiB"


class Block(NamedTuple):
    """Whole lines, the last of the file perhaps without its end. `lines` is None in place of a line
    that is too long.
    """

    first_line: int
    lines: bytes | None


class Unreadable(ValueError):
    """Says why a file as a whole is not a file of leads, and what to do about it."""

    def __init__(self, what: str, mend: str, line: int | None = None) -> None:
        """`line` is where it is seen, if not in all of the file."""
        super().__init__(f"{what}; {mend}" if mend else what)
        self.what = what
        self.mend = mend
        self.line = line


def blocks(parts: Iterable[bytes]) -> Iterator[Block]:
    """The lines of the `parts`, each of MAX_LINE bytes at most. Raises Unreadable before the first
    block, and whatever `parts` raises.
    """
    buffer = bytearray()
    line = 1
    looked_at = 0  # bytes of the buffer that are known to hold no line end
    too_long = False  # inside a line that is being dropped
    for part in _begun(parts):
        buffer += part
        if too_long:
            end = _first_end(buffer, 0)
            del buffer[: end + 1 or -1]
            if end < 0:
                continue
            too_long = False
        if len(buffer) < SIZE:
            continue
        end = _first_end(buffer, looked_at)
        if end >= MAX_LINE or (end < 0 and len(buffer) >= MAX_LINE):
            yield Block(line, None)
            line += 1
            too_long = end < 0
            del buffer[: end + 1 or -1]
            looked_at = 0
        elif end >= 0:
            cut = buffer.rfind(b"\n") + 1 or buffer.rfind(b"\r", 0, -1) + 1
            lines = bytes(buffer[:cut])
            del buffer[:cut]
            yield Block(line, lines)
            line += count_lines(lines)
            looked_at = 0
        else:
            looked_at = len(buffer) - 1
    if buffer and not too_long:
        yield Block(line, bytes(buffer))


def count_lines(lines: bytes) -> int:
    """How many lines end in it."""
    returns = lines.count(b"\r") - lines.count(b"\r\n") if b"\r" in lines else 0
    return lines.count(b"\n") + returns


def _first_end(buffer: bytearray, start: int) -> int:
    """Where the first line ends, looked for from `start` on; -1 where none does.

    A carriage return at the very end may be half of a line end.
    """
    feed = buffer.find(b"\n", start)
    carriage_return = buffer.find(b"\r", start, feed if feed >= 0 else len(buffer) - 1)
    return feed if carriage_return < 0 or carriage_return + 1 == feed else carriage_return


def _begun(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The `parts` without the mark with which a file may begin. Raises Unreadable where they begin
    as another kind of file.
    """
    coming = iter(parts)
    beginning = bytearray()
    for part in coming:
        beginning += part
        if len(beginning) >= SIZE:
            break
    if kind := other_kind(bytes(beginning)):
        raise Unreadable(f"the file is {kind.what}", kind.mend)
    yield bytes(beginning).removeprefix(_BOM)
    yield from coming
