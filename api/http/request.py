"""What a call says besides its path: its preferences, its Idempotency-Key, and its body, which is read
with a limit, also where its length is not announced, and as many at once as
there is memory for.
"""

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

from starlette.requests import ClientDisconnect, Request

from api.http.answers import ApiError, InvalidRequest, Unavailable

LONGEST_WAIT = 60  # seconds; proxies cut what is silent for longer

_WAIT = re.compile(r'\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:;.*)?', re.IGNORECASE)
_KEY = re.compile(r"[ -~]{1,255}")


class IdempotencyKey(NamedTuple):
    """A caller's key, and the request that it stands for: the SHA-256 of path, query and body, and
    its media type.
    """

    key: str
    request_hash: bytes
    media_type: str


def preferred_wait(request: Request) -> int | None:
    """The seconds of `Prefer: wait=N`, at most LONGEST_WAIT; None without one.

    What cannot be understood is ignored (RFC 7240).
    """
    for header in request.headers.getlist("prefer"):
        for preference in header.split(","):
            if found := _WAIT.fullmatch(preference):
                return min(LONGEST_WAIT, int(found[1]))
    return None


def idempotency_key(request: Request, body: bytes) -> IdempotencyKey | None:
    """The caller's key with what it is for: canonical path, query, body and media type. Raises
    InvalidRequest.
    """
    key = written_key(request)
    return (
        IdempotencyKey(key, hash_of(request, body).digest(), media_type_of(request))
        if key
        else None
    )


def written_key(request: Request) -> str | None:
    """The caller's key alone. Raises InvalidRequest."""
    written = request.headers.getlist("idempotency-key")
    if not written:
        return None
    if len(written) > 1 or not _KEY.fullmatch(written[0]):
        raise InvalidRequest("Idempotency-Key must be 1 to 255 printable ASCII characters")
    return written[0]


def media_type_of(request: Request) -> str:
    """What the body says that it is, without parameters; empty where it says nothing."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def hash_of(request: Request, body: bytes = b"") -> "hashlib._Hash":
    """The SHA-256 of a request, to which more of its body may be added."""
    path = request.url.path.replace("/records/", "/leads/", 1)  # the alias is the same endpoint
    return hashlib.sha256(b"\0".join((path.encode(), request.url.query.encode(), body)))


MAX_BYTES = 1024 * 1024
# Bytes of bodies that one process holds until they are parsed. A company has half: the rest is for
# others.
ALL_AT_ONCE = 64 * MAX_BYTES
OF_ONE_COMPANY = ALL_AT_ONCE // 2
NOTHING = (b"", b"{}")


@dataclass(eq=False)
class Held:
    """What is held of one body: so many bytes; `arriving` ends the wait for more of them."""

    company_id: str
    arriving: asyncio.Timeout
    length: int = 0


class Bodies:
    """The bodies that a process holds. Where there are too many, those that have been coming for
    longest give up their places: a body that comes as fast as others do is there within
    milliseconds.
    """

    def __init__(self) -> None:
        """None yet."""
        self._lengths: Counter[str] = Counter()
        self._arriving: dict[Held, None] = {}  # the oldest first

    def add(self, held: Held, length: int) -> None:
        """So many bytes more. Raises Unavailable where only bodies that are whole could make
        room.
        """
        self._arriving.setdefault(held)
        while (
            most := self._lengths[held.company_id] + length > OF_ONE_COMPANY
        ) or self._lengths.total() + length > ALL_AT_ONCE:
            oldest = next(
                (each for each in self._arriving if not most or each.company_id == held.company_id),
                held,
            )
            if oldest is held:
                raise Unavailable
            self.remove(oldest)
            oldest.arriving.reschedule(asyncio.get_running_loop().time())
        held.length += length
        self._lengths[held.company_id] += length

    def complete(self, held: Held) -> None:
        """It is whole: nothing ends it now."""
        self._arriving.pop(held, None)

    def remove(self, held: Held) -> None:
        """It is held no longer."""
        self._arriving.pop(held, None)
        self._lengths[held.company_id] -= held.length
        held.length = 0
        if not self._lengths[held.company_id]:
            del self._lengths[held.company_id]


@asynccontextmanager
async def json_body(request: Request) -> AsyncIterator[bytes]:
    """The raw body of what says that it is JSON, to be parsed inside.

    Raises ApiError 401, 413, 415, Forbidden, Unavailable.
    """
    _check_json(request)
    async with _body(request) as body:
        yield body


async def read_json(request: Request) -> bytes:
    """The raw body of what says that it is JSON. Raises as json_body does."""
    async with json_body(request) as body:
        return body


async def read_options(request: Request) -> bytes:
    """The raw body of what may have options: JSON that says that it is, nothing, or `{}`. Raises as
    json_body does.
    """
    async with _body(request) as body:
        if body.strip() not in NOTHING:
            _check_json(request)
        return body


async def read_nothing(request: Request) -> bytes:
    """The raw body of what takes no options: nothing, or `{}`. Raises as json_body does, and
    InvalidRequest.
    """
    async with _body(request) as body:
        if (
            body.strip() not in NOTHING
        ):  # an option that is not understood must never turn into a real deletion
            raise InvalidRequest("Request body must be empty")
        return body


def _check_json(request: Request) -> None:
    if media_type_of(request) != "application/json":
        raise ApiError(415, "Content-Type must be application/json")


@asynccontextmanager
async def _body(request: Request) -> AsyncIterator[bytes]:
    if (
        int(request.headers.get("content-length", "0")) > MAX_BYTES
    ):  # h11 has seen that it is a number
        raise _too_large()
    bodies: Bodies = request.app.state.bodies
    held = Held(request.scope["key"].company_id, asyncio.timeout(None))
    try:
        whole = bytearray()  # a list of small parts would take many times their length
        async for part in _arriving(request, held):
            whole += part
        body = bytes(whole)
        bodies.complete(held)
        await request.app.state.authenticator.admit_again(
            request
        )  # a body may come in small pieces, for minutes
        yield body
    finally:
        bodies.remove(held)


async def _arriving(request: Request, held: Held) -> AsyncIterator[bytes]:
    try:
        async with held.arriving:
            async for part in request.stream():
                if held.length + len(part) > MAX_BYTES:
                    raise _too_large()
                request.app.state.bodies.add(held, len(part))
                yield part
    except TimeoutError:
        raise Unavailable from None
    except ClientDisconnect:
        raise ApiError(
            400, "Request body is not valid JSON"
        ) from None  # nobody is there to read it


def _too_large() -> ApiError:
    return ApiError(413, "Request body is too large")
