"""The body of an upload: while it arrives, a thread reads its bytes, and makes entries of them.
Every file is bounded in time, in bytes and in what it may inflate to.
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

INFLATED_AT_ONCE = 1 << 16  # bytes
# Bytes that one byte may inflate to: identifiers deflate to a tenth at best; a bomb inflates a
# thousandfold.
MAX_RATIO = 200
INFLATED_FREELY = 1 << 20  # bytes that any body may inflate to, whatever its ratio

SILENCE_TIMEOUT = 30.0  # seconds without a byte after which an upload is ended
# Bytes a second: the slowest modem sends more, and there are only few places for uploads.
LEAST_RATE = 1024
RATE_SPAN = 60.0  # seconds of waiting for the sender over which the rate is measured
# Seconds that an upload may take: its transaction keeps the database from cleaning up.
UPLOAD_TIMEOUT = 3600.0
# Bytes an entry may take on average, other columns too. They bound what is read of a file that has
# no entries.
BYTES_AN_ENTRY = 1024

_GZIP = 31  # as zlib has it: a gzip header and trailer


def inflated(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The content of a gzip body, which may have several members one after another. Raises ApiError
    413, InvalidRequest, and whatever `parts` raises.
    """
    member = zlib.decompressobj(_GZIP)
    has_begun = False  # whether the member has any bytes yet
    length = inflated_length = 0
    for part in parts:
        length += len(part)
        rest = part
        while rest or not member.eof:
            if member.eof:
                member, has_begun = zlib.decompressobj(_GZIP), False
            try:
                content = member.decompress(rest, INFLATED_AT_ONCE)
            except zlib.error:
                raise _not_gzip() from None
            has_begun = has_begun or bool(rest)
            inflated_length += len(content)
            if inflated_length > INFLATED_FREELY + length * MAX_RATIO:
                raise _too_large()
            if content:
                yield content
            rest = member.unused_data if member.eof else member.unconsumed_tail
            # Where it is as much as is taken at once, the member may have more content ready.
            if not rest and len(content) < INFLATED_AT_ONCE:
                break
    if has_begun and not member.eof:
        raise _not_gzip()


def _not_gzip() -> InvalidRequest:
    return InvalidRequest("Request body is not valid gzip")


class Upload:
    """The body of a request that is a file. `batches` and `exhaust` are called in a thread, which
    has the event loop receive the parts.
    """

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
        self._deadline = time.monotonic() + UPLOAD_TIMEOUT
        # Since the rate was last found high enough: seconds of waiting for the sender, where our
        # own work does not count, and bytes.
        self._waited, self._received = 0.0, 0
        self._first: bytes | None = None
        self._parts = self._arriving()
        self._timeout: asyncio.Timeout | None = None  # of the part that is waited for
        self._ended = False

    @property
    def idempotency(self) -> IdempotencyKey | None:
        """The key, and the hash of its request, which is complete once all has been read."""
        if not self._key:
            return None
        return IdempotencyKey(self._key, self._hash.digest(), self._media_type)

    async def begin(self) -> None:
        """Waits for the first part. Raises Unavailable, ApiError 400 and 408."""
        self._first = await self._next_part()

    def batches(self, max_entries: int, manner: rows.Manner) -> Iterator[rows.Batch]:
        """The entries, read in that manner: one at least, and `max_entries` at most.

        Raises InvalidRequest, Unavailable, ApiError 400, 408 and 413.
        """
        content = inflated(self._parts) if self._is_gzip else self._parts
        bounded = _bounded(self._in_time(content), max_entries * BYTES_AN_ENTRY)
        batches = rows.read(bounded, self._media_type, manner)
        # The first is read here: a body that is not a file of leads costs no transaction.
        first = next(batches, None)
        if first is None:
            raise InvalidRequest("File contains no leads")
        return _counted(chain([first], batches), max_entries)

    def exhaust(self) -> None:
        """Reads what is left, for its hash. Raises Unavailable, ApiError 400 and 408."""
        for _ in self._parts:
            pass

    def end(self) -> None:
        """Ends the upload, as the process is about to stop: its reader gets Unavailable."""
        self._ended = True
        if self._timeout:
            self._timeout.reschedule(asyncio.get_running_loop().time())

    def _in_time(self, content: Iterator[bytes]) -> Iterator[bytes]:
        """Looks at the clock also between pieces of content: one part that has arrived may inflate
        to so much that reading it takes too long.
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
            seconds = min(SILENCE_TIMEOUT, RATE_SPAN - self._waited, self._deadline - began)
            async with asyncio.timeout(seconds) as self._timeout:
                part: bytes | None = await anext(self._stream, None)
        except TimeoutError:
            if self._ended:
                raise Unavailable from None
            raise _too_slow() from None
        except ClientDisconnect:
            # Nobody is there to read the answer.
            raise ApiError(400, "Request body broke off") from None
        finally:
            self._timeout = None
        self._waited += time.monotonic() - began
        self._received += len(part or b"")
        if self._received >= LEAST_RATE * RATE_SPAN:
            self._waited, self._received = 0.0, 0
        return part


def _too_slow() -> ApiError:
    return ApiError(408, "Request body took too long to arrive")


def _too_large() -> ApiError:
    return ApiError(413, "Request body is too large")


def _bounded(parts: Iterator[bytes], max_bytes: int) -> Iterator[bytes]:
    length = 0
    for part in parts:
        length += len(part)
        if length > max_bytes:
            raise _too_large()
        yield part


def _counted(batches: Iterator[rows.Batch], max_entries: int) -> Iterator[rows.Batch]:
    total = 0
    for batch in batches:
        total += len(batch.identifiers.external_ids)
        if total > max_entries:
            raise InvalidRequest(f"Maximum {max_entries} leads per file")
        yield batch
