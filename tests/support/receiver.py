"""A scripted receiver of webhooks: does what its path says, and remembers what came. Real sockets,
on loopback.
"""

import gzip
import socket
import ssl
import struct
import threading
from contextlib import contextmanager, suppress
from typing import NamedTuple

from standardwebhooks import Webhook, WebhookVerificationError


class Came(NamedTuple):
    """A request: its path, its headers in lower case, its body, and the server name that TLS was
    asked for.
    """

    path: str
    headers: dict
    body: bytes
    server_name: str | None = None

    def verified(self, secret):
        """The event in it; raises unless the official library finds it signed with `secret`."""
        return Webhook(secret).verify(self.body, self.headers)

    def is_signed_with(self, secret):
        with suppress(WebhookVerificationError):
            return bool(self.verified(secret))
        return False


class Receiver:
    """Listens on one port. `/200`, `/404` … answer so; `script` maps further paths to bytes or
    functions of a socket.
    """

    def __init__(self, host="127.0.0.1", tls=None, port=0):
        self.came, self.connections, self.script, self.at_once, self.most_at_once = (
            [],
            0,
            {},
            {},
            {},
        )
        self.goes_on = threading.Event()  # lets those go who hang
        self._tls = tls
        self._names = threading.local()
        if tls:
            tls.sni_callback = lambda _socket, name, _context: setattr(self._names, "name", name)
        self._lock = threading.Lock()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=512)
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://{host}:{self.port}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self):
        self.goes_on.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, accepted):
        with (
            suppress(OSError),
            self._tls.wrap_socket(accepted, server_side=True)
            if self._tls
            else accepted as connection,
        ):
            came = self._read(connection)
            with self._lock:
                self.at_once[came.path] = self.at_once.get(came.path, 0) + 1
                self.most_at_once[came.path] = max(
                    self.most_at_once.get(came.path, 0), self.at_once[came.path]
                )
                self.came.append(came)
            try:
                self._answer(connection, came.path)
            finally:
                with self._lock:
                    self.at_once[came.path] -= 1

    def _read(self, connection):
        raw = b""
        while b"\r\n\r\n" not in raw:
            raw += connection.recv(65536) or _gone()
        head, _, body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        while len(body) < int(headers["content-length"]):
            body += connection.recv(65536) or _gone()
        return Came(first.split()[1], headers, body, getattr(self._names, "name", None))

    def _answer(self, connection, path):
        path = path.partition("?")[0]
        does = self.script.get(path) or _KNOWN.get(path)
        if callable(does):
            does(self, connection)
        else:
            connection.sendall(
                does or f"HTTP/1.1 {path.strip('/')} x\r\ncontent-length: 0\r\n\r\n".encode()
            )


def _gone():
    raise OSError("gone")


def _hang(receiver, _connection):
    receiver.goes_on.wait(60)


def _byte_by_byte(receiver, connection):
    for byte in b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000:
        connection.sendall(bytes([byte]))
        if receiver.goes_on.wait(0.05):
            return


def _endless(head, part):
    def send(receiver, connection):
        connection.sendall(head)
        while not receiver.goes_on.is_set():
            connection.sendall(part)

    return send


def _reset(_receiver, connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


BOMB = gzip.compress(b"\0" * 50_000_000)
_KNOWN = {
    "/hang": _hang,
    "/byte-by-byte": _byte_by_byte,
    "/endless-body": _endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536),
    "/endless-head": _endless(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 1000),
    "/endless-100": _endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "/reset": _reset,
    "/rubbish": b"\x00\xff" * 100,
    "/nothing": lambda _receiver, _connection: None,
    "/bomb": b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(BOMB)
    + BOMB,
    "/redirect": (
        b"HTTP/1.1 302 x\r\nlocation: http://169.254.169.254/latest\r\ncontent-length: 0\r\n\r\n"
    ),
    "/wait": b"HTTP/1.1 429 x\r\nretry-after: 7200\r\ncontent-length: 0\r\n\r\n",
}


@contextmanager
def receiving(host="127.0.0.1", tls=None, port=0):
    """A receiver, until the end of the block; `port` 0 is any."""
    receiver = Receiver(host, tls, port)
    try:
        yield receiver
    finally:
        receiver.close()


def server_context(certificate):
    """TLS of a server with `certificate`, a file that holds its key too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context
