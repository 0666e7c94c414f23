"""Cells of a CSV that a spreadsheet may open: harmless to it on the way out, and the same again on
the way in.
"""

import re

from ..identifiers.canonical import IGNORED
from ..printable import UNSEEN

# A cell that is taken for a formula: after any number of quotes it begins with one of the four
# signs, also in full width or small. Some spreadsheets leave out what stands before the sign and is
# seen as nothing; a tab or a line break at the beginning is guarded whatever follows.
_LEFT_OUT = "".join(map(chr, (*range(0x21), *range(0x7F, 0xA1)))) + IGNORED + "".join(UNSEEN)
_FORMULA = re.compile(
    f"'*(?:[{re.escape(_LEFT_OUT)}]*[=+\\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b]|[\t\r\n])"
)
_TEXT = re.compile(r'="((?:[^"]|"")*)"')  # how people keep Excel from reading 00123 as a number


def guarded(cell: str | None) -> str | None:
    """`cell`, harmless to whoever opens it: with a quote before what would be taken for a formula.

    One that has such a quote already gets another: else nobody could tell `'-17` from a guarded
    `-17`.
    """
    return f"'{cell}" if cell and _FORMULA.match(cell) else cell


def raw_safe(cell: str | None) -> str | None:
    """`cell` as it is, but guarded where `unwrapped` would make something else of it."""
    return f"'{cell}" if cell and unwrapped(cell) != cell else cell


def unguarded(cell: str) -> str:
    """`cell` without the quote that `guarded` put before it."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def unwrapped(cell: str) -> str:
    """What `cell` means: without its guard; or else, of a text written as `="…"`, what is
    inside.
    """
    meant = unguarded(cell)
    if meant == cell and (text := _TEXT.fullmatch(cell)):
        return text[1].replace('""', '"')
    return meant
