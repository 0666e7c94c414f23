"""Reads a JSON body with a limit, also where its length is not announced."""

from starlette.requests import ClientDisconnect, Request

from api.errors import ApiError, InvalidRequest
from api.preferences import media_type_of

MAX_BYTES = 1024 * 1024
NOTHING = (b"", b"{}")


async def read_json(request: Request) -> bytes:
    """The raw body of what says that it is JSON. Raises ApiError 415, 413."""
    _check_json(request)
    return await _read(request)


async def read_options(request: Request) -> bytes:
    """The raw body of what may have options: JSON that says that it is, nothing, or `{}`. Raises ApiError 415, 413."""
    body = await _read(request)
    if body.strip() not in NOTHING:
        _check_json(request)
    return body


async def read_nothing(request: Request) -> bytes:
    """The raw body of what takes no options: nothing, or `{}`. Raises ApiError 413, InvalidRequest."""
    body = await _read(request)
    if body.strip() not in NOTHING:  # an option that is not understood must never turn into a real deletion
        raise InvalidRequest("Request body must be empty")
    return body


def _check_json(request: Request) -> None:
    if media_type_of(request) != "application/json":
        raise ApiError(415, "Content-Type must be application/json")


async def _read(request: Request) -> bytes:
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced[:12]) > MAX_BYTES:
        raise _too_large()
    parts, length = [], 0
    try:
        async for part in request.stream():
            length += len(part)
            if length > MAX_BYTES:
                raise _too_large()
            parts.append(part)
    except ClientDisconnect:
        raise ApiError(400, "Request body is not valid JSON") from None  # nobody is there to read it
    return b"".join(parts)


def _too_large() -> ApiError:
    return ApiError(413, "Request body is too large")
