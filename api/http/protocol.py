"""HTTP/1.1, one connection: h11 says what the bytes are, uvicorn serves the requests, and here is
what neither does: bounds on what a stranger can make us hold or wait for, and refusals in the
envelope that every other answer has (decision 20).
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

from api.http.answers import ApiError

MAX_HEAD = (
    16 * 1024
)  # bytes of request line and headers, or of the fields after a body: h11's own proposal
# Bytes that are read at once, which hold a body of 1000 leads; as many are held of requests that
# came before their turn, or of a body that nobody reads yet. Of all connections together no more
# than ALL_READ each.
READ_AT_ONCE = 64 * 1024
ALL_READ = 32 * 1024 * 1024
# Bytes of a body that come after the answer. A connection that is closed at once can take the
# answer with it. A chunk counts for SMALLEST_CHUNK at least: it takes its time, however small it
# is.
MAX_UNREAD = 16 * 1024 * 1024
SMALLEST_CHUNK = 256
# Chunks that a body may have: so many, and one more for each so many of its bytes. A line of a file
# is longer.
CHUNKS = 10_000
BYTES_A_CHUNK = 16
# Events of one read after which the next one is small, as is the first: an event takes 4 µs, and
# others wait meanwhile.
MANY_EVENTS = 64
SMALL_READ = 1024

HEAD_WITHIN = (
    30.0  # seconds from its first byte to its last; of the first head, from the connection on
)
NEXT_PART_WITHIN = 30.0  # seconds without a byte of a body that we are ready to read
TAKEN_WITHIN = 60.0  # seconds in which a caller takes not one byte of an answer
ALL_UNTAKEN = (
    64 * 1024 * 1024
)  # bytes of answers: as 500 callers are sent at once who waited for 1000 leads each
LINGERS = 5.0  # seconds after the end of our side, see Transport

MAX_CONNECTIONS = 1000  # twice the callers that wait at once in the greatest crowd that we measure
# Connections, where one more does not fit: to look for the oldest takes a look at all.
MADE_ROOM_FOR = 100

_REFUSAL = (
    "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
    "X-Request-ID: {request_id}\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
    "Connection: close\r\n{more}\r\n{body}"
)
_INVALID = ("400 Bad Request", "Invalid HTTP request")
_TOO_LARGE = ("431 Request Header Fields Too Large", "Request header is too large")
_CLOSE = (b"connection", b"close")
_RESET = struct.pack("ii", 1, 0)  # to wait for 0 s until all is sent

log = structlog.get_logger()


class Requests(h11.Connection):
    """What the bytes of a connection are, taken more strictly than h11 takes them."""

    refusal = _INVALID  # status and error, once an event could not be read
    events = 0
    _unread = _chunks = _length = 0

    def next_event(self) -> Any:
        """As h11's. Raises RemoteProtocolError, also for a long head, a length in two ways and a
        body that nobody reads.
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
        if self._chunks > CHUNKS + self._length // BYTES_A_CHUNK:
            raise h11.RemoteProtocolError("chunks are too small")
        if self.our_state is h11.DONE:
            self._unread += max(len(data.data), SMALLEST_CHUNK)
            if self._unread > MAX_UNREAD:
                raise h11.RemoteProtocolError("too much comes after the answer")

    def _check_framing(self, request: h11.Request) -> None:
        framed = {name for name, _ in request.headers} & {b"content-length", b"transfer-encoding"}
        if request.http_version not in {b"1.0", b"1.1"}:
            raise h11.RemoteProtocolError("no version of ours")
        # RFC 9112, 6.1: whoever stands between the caller and us may have gone by the other one.
        if len(framed) > 1 or (b"transfer-encoding" in framed and request.http_version < b"1.1"):
            raise h11.RemoteProtocolError("length is ambiguous")


