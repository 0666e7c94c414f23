"""The two headers with which callers say how they want to be answered: `Prefer: wait=N` and
`Idempotency-Key`.
"""

import hashlib
import re
from typing import NamedTuple

from starlette.requests import Request

from api.http.errors import InvalidRequest

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
