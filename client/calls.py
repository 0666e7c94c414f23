"""Every call that the clients have, written once.

`@call` makes a method of a generator of steps: on a `Client` it returns the result, on an `AsyncClient` something to be awaited.
`@listing` makes one of a generator of the steps for one page: an iterator over the items of all pages, or an async one.
"""

import functools
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Concatenate, Generic, ParamSpec, TypeVar, Unpack, overload
from uuid import uuid4

import msgspec

from client.errors import WaitTimedOut
from client.models import Job, Lead, Options, Page, Result, Submitted
from client.steps import Call, Pause, Retries, Steps, asked, content_of

if TYPE_CHECKING:
    from client.clients import AsyncClient, Client

P = ParamSpec("P")
T = TypeVar("T")

IN_A_REQUEST = 1000  # leads; more are sent as a file
IN_MEMORY = 1 << 23  # bytes of such a file; the rest is on disk
A_PAGE = 10_000  # results
LONG_POLL = 30  # seconds for which the server is asked to hold an answer back

MEDIA_TYPES = {".csv": "text/csv", ".tsv": "text/csv", ".ndjson": "application/x-ndjson", ".jsonl": "application/x-ndjson"}

_FIELD_OF = {name: name.split("_")[0] + "".join(map(str.title, name.split("_")[1:])) for name in Options.__annotations__}

_encode_lines = msgspec.json.Encoder().encode_lines


