"""What the database refuses, as against what it cannot do just now: an operator's constraint or trigger forbids to change one
lead, which must not stop the others of its chunk.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from psycopg import OperationalError, errors
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

Item = TypeVar("Item")
Row = Any

_TRANSIENT = (
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.LockNotAvailable,
    errors.ReadOnlySqlTransaction,  # a primary that has just been demoted
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.IdleInTransactionSessionTimeout,
)

# Classes of SQLSTATE that say something about the server, the transaction or our statement, and nothing about a lead:
# connection, transaction state, roll-back, statement, resources, limits, intervention, system, internal.
_NOT_ABOUT_A_LEAD = frozenset({"08", "25", "40", "42", "53", "54", "57", "58", "XX"})
_INSUFFICIENT_PRIVILEGE = "42501"  # which triggers like to raise


def is_transient(error: DBAPIError) -> bool:
    """Whether the same may well succeed a moment later."""
    lost = isinstance(error.orig, OperationalError) and error.orig.sqlstate is None
    return lost or error.connection_invalidated or isinstance(error.orig, _TRANSIENT)


def is_refusal(error: DBAPIError) -> bool:
    """Whether the database forbids what was to be done with some lead: a constraint, or whatever a trigger raised."""
    state = getattr(error.orig, "sqlstate", None)
    if state is None or is_transient(error):
        return False
    return state == _INSUFFICIENT_PRIVILEGE or state[:2] not in _NOT_ABOUT_A_LEAD


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
