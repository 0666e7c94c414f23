"""Reads a JSON body with a limit, also where its length is not announced, and as many at once as there is memory for."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request

from api.errors import ApiError, InvalidRequest, Unavailable

MAX_BYTES = 1024 * 1024
# Bytes of bodies that one process holds until they are parsed. A company has half: the rest is for others.
ALL_AT_ONCE = 64 * MAX_BYTES
OF_ONE_COMPANY = ALL_AT_ONCE // 2
NOTHING = (b"", b"{}")


class Bodies:
    """The bytes of bodies that a process holds, by company."""

    def __init__(self) -> None:
        """None yet."""
        self._held: Counter[str] = Counter()

    def take(self, company_id: str, length: int) -> None:
        """So many more. Raises Unavailable where they are too many."""
        if self._held[company_id] + length > OF_ONE_COMPANY or self._held.total() + length > ALL_AT_ONCE:
            raise Unavailable
        self._held[company_id] += length

    def give_back(self, company_id: str, length: int) -> None:
        """So many fewer."""
        self._held[company_id] -= length
        if not self._held[company_id]:
            del self._held[company_id]


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
    """The raw body of what may have options: JSON that says that it is, nothing, or `{}`. Raises as json_body does."""
    async with _body(request) as body:
        if body.strip() not in NOTHING:
            _check_json(request)
        return body


async def read_nothing(request: Request) -> bytes:
    """The raw body of what takes no options: nothing, or `{}`. Raises as json_body does, and InvalidRequest."""
    async with _body(request) as body:
        if body.strip() not in NOTHING:  # an option that is not understood must never turn into a real deletion
            raise InvalidRequest("Request body must be empty")
        return body


def _check_json(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(415, "Content-Type must be application/json")


@asynccontextmanager
async def _body(request: Request) -> AsyncIterator[bytes]:
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced[:12]) > MAX_BYTES:
        raise _too_large()
    bodies: Bodies = request.app.state.bodies
    company_id = request.scope["key"].company_id
    parts, length = [], 0
    try:
        async for part in request.stream():
            if length + len(part) > MAX_BYTES:
                raise _too_large()
            bodies.take(company_id, len(part))
            length += len(part)
            parts.append(part)
        await request.app.state.authenticator.admit_again(request)  # a body may come in small pieces, for minutes
        yield b"".join(parts)
    except ClientDisconnect:
        raise ApiError(400, "Request body is not valid JSON") from None  # nobody is there to read it
    finally:
        bodies.give_back(company_id, length)


def _too_large() -> ApiError:
    return ApiError(413, "Request body is too large")
