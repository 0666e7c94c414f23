"""A receiver of webhooks for development: verifies what comes, reports it, and may pass it on.

It is also the example of what a receiver does: read the raw bytes, verify them before parsing,
answer 2xx at once.
"""

import json
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import httpx2
from standardwebhooks import Webhook

from leadsweep import NotVerified
from leadsweep.terminal.failure import Failure
from leadsweep.webhooks import signer

MAX_BODY = 1024 * 1024  # bytes; Leadsweep sends 20 kB at most
_FORWARD_TIMEOUT = 15  # seconds; Leadsweep itself waits for 20
_WHO_SIGNS_WHAT = "a job's callbackUrl is signed with its company's secret, a webhook with its own"
_PASSED_ON = ("content-type", "webhook-id", "webhook-timestamp", "webhook-signature")


class Received(NamedTuple):
    """A request that came: its `event` if it was verified, else what is wrong with it."""

    webhook_id: str
    event: dict[str, Any] | None
    wrong: str = ""
    forwarded: int | None = None


class Listener(ThreadingHTTPServer):
    """Listens on one port. `serve_forever` runs it, `shutdown` ends it."""

    daemon_threads = True

    def __init__(
        self,
        address: tuple[str, int],
        secrets: Sequence[str],
        tell: Callable[[Received], object],
        forward: str | None = None,
        known: Callable[[], Iterable[tuple[str, str]]] = tuple,
    ) -> None:
        """Begins to listen. `tell` is called for everything that comes, in threads. Raises OSError,
        ValueError for a bad secret.

        `known` returns the secrets that may have signed, with their owners. It raises Failure where
        it cannot.
        """
        try:
            for secret in secrets:
                Webhook(secret)
        except Exception as error:  # the library raises what it does not export
            raise ValueError("a secret must be whsec_ followed by base64") from error
        self.secrets = secrets
        self.known = known
        self.tell = tell
        self.forward = forward
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the standard library's names
        """Reports a request that broke off, or is not one. A traceback would print what its sender
        wrote.
        """
        self.tell(Received("", None, f"it could not be received: {type(sys.exception()).__name__}"))


class _Handler(BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if not length.isdecimal() or int(length[:9]) > MAX_BODY:
            self._answer(HTTPStatus.LENGTH_REQUIRED)
            return
        body = self.rfile.read(int(length))
        webhook_id = self.headers.get("webhook-id", "")
        try:
            signer(body, self._received_headers(), self.server.secrets)
        except NotVerified as error:
            self._answer(HTTPStatus.UNAUTHORIZED)
            self.server.tell(Received(webhook_id, None, f"{error}; {self._whose(body)}"))
            return
        event = _parsed(body)
        if event is None:
            self._answer(HTTPStatus.BAD_REQUEST)
            self.server.tell(Received(webhook_id, None, "signed, but not a JSON object"))
            return
        status = self._pass_on(body) if self.server.forward else HTTPStatus.NO_CONTENT
        self._answer(status)
        self.server.tell(
            Received(webhook_id, event, forwarded=status if self.server.forward else None)
        )

    def _received_headers(self) -> dict[str, str]:
        return dict(self.headers.items())

    def _whose(self, body: bytes) -> str:
        """Whose secret would have fitted; the secret itself is not printed."""
        try:
            for owner, secret in self.server.known():
                with suppress(NotVerified):
                    signer(body, self._received_headers(), [secret])
                    return f"{owner} would have fitted"
        except Failure:  # this may be any machine, without the database or its key
            pass
        return _WHO_SIGNS_WHAT

    def _pass_on(self, body: bytes) -> int:
        """Forwards the webhook, and returns the status of the answer."""
        headers = {name: self.headers[name] for name in _PASSED_ON if name in self.headers}
        try:
            return httpx2.post(
                self.server.forward or "",
                content=body,
                headers=headers,
                timeout=_FORWARD_TIMEOUT,
                trust_env=False,
            ).status_code
        except httpx2.HTTPError:
            return HTTPStatus.BAD_GATEWAY

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library's name
        """Prints nothing: `tell` reports what comes."""


def _parsed(body: bytes) -> dict[str, Any] | None:
    """The JSON object in `body`; None where there is none."""
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None
