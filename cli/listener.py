"""A receiver of webhooks for development: verifies what comes with the official library, tells of it, and may pass it on.

It is also the example of what a receiver does: read the raw bytes, verify them before parsing, answer 2xx at once.
"""

import json
import socket
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import httpx2
from standardwebhooks import Webhook, WebhookVerificationError

MAX_BODY = 1024 * 1024  # bytes; Leadsweep sends 20 kB at most
_TIMEOUT = 15  # seconds for who gets it forwarded; Leadsweep itself waits for 20
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
    ) -> None:
        """Begins to listen. `tell` hears of everything that comes, in threads. Raises OSError, ValueError for a bad secret."""
        try:
            self.verifiers = [Webhook(secret) for secret in secrets]
        except Exception as error:  # the library raises what it does not export
            raise ValueError("a secret is written whsec_… and holds base64") from error
        self.tell = tell
        self.forward = forward
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)


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
            event = self._verified(body)
        except (WebhookVerificationError, ValueError) as error:
            self._answer(HTTPStatus.UNAUTHORIZED)
            self.server.tell(Received(webhook_id, None, str(error)))
            return
        status = self._pass_on(body) if self.server.forward else HTTPStatus.NO_CONTENT
        self._answer(status)
        self.server.tell(Received(webhook_id, event, forwarded=status if self.server.forward else None))

    def _verified(self, body: bytes) -> dict[str, Any]:
        """The event in `body`, signed by one of the secrets. Raises WebhookVerificationError, ValueError."""
        headers = dict(self.headers.items())
        for verifier in self.server.verifiers[:-1]:
            try:
                verifier.verify(body, headers, json_parse=False)
            except WebhookVerificationError:
                continue
            return dict(json.loads(body))
        self.server.verifiers[-1].verify(body, headers, json_parse=False)
        return dict(json.loads(body))

    def _pass_on(self, body: bytes) -> int:
        """The status that whoever it is forwarded to answers with."""
        headers = {name: self.headers[name] for name in _PASSED_ON if name in self.headers}
        try:
            return httpx2.post(
                self.server.forward or "", content=body, headers=headers, timeout=_TIMEOUT, trust_env=False
            ).status_code
        except httpx2.HTTPError:
            return HTTPStatus.BAD_GATEWAY

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library's name
        """What comes is told otherwise."""
