"""A pooler in front of PostgreSQL as PgBouncer is in transaction mode before it knew of prepared
statements (1.21): each transaction of a client gets any connection to the server that is idle, and
names of statements are passed on as they are.
"""

import os
import re
import select
import socket
import struct
import threading
from contextlib import closing, contextmanager, suppress

import psycopg

_READY, _IDLE = ord("Z"), ord("I")
_PARAMETERS = (
    "server_version",
    "client_encoding",
    "standard_conforming_strings",
    "integer_datetimes",
    "DateStyle",
    "TimeZone",
)


class Pooler:
    """`url` leads through it. Where it is not `in_transaction_mode`, each client keeps the
    connection that it has got.
    """

    def __init__(self, database_url, *, in_transaction_mode=True):
        self._database_url = database_url
        self.in_transaction_mode = in_transaction_mode
        self._idle = []  # connections to the server; the last one that was used is the next
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.served = 0  # clients
        self.url = re.sub(
            r"@127\.0\.0\.1:\d+/", f"@127.0.0.1:{self._listener.getsockname()[1]}/", database_url
        )
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()
        for server in self._idle:
            server.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.served += 1
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _server(self):
        return self._idle.pop() if self._idle else psycopg.connect(self._database_url)

    def _serve(self, client):
        server = self._server()
        with closing(client), suppress(OSError):
            _greet(client, server)
            while data := _unless_it_ends(client.recv(65536)):
                if server is None:
                    server = self._server()
                with socket.socket(fileno=os.dup(server.fileno())) as line:
                    line.setblocking(True)
                    _relay(client, line, data)
                if self.in_transaction_mode:
                    self._idle.append(server)
                    server = None
        if server is not None:  # which keeps what its client has left there
            server.close()


def _greet(client, server):
    """Lets everybody in."""
    while _message(client)[4:8] == struct.pack("!I", 80877103):  # asks for TLS
        client.sendall(b"N")
    answer = _framed(b"R", struct.pack("!I", 0))
    for name in _PARAMETERS:
        value = server.info.parameter_status(name)
        answer += _framed(b"S", f"{name}\0{value}\0".encode())
    client.sendall(answer + _framed(b"K", struct.pack("!II", 1, 1)) + _framed(b"Z", b"I"))


def _relay(client, line, data):
    """One transaction, which begins with `data`."""
    line.sendall(data)
    buffer = b""
    while True:
        for source in select.select([client, line], [], [])[0]:
            got = source.recv(65536)
            if not got:
                raise OSError("hung up")
            if source is client:
                line.sendall(got)
                continue
            client.sendall(got)
            buffer += got
            while len(buffer) >= 5 and len(buffer) > (size := struct.unpack("!I", buffer[1:5])[0]):
                message, buffer = buffer[: size + 1], buffer[size + 1 :]
                if message[0] == _READY and message[5] == _IDLE and not buffer:
                    return


def _unless_it_ends(data):
    return b"" if data[:1] == b"X" else data


def _message(client):
    head = client.recv(4, socket.MSG_WAITALL)
    return head + client.recv(struct.unpack("!I", head)[0] - 4, socket.MSG_WAITALL)


def _framed(kind, body):
    return kind + struct.pack("!I", len(body) + 4) + body


@contextmanager
def pooled(database_url, **how):
    """A pooler before `database_url`."""
    pooler = Pooler(database_url, **how)
    try:
        yield pooler
    finally:
        pooler.close()
