"""Sends the API's statements to the database. Each is a transaction of its own, except those that
take turns, and ends with an answer or an error within seconds.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from psycopg.errors import LockNotAvailable
from sqlalchemy import Executable, Row
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.database.engines import LOCK_TIMEOUT

Result = TypeVar("Result")
AnyRow = Row[*tuple[Any, ...]]  # any number of columns

STATEMENT_TIMEOUT = 5.0  # seconds; the longest statement takes a few hundredths of one

# Turns of the event loop that are granted after a time-out: a busy loop runs its timers before it
# reads an answer that has already come.
TURNS = 10

# Stands first in a statement that may wait for the lock of a row, and sets the time-out of its
# transaction. `limits` must be joined with the rows that are locked: only then is the time-out set
# before a lock is requested, as a locking clause works on the rows of the join, and the list of a
# SELECT is evaluated after it. The lock of a table is taken before all of this, so only
# STATEMENT_TIMEOUT bounds the wait for it.
LIMITS = f"limits AS MATERIALIZED (SELECT set_config('lock_timeout', '{LOCK_TIMEOUT}', true))"

_left_behind: set[asyncio.Task[Any]] = set()  # the loop itself holds tasks only weakly


async def rows(
    engine: AsyncEngine,
    statement: Executable,
    values: dict[str, Any] | None = None,
    *,
    turn: Executable | None = None,
    seconds: float = STATEMENT_TIMEOUT,
    repeatable: bool = True,
    if_locked: Callable[[], Exception] | None = None,
) -> Sequence[AnyRow]:
    """Executes `statement`, and returns its rows within `seconds`. Raises DBAPIError, sqlalchemy's
    and Python's TimeoutError, and what `if_locked` makes, where LIMITS ended the wait for a row.

    `turn` is a statement that takes a lock. It runs first, in the same transaction, so that
    `statement` sees all that others have committed. If one statement did both, it would wait for
    the lock and still see the database as it was when it began.

    Where the connection turns out to be broken, the statement is sent once more: all connections of
    the pool break when the server restarts. The first try may have been committed all the same, so
    a statement that would then answer otherwise is not `repeatable`.
    """
    sent = _rows(engine, statement, values, turn, repeatable=repeatable)
    try:
        return await within(seconds, sent)
    except DBAPIError as error:
        if if_locked and isinstance(error.orig, LockNotAvailable):
            raise if_locked() from None
        raise


async def _rows(
    engine: AsyncEngine,
    statement: Executable,
    values: dict[str, Any] | None,
    turn: Executable | None,
    *,
    repeatable: bool,
) -> Sequence[AnyRow]:
    try:
        return await _execute(engine, statement, values, turn)
    except DBAPIError as error:
        if not (error.connection_invalidated and repeatable):
            raise
    return await _execute(engine, statement, values, turn)


async def _execute(
    engine: AsyncEngine,
    statement: Executable,
    values: dict[str, Any] | None,
    turn: Executable | None,
) -> Sequence[AnyRow]:
    async with engine.connect() as connection:
        if turn is None:
            return (await connection.execute(statement, values)).all()
        await connection.execution_options(isolation_level="READ COMMITTED")
        async with connection.begin():
            await connection.execute(turn, values)
            return (await connection.execute(statement, values)).all()


async def within(seconds: float, coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Returns what `coroutine` returns, and raises what it raises. If it takes longer than
    `seconds`, raises TimeoutError, and leaves the coroutine behind.

    asyncio's own time-outs wait until what they cancel has ended. That may take long: the driver
    asks a server that has stopped answering to cancel its statement, and gives up only after ten
    more seconds. No caller should wait for that.
    """
    task = asyncio.create_task(coroutine)
    try:
        await asyncio.wait((task,), timeout=seconds)
        for _ in range(TURNS):
            if task.done():
                return task.result()
            await asyncio.sleep(0)
    finally:
        if not task.done():
            _leave_behind(task)
    raise TimeoutError


def _leave_behind(task: asyncio.Task[Any]) -> None:
    task.cancel()
    _left_behind.add(task)
    task.add_done_callback(_forget)


def _forget(task: asyncio.Task[Any]) -> None:
    _left_behind.discard(task)
    if not task.cancelled():
        task.exception()  # else asyncio complains that nobody asked for it
