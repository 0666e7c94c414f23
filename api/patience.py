"""Waits for something no longer than so long, and leaves it behind then.

A time-out that cancels waits for what it cancels: the driver asks a server that has stopped
answering to cancel its statement, and gives up after ten more seconds. A caller has no use for
that.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

# Turns of the event loop, in which an answer that has come already is read: a busy loop comes to
# its timers first.
TURNS = 10

_left_behind: set[asyncio.Task[Any]] = set()  # the loop itself holds tasks only weakly


async def within(seconds: float, coroutine: Coroutine[Any, Any, Result]) -> Result:
    """What `coroutine` returns or raises; TimeoutError if it takes longer than `seconds`."""
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
