"""A file on its way in: its bytes, as a thread reads them while they arrive, and the entries that
they hold.
"""

import asyncio
import time
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain

from anyio import from_thread
from starlette.requests import ClientDisconnect, Request

from api.files import rows
from api.http.answers import ApiError, InvalidRequest, Unavailable
from api.http.request import IdempotencyKey, hash_of, media_type_of

PART = 1 << 16  # bytes inflated at a time
MAX_RATIO = 200  # identifiers deflate to a tenth at best; a bomb inflates a thousandfold
SLACK = 1 << 20  # bytes that any body may have, whatever its ratio

STALL = 30.0  # seconds without a byte after which an upload is ended
# Bytes a second: the slowest of modems has more, and there are only so many places.
LEAST_RATE = 1024
RATE_OVER = 60.0  # seconds of waiting for the sender over which the rate is looked at
# Seconds that an upload may take: its transaction keeps the database from cleaning up.
LONGEST = 3600.0
BYTES_AN_ENTRY = 1024  # on average, other columns too: bounds what is read of a file that has none

_GZIP = 31  # as zlib has it: a gzip header and trailer


def inflated(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The content of a gzip body, perhaps of several members. Raises ApiError 413, InvalidRequest,
    and whatever `parts` does.
    """
    member = zlib.decompressobj(_GZIP)
    begun = False
    taken = given = 0
    for part in parts:
        taken += len(part)
        left = part
        while left or not member.eof:
            if member.eof:
                member, begun = zlib.decompressobj(_GZIP), False
            try:
                content = member.decompress(left, PART)
            except zlib.error:
                raise _not_gzip() from None
            begun = begun or bool(left)
            given += len(content)
            if given > SLACK + taken * MAX_RATIO:
                raise ApiError(413, "Request body is too large")
            if content:
                yield content
            left = member.unused_data if member.eof else member.unconsumed_tail
            if not left and len(content) < PART:
                break
    if begun and not member.eof:
        raise _not_gzip()


def _not_gzip() -> InvalidRequest:
    return InvalidRequest("Request body is not valid gzip")


class Upload:
    """The body of a request. What is not async is for a thread that the event loop's waits for."""

    def __init__(self, request: Request, key: str | None) -> None:
        """`key` is the Idempotency-Key. Raises ApiError 415."""
        self._media_type = media_type_of(request)
        if self._media_type not in {rows.CSV, rows.NDJSON}:
            raise ApiError(415, f"Content-Type must be {rows.CSV} or {rows.NDJSON}")
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in {"gzip", "identity"}:
            raise ApiError(415, "Content-Encoding must be gzip")
        self._is_gzip = encoding == "gzip"
        self._key = key
        self._hash = hash_of(request)
        self._stream = request.stream()
        self._deadline = time.monotonic() + LONGEST
        # Since the rate was last found high enough: seconds of waiting for the sender, ours do not
        # count, and bytes.
        self._waited, self._came = 0.0, 0
        self._first: bytes | None = None
        self._parts = self._arriving()
        self._patience: asyncio.Timeout | None = None
        self._ended = False

    @property
    def idempotency(self) -> IdempotencyKey | None:
        """The key with what it is for: complete once all has been read."""
        return (
            IdempotencyKey(self._key, self._hash.digest(), self._media_type) if self._key else None
        )

    async def begin(self) -> None:
        """Waits for the first part. Raises Unavailable, ApiError 400 and 408."""
        self._first = await self._next_part()

    def batches(self, most: int, manner: rows.Manner) -> Iterator[rows.Batch]:
        """The entries, read in that manner, of which `most` are allowed, and one at least.

        Raises InvalidRequest, Unavailable, ApiError 400, 408 and 413.
        """
        content = inflated(self._parts) if self._is_gzip else self._parts
        bounded = _bounded(self._in_time(content), most * BYTES_AN_ENTRY)
        batches = rows.read(bounded, self._media_type, manner)
        first = next(batches, None)  # what is no file costs no transaction
        if first is None:
            raise InvalidRequest("File contains no leads")
        return _counted(chain([first], batches), most)

    def exhaust(self) -> None:
        """Reads what is left, for its hash. Raises Unavailable, ApiError 400 and 408."""
        for _ in self._parts:
            pass

    def end(self) -> None:
        """Ends it, as the process is about to stop: who reads it gets Unavailable."""
        self._ended = True
        if self._patience:
            self._patience.reschedule(asyncio.get_running_loop().time())

    def _in_time(self, content: Iterator[bytes]) -> Iterator[bytes]:
        """What has arrived may inflate to so much that reading it takes longer than it is allowed
        to.
        """
        for part in content:
            if self._ended:
                raise Unavailable
            if time.monotonic() > self._deadline:
                raise _too_slow()
            yield part

    def _arriving(self) -> Iterator[bytes]:
        part = self._first
        while part is not None:
            if self._key:
                self._hash.update(part)
            yield part
            part = from_thread.run(self._next_part)

    async def _next_part(self) -> bytes | None:
        if self._ended:
            raise Unavailable
        began = time.monotonic()
        try:
            patience = min(STALL, RATE_OVER - self._waited, self._deadline - began)
            async with asyncio.timeout(patience) as self._patience:
                part: bytes | None = await anext(self._stream, None)
        except TimeoutError:
            if self._ended:
                raise Unavailable from None
            raise _too_slow() from None
        except ClientDisconnect:
            raise ApiError(400, "Request body broke off") from None  # nobody is there to read it
        finally:
            self._patience = None
        self._waited += time.monotonic() - began
        self._came += len(part or b"")
        if self._came >= LEAST_RATE * RATE_OVER:
            self._waited, self._came = 0.0, 0
        return part


def _too_slow() -> ApiError:
    return ApiError(408, "Request body took too long to arrive")


def _bounded(parts: Iterator[bytes], most: int) -> Iterator[bytes]:
    length = 0
    for part in parts:
        length += len(part)
        if length > most:
            raise ApiError(413, "Request body is too large")
        yield part


def _counted(batches: Iterator[rows.Batch], most: int) -> Iterator[rows.Batch]:
    total = 0
    for batch in batches:
        total += len(batch.identifiers.external_ids)
        if total > most:
            raise InvalidRequest(f"Maximum {most} leads per file")
        yield batch
