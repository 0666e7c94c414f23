"""What a call does, without doing it: a generator yields requests and pauses, and is given the answers.

So there is one text of every method, whoever carries it out: `Client` at once, `AsyncClient` when it is awaited.
"""

import random
from collections.abc import Generator, Mapping
from http import HTTPStatus
from typing import Any, BinaryIO, NamedTuple, TypeVar

import msgspec

from client.errors import ServerFailed, ServerNotReached, failure

T = TypeVar("T")


class Call(NamedTuple):
    """A request. A file is sent from its beginning; the answer may take `wait` seconds longer than usual."""

    method: str
    path: str
    params: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    content: bytes | BinaryIO | None = None
    wait: float = 0


class Pause(NamedTuple):
    """Seconds in which nothing is done."""

    seconds: float


class Answered(NamedTuple):
    """An answer: its status, its headers in lower case, its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Unanswered(Exception):
    """There was none, or not all of it."""


Steps = Generator[Call | Pause, Answered, T]


def advanced(steps: Steps[T], outcome: Answered | Unanswered) -> Call | Pause:
    """The next step after a call that had this outcome. Raises StopIteration with the result at the end."""
    return steps.throw(outcome) if isinstance(outcome, Unanswered) else steps.send(outcome)


class Retries(NamedTuple):
    """How often a call is tried: again after 429, 5xx and lost connections, after a random part of a span that doubles each time,
    and after what the server asks for. Where it asks for more than `longest`, that is the end.
    """

    attempts: int = 6
    first: float = 0.5  # seconds, before the second attempt at most
    longest: float = 120.0  # seconds, between two attempts


NO_RETRIES = Retries(attempts=1)


class _Envelope(msgspec.Struct):
    data: msgspec.Raw = msgspec.Raw(b"null")
    error: str | None = None


def asked(call: Call, retries: Retries) -> Steps[Answered]:
    """The answer to `call`, 2xx, after as many tries as it takes. Raises Refused, ServerFailed, ServerNotReached."""
    for attempt in range(1, retries.attempts + 1):
        try:
            answered = yield call
        except Unanswered as error:
            if attempt == retries.attempts:
                raise ServerNotReached(str(error)) from error.__cause__
            yield Pause(_jitter(attempt, retries))
            continue
        status = answered.status
        if status < HTTPStatus.MULTIPLE_CHOICES:
            return answered
        may_pass = status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        after = _retry_after(answered)
        if not may_pass or attempt == retries.attempts or after > retries.longest:
            raise failure(status, _error_of(answered), answered.headers.get("x-request-id"))
        yield Pause(after + _jitter(attempt, retries))
    raise AssertionError("the last attempt returns or raises")


def content_of(answered: Answered, kind: type[T]) -> T:
    """The `data` of the envelope. Raises ServerFailed for what is no answer of Leadsweep's."""
    try:
        return msgspec.json.decode(msgspec.json.decode(answered.body, type=_Envelope).data, type=kind)
    except msgspec.MsgspecError as error:
        raise ServerFailed(f"this is no answer of Leadsweep's: {error}") from None


def _error_of(answered: Answered) -> str:
    if location := answered.headers.get("location"):
        return f"the server is elsewhere: {location}"
    try:
        return msgspec.json.decode(answered.body, type=_Envelope).error or f"HTTP {answered.status}"
    except msgspec.MsgspecError:  # of a proxy in between
        return f"HTTP {answered.status}"


def _retry_after(answered: Answered) -> float:
    written: Any = answered.headers.get("retry-after", "")
    return float(written) if written.isdecimal() else 0.0


def _jitter(attempt: int, retries: Retries) -> float:
    """Any part of a span that doubles with each attempt: callers who failed together do not come back together."""
    return random.uniform(0, min(retries.longest, retries.first * 2 ** (attempt - 1)))  # noqa: S311 - no secret
