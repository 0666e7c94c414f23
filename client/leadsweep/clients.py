"""The two clients. They differ only in how they send a request and how they pause, and that is
here.
"""

import time
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, BinaryIO, Self

import httpx2

from leadsweep.calls import Calls
from leadsweep.steps import Answered, Call, Pause, Retries, Steps, T, Take, Unanswered, advanced

BYTES_AT_A_TIME = 1 << 16  # of a file that is sent
TIMEOUT = 30.0  # seconds without a sign of life

_BEFORE_IT_WAS_SENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
)


class Client(Calls):
    """Each method returns when the call is done. Close the client, or use it with `with`."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        retries: Retries | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """`url` is that of the server, such as `https://leads.example.com`; `key` is an API key;
        `transport` is for tests.
        """
        super().__init__(retries)
        self._http = httpx2.Client(
            base_url=url, headers={"x-api-key": key}, transport=transport, verify=_is_tls(url)
        )

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes it."""
        self.close()

    def close(self) -> None:
        """Ends its connections."""
        self._http.close()

    def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = next(steps)
                elif isinstance(step, Take):
                    raise TypeError("an async iterable needs an AsyncClient")
                else:
                    step = advanced(steps, self._exchange(step))
        except StopIteration as end:
            result: T = end.value
            return result

    def _exchange(self, call: Call) -> Answered | Unanswered:
        content = (
            call.content if isinstance(call.content, bytes | None) else self._parts(call.content)
        )
        try:
            return _answered(self._http.request(**_request(call), content=content))
        except httpx2.RequestError as error:
            return _unanswered(error)

    def _parts(self, file: BinaryIO) -> Iterator[bytes]:
        """The file in parts, from its beginning, as this may be another attempt."""
        file.seek(0)
        while part := file.read(BYTES_AT_A_TIME):
            yield part


class AsyncClient(Calls):
    """Each method is awaited. Close the client, or use it with `async with`."""

    is_async = True

    def __init__(
        self,
        url: str,
        key: str,
        *,
        retries: Retries | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """As Client."""
        super().__init__(retries)
        self._http = httpx2.AsyncClient(
            base_url=url, headers={"x-api-key": key}, transport=transport, verify=_is_tls(url)
        )

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes it."""
        await self.close()

    async def close(self) -> None:
        """Ends its connections."""
        await self._http.aclose()

    async def _run(self, steps: Steps[T]) -> T:
        import asyncio

        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = next(steps)
                elif isinstance(step, Take):
                    step = steps.send(await _taken(step))
                else:
                    step = advanced(steps, await self._exchange(step))
        except StopIteration as end:
            result: T = end.value
            return result

    async def _exchange(self, call: Call) -> Answered | Unanswered:
        content = (
            call.content if isinstance(call.content, bytes | None) else _async_parts(call.content)
        )
        try:
            return _answered(await self._http.request(**_request(call), content=content))
        except httpx2.RequestError as error:
            return _unanswered(error)


def _is_tls(url: str) -> bool:
    """Whether certificates are needed. Loading them takes 60 ms, which a plain HTTP server need not
    cost: no redirect leads from it to HTTPS.
    """
    return not url.lower().startswith("http://")


def _request(call: Call) -> dict[str, Any]:
    return {
        "method": call.method,
        "url": call.path,
        "params": dict(call.params),
        "headers": dict(call.headers),
        "timeout": httpx2.Timeout(
            min(TIMEOUT + call.wait, call.within), connect=min(call.connect, call.within)
        ),
    }


async def _taken(take: Take) -> list[Any]:
    taken: list[Any] = []
    while len(taken) < take.limit:
        try:
            taken.append(await anext(take.items))
        except StopAsyncIteration:
            break
    return taken


def _answered(answer: httpx2.Response) -> Answered:
    return Answered(answer.status_code, answer.headers, answer.content)


def _unanswered(error: httpx2.RequestError) -> Unanswered:
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    unanswered = Unanswered(words, sent=not isinstance(error, _BEFORE_IT_WAS_SENT))
    unanswered.__cause__ = error
    return unanswered


async def _async_parts(file: BinaryIO) -> AsyncIterator[bytes]:
    import asyncio

    file.seek(0)
    while part := await asyncio.to_thread(file.read, BYTES_AT_A_TIME):
        yield part
