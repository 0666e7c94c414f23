"""HTTP/1.1 over one connection. h11 says what the bytes are, and uvicorn serves the requests. This
module adds what neither does: bounds on what a stranger can make us hold in memory, and refusals in
the envelope that every other answer has (decision 20). How long we wait for a caller stands in
api.http.slow_callers.
"""

import asyncio
import socket
import struct
import time
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import h11
import structlog
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.http import slow_callers
from api.http.answers import ApiError

# Bytes of request line and headers, or of the fields after a body: h11's default.
MAX_HEAD = 16 * 1024
# Bytes that are read at once: a body of 1000 leads has fewer. As many are held of requests that
# came before their turn, or of a body that no route reads yet. All connections share MAX_READ.
READ_AT_ONCE = 64 * 1024
MAX_READ = 32 * 1024 * 1024
# Bytes of a body that may come after the answer. They are read and dropped: if the connection were
# closed at once, the answer could be lost. A chunk counts for SMALLEST_CHUNK at least, as even the
# smallest takes time to read.
MAX_UNREAD = 16 * 1024 * 1024
SMALLEST_CHUNK = 256
# A body may have FREE_CHUNKS chunks, and one more for each BYTES_A_CHUNK of its bytes: a line of a
# file is longer.
FREE_CHUNKS = 10_000
BYTES_A_CHUNK = 16
# After a read that brought MANY_EVENTS events, the next one reads only SMALL_READ bytes, as the
# first one does: an event takes 4 µs, and other callers wait meanwhile.
MANY_EVENTS = 64
SMALL_READ = 1024

MAX_CONNECTIONS = 1000  # twice the callers that wait at once in the greatest crowd that we measure

_REFUSAL = (
    "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
    "X-Request-ID: {request_id}\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
    "Connection: close\r\n{more}\r\n{body}"
)
_INVALID = ("400 Bad Request", "Invalid HTTP request")
_TOO_LARGE = ("431 Request Header Fields Too Large", "Request header is too large")
_UNAVAILABLE = ("503 Service Unavailable", "Service temporarily unavailable")
_CLOSE = (b"connection", b"close")
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: what is not sent yet is dropped

_ENDED_STATES = {h11.MUST_CLOSE, h11.CLOSED, h11.ERROR}
# Our side has sent nothing of an answer. It is in SEND_RESPONSE where h11 has accepted a head that
# Requests refuses.
_UNANSWERED_STATES = {h11.IDLE, h11.SEND_RESPONSE}

log = structlog.get_logger()


class Requests(h11.Connection):
    """Reads the bytes of a connection as events, more strictly than h11 does."""

    refusal = _INVALID  # the answer once an event could not be read: status and error
    events = 0
    _unread = _chunks = _length = 0  # of the body in hand: bytes after the answer, chunks, bytes

    def next_event(self) -> Any:
        """The next event, as h11 has it. Raises RemoteProtocolError, also for a head that is too
        long, a length that is given in two ways, and a body that nobody reads.
        """
        self.events += 1
        held = len(self._receive_buffer)
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == 431:  # noqa: PLR2004 - as the status in _TOO_LARGE
                self.refusal = _TOO_LARGE
            raise
        taken = held - len(self._receive_buffer)
        if type(event) is h11.Data:
            taken -= len(event.data)
            self._check_data(event)
        if taken > MAX_HEAD:  # which h11 refuses only where it comes in pieces
            self.refusal = _TOO_LARGE
            raise h11.RemoteProtocolError("head is too long")
        if type(event) is h11.Request:
            self._unread = self._chunks = self._length = 0
            self._check_framing(event)
        return event

    def _check_data(self, data: h11.Data) -> None:
        self._chunks += 1
        self._length += len(data.data)
        if self._chunks > FREE_CHUNKS + self._length // BYTES_A_CHUNK:
            raise h11.RemoteProtocolError("chunks are too small")
        if self.our_state is h11.DONE:
            self._unread += max(len(data.data), SMALLEST_CHUNK)
            if self._unread > MAX_UNREAD:
                raise h11.RemoteProtocolError("too much comes after the answer")

    def _check_framing(self, request: h11.Request) -> None:
        framed = {name for name, _ in request.headers} & {b"content-length", b"transfer-encoding"}
        if request.http_version not in {b"1.0", b"1.1"}:
            raise h11.RemoteProtocolError("unknown version of HTTP")
        # RFC 9112, 6.1: a proxy between the caller and us may have believed the other one.
        if len(framed) > 1 or (b"transfer-encoding" in framed and request.http_version < b"1.1"):
            raise h11.RemoteProtocolError("length is ambiguous")


