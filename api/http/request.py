"""What a call says besides its path: its parameters, its preferences, its Idempotency-Key, and its
body. A body is read up to a limit, also where its length is not announced; and only as many bodies
are read at once as there is memory for.
"""

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import msgspec
from starlette.requests import ClientDisconnect, Request

from api.http.answers import ApiError, InvalidRequest, Unavailable
from api.http.auth import Key
from api.http.services import Services
from shared.printable import brief

LONGEST_WAIT = 60  # seconds; proxies cut what is silent for longer

MAX_BODY = 1024 * 1024  # bytes
# Bytes of bodies that one process holds until they are parsed. A company has half: the rest is for
# others.
BODIES_AT_ONCE = 64 * MAX_BODY
BODIES_OF_ONE_COMPANY = BODIES_AT_ONCE // 2

MAX_TEXT = 255  # characters of a text that is stored beside a job or a webhook

_NOTHING = (b"", b"{}")
_WAIT = re.compile(r'\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:;.*)?', re.IGNORECASE)
_KEY = re.compile(r"[ -~]{1,255}")

_decode = msgspec.json.Decoder().decode


class IdempotencyKey(NamedTuple):
    """A caller's key, and the request that it stands for: the SHA-256 of path, query and body, and
    its media type.
    """

    key: str
    request_hash: bytes
    media_type: str


class Caller(NamedTuple):
    """Who calls, and how. `job_id` is the id that a new job will have, or that of the job acted
    on; `wait` is in seconds.
    """

    key: Key
    idempotency: IdempotencyKey | None
    wait: int
    job_id: UUID

    def values(self) -> dict[str, Any]:
        """The parameters of every statement that acts (api.jobs.idempotency.KEYED)."""
        key, request_hash, media_type = self.idempotency or (None, None, None)
        return {
            "company_id": self.key.company_id,
            "key_id": self.key.id,
            "key_name": self.key.name or str(self.key.id),
            "idempotency_key": key,
            "request_hash": request_hash,
            "media_type": media_type,
            "wait": self.wait,
            "job_id": self.job_id,
        }


def submitter(request: Request, key: Key, idempotency: IdempotencyKey | None) -> Caller:
    """The caller of a submission, who waits for the job as long as `Prefer` says, or else as long
    as the settings say.
    """
    preferred = preferred_wait(request)
    wait = services_of(request).settings.default_wait if preferred is None else preferred
    return Caller(key, idempotency, wait, uuid4())


def services_of(request: Request) -> Services:
    """What this process works with."""
    services: Services = request.app.state.services
    return services


def refuse_unknown_parameters(request: Request, *known: str) -> None:
    """Raises InvalidRequest for a parameter that is not `known`, or is given twice: a misspelt
    filter must not turn into no filter, nor `?dryRun=true` into a real deletion.
    """
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in known or names.count(name) > 1:
            raise InvalidRequest(f"Invalid query parameter: {brief(name)}")


def preferred_wait(request: Request) -> int | None:
    """The seconds of `Prefer: wait=N`, at most LONGEST_WAIT; None without one.

    What cannot be understood is ignored (RFC 7240).
    """
    for header in request.headers.getlist("prefer"):
        for preference in header.split(","):
            if wait := _WAIT.fullmatch(preference):
                return min(LONGEST_WAIT, int(wait[1]))
    return None


def idempotency_key(request: Request, body: bytes) -> IdempotencyKey | None:
    """The caller's key with what it is for: canonical path, query, body and media type. Raises
    InvalidRequest.
    """
    key = written_key(request)
    if key is None:
        return None
    return IdempotencyKey(key, hash_of(request, body).digest(), media_type_of(request))


def written_key(request: Request) -> str | None:
    """The caller's key alone. Raises InvalidRequest."""
    written = request.headers.getlist("idempotency-key")
    if not written:
        return None
    if len(written) > 1 or not _KEY.fullmatch(written[0]):
        raise InvalidRequest("Idempotency-Key must be 1 to 255 printable ASCII characters")
    return written[0]


