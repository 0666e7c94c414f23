"""What an error of the database means: that somebody was in the way, that it cannot do it just now, or that it refuses."""

from psycopg import OperationalError, errors
from sqlalchemy.exc import DBAPIError

_CLASHES = (errors.DeadlockDetected, errors.SerializationFailure, errors.LockNotAvailable)
_TRANSIENT = (
    *_CLASHES,
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


def is_clash(error: DBAPIError) -> bool:
    """Whether somebody else was in the way: nothing has happened, and the same will succeed once they are done."""
    return isinstance(error.orig, _CLASHES)


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