class Transport:
    """What uvicorn writes to. Its end is told to the caller first, and what still comes is dropped
    for a while: a socket that is closed with bytes unread takes the answer with it.
    """

    def __init__(self, transport: Any) -> None:
        """`transport` is the event loop's."""
        self._transport = transport
        self.ended_at: float | None = None
        self.lingers = True

    def __getattr__(self, name: str) -> Any:
        """All else is as it is."""
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether nothing more may be written."""
        return self.ended_at is not None or self._transport.is_closing()

    def close(self) -> None:
        """Ends our side."""
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
        """Ends both sides at once, and so that it looks like no end."""
        if not self._transport.is_closing():
            self.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()


class Connection(H11Protocol):
    """One connection; Server looks at it every second."""

    conn: Requests
    connections: Any
    cycle: Any
    transport: Any

    def __init__(self, **arguments: Any) -> None:
        """`arguments` are uvicorn's."""
        super().__init__(**arguments)
        self.conn = Requests(h11.SERVER, MAX_HEAD)
        self._serve_it, self.app = self.app, self._serve
        self._broken: ApiError | None = None  # why the body of the request in hand cannot be read
        self.since = self.taken_at = (
            time.monotonic()
        )  # a byte of a body, the beginning of a head, or the last answer
        self._left_to_take = self._dropped = 0
        self._read = SMALL_READ
        self._caller_ended = False

    @property
    def is_idle(self) -> bool:
        """Whether it has no request in hand."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _asks_nothing(self) -> bool:
        """Whether it has no request in hand, or one of whose body the rest will not come."""
        return self.is_idle or (self.cycle.more_body and self._broken is None)

    @property
    def read_at_once(self) -> int:
        """Bytes; fewer where there are many connections."""
        return min(self._read, ALL_READ // max(1, len(self.connections)))

    @property
    def waits_for_caller(self) -> bool:
        """Whether it is the caller's turn: to ask for something, to send it whole, or to take the
        answer. Or they are gone.
        """
        is_sending = self.conn.their_state is h11.SEND_BODY and not self.flow.read_paused
        return self.is_idle or is_sending or self.flow.write_paused or self._caller_ended

    def connection_made(self, transport: Any) -> None:
        """Where there is no place left, callers whose turn it is give up theirs, the idle first,
        those of long ago first.
        """
        if len(self.connections) >= MAX_CONNECTIONS:
            waiting = sorted(self.connections, key=lambda each: each.since)
            idle = [each for each in waiting if each.is_idle][:MADE_ROOM_FOR]
            for each in idle or [each for each in waiting if each.waits_for_caller][:1]:
                each.transport.abort()
                self.connections.discard(each)
        super().connection_made(Transport(transport))  # type: ignore[arg-type]
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(
                "503 Service Unavailable",
                "Service temporarily unavailable",
                more="Retry-After: 1\r\n",
            )

    def data_received(self, data: bytes) -> None:
        """Serves what is a request by now; what comes before its turn is held, and no more read."""
        if self.transport.is_closing() or self.conn.their_state in {
            h11.MUST_CLOSE,
            h11.CLOSED,
            h11.ERROR,
        }:
            self._dropped += len(data)
            if self._dropped > MAX_UNREAD:
                self.transport.close_for_good()
            return
        if self.timeout_keep_alive_task or self.conn.their_state is h11.SEND_BODY:
            self.since = time.monotonic()
        events = self.conn.events
        super().data_received(data)
        self._read = READ_AT_ONCE if self.conn.events - events < MANY_EVENTS else SMALL_READ
        if not self.is_idle and len(self.cycle.body) >= self.read_at_once:
            self.flow.pause_reading()

    def caller_ends(self) -> bool:
        """Their side has ended. Whether ours goes on: for what was asked whole, as those expect who
        have nothing more to say.
        """
        self._caller_ended, self.transport.lingers = True, False
        return not (self._asks_nothing or self.transport.is_closing())

    def on_response_complete(self) -> None:
        """The next request may begin."""
        self.since = time.monotonic()
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            # NEXT_PART_WITHIN holds for what is left of the body.
            self._unset_keepalive_if_required()
        if self._caller_ended and self._asks_nothing:
            self.transport.close()

    def pause_writing(self) -> None:
        """The caller takes less than there is. Where callers leave too much, they lose it who have
        taken nothing for longest.
        """
        super().pause_writing()
        paused = sorted(
            (each for each in self.connections if each.flow.write_paused),
            key=lambda each: each.taken_at,
        )
        untaken = sum(each.transport.get_write_buffer_size() for each in paused)
        for each in paused:
            if untaken <= ALL_UNTAKEN:
                break
            untaken -= each.transport.get_write_buffer_size()
            each.transport.abort()

    def look(self) -> None:
        """Ends it where the caller has been silent for too long, or takes nothing of the answer."""
        now, left = time.monotonic(), self.transport.get_write_buffer_size()
        if not left or left != self._left_to_take:
            self._left_to_take, self.taken_at = left, now
        elif now - self.taken_at > TAKEN_WITHIN:
            self.transport.abort()
        if not self.transport.is_closing():
            self._look_at_requests(now)
        elif self.transport.ended_at and now - self.transport.ended_at > LINGERS:
            self.transport.close_for_good()

    def _look_at_requests(self, now: float) -> None:
        if self.conn.their_state is h11.SEND_BODY:
            if self.flow.read_paused:
                self.since = now
            elif now - self.since > NEXT_PART_WITHIN:
                self._end_body(ApiError(408, "Request body took too long to arrive"))
        elif (
            self.conn.their_state is h11.IDLE
            and not self.timeout_keep_alive_task
            and now - self.since > HEAD_WITHIN
        ):
            if self.conn.trailing_data[0]:
                self._refuse("408 Request Timeout", "Request header took too long to arrive")
            else:
                self.transport.close()

    def shutdown(self) -> None:
        """Ends it once the request in hand is answered."""
        self.transport.lingers = False
        if self.transport.ended_at:
            self.transport.close()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's text says no more
        """Refuses what is no request, or tells who reads the body that it is none."""
        if self.is_idle and self.conn.our_state in {
            h11.IDLE,
            h11.SEND_RESPONSE,
        }:  # the latter of what Requests alone refuses
            self._refuse(*self.conn.refusal)
        else:
            self._end_body(ApiError(400, "Invalid HTTP request"))

    def _end_body(self, error: ApiError) -> None:
        """Whoever reads the body answers so; an answer that does not depend on it stays the same.
        Then nothing more is read.
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
            # RFC 9110, 10.1.1: who waits to be told to go on may send the body after the answer or
            # leave it out.
            if not cycle.response_started and (
                not cycle.keep_alive or self.conn.they_are_waiting_for_100_continue
            ):
                message["headers"] = [*message["headers"], _CLOSE]
            await send(message)

        cycle = self.cycle
        scheme, is_whole, address = scope["raw_path"].partition(b"://")
        if is_whole and b"/" not in scheme:  # RFC 9112, 3.2.2: the whole address is allowed
            scope["path"] = unquote("/" + address.partition(b"/")[2].decode())
        try:
            await self._serve_it(scope, receive_part, send_part)
        finally:
            if cycle.response_started and not cycle.response_complete:  # it must not look whole
                cycle.disconnected = True
                if (
                    scope["http_version"] == "1.0"
                ):  # where the end of a connection may be that of an answer
                    self.transport.reset()
                else:
                    self.transport.abort()

    def _should_upgrade(self) -> bool:
        """Never: RFC 9110, 7.8 lets a server ignore the offer."""
        return False

    def _refuse(self, status: str, error: str, *, more: str = "") -> None:
        request_id = uuid4().hex
        log.info("request refused", request=request_id, status=int(status[:3]))
        body = f'{{"success":false,"data":null,"error":"{error}"}}'
        answer = _REFUSAL.format(
            status=status, length=len(body), request_id=request_id, more=more, body=body
        )
        self.transport.write(answer.encode())
        self.transport.close()


class Reader(asyncio.BufferedProtocol):
    """Reads for a connection. The event loop would read 256 KB at once for it, which is what a
    thousand would hold each.
    """

    _part = memoryview(
        bytearray(READ_AT_ONCE)
    )  # of all connections: what is read is handed on before anything else is

    def __init__(self, **arguments: Any) -> None:
        """`arguments` are uvicorn's."""
        self._connection = Connection(**arguments)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection begins."""
        self._connection.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        self._connection.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the loop has no hint to give
        """Where to read to."""
        return self._part[: self._connection.read_at_once]

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes were read."""
        self._connection.data_received(bytes(self._part[:nbytes]))

    def eof_received(self) -> bool:
        """The caller's side has ended; whether ours goes on."""
        return self._connection.caller_ends()

    def pause_writing(self) -> None:
        """The caller takes less than there is."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """The caller has taken most of it."""
        self._connection.resume_writing()
