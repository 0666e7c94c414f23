"""What every answer looks like: the envelope and the errors. And what each request gets besides: an
id, the headers that all answers have, a line in the log, and a 500 where nothing else has caught an
error.

ApiError                 any status: `Job not found` (404), `Request body is too large` (413), …
├── InvalidRequest       400, with the text that says what to correct
├── Forbidden            403, one text for all reasons: whether a campaign exists never leaks
├── RateLimited          429, with the limit beside the text
└── Unavailable          503, no place or memory is left, or the database cannot be reached

BrokenOff                ends an answer that has begun
"""

import asyncio
import re
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from math import ceil
from typing import Any, NamedTuple

import msgspec
import structlog
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.rate_limits import Allowance
from shared.broker.sender import JOBS_QUEUE

ACCEPTED = 202

# Answers hold identifiers that are purged later, so no cache may keep them.
HEADERS_OF_ALL = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
LOGGED_PATH = 200  # characters; ours are shorter

_REQUEST_ID = re.compile(rb"[!-~]{1,128}")

_encode = msgspec.json.Encoder().encode

log = structlog.get_logger()


class Answer(Response):
    """A JSON body, encoded by msgspec."""

    media_type = "application/json"

    def __init__(
        self, body: Any, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """`body` is the whole envelope."""
        super().__init__(_encode(body), status, headers)


def success(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """`body` as the `data` of the envelope."""
    return Answer({"success": True, "data": body, "error": None}, status, headers)


def time_text(moment: datetime | float | None) -> str | None:
    """UTC, ISO 8601, three decimals, `Z`: `2026-01-01T02:00:00.000Z`. A number is unix seconds."""
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        moment = datetime.fromtimestamp(moment, UTC)
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Accepted(NamedTuple):
    """The answer to a POST: a job as it stood when it was accepted. `wait` says how many seconds
    the caller is ready to wait; where the call is `replayed`, how many the first caller was.
    """

    job_id: uuid.UUID
    state: str
    total: int
    created_at: datetime
    run_at: datetime | None
    wait: int
    replayed: bool = False
    queue: str = JOBS_QUEUE

    @property
    def may_end_in_time(self) -> bool:
        """Whether the job begins before the time is over that its caller is ready to wait."""
        if self.wait == 0 or self.run_at is None:
            return self.wait > 0
        return (self.run_at - self.created_at).total_seconds() < self.wait

    @property
    def replay_header(self) -> dict[str, str]:
        """What tells the caller that this is the answer of an earlier call."""
        return {"Idempotency-Replayed": "true"} if self.replayed else {}

    def answer(self, status: int = ACCEPTED) -> Answer:
        """202: the job is still to be done. 200: what was asked for is in force."""
        status_url = f"/api/v1/jobs/{self.job_id}"
        body = {
            "jobId": str(self.job_id),
            "status": self.state,
            "statusUrl": status_url,
            "total": self.total,
            "createdAt": time_text(self.created_at),
            "runAt": time_text(self.run_at),
        }
        headers = {"Location": status_url} | self.replay_header
        if status == ACCEPTED:
            headers["Retry-After"] = "1"
        return success(body, status, headers)


class ApiError(Exception):
    """Ends a request with `status` and `message`."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        """`headers` go into the answer."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers

    def answer(self) -> Answer:
        """The response."""
        body = {"success": False, "data": None, "error": self.message} | self.extras()
        return Answer(body, self.status, self.headers)

    def extras(self) -> dict[str, Any]:
        """What stands beside the three fields of the envelope."""
        return {}


class InvalidRequest(ApiError):
    """The request says something that it must not say, or leaves out something that it must say."""

    def __init__(self, message: str) -> None:
        """`message` is one of the contract's texts."""
        super().__init__(400, message)


class Forbidden(ApiError):
    """The key may not do this here."""

    def __init__(self) -> None:
        """Always the same text."""
        super().__init__(403, "Forbidden")


class RateLimited(ApiError):
    """The key, or the address, has used up its calls."""

    def __init__(self, allowance: Allowance) -> None:
        """`allowance` is one that is refused."""
        retry_after = str(max(1, ceil(allowance.seconds_left)))
        message = "Rate limit exceeded. Please try again later."
        super().__init__(429, message, {"Retry-After": retry_after})
        self.allowance = allowance

    def extras(self) -> dict[str, Any]:
        """As the published API has them."""
        reset = time_text(self.allowance.reset)
        return {"limit": self.allowance.limit, "remaining": 0, "reset": reset}


class Unavailable(ApiError):
    """No place or memory is left, we are about to stop, or the database cannot be reached.

    Where it is the database, a submission may have been accepted all the same.
    """

    def __init__(self) -> None:
        """Asks the caller to come back in a few seconds."""
        super().__init__(503, "Service temporarily unavailable", {"Retry-After": "5"})


class BrokenOff(Exception):
    """An answer that has begun cannot go on. The connection is cut, so that what was sent does not
    look complete.
    """

    def __init__(self, reason: str) -> None:
        """`reason` is for the log."""
        super().__init__(reason)
        self.reason = reason


class Envelope:
    """Gives each request its id, its headers and its line in the log. It is pure ASGI: it costs
    little, and sees every answer, also those of the router.

    HEAD is answered here wherever GET is (RFC 9110, 9.1): as GET, without the body. A route that
    would read much for that body looks for `is_head` in the scope.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wraps `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, request_id = scope["method"], _request_id(scope)
        scope = {**scope, "method": "GET", "is_head": True} if method == "HEAD" else scope
        started = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers.raw.extend(HEADERS_OF_ALL)
                if allowance := scope.get("allowance"):
                    headers.update(allowance.headers())
            elif method == "HEAD":
                message["body"] = b""
            await send(message)

        try:
            instead = await self._run(scope, receive, send_with_headers, request_id)
            if instead and not status:
                await instead(scope, receive, send_with_headers)
        finally:
            _log_request(scope, method, request_id, status, started)

    async def _run(
        self, scope: Scope, receive: Receive, send: Send, request_id: str
    ) -> Answer | None:
        """Runs the application. Returns the answer to give in its place where it has failed."""
        try:
            await self._app(scope, receive, send)
        except BrokenOff as error:
            log.warning("request broken off", request=request_id, reason=error.reason)
        except asyncio.CancelledError:
            log.warning("request broken off", request=request_id, reason="the API stops")
            return Unavailable().answer()
        except Exception:
            log.exception("request failed", request=request_id, path=scope["path"][:LOGGED_PATH])
            return ApiError(500, "Internal server error").answer()
        return None


def _request_id(scope: Scope) -> str:
    """The caller's own, where it is printable and short; else a new one."""
    written = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return written.decode() if _REQUEST_ID.fullmatch(written) else uuid.uuid4().hex


def _log_request(scope: Scope, method: str, request_id: str, status: int, started: float) -> None:
    key: Any = scope.get("key")
    log.info(
        "request",
        request=request_id,
        method=method,
        path=scope["path"][:LOGGED_PATH],
        status=status,
        ms=round((time.perf_counter() - started) * 1000, 1),
        key=str(key.id) if key else None,
    )
