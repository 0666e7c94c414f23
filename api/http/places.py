"""Places for what holds much for long: so many at once in a process, and of these only some for one
company.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from weakref import WeakValueDictionary

from api.http.answers import Unavailable

PATIENCE = 5.0  # seconds that one more waits for a place


class Places:
    """The places of one process."""

    def __init__(self, at_once: int, of_one_company: int) -> None:
        """So many, all free."""
        self._all = asyncio.Semaphore(at_once)
        self._most = of_one_company
        self._companies: WeakValueDictionary[str, asyncio.Semaphore] = (
            WeakValueDictionary()
        )  # of those who have one or wait

    @asynccontextmanager
    async def taken_by(self, company_id: str) -> AsyncIterator[None]:
        """One of them, for as long as it lasts. Raises Unavailable where others take too long."""
        of_company = self._companies.setdefault(company_id, asyncio.Semaphore(self._most))
        async with AsyncExitStack() as taken:
            try:
                async with asyncio.timeout(PATIENCE):
                    await taken.enter_async_context(of_company)
                    await taken.enter_async_context(self._all)
            except TimeoutError:
                raise Unavailable from None
            yield
