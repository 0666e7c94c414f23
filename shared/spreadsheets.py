"""What a spreadsheet would take for a formula is none: such a cell of a CSV begins with a quote."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four in full width


def guarded(cell: str | None) -> str | None:
    """`cell`, harmless to whoever opens it."""
    return f"'{cell}" if cell and cell.startswith(_FORMULA) else cell
