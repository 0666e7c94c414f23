"""PostgreSQL array literals. The driver adapts a list element by element, which costs more than sending it: 200 µs for 500
strings against 40 µs here (docs/performance.md).
"""

from collections.abc import Iterable


def text_array(items: Iterable[str | None]) -> str:
    """The literal of a `text[]`; None becomes NULL. Strings may hold anything but U+0000."""
    return "{" + ",".join(["NULL" if item is None else _quoted(item) for item in items]) + "}"


def smallint_array(items: Iterable[int]) -> str:
    """The literal of a `smallint[]`."""
    return "{" + ",".join(map(str, items)) + "}"


def _quoted(item: str) -> str:
    return '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'
