"""Sends the API's statements to the database: each is a transaction of its own, and has its answer or an error within seconds."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Executable, Row
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.patience import within

Found = Row[*tuple[Any, ...]]  # any number of columns

PATIENCE = 5.0  # seconds; the longest statement takes a few hundredths of one


async def rows(
    engine: AsyncEngine,
    statement: Executable,
    values: dict[str, Any] | None = None,
    *,
    patience: float = PATIENCE,
    repeatable: bool = True,
) -> Sequence[Found]:
    """All rows, within `patience` seconds. Raises DBAPIError, sqlalchemy's and Python's TimeoutError.

    A statement whose connection is found broken is sent once more: the pool's connections all break when the server restarts.
    Its COMMIT may have happened all the same: what would then answer otherwise than the first time is not `repeatable`.
    """
    return await within(patience, _rows(engine, statement, values, repeatable=repeatable))


async def _rows(
    engine: AsyncEngine, statement: Executable, values: dict[str, Any] | None, *, repeatable: bool
) -> Sequence[Found]:
    try:
        return await _execute(engine, statement, values)
    except DBAPIError as error:
        if not (error.connection_invalidated and repeatable):
            raise
    return await _execute(engine, statement, values)


async def _execute(engine: AsyncEngine, statement: Executable, values: dict[str, Any] | None) -> Sequence[Found]:
    async with engine.connect() as connection:
        return (await connection.execute(statement, values)).all()
