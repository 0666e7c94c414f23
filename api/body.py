"""Reads a JSON body with a limit, also where its length is not announced."""

from starlette.requests import ClientDisconnect, Request

from api.errors import ApiError, InvalidRequest

MAX_BYTES = 1024 * 1024


async def read_json(request: Request) -> bytes:
    """The raw body of what says that it is JSON. Raises ApiError 415, 413."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(415, "Content-Type must be application/json")
    return await _read(request)


async def read_nothing(request: Request) -> bytes:
    """The raw body of what takes no options: nothing, or `{}`. Raises ApiError 413, InvalidRequest."""
    body = await _read(request)
    if body.strip() not in (b"", b"{}"):  # an option that is not understood must never turn into a real deletion
        raise InvalidRequest("Request body must be empty")
    return body


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
