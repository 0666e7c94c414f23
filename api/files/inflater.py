"""Inflates a gzip body as it arrives, and does not let a small one become a huge one."""

import zlib
from collections.abc import Iterable, Iterator

from api.http.errors import ApiError, InvalidRequest

PART = 1 << 16  # bytes inflated at a time
MAX_RATIO = 200  # identifiers deflate to a tenth at best; a bomb inflates a thousandfold
SLACK = 1 << 20  # bytes that any body may have, whatever its ratio

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
