"""Brokers for tests: a Redis with settings of its own, TLS in front of one, and what RabbitMQ says
to a publisher.
"""

import re
import socket
import ssl
import struct
import subprocess
import threading
from contextlib import closing, contextmanager, suppress

import redis

from cli.stack.embedded import free_port
from cli.stack.programs import redis_program
from tests.support.stack import wait_for


@contextmanager
def redis_server(folder, **settings):
    """A Redis of its own, without a password, with `settings` as its configuration has them; yields
    its URL.
    """
    port = free_port()
    options = [
        word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)
    ]
    command = [
        str(redis_program().path),
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        *options,
    ]
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *command], cwd=folder, stdout=subprocess.DEVNULL
    )
    url = f"redis://127.0.0.1:{port}/0"
    try:
        wait_for(lambda: answers(url))
        yield url
    finally:
        process.kill()  # SIGTERM would have it save first
        process.wait()


def answers(url):
    with suppress(redis.RedisError), redis.Redis.from_url(url) as client:
        return client.ping()
    return False


@contextmanager
def tls_before(url, certificate):
    """A port that speaks TLS with `certificate`, for `localhost`, and leads to `url`; yields the
    URL to it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    target = int(re.search(r":(\d+)/", url)[1])

    def serve(plain):
        with (
            suppress(OSError),
            closing(plain),
            context.wrap_socket(plain, server_side=True) as client,
            socket.create_connection(("127.0.0.1", target)) as server,
        ):
            threading.Thread(target=pump, args=(server, client), daemon=True).start()
            pump(client, server)

    with _listening(serve) as port:
        yield re.sub(r"^(redis|amqp)(://.*@)127\.0\.0\.1:\d+/", rf"\1s\g<2>localhost:{port}/", url)


def pump(source, sink):
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


@contextmanager
def rabbitmq(*, blocks=False):
    """Speaks as much of AMQP 0-9-1 as a publisher needs. `blocks`: as with an alarm, it says so to
    who publishes, and reads no more from them.
    """

    def serve(client):
        with suppress(OSError), closing(client):
            client.recv(8, socket.MSG_WAITALL)
            _say(
                client,
                0,
                (10, 10),
                b"\0\x09" + _long(_PROPERTIES) + _long(b"PLAIN") + _long(b"en_US"),
            )
            while True:
                channel, method = _hear(client)
                if method == (60, 40) and blocks:
                    _say(client, 0, (10, 60), b"\x0alow on disk")
                    client.recv(1 << 16)
                    threading.Event().wait(30)
                elif method == (60, 40):
                    _say(client, channel, (60, 80), struct.pack("!QB", 1, 0))
                elif method == (50, 10):
                    _say(client, channel, (50, 11), b"\x04jobs" + struct.pack("!II", 0, 0))
                elif method in _ANSWERS:
                    _say(client, channel, *_ANSWERS[method])

    with _listening(serve) as port:
        yield f"amqp://guest:guest@127.0.0.1:{port}//"


def _long(text):
    return struct.pack("!I", len(text)) + text


_PROPERTIES = b"\x0ccapabilitiesF" + _long(b"\x12connection.blockedt\x01")

_ANSWERS = {
    (10, 11): ((10, 30), struct.pack("!HIH", 100, 131072, 0)),  # start-ok: tune
    (10, 40): ((10, 41), b"\0"),  # open
    (20, 10): ((20, 11), struct.pack("!I", 0)),  # channel.open
    (85, 10): ((85, 11), b""),  # confirm.select
    (10, 50): ((10, 51), b""),  # close
}


def _say(client, channel, method, arguments):
    payload = struct.pack("!HH", *method) + arguments
    client.sendall(struct.pack("!BHI", 1, channel, len(payload)) + payload + b"\xce")


def _hear(client):
    """The channel and the method of the next frame that holds one."""
    while True:
        head = client.recv(7, socket.MSG_WAITALL)
        if len(head) < 7:
            raise OSError("hung up")
        kind, channel, size = struct.unpack("!BHI", head)
        payload = client.recv(size + 1, socket.MSG_WAITALL)
        if kind == 1:
            return channel, struct.unpack("!HH", payload[:4])


@contextmanager
def _listening(serve):
    """Calls `serve` in a thread for each connection; yields the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
