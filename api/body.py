"""Reads a JSON body with a limit, also where its length is not announced."""

from starlette.requests import ClientDisconnect, Request

from api.errors import ApiError

MAX_BYTES = 1024 * 1024


async def read_body(request: Request) -> bytes:
    """The raw body. Raises ApiError 415, 413."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(415, "Content-Type must be application/json")
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
