"""Cuts a file that comes in parts, from a disk or over the network, into blocks of whole lines, in bounded memory."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

MAX_LINE = 1 << 20  # bytes; a longer line is dropped unread, so that a file without line ends cannot fill the memory
SIZE = 1 << 16  # bytes gathered before a block is cut: work on a few lines at a time would cost more than the lines

_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")

TOO_LONG = "line is longer than 1 MiB"


class Block(NamedTuple):
    """Whole lines, the last of the file perhaps without its end. `lines` is None in place of a line that is too long."""

    first_line: int
    lines: bytes | None


class Unreadable(ValueError):
    """What makes a file as a whole no file of leads, and how to mend it."""

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(f"{what}; {mend}")
        self.what = what
        self.mend = mend


def blocks(parts: Iterable[bytes]) -> Iterator[Block]:
    """The lines of the `parts`, each of MAX_LINE bytes at most. Raises Unreadable with the first block, and whatever they do."""
    buffer = bytearray()
    line = 1
    looked_at = 0  # bytes of the buffer that are known to hold no line end
    too_long = False  # inside a line that is being dropped
    for part in parts:
        if too_long and b"\n" not in part:
            continue
        buffer += part.partition(b"\n")[2] if too_long else part
        too_long = False
        if len(buffer) < SIZE:
            continue
        end = buffer.find(b"\n", looked_at)
        if end >= MAX_LINE or (end < 0 and len(buffer) >= MAX_LINE):
            yield Block(line, None)
            line += 1
            too_long = end < 0
            del buffer[: len(buffer) if too_long else end + 1]
            looked_at = 0
        elif end >= 0:
            cut = buffer.rfind(b"\n") + 1
            lines = _first(bytes(buffer[:cut]), line)
            del buffer[:cut]
            yield Block(line, lines)
            line += lines.count(b"\n")
            looked_at = len(buffer)
        else:
            looked_at = len(buffer)
    if buffer:
        yield Block(line, _first(bytes(buffer), line))


def _first(lines: bytes, number: int) -> bytes:
    """`lines` without the mark with which a file may begin."""
    if number > 1:
        return lines
    if lines.startswith(_UTF_16):
        raise Unreadable("the file is UTF-16", "save it as UTF-8")
    return lines.removeprefix(_BOM)
