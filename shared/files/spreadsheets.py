"""Cells of a CSV that somebody may open in a spreadsheet. On the way out they are made harmless to
it; on the way in they get their former text again.
"""

import re

from ..identifiers.canonical import IGNORED
from ..printable import UNSEEN

# A cell that may be taken for a formula: after any number of quotes it begins with one of four
# signs, also in full width or small. Some spreadsheets leave out invisible characters that stand
# before the sign. A tab or a line break at the beginning is guarded whatever follows.
_LEFT_OUT = "".join(map(chr, (*range(0x21), *range(0x7F, 0xA1)))) + IGNORED + "".join(UNSEEN)
_FORMULA = re.compile(
    f"'*(?:[{re.escape(_LEFT_OUT)}]*[=+\\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b]|[\t\r\n])"
)
_TEXT = re.compile(r'="((?:[^"]|"")*)"')  # how people keep Excel from reading 00123 as a number


def guarded(cell: str | None) -> str | None:
    """`cell`, made harmless: with a quote in front if it would be taken for a formula.

    A cell that has such a quote already gets another one: otherwise nobody could tell `'-17` from a
    guarded `-17`.
    """
    return f"'{cell}" if cell and _FORMULA.match(cell) else cell


def raw_safe(cell: str | None) -> str | None:
    """`cell` as it is, but guarded if `unwrapped` would make something else of it."""
    return f"'{cell}" if cell and unwrapped(cell) != cell else cell


def unguarded(cell: str) -> str:
    """`cell` without the quote that `guarded` put before it."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def unwrapped(cell: str) -> str:
    """What `cell` means: the cell without its guard; or, if it is written as `="…"`, the text
    inside.
    """
    meant = unguarded(cell)
    if meant == cell and (text := _TEXT.fullmatch(cell)):
        return text[1].replace('""', '"')
    return meant
