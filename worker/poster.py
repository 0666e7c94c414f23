"""Sends one POST to an address that a caller chose, and trusts nothing on the way: not the name,
not what it leads to now, not the answer. Resolves once, checks every address, connects to one of
those, and gives the whole exchange SECONDS and BYTES.

httpcore speaks HTTP and TLS, over connections that are made and bounded here.
"""

import ssl
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache
from typing import Any, NamedTuple

import httpcore2

from shared.destinations import (
    Address,
    Destination,
    Network,
    may_use,
    parse_destination,
    resolve,
)

SECONDS = 20.0  # for all of it, from the look-up of the name to the end of the answer
BYTES = 64 * 1024  # of an answer that are read
CONNECT_SECONDS = 5.0  # for each address, so that one that is silent leaves time for the next
# At once; those of name servers that are silent go on for a while after we have given up.
LOOK_UPS = 64
_READ = 16 * 1024  # bytes at once

_look_ups = ThreadPoolExecutor(LOOK_UPS, "look-up")  # since a look-up takes no time-out
_HEADERS = {
    "user-agent": "Leadsweep",
    "content-type": "application/json",
    "accept-encoding": "identity",
    "connection": "close",
}


class Reply(NamedTuple):
    """What became of a POST: the status of the answer, or why no answer came, in words that tell
    nothing about the receiver.

    One that was not even `sent` is our fault, and not the receiver's.
    """

    status: int | None = None
    retry_after: str | None = None
    error: str | None = None
    sent: bool = True


class _Forbidden(Exception):
    """An address that nothing may be sent to."""


class _Bounded(httpcore2.NetworkStream):
    """A stream that bounds each of its steps by one deadline, and what it reads by BYTES."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: float, left: int = BYTES) -> None:
        """`deadline` by the monotonic clock; `left` in bytes."""
        self._stream = stream
        self._deadline = deadline
        self._left = left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the deadline is what counts
        """The bytes that have come; none, as at the end, once BYTES have been read."""
        if self._left <= 0:
            return b""
        part = self._stream.read(min(max_bytes, self._left, _READ), _left_until(self._deadline))
        self._left -= len(part)
        return part

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - as above
        """Writes all of it. A receiver that takes the body byte by byte has no more time for it."""
        view = memoryview(buffer)
        while view:
            self._stream.write(bytes(view[:_READ]), _left_until(self._deadline))
            view = view[_READ:]

    def close(self) -> None:
        """Closes the connection."""
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        """The same over TLS."""
        del timeout
        secured = self._stream.start_tls(ssl_context, server_hostname, _left_until(self._deadline))
        return _Bounded(secured, self._deadline, self._left)

    def get_extra_info(self, info: str) -> Any:
        """As the stream below."""
        return self._stream.get_extra_info(info)


class _Checked(httpcore2.NetworkBackend):
    """Connects to the addresses given, whatever the name of the host leads to by now."""

    def __init__(self, addresses: Sequence[Address], deadline: float) -> None:
        """`deadline` by the monotonic clock."""
        self._addresses = addresses
        self._deadline = deadline
        self._sockets = httpcore2.SyncBackend()
        self._stream: httpcore2.NetworkStream | None = None

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        """A connection to the first address that takes one."""
        del host, timeout, local_address, socket_options
        for address in self._addresses[:-1]:
            try:
                return self._connect(address, port)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return self._connect(self._addresses[-1], port)

    def _connect(self, address: Address, port: int) -> httpcore2.NetworkStream:
        seconds = min(CONNECT_SECONDS, _left_until(self._deadline))
        self._stream = self._sockets.connect_tcp(str(address), port, seconds, None, ())
        return _Bounded(self._stream, self._deadline)

    def close(self) -> None:
        """Closes the connection if it was not handed on, as where time ran out between connecting
        and TLS.
        """
        if self._stream:
            self._stream.close()


def post(url: str, headers: dict[str, str], body: bytes, allowed: Sequence[Network]) -> Reply:
    """POSTs `body` to `url`, following nothing. Never raises for what the receiver, its name or the
    network does.
    """
    deadline = time.monotonic() + SECONDS
    try:
        return _exchange(url, headers, body, allowed, deadline)
    except (
        _Forbidden,
        ValueError,
        OSError,
        httpcore2.TimeoutException,
        httpcore2.NetworkError,
        httpcore2.ProtocolError,
    ) as error:
        return Reply(
            error=next(
                words
                for kinds, words in _WORDS
                if isinstance(error, kinds) or isinstance(error.__cause__, kinds)
            )
        )


# The first that fits.
_WORDS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    ((_Forbidden, UnicodeError), "address not allowed"),
    (ssl.SSLError, "TLS failed"),
    ((TimeoutError, httpcore2.TimeoutException), "timed out"),
    (httpcore2.ConnectError, "not connected"),
    (httpcore2.NetworkError, "connection broken"),
    (httpcore2.ProtocolError, "answer is not HTTP"),
    (OSError, "name not resolved"),
    (ValueError, "address not allowed"),
)


def _exchange(
    url: str, headers: dict[str, str], body: bytes, allowed: Sequence[Network], deadline: float
) -> Reply:
    destination = parse_destination(url)
    addresses = _resolve(destination, deadline)
    if not addresses or not may_use(destination, addresses, allowed):
        raise _Forbidden
    bracketed = f"[{destination.host}]" if ":" in destination.host else destination.host
    parts = httpcore2.URL(
        scheme=destination.scheme.encode(),
        host=destination.host.encode(),
        port=destination.port,
        target=destination.target.encode(),
    )
    default_port = {"http": 80, "https": 443}[destination.scheme]
    host = bracketed if destination.port == default_port else f"{bracketed}:{destination.port}"
    request = httpcore2.Request(
        "POST",
        parts,
        headers=[
            *({"host": host} | _HEADERS | headers).items(),
            ("content-length", str(len(body))),
        ],
        content=body,
    )
    with (
        closing(_Checked(addresses, deadline)) as backend,
        httpcore2.HTTPConnection(
            parts.origin, ssl_context=_tls(), network_backend=backend
        ) as connection,
    ):
        response = connection.handle_request(request)
        reply = Reply(response.status, _header(response, b"retry-after"))
        _read_the_rest(response)
    return reply


def _resolve(destination: Destination, deadline: float) -> list[Address]:
    """As `resolve`. Raises TimeoutError too."""
    looking = _look_ups.submit(resolve, destination)
    try:
        return looking.result(_left_until(deadline))
    finally:
        looking.cancel()  # where it has not begun yet


def _read_the_rest(response: httpcore2.Response) -> None:
    """Lets the receiver finish its answer, which nobody reads: the status says what became of the
    delivery.
    """
    try:
        for _ in response.iter_stream():
            pass
    except (
        httpcore2.NetworkError,
        httpcore2.ProtocolError,
        httpcore2.TimeoutException,
        TimeoutError,
    ):
        return


def _header(response: httpcore2.Response, name: bytes) -> str | None:
    return next(
        (value.decode("latin-1") for key, value in response.headers if key.lower() == name), None
    )


def _left_until(deadline: float) -> float:
    """Seconds. Raises TimeoutError where there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
