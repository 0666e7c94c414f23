"""The steps of a call, as a generator that yields requests and pauses and is sent the answers.

It does no I/O, so each method of the clients is written once: `Client` carries its steps out at
once, `AsyncClient` when it is awaited.
"""

import math
import random
import time
from collections.abc import AsyncIterator, Generator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from itertools import count
from typing import Any, BinaryIO, NamedTuple, TypeVar

import msgspec

from leadsweep.errors import (
    LeadsweepError,
    NotConnected,
    RateLimited,
    ServerFailed,
    ServerNotReached,
    failure,
)

T = TypeVar("T")

GRACE = 1.0  # seconds for an answer that is sent at the last moment
CONNECT_TIMEOUT = 5.0  # seconds
# What msgspec raises for JSON that it cannot read.
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Call(NamedTuple):
    """A request. A file is sent from its beginning. The answer may take `wait` seconds longer than
    usual, but no longer than `within` seconds; making the connection may take `connect` seconds.
    """

    method: str
    path: str
    params: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    content: bytes | BinaryIO | None = None
    wait: float = 0
    within: float = math.inf
    connect: float = CONNECT_TIMEOUT


class Pause(NamedTuple):
    """Seconds in which the call does nothing, and other tasks have their turn."""

    seconds: float


class Take(NamedTuple):
    """A demand for the next items, up to `limit`, which only an AsyncClient can await."""

    items: AsyncIterator[Any]
    limit: int


class Answered(NamedTuple):
    """An answer: its status, its headers in lower case, its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Unanswered(Exception):
    """There was no answer, or only a part of one. Where nothing was `sent`, no connection could be
    made.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


Step = Call | Pause | Take
Steps = Generator[Step, Any, T]


def advanced(steps: Steps[T], outcome: Answered | Unanswered) -> Step:
    """The next step after a call that had this outcome. Raises StopIteration with the result at the
    end.
    """
    return steps.throw(outcome) if isinstance(outcome, Unanswered) else steps.send(outcome)


class Retries(NamedTuple):
    """How often a call is tried. It is tried again after 429, 5xx and lost connections, once the
    time that the server asks for is over, and a random part of a span that doubles each time.

    It is not tried again where the server asks for more than `longest` seconds, nor where no
    connection could be made in the first `unreached` seconds, in which nothing was sent.
    """

    attempts: int = 8
    first: float = 0.5  # seconds, before the second attempt at most
    longest: float = 120.0  # seconds, between two attempts
    unreached: float = math.inf


class _Envelope(msgspec.Struct):
    data: msgspec.Raw = msgspec.Raw(b"null")
    error: str | None = None


def answer_to(
    call: Call,
    retries: Retries,
    deadline: float = math.inf,
    *,
    patient: bool = False,
    once: bool = False,
) -> Steps[Answered]:
    """The answer 2xx to `call`, which is tried as `retries` says, until `deadline` by the monotonic
    clock at the latest.

    Where `patient`, it is tried until then, however often, and however long the server asks to
    wait. Where `once`, it is not sent again after an attempt that may have been carried out.
    Raises Refused, ServerFailed, ServerNotReached.
    """
    last_connect = time.monotonic() + retries.unreached
    sent = False
    for attempt in count(1):
        error: LeadsweepError
        now = time.monotonic()
        connect = CONNECT_TIMEOUT
        if not sent:
            connect = max(0.1, min(CONNECT_TIMEOUT, last_connect - now))
        try:
            answered: Answered = yield call._replace(
                within=max(0.0, deadline - now) + GRACE, connect=connect
            )
        except Unanswered as unanswered:
            sent = sent or unanswered.sent
            error, after = (ServerNotReached if sent else NotConnected)(str(unanswered)), 0.0
            error.__cause__ = unanswered.__cause__
        else:
            sent = True
            if answered.status < HTTPStatus.MULTIPLE_CHOICES:
                return answered
            error, after = _error_of(answered), retry_after(answered, 0.0)
            if not may_pass(answered) or (after > retries.longest and not patient):
                raise error
        if attempt >= retries.attempts and not patient:
            raise error
        if once and sent and not isinstance(error, RateLimited):
            raise error
        pause = after + _jitter(attempt, retries)
        left = (deadline if sent else min(deadline, last_connect)) - time.monotonic()
        yield Pause(max(0.0, min(pause, left)))
        if pause >= left:
            raise error
    raise AssertionError("the last attempt returns or raises")


def content_of(answered: Answered, kind: type[T]) -> T:
    """The `data` of the envelope. Raises ServerFailed where the answer is not Leadsweep's."""
    return read(read(answered.body, _Envelope).data, kind)


def read(encoded: bytes | msgspec.Raw, kind: type[T]) -> T:
    """The JSON of an answer. Raises ServerFailed where the answer is not Leadsweep's."""
    try:
        return msgspec.json.decode(encoded, type=kind)
    except _UNREADABLE as error:
        raise ServerFailed(f"this is not an answer of Leadsweep's: {error}") from None


def retry_after(answered: Answered, usual: float) -> float:
    """Seconds after which the server wants to be asked again, which it may write in two ways;
    `usual` where it does not say.
    """
    written: Any = answered.headers.get("retry-after", "")
    if written.isdecimal():
        return float(written)
    try:
        moment = parsedate_to_datetime(written)
    except (ValueError, OverflowError):  # the latter of a year with twenty digits
        return usual
    if not moment.tzinfo:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def may_pass(answered: Answered) -> bool:
    """Whether it is worth asking again. After a conflict it is so only where the server says when:
    then another request with the same Idempotency-Key is in progress.
    """
    conflict = answered.status == HTTPStatus.CONFLICT and "retry-after" in answered.headers
    return (
        conflict
        or answered.status == HTTPStatus.TOO_MANY_REQUESTS
        or answered.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    )


def _error_of(answered: Answered) -> LeadsweepError:
    return failure(answered.status, _words_of(answered), answered.headers.get("x-request-id"))


def _words_of(answered: Answered) -> str:
    if location := answered.headers.get("location"):
        return f"the server redirects to {location}"
    try:
        return msgspec.json.decode(answered.body, type=_Envelope).error or f"HTTP {answered.status}"
    except _UNREADABLE:  # of a proxy in between
        return f"HTTP {answered.status}"


def _jitter(attempt: int, retries: Retries) -> float:
    """A random part of a span that doubles with each attempt, so that callers who failed together
    do not come back together.
    """
    return random.uniform(0, min(retries.longest, retries.first * 2 ** min(attempt - 1, 30)))  # noqa: S311 - no secret
