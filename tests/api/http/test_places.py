"""Places: so many in all and of one company, let go of however their holder ends."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from api.http.answers import Unavailable
from api.http.places import Places
from tests.support.stack import until


@pytest.fixture
def _impatient(monkeypatch):
    monkeypatch.setattr("api.http.places.PATIENCE", 0.01)


@pytest.mark.usefixtures("_impatient")
async def test_there_are_so_many_in_all_and_fewer_of_one_company():
    places = Places(3, 2)
    async with AsyncExitStack() as held:
        for company in ("co", "co", "other"):
            await held.enter_async_context(places.taken_by(company))
        for company in ("co", "other", "third"):
            with pytest.raises(Unavailable):
                async with places.taken_by(company):
                    pass
    async with AsyncExitStack() as held:  # who was refused holds nothing
        for company in ("co", "co", "third"):
            await held.enter_async_context(places.taken_by(company))


async def hold(places):
    async with places.taken_by("co"):
        await asyncio.Event().wait()


async def test_who_is_cancelled_lets_go_and_so_does_who_is_cancelled_while_it_waits():
    places = Places(1, 1)
    holder = asyncio.create_task(hold(places))
    await asyncio.sleep(0)
    waiter = asyncio.create_task(hold(places))
    await asyncio.sleep(0)
    for task in (waiter, holder):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with asyncio.timeout(1), places.taken_by("co"):
        pass


async def test_who_waits_comes_next():
    places = Places(1, 1)
    async with places.taken_by("co"):
        waiter = asyncio.create_task(hold(places))
        await asyncio.sleep(0)
    await until(places._all.locked)
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)


async def test_companies_that_hold_nothing_are_forgotten():
    places = Places(2, 1)
    for number in range(100):
        async with places.taken_by(f"co-{number}"):
            assert list(places._companies) == [f"co-{number}"]
    assert not places._companies
