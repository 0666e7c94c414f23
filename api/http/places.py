"""Places for work that holds much for long, as uploads and exports do: a process has only so many,
and one company gets only some of them.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from weakref import WeakValueDictionary

from api.http.answers import Unavailable

PLACE_TIMEOUT = 5.0  # seconds that one more waits for a place


class Places:
    """The places of one process."""

    def __init__(self, at_once: int, of_one_company: int) -> None:
        """All places are free."""
        self._all = asyncio.Semaphore(at_once)
        self._of_one_company = of_one_company
        # Only companies that have a place, or wait for one, are remembered.
        self._companies: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def taken_by(self, company_id: str) -> AsyncIterator[None]:
        """Holds one of the places. Raises Unavailable where none becomes free in time."""
        own_places = asyncio.Semaphore(self._of_one_company)
        own_places = self._companies.setdefault(company_id, own_places)
        async with AsyncExitStack() as taken:
            try:
                async with asyncio.timeout(PLACE_TIMEOUT):
                    await taken.enter_async_context(own_places)
                    await taken.enter_async_context(self._all)
            except TimeoutError:
                raise Unavailable from None
            yield
