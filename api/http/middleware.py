"""Around every request: its id, the headers that every answer has, one line in the log, and a last
net under everything.

HEAD is answered here too, wherever GET is (RFC 9110, 9.1): as GET, without the body. Who would read
much for that body looks for `is_head` in the scope.
"""

import asyncio
import re
import time
import uuid
from typing import Any

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.answers import Answer
from api.http.errors import BrokenOff, Unavailable

_SANE_ID = re.compile(rb"[!-~]{1,128}")
_EVERYWHERE = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)  # answers hold what is to be forgotten
_LONGEST_PATH = 200  # characters in the log; ours are shorter

log = structlog.get_logger()


class Envelope:
    """Pure ASGI middleware, so that it costs little and sees every answer, also those of
    routing.
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
                headers.raw.extend(_EVERYWHERE)
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
        """What to answer where the application has not."""
        try:
            await self._app(scope, receive, send)
        except BrokenOff as error:
            log.warning("request broken off", request=request_id, reason=error.reason)
        except asyncio.CancelledError:
            log.warning("request broken off", request=request_id, reason="the API stops")
            return Unavailable().answer()
        except Exception:
            log.exception("request failed", request=request_id, path=scope["path"][:_LONGEST_PATH])
            return Answer({"success": False, "data": None, "error": "Internal server error"}, 500)
        return None


def _request_id(scope: Scope) -> str:
    """The caller's own, where it is sane; else a new one."""
    written = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return written.decode() if _SANE_ID.fullmatch(written) else uuid.uuid4().hex


def _log_request(scope: Scope, method: str, request_id: str, status: int, started: float) -> None:
    key: Any = scope.get("key")
    log.info(
        "request",
        request=request_id,
        method=method,
        path=scope["path"][:_LONGEST_PATH],
        status=status,
        ms=round((time.perf_counter() - started) * 1000, 1),
        key=str(key.id) if key else None,
    )
