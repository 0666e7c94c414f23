"""How a method of both clients is made of a generator of steps.

`@call` makes a method of a generator of steps: on a `Client` it returns the result, on an
`AsyncClient` something to be awaited. `@listing` makes one of a generator of the steps for one
page: an iterator over the items of all pages, or an async one.
"""

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from leadsweep.models import Page
from leadsweep.steps import Call, Retries, Steps, Take, answer_to, content_of, read

if TYPE_CHECKING:
    from leadsweep.clients import AsyncClient, Client

P = ParamSpec("P")
T = TypeVar("T")


class call(Generic[P, T]):  # noqa: N801 - a decorator
    """A method that returns its result on a `Client`, and is awaited on an `AsyncClient`."""

    def __init__(self, steps: Callable[Concatenate[Any, P], Steps[T]]) -> None:
        self._steps = steps
        self.__doc__ = steps.__doc__

    @overload
    def __get__(self, client: "Client", owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(
        self, client: "AsyncClient", owner: type
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return self

        @functools.wraps(self._steps)
        def method(*arguments: P.args, **options: P.kwargs) -> Any:
            return client._run(self._steps(client, *arguments, **options))  # noqa: SLF001 - its own

        return method


class listing(Generic[P, T]):  # noqa: N801
    """A method that iterates over the items of all pages."""

    def __init__(
        self, page: Callable[Concatenate[Any, str | None, P], Steps[tuple[list[T], str | None]]]
    ) -> None:
        self._page = page
        self.__doc__ = page.__doc__

    @overload
    def __get__(self, client: "Client", owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, client: "AsyncClient", owner: type) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return self

        def pages(*arguments: P.args, **options: P.kwargs) -> Iterator[T]:
            cursor: str | None = None
            while True:
                items, cursor = client._run(self._page(client, cursor, *arguments, **options))  # noqa: SLF001
                yield from items
                if cursor is None:
                    return

        async def async_pages(*arguments: P.args, **options: P.kwargs) -> AsyncIterator[T]:
            cursor: str | None = None
            while True:
                items, cursor = await client._run(self._page(client, cursor, *arguments, **options))  # noqa: SLF001
                for item in items:
                    yield item
                if cursor is None:
                    return

        return functools.wraps(self._page)(async_pages if client.is_async else pages)


class Retrying:
    """Keeps how often a call is tried, which the methods of both clients need."""

    is_async = False

    def __init__(self, retries: Retries | None) -> None:
        self._retries = retries or Retries()


def page(
    retries: Retries,
    path: str,
    kind: type[T],
    cursor: str | None,
    limit: int,
    filters: Mapping[str, str | None],
) -> Steps[tuple[list[T], str | None]]:
    """The items of one page of a list, and the cursor of the next."""
    query = present({"limit": str(limit), "cursor": cursor, **filters})
    answered = content_of((yield from answer_to(Call("GET", path, query), retries)), Page)
    return [read(item, kind) for item in answered.items], answered.next_cursor


def present(query: Mapping[str, str | None]) -> dict[str, str]:
    """The parameters that are not None."""
    return {name: value for name, value in query.items() if value is not None}


def some_of(entries: Iterator[T] | AsyncIterator[T], limit: int) -> Steps[list[T]]:
    """The next entries, `limit` of them at most."""
    if isinstance(entries, AsyncIterator):
        taken: list[T] = yield Take(entries, limit)
        return taken
    return list(islice(entries, limit))
