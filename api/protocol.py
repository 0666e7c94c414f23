"""HTTP/1.1 as uvicorn speaks it, but with an end to headers and to bodies that nobody reads, and with our envelope for what is no
HTTP at all.
"""

import re
from uuid import uuid4

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 * 1024  # bytes of request line and headers; the parser keeps them in memory, however many they are
# Bytes of a body that come after the answer. A connection that is closed at once can take the answer with it.
MAX_UNREAD = 16 * 1024 * 1024

_REFUSAL = (
    "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nX-Request-ID: {request_id}\r\n"
    "Connection: close\r\n\r\n{body}"
)


_UPGRADE = re.compile(rb"\r\nupgrade(?=:)", re.IGNORECASE)


def _without_upgrade(head: bytes) -> bytes:
    """A head that offers no other protocol: the parser takes what follows such an offer for that protocol, and drops the body."""
    lines, end, body = head.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nX-Upgrade", lines) + end + body


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    _between = True  # requests: what comes next is a head
    _in_head = False
    _head = 0
    _unread = 0

    def data_received(self, data: bytes) -> None:
        """Refuses a head that does not end. The piece that it begins in is let off, as it may end another request."""
        in_head = self._in_head
        super().data_received(_without_upgrade(data) if self._between else data)
        self._head = self._head + len(data) if in_head and self._in_head else 0
        if self._head > MAX_HEAD and not self.transport.is_closing():
            self._refuse("431 Request Header Fields Too Large", "Request header is too large")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head, self._between = True, False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head ends."""
        self._in_head = False
        self._unread = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request ends."""
        self._between = True
        super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        """A part of its body, which is dropped where the request is answered already."""
        if self.cycle.response_complete:
            self._unread += len(body)
            if self._unread > MAX_UNREAD:
                self.transport.close()
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's text says no more
        """Answers what is no HTTP."""
        self._refuse("400 Bad Request", "Invalid HTTP request")

    def _refuse(self, status: str, error: str) -> None:
        body = f'{{"success":false,"data":null,"error":"{error}"}}'
        answer = _REFUSAL.format(status=status, length=len(body), request_id=uuid4().hex, body=body)
        self.transport.write(answer.encode())
        self.transport.close()