class call(Generic[P, T]):  # noqa: N801 - a decorator
    """A method that returns, or that is awaited."""

    def __init__(self, steps: Callable[Concatenate["Calls", P], Steps[T]]) -> None:
        self._steps = steps
        self.__doc__ = steps.__doc__

    @overload
    def __get__(self, client: "Client", owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: "AsyncClient", owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return self

        @functools.wraps(self._steps)
        def method(*arguments: P.args, **options: P.kwargs) -> Any:
            return client._run(self._steps(client, *arguments, **options))  # noqa: SLF001 - its own

        return method


class listing(Generic[P, T]):  # noqa: N801
    """A method that iterates over pages."""

    def __init__(self, page: Callable[Concatenate["Calls", str | None, P], Steps[tuple[list[T], str | None]]]) -> None:
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


class Calls:
    """What both clients can do. Everything raises LeadsweepError; see client.errors."""

    is_async = False

    def __init__(self, retries: Retries | None) -> None:
        self._retries = retries or Retries()

    @call
    def submit(
        self,
        campaign_id: str,
        leads: Iterable[Lead],
        *,
        idempotency_key: str | None = None,
        **options: Unpack[Options],
    ) -> Steps[Submitted]:
        """Submits any number of leads as one job: up to 1000 in a request, more as a file.

        Without an `idempotency_key` one is made, so that what is sent again after a lost connection is done once.
        """
        fields = _fields(options)
        entries = iter(leads)
        first = list(islice(entries, IN_A_REQUEST + 1))
        if len(first) <= IN_A_REQUEST:
            body = msgspec.json.encode({"campaignId": campaign_id, "leads": first} | fields)
            headers = {"content-type": "application/json"} | _keyed(idempotency_key)
            return (yield from self._submitted(Call("POST", "/api/v1/leads/bulk-delete", headers=headers, content=body)))
        with tempfile.SpooledTemporaryFile(IN_MEMORY) as file:
            entries = chain(first, entries)
            while some := list(islice(entries, A_PAGE)):
                file.write(_encode_lines(some))
            return (yield from self._file(campaign_id, file, "application/x-ndjson", fields, _keyed(idempotency_key)))

    @call
    def submit_file(
        self,
        campaign_id: str,
        file: str | Path | BinaryIO,
        *,
        media_type: str | None = None,
        compressed: bool = False,
        on_invalid: str = "fail",
        idempotency_key: str | None = None,
        **options: Unpack[Options],
    ) -> Steps[Submitted]:
        """Submits a file as one job: a path, or an open file that can be read again from its beginning.

        `media_type` is text/csv or application/x-ndjson, `compressed` that it is gzip; a path says both by its suffixes.
        Raises ValueError where nothing says so.
        """
        fields = _fields(options) | {"onInvalid": on_invalid}
        headers = _keyed(idempotency_key) | ({"content-encoding": "gzip"} if compressed else {})
        if not isinstance(file, str | Path):
            return (yield from self._file(campaign_id, file, _checked(media_type, ""), fields, headers))
        path = Path(file)
        if path.suffix == ".gz":
            headers["content-encoding"] = "gzip"
        suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
        with path.open("rb") as opened:
            return (yield from self._file(campaign_id, opened, _checked(media_type, suffix), fields, headers))

    @call
    def job(self, job_id: str) -> Steps[Job]:
        """The job as it stands now."""
        return (yield from self._job(job_id, 0))

    @call
    def wait(self, job_id: str, *, timeout: float | None = None, long_poll: bool = True) -> Steps[Job]:
        """The job once it is final. Waits by long poll, or by asking as often as the server says.

        Raises WaitTimedOut after `timeout` seconds: the job goes on, and nothing is said of how it will end.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = LONG_POLL if deadline is None else max(0.0, deadline - time.monotonic())
            call = _get_job(job_id, min(LONG_POLL, int(left)) if long_poll else 0)
            answered = yield from asked(call, self._retries)
            job = content_of(answered, Job)
            if job.final:
                return job
            left = LONG_POLL if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise WaitTimedOut(job)
            pause = 0.0 if "preference-applied" in answered.headers else float(answered.headers.get("retry-after", 1))
            yield Pause(min(left, pause))

    @call
    def act(self, job_id: str, action: str, *, idempotency_key: str | None = None) -> Steps[Submitted]:
        """Asks for `cancel`, `pause` or `resume`; or for the job that follows: `retry`, `execute` or `restore`."""
        call = Call("POST", f"/api/v1/jobs/{job_id}/{action}", headers=_keyed(idempotency_key))
        return (yield from self._submitted(call))

    @call
    def change_pace(self, job_id: str, max_leads_per_second: int | None) -> Steps[Job]:
        """Lets an unfinished job work on so many leads a second; None: as fast as it goes."""
        body = msgspec.json.encode({"maxLeadsPerSecond": max_leads_per_second})
        headers = {"content-type": "application/json"}
        answered = yield from asked(Call("PATCH", f"/api/v1/jobs/{job_id}", headers=headers, content=body), self._retries)
        return content_of(answered, Job)

    @listing
    def jobs(
        self,
        cursor: str | None,
        *,
        status: str | None = None,
        campaign_id: str | None = None,
        client_reference: str | None = None,
    ) -> Steps[tuple[list[Job], str | None]]:
        """All jobs, newest first, without their lists."""
        wanted = {"status": status, "campaignId": campaign_id, "clientReference": client_reference}
        return (yield from self._page("/api/v1/jobs", Job, cursor, 200, wanted))

    @listing
    def results(self, cursor: str | None, job_id: str, *, outcome: str | None = None) -> Steps[tuple[list[Result], str | None]]:
        """What became of each entry, in request order; of those with one `outcome`, if that is given."""
        return (yield from self._page(f"/api/v1/jobs/{job_id}/results", Result, cursor, A_PAGE, {"outcome": outcome}))

    def _job(self, job_id: str, wait: int) -> Steps[Job]:
        return content_of((yield from asked(_get_job(job_id, wait), self._retries)), Job)

    def _submitted(self, call: Call) -> Steps[Submitted]:
        answered = yield from asked(call, self._retries)
        submitted = content_of(answered, Submitted)
        return msgspec.structs.replace(submitted, replayed="idempotency-replayed" in answered.headers)

    def _file(
        self, campaign_id: str, file: Any, media_type: str, options: Mapping[str, Any], headers: Mapping[str, str]
    ) -> Steps[Submitted]:
        query = {
            name: value if isinstance(value, str) else msgspec.json.encode(value).decode() for name, value in options.items()
        }
        sent = {"content-type": media_type} | dict(headers)
        params = {"campaignId": campaign_id} | query
        return (yield from self._submitted(Call("POST", "/api/v1/leads/bulk-delete/files", params, sent, file)))

    def _page(
        self, path: str, kind: type[T], cursor: str | None, limit: int, wanted: Mapping[str, str | None]
    ) -> Steps[tuple[list[T], str | None]]:
        query = {"limit": str(limit), "cursor": cursor} | dict(wanted)
        params = {name: value for name, value in query.items() if value is not None}
        page = content_of((yield from asked(Call("GET", path, params), self._retries)), Page)
        return [msgspec.json.decode(item, type=kind) for item in page.items], page.next_cursor


def _get_job(job_id: str, wait: int) -> Call:
    headers = {"prefer": f"wait={wait}"} if wait else {}
    return Call("GET", f"/api/v1/jobs/{job_id}", headers=headers, wait=wait)


def _fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """As the server names them; what is None is left out."""
    return {_FIELD_OF[name]: value for name, value in options.items() if value is not None}


def _keyed(key: str | None) -> dict[str, str]:
    return {"idempotency-key": key or str(uuid4())}


def _checked(media_type: str | None, suffix: str) -> str:
    found = media_type or MEDIA_TYPES.get(suffix.lower())
    if found is None:
        raise ValueError(
            f"what the file is cannot be told from its name; give a media_type, {' or '.join(set(MEDIA_TYPES.values()))}"
        )
    return found