def media_type_of(request: Request) -> str:
    """The media type of the body, without parameters; empty where the caller names none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def hash_of(request: Request, body: bytes = b"") -> "hashlib._Hash":
    """The SHA-256 of a request, to which more of its body may be added."""
    path = request.url.path.replace("/records/", "/leads/", 1)  # the alias is the same endpoint
    return hashlib.sha256(b"\0".join((path.encode(), request.url.query.encode(), body)))


@dataclass(eq=False)
class Held:
    """What is held of one body: `length` bytes. By `arriving` the wait for more can be ended."""

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
        """Adds `length` bytes to what is held. Raises Unavailable where all other bodies are
        complete, so that none can make room.
        """
        self._arriving.setdefault(held)
        while (giving_up := self._in_the_way(held, length)) is not None:
            if giving_up is held:
                raise Unavailable
            self.remove(giving_up)
            giving_up.arriving.reschedule(asyncio.get_running_loop().time())
        held.length += length
        self._lengths[held.company_id] += length

    def complete(self, held: Held) -> None:
        """Says that the body is complete: from now on it keeps its place."""
        self._arriving.pop(held, None)

    def remove(self, held: Held) -> None:
        """Says that the body is no longer held."""
        self._arriving.pop(held, None)
        self._lengths[held.company_id] -= held.length
        held.length = 0
        if not self._lengths[held.company_id]:
            del self._lengths[held.company_id]

    def _in_the_way(self, held: Held, length: int) -> Held | None:
        """The body that must give up its place for `length` bytes more: the oldest that is still
        coming, and of the same company where that one has too much, or else `held` itself. None
        where there is room.
        """
        company_full = self._lengths[held.company_id] + length > BODIES_OF_ONE_COMPANY
        if not company_full and self._lengths.total() + length <= BODIES_AT_ONCE:
            return None
        for oldest in self._arriving:
            if not company_full or oldest.company_id == held.company_id:
                return oldest
        return held


@asynccontextmanager
async def json_body(request: Request) -> AsyncIterator[bytes]:
    """The raw body of a request whose media type is JSON. Its memory is counted until the block
    ends, so parse it inside.

    Raises ApiError 401, 413, 415, Forbidden, Unavailable.
    """
    _check_json(request)
    async with _body(request) as body:
        yield body


async def read_json(request: Request) -> bytes:
    """The raw body of a request whose media type is JSON. Raises as json_body does."""
    async with json_body(request) as body:
        return body


async def read_options(request: Request) -> bytes:
    """The raw body of a call that may have options: JSON with its media type, or else nothing or
    `{}`. Raises as json_body does.
    """
    async with _body(request) as body:
        if body.strip() not in _NOTHING:
            _check_json(request)
        return body


async def read_nothing(request: Request) -> bytes:
    """The raw body of a call that takes no options: nothing, or `{}`. Raises as json_body does, and
    InvalidRequest.
    """
    async with _body(request) as body:
        # An option that is not understood must never turn into a real deletion.
        if body.strip() not in _NOTHING:
            raise InvalidRequest("Request body must be empty")
        return body


def _check_json(request: Request) -> None:
    if media_type_of(request) != "application/json":
        raise ApiError(415, "Content-Type must be application/json")


@asynccontextmanager
async def _body(request: Request) -> AsyncIterator[bytes]:
    # The protocol has seen that the length is a number.
    if int(request.headers.get("content-length", "0")) > MAX_BODY:
        raise _too_large()
    services = services_of(request)
    held = Held(request.scope["key"].company_id, asyncio.timeout(None))
    try:
        whole = bytearray()  # a list of small parts would take many times their length
        async for part in _arriving(request, services.bodies, held):
            whole += part
        body = bytes(whole)
        services.bodies.complete(held)
        # The body may have come in small pieces, for minutes, and the key been revoked meanwhile.
        await services.authenticator.admit_again(request)
        yield body
    finally:
        services.bodies.remove(held)


async def _arriving(request: Request, bodies: Bodies, held: Held) -> AsyncIterator[bytes]:
    try:
        async with held.arriving:
            async for part in request.stream():
                if held.length + len(part) > MAX_BODY:
                    raise _too_large()
                bodies.add(held, len(part))
                yield part
    except TimeoutError:
        raise Unavailable from None
    except ClientDisconnect:  # nobody is there to read the answer
        raise _not_json() from None


def _too_large() -> ApiError:
    return ApiError(413, "Request body is too large")


def _not_json() -> InvalidRequest:
    return InvalidRequest("Request body is not valid JSON")


def decode_object(body: bytes, known: frozenset[str]) -> dict[str, Any]:
    """The fields of the JSON object in `body`. Raises InvalidRequest for anything else, and for a
    field that is not `known`.
    """
    try:
        decoded = _decode(body)
        if not isinstance(decoded, dict):
            raise InvalidRequest("Request body must be an object")
        if _may_repeat_a_key(body, decoded, known):
            _refuse_repeated_keys(body.decode())
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise _not_json() from None
    for name in decoded:
        if name not in known:
            raise InvalidRequest(f"Unknown field: {brief(name)}")
    return decoded


def _may_repeat_a_key(body: bytes, decoded: dict[str, Any], known: frozenset[str]) -> bool:
    """Whether a closer look is due: the decoder keeps the last of two equal keys and says
    nothing.
    """
    return (
        b"\\" in body
        or not decoded.keys() <= known
        or any(body.count(b'"%b"' % name.encode()) > 1 for name in decoded)
    )


def _refuse_repeated_keys(text: str) -> None:
    """Raises ValueError if the object in `text`, known to be valid JSON, has a key twice at its top
    level.
    """
    objects: list[list[tuple[str, Any]]] = []
    json.loads(text, object_pairs_hook=objects.append)
    outermost = objects[-1]  # it is the last to be complete
    if len(dict(outermost)) < len(outermost):
        raise ValueError("repeated key")


def checked_text(field: str, value: Any) -> str:
    """`value`, if it is a text that can be stored and is not too long. Raises InvalidRequest that
    names `field`.
    """
    if not isinstance(value, str):
        raise InvalidRequest(f"{field} must be a string")
    if len(value) > MAX_TEXT:
        raise InvalidRequest(f"{field} is longer than {MAX_TEXT} characters")
    if "\0" in value:
        raise InvalidRequest(f"{field} contains U+0000")
    return value


def checked_flag(fields: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """The boolean `name` of `fields`; null counts as missing. Raises InvalidRequest."""
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be a boolean")
    return value
