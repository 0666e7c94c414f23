"""Cells of a CSV that a spreadsheet may open: harmless to it on the way out, and the same again on the way in."""

import re

# What a cell that is taken for a formula begins with; the last four in full width.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_TEXT = re.compile(r'="((?:[^"]|"")*)"')  # how people keep Excel from reading 00123 as a number


def guarded(cell: str | None) -> str | None:
    """`cell`, harmless to whoever opens it: with a quote before what would be taken for a formula.

    One that has such a quote already gets another: else nobody could tell `'-17` from a guarded `-17`.
    """
    return f"'{cell}" if cell and _is_formula(cell) else cell


def raw_safe(cell: str | None) -> str | None:
    """`cell` as it is, but guarded where `unwrapped` would make something else of it."""
    return f"'{cell}" if cell and unwrapped(cell) != cell else cell


def unguarded(cell: str) -> str:
    """`cell` without the quote that `guarded` put before it."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell) else cell


def unwrapped(cell: str) -> str:
    """What `cell` means: without its guard; or else, of a text written as `="…"`, what is inside."""
    meant = unguarded(cell)
    if meant == cell and (text := _TEXT.fullmatch(cell)):
        return text[1].replace('""', '"')
    return meant


def _is_formula(cell: str) -> bool:
    """Whether it begins as one, after any number of quotes."""
    return cell.lstrip("'").startswith(_FORMULA)
