"""What an error of the database means: somebody was in the way, the database cannot do it just now,
or it refuses. And how to say so without its message, which quotes identifiers.
"""

import re

from psycopg import OperationalError, errors
from psycopg.errors import Diagnostic
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

# Classes of SQLSTATE that say something about the server, the session, the transaction or our
# statement, and nothing about a lead.
_NOT_ABOUT_A_LEAD = frozenset(
    {
        *("08", "0A", "0Z"),  # connection, unsupported, diagnostics
        *("24", "25", "26", "28"),  # cursor, transaction state, prepared statement, authorization
        *("2B", "2D", "34", "3B", "3D", "3F"),  # privileges, end of transaction, names
        *("40", "42"),  # roll-back, access
        *("53", "54", "55", "57", "58"),  # resources, limits, object state, intervention, system
        *("72", "F0", "HV", "XX"),  # snapshot, configuration, foreign server, internal
    }
)
# Resources, intervention, system: they may hit only some rows, such as the bigger ones.
_SHORTAGES = frozenset({"53", "57", "58"})
_INSUFFICIENT_PRIVILEGE = "42501"  # triggers like to raise it, to keep a lead
_RAISE = "exec_stmt_raise"  # where PostgreSQL says that an error came from: a RAISE of PL/pgSQL

# The first line of a context names the function that raised, in the language of the server:
# "PL/pgSQL function keep() line 3".
_FUNCTION = re.compile(r"^PL/[^(\n]*?([^\s(]+)\(", re.MULTILINE)


def is_clash(error: DBAPIError) -> bool:
    """Whether another transaction was in the way: nothing has happened, and the same statement will
    succeed once the other has ended.
    """
    return isinstance(error.orig, _CLASHES)


def is_locked(error: Exception) -> bool:
    """Whether somebody else holds a lock, and did not let go of it in time."""
    return isinstance(getattr(error, "orig", None), errors.LockNotAvailable)


def is_cancelled(error: Exception) -> bool:
    """Whether the statement took too long, or somebody has cancelled it."""
    return isinstance(getattr(error, "orig", None), errors.QueryCanceled)


def is_lost(error: Exception) -> bool:
    """Whether there is no connection to the database any more."""
    if not isinstance(error, DBAPIError):
        return False
    return error.connection_invalidated or (
        isinstance(error.orig, OperationalError) and error.orig.sqlstate is None
    )


def is_transient(error: Exception) -> bool:
    """Whether the same statement may well succeed a moment later."""
    return is_lost(error) or isinstance(getattr(error, "orig", None), _TRANSIENT)


def is_refusal(error: Exception) -> bool:
    """Whether the database refused to change some lead: by a constraint, or whatever a trigger
    raised.
    """
    state = sqlstate(error)
    if state is None or is_transient(error):
        return False
    if state == _INSUFFICIENT_PRIVILEGE:
        return _is_raised(error)
    return state[:2] not in _NOT_ABOUT_A_LEAD


def is_shortage(error: Exception) -> bool:
    """Whether the server itself lacks something, though other leads could be changed. It was not
    raised by an operator's trigger.
    """
    return (sqlstate(error) or "")[:2] in _SHORTAGES and not _is_raised(error)


def is_of_a_function(error: Exception) -> bool:
    """Whether it was raised within a function. It is an operator's trigger then, as the functions
    that our own statements call raise nothing.
    """
    return bool(getattr(_diagnosis(error), "context", None))


def sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE, where the database has answered at all."""
    return getattr(getattr(error, "orig", error), "sqlstate", None)


def in_words(error: BaseException) -> str:
    """Such as `disk full (SQLSTATE 53100)`: the name of the condition, as PostgreSQL lists it."""
    state = sqlstate(error)
    if state is None:
        return "the connection was lost"
    try:
        name = errors.lookup(state).__name__
    except KeyError:
        return f"SQLSTATE {state}"
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).removesuffix("_").lower()
    return f"{words} (SQLSTATE {state})"


def culprit(error: Exception) -> str:
    """What refused, by name: a constraint and its table, a function, or else the condition."""
    diagnosis = _diagnosis(error)
    if diagnosis is not None:
        if diagnosis.constraint_name:
            return f"constraint {diagnosis.constraint_name} of {diagnosis.table_name}"
        if function := _FUNCTION.search(diagnosis.context or ""):
            return f"function {function[1]}"
        if diagnosis.table_name:
            return f"table {diagnosis.table_name}"
    return in_words(error)


def _is_raised(error: Exception) -> bool:
    return getattr(_diagnosis(error), "source_function", None) == _RAISE


def _diagnosis(error: Exception) -> Diagnostic | None:
    return getattr(getattr(error, "orig", None), "diag", None)
