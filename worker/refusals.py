"""Goes around what the database refuses: an operator's constraint or trigger forbids to change one lead, which must not stop the
others of its chunk.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from shared.sqlstates import is_refusal

Item = TypeVar("Item")
Row = Any


def around_refused(
    connection: Connection,
    items: Sequence[Item],
    do: Callable[[Sequence[Item]], Sequence[Row]],
    refused: Callable[[Sequence[Item]], Sequence[Row]],
) -> Iterator[Row]:
    """What `do` returns for `items`, halved until those that the database refuses stand alone: for these, what `refused` returns.

    Raises DBAPIError for what is no refusal.
    """
    try:
        with connection.begin_nested():
            rows = do(items)
    except DBAPIError as error:
        if not is_refusal(error):
            raise
    else:
        yield from rows
        return
    if len(items) == 1:
        yield from refused(items)
        return
    middle = len(items) // 2
    for half in (items[:middle], items[middle:]):
        yield from around_refused(connection, half, do, refused)