class Transport:
    """The transport that uvicorn writes to. Closing it ends our side first, and drops what still
    comes for a while: closing a socket that has unread bytes can lose the answer.
    """

    def __init__(self, transport: Any) -> None:
        """`transport` is the event loop's."""
        self._transport = transport
        self.ended_at: float | None = None
        self.lingers = True

    def __getattr__(self, name: str) -> Any:
        """All else is the event loop's."""
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether nothing more may be written."""
        return self.ended_at is not None or self._transport.is_closing()

    def close(self) -> None:
        """Ends our side, and theirs too unless it lingers."""
        if not self.lingers:
            self._transport.close()
        elif not self.is_closing():
            self.ended_at = time.monotonic()
            self._transport.write_eof()
            self._transport.resume_reading()

    def close_for_good(self) -> None:
        """Ends both sides, once all is written."""
        self._transport.close()

    def reset(self) -> None:
        """Ends both sides at once, with an error that nobody can take for the end of an answer."""
        if not self._transport.is_closing():
            self.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()


class Connection(H11Protocol):
    """One connection. api.__main__.Server calls its `look` once a second."""

    conn: Requests
    connections: Any
    cycle: Any
    transport: Any

    def __init__(self, **arguments: Any) -> None:
        """`arguments` are uvicorn's."""
        super().__init__(**arguments)
        self.conn = Requests(h11.SERVER, MAX_HEAD)
        self._application, self.app = self.app, self._serve
        self._broken: ApiError | None = None  # why the body of the request in hand cannot be read
        # When the caller last sent a byte of a body, or began a head, or our last answer ended; and
        # when the caller last took something of an answer.
        self.silent_since = self.taken_at = time.monotonic()
        self.left_to_take = self._dropped = 0  # bytes
        self._next_read = SMALL_READ
        self._caller_ended = False

    @property
    def is_idle(self) -> bool:
        """Whether it has no request in hand."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _awaits_nothing(self) -> bool:
        """Whether nothing is left to answer if the caller sends no more."""
        return self.is_idle or (self.cycle.more_body and self._broken is None)

    @property
    def read_at_once(self) -> int:
        """Bytes; fewer where there are many connections."""
        return min(self._next_read, MAX_READ // max(1, len(self.connections)))

    @property
    def waits_for_caller(self) -> bool:
        """Whether it is the caller's turn, to send a request or the rest of one, or to take the
        answer; or the caller is gone.
        """
        is_sending = self.conn.their_state is h11.SEND_BODY and not self.flow.read_paused
        return self.is_idle or is_sending or self.flow.write_paused or self._caller_ended

    def connection_made(self, transport: Any) -> None:
        """Begins to serve. Slow callers give up their places where none is left; where none of them
        can, the connection is refused.
        """
        if len(self.connections) >= MAX_CONNECTIONS:
            slow_callers.make_room(self.connections)
        super().connection_made(Transport(transport))  # type: ignore[arg-type]
        if len(self.connections) > MAX_CONNECTIONS:
            self.refuse(*_UNAVAILABLE, more="Retry-After: 1\r\n")

    def data_received(self, data: bytes) -> None:
        """Serves each request once its head is complete; what comes before its turn is held."""
        if self.transport.is_closing() or self.conn.their_state in _ENDED_STATES:
            self._dropped += len(data)
            if self._dropped > MAX_UNREAD:
                self.transport.close_for_good()
            return
        if self.timeout_keep_alive_task or self.conn.their_state is h11.SEND_BODY:
            self.silent_since = time.monotonic()
        events = self.conn.events
        super().data_received(data)
        self._next_read = READ_AT_ONCE if self.conn.events - events < MANY_EVENTS else SMALL_READ
        if not self.is_idle and len(self.cycle.body) >= self.read_at_once:
            self.flow.pause_reading()

    def caller_ends(self) -> bool:
        """The caller's side has ended. Returns whether ours goes on, to answer a request that came
        whole: some callers end their side as soon as they have nothing more to say.
        """
        self._caller_ended, self.transport.lingers = True, False
        return not (self._awaits_nothing or self.transport.is_closing())

    def on_response_complete(self) -> None:
        """The next request may begin."""
        self.silent_since = time.monotonic()
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            # BODY_PART_TIMEOUT holds for what is left of the body.
            self._unset_keepalive_if_required()
        if self._caller_ended and self._awaits_nothing:
            self.transport.close()

    def pause_writing(self) -> None:
        """The caller takes less than there is."""
        super().pause_writing()
        slow_callers.end_untaken(self.connections)

    def look(self) -> None:
        """Ends the connection where its caller is too slow."""
        slow_callers.look_at(self)

    def shutdown(self) -> None:
        """Ends the connection once the request in hand is answered."""
        self.transport.lingers = False
        if self.transport.ended_at:
            self.transport.close()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's text says no more
        """Refuses what is not a request, or what is not the body of one."""
        if self.is_idle and self.conn.our_state in _UNANSWERED_STATES:
            self.refuse(*self.conn.refusal)
        else:
            self.end_body(ApiError(400, "Invalid HTTP request"))

    def end_body(self, error: ApiError) -> None:
        """Reads no more of the body. A route that reads it answers with `error`; an answer that
        does not depend on it stays the same.
        """
        if self.is_idle:
            self.transport.close()
            return
        if self.cycle.more_body:
            self._broken = error
        self.cycle.keep_alive = False
        self.cycle.message_event.set()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_part() -> Message:
            message = await receive()
            if self._broken is None or message["type"] == "http.disconnect":
                return message
            if cycle.response_started:
                return {"type": "http.disconnect"}
            raise self._broken

        async def send_part(message: Message) -> None:
            # RFC 9110, 10.1.1: a caller that waits for `100 Continue` may send the body after the
            # answer, or not at all.
            is_first = not cycle.response_started
            if is_first and (not cycle.keep_alive or self.conn.they_are_waiting_for_100_continue):
                message["headers"] = [*message["headers"], _CLOSE]
            await send(message)

        cycle = self.cycle
        scheme, is_whole, address = scope["raw_path"].partition(b"://")
        if is_whole and b"/" not in scheme:  # RFC 9112, 3.2.2: a request may name the whole URL
            scope["path"] = unquote("/" + address.partition(b"/")[2].decode())
        try:
            await self._application(scope, receive_part, send_part)
        finally:
            if cycle.response_started and not cycle.response_complete:  # it must not look whole
                cycle.disconnected = True
                if scope["http_version"] == "1.0":
                    # In HTTP/1.0 the end of a connection may be that of an answer: not this one.
                    self.transport.reset()
                else:
                    self.transport.abort()

    def _should_upgrade(self) -> bool:
        """Never: RFC 9110, 7.8 lets a server ignore the offer."""
        return False

    def refuse(self, status: str, error: str, *, more: str = "") -> None:
        """Answers what cannot be served, and ends our side. `more` holds header lines."""
        request_id = uuid4().hex
        log.info("request refused", request=request_id, status=int(status[:3]))
        body = f'{{"success":false,"data":null,"error":"{error}"}}'
        answer = _REFUSAL.format(
            status=status, length=len(body), request_id=request_id, more=more, body=body
        )
        self.transport.write(answer.encode())
        self.transport.close()


class Reader(asyncio.BufferedProtocol):
    """Reads for a connection, into a buffer that all share. The event loop would read 256 KB at
    once, and each of a thousand connections would hold as much. The methods are asyncio's.
    """

    # One is enough: what is read is handed on before anything else is read.
    _buffer = memoryview(bytearray(READ_AT_ONCE))

    def __init__(self, **arguments: Any) -> None:
        """`arguments` are uvicorn's."""
        self._connection = Connection(**arguments)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the loop gives no hint
        return self._buffer[: self._connection.read_at_once]

    def buffer_updated(self, nbytes: int) -> None:
        self._connection.data_received(bytes(self._buffer[:nbytes]))

    def eof_received(self) -> bool:
        return self._connection.caller_ends()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()
