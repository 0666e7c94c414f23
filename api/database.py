"""Sends the API's statements to the database: each is a transaction of its own, but for those that
take turns, and has its answer or an error within seconds.
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

# Turns of the event loop, in which an answer that has come already is read: a busy loop comes to
# its timers first.
TURNS = 10

# First in a statement that waits for the lock of a row; the time-out is that of its whole
# transaction. It is in force before the lock is asked for only where `limits` is joined with the
# rows that are locked: a locking clause works on the rows of the join, and what stands in the list
# of a SELECT comes after it. A table's lock comes before all of it, so that only STATEMENT_TIMEOUT
# bounds it.
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
    """All rows, within so many `seconds`. Raises DBAPIError, sqlalchemy's and Python's
    TimeoutError, and what `if_locked` makes, where LIMITS ended the wait for a row.

    What must see all that others have done takes its `turn` first, by a statement that locks, in
    the same transaction: a single one would wait, and still see what there was when it began.

    A statement whose connection is found broken is sent once more: the pool's connections all break
    when the server restarts. Its COMMIT may have happened all the same: what would then answer
    otherwise than the first time is not `repeatable`.
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
    """What `coroutine` returns or raises; TimeoutError if it takes longer than `seconds`, and then
    it is left behind.

    A time-out that cancels waits for what it cancels: the driver asks a server that has stopped
    answering to cancel its statement, and gives up after ten more seconds. A caller has no use for
    that.
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
