"""One request is one request, however its bytes arrive: sequences of valid and invalid requests, in
one piece and in many.

`python -m tests.api.http.test_framing FIRST COUNT` tries as many sequences, beginning with that
seed.
"""

import asyncio
import json
import re
import socket
import sys
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from random import Random

import uvicorn
import uvloop
from uvicorn.server import ServerState

from api.http.answers import ApiError
from api.http.protocol import Reader

SEQUENCES = 1000
AT_ONCE = 20  # connections
PATHS = (
    "/read",
    "/read?a=b",
    "/unread",
)  # where the application reads the body, and where it does not
BODIES = (
    b"",
    b"{}",
    b"GET /read HTTP/1.1\r\nHost: x\r\n\r\n",
    b"0\r\n\r\n",
    b"\r\nUpgrade: h2c\r\n\r\n",
    b"\0\xff" * 40,
    b"x" * 40_000,
)
OFFERS = (
    b"",
    (
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings:"
        b" AAMAAABkAAQCAAAAAAIAAAAA\r\n"
    ),
    (
        b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
    ),
)
TRAILERS = (b"", b"x-api-key: other\r\n", b"Content-Length: 5\r\nHost: y\r\n")
INVALID_HEADS = (
    b"nonsense\r\n\r\n",
    b"GET /read\r\n\r\n",
    b"GET /read HTTP/1.1\r\n\r\n",
    b"GET /read HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
    b"GET /read HTTP/1.1\r\nHost : x\r\n\r\n",
    b"GET /read HTTP/1.1\r\nHost: x\r\na\0b: c\r\n\r\n",
    b"GET /read HTTP/9.9\r\nHost: x\r\n\r\n",
    b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 2, 3\r\n\r\n{} ",
    b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: -2\r\n\r\n{}",
    b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 2x\r\n\r\n{}",
    (
        b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n"
        b"\r\n2\r\n{}\r\n0\r\n\r\n"
    ),
    (
        b"POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n"
        b"0\r\n\r\n"
    ),
    b"POST /read HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
)
TOO_LONG = (
    b"GET /read HTTP/1.1\r\nHost: x\r\nx: " + b"a" * 20_000 + b"\r\n\r\n",
    b"GET /read HTTP/1.1\r\nHost: x\r\n" + b"a:b\r\n" * 4000 + b"\r\n",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
)
BEHIND = (
    b"",
    b"\r\n",
    b"nonsense\r\n\r\n",
    b"GET /read HTTP/1.1\r\nHost: x\r\n\r\n",
)  # what is the last request
BROKEN_BODIES = (
    b"2;" + b"a" * 20_000 + b"\r\n{}\r\n0\r\n\r\n",
    b"2\r\n{}\r\n0\r\na: " + b"b" * 20_000 + b"\r\n\r\n",
    b"nonsense\r\n",
    b"2\r\n{}nonsense\r\n",
    b"-2\r\n{}\r\n0\r\n\r\n",
    b"2\r\n{}\r\n0x\r\n\r\n",
    b"2\r\n{}\r\n0\r\n no field\r\n\r\n",
)


def chunked(random, body):
    """The body in chunks of any size."""
    parts = []
    while body:
        size = random.randint(1, min(len(body), 20_000))
        extension = random.choice((b"", b"", b";a=b"))
        parts.append(b"%x%s\r\n%s\r\n" % (size, extension, body[:size]))
        body = body[size:]
    return b"".join(parts) + b"0\r\n" + random.choice(TRAILERS) + b"\r\n"


def valid(random, *, last=False):
    """(bytes, expected answer) of a request that is one."""
    method, path = random.choice((b"GET", b"POST", b"DELETE")), random.choice(PATHS)
    body = random.choice(BODIES)
    more = (
        b"Connection: close\r\n"
        if last
        else random.choice((*OFFERS, b"x: " + b"a" * 12_000 + b"\r\n"))
    )
    head = b"%s %s HTTP/1.1\r\nHost: x\r\n%s" % (method, path.encode(), more)
    framing = random.randint(0, 2)
    if framing == 0:
        sent, body = head + b"\r\n", b""
    elif framing == 1:
        blanks = random.choices((b"", b" ", b" \t "), k=2)
        sent = head + b"Content-Length:%s%d%s\r\n\r\n%s" % (blanks[0], len(body), blanks[1], body)
    else:
        sent = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(random, body)
    names = sorted(
        line.partition(b":")[0].decode().lower()
        for line in sent.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    )
    answer = {"method": method.decode(), "path": path, "headers": names}
    return sent, (200, answer | ({} if path == "/unread" else {"body": body.hex()}))


def broken(random):
    """(bytes, expected answer) of a request whose body is none: who reads it answers 400."""
    path = random.choice(PATHS)
    sent = b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%s" % (
        path.encode(),
        random.choice(BROKEN_BODIES),
    )
    if path == "/unread":
        return sent, (
            200,
            {"method": "POST", "path": path, "headers": ["host", "transfer-encoding"]},
        )
    return sent, (400, "Invalid HTTP request")


def sequence(random):
    """(bytes, expected answers) of some requests, after the last of which the connection ends."""
    requests = [valid(random) for _ in range(random.randint(0, 4))]
    kind = random.choice(
        ("whole", "whole", "whole", "whole", "invalid", "invalid", "long", "broken")
    )
    if kind == "invalid":
        requests.append((random.choice(INVALID_HEADS), (400, "Invalid HTTP request")))
    elif kind == "long":
        requests.append((random.choice(TOO_LONG), (431, "Request header is too large")))
    elif kind == "broken":
        requests.append(broken(random))
    requests.append(valid(random, last=True))
    answers = [answer for _, answer in requests]
    sent = b"".join(sent for sent, _ in requests) + random.choice(BEHIND)
    return sent, answers if kind == "whole" else answers[:-1]


def pieces(random, sent):
    """What is sent, cut at any bytes, often close to an end of a line."""
    places = {random.randrange(len(sent)) for _ in range(random.randint(0, 12))}
    ends = [place for place in range(len(sent) - 1) if sent[place : place + 2] == b"\r\n"]
    places |= {random.choice(ends) + random.randint(-1, 3) for _ in range(random.randint(0, 6))}
    cuts = [0, *sorted(place for place in places if 0 < place < len(sent)), len(sent)]
    return [sent[start:end] for start, end in pairwise(cuts)]


async def application(scope, receive, send):
    """Says what it was asked, and what came with it where it reads that."""
    path = scope["path"] + ("?" + scope["query_string"].decode() if scope["query_string"] else "")
    for _ in range(
        sum(scope["raw_path"]) % 7 * len(scope["headers"]) % 7
    ):  # turns of the loop, as the look-up of a key takes
        await asyncio.sleep(0)
    status = 200
    answer = {
        "method": scope["method"],
        "path": path,
        "headers": sorted(name.decode() for name, _ in scope["headers"]),
    }
    try:
        if path != "/unread":
            body = b""
            while (message := await receive()).get("more_body"):
                body += message["body"]
            answer["body"] = (body + message["body"]).hex()
    except ApiError as error:
        status, answer = error.status, {"error": error.message}
    body = json.dumps(answer).encode()
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-length", b"%d" % len(body))],
        }
    )
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(served=application):
    """The port of a server of that application, and its connections."""
    config = uvicorn.Config(served, lifespan="off", log_config=None)
    state, loop = ServerState(), asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Reader(config=config, server_state=state, app_state={}, _loop=loop), "127.0.0.1", 0
    )
    try:
        yield server.sockets[0].getsockname()[1], state.connections
    finally:
        server.close()
        for connection in tuple(state.connections):
            connection.transport.abort()
        await server.wait_closed()


async def answers_to(port, parts, *, ends):
    """[(status, answer or error)] until the end of the connection, to what is sent part by part,
    and that this is all.
    """
    loop, received = asyncio.get_running_loop(), b""
    with socket.socket() as connection:
        connection.setblocking(False)
        await loop.sock_connect(connection, ("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(
            ConnectionError
        ):  # an answer may come before all is sent, and the end with it
            for part in parts:
                await loop.sock_sendall(connection, part)
                for _ in range(3):  # turns of the loop, in which the server reads it
                    await asyncio.sleep(0)
            if ends:
                connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while part := await loop.sock_recv(connection, 65536):
                received += part
    answers = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])
        answer, received = json.loads(received[:length]), received[length:]
        answers.append((int(head.split()[1]), answer.get("error") or answer))
    return answers


async def check(port, seed):
    """One sequence, in one piece and in many."""
    random = Random(seed)
    sent, expected = sequence(random)
    for parts in ([sent], pieces(random, sent)):
        async with asyncio.timeout(60):
            answers = await answers_to(port, parts, ends=random.choice((False, True)))
        assert answers == expected, f"seed {seed}, sent {parts}"


async def check_all(first, count):
    """So many, some at once."""
    seeds = iter(range(first, first + count))

    async def some():
        for seed in seeds:
            await check(port, seed)

    async with serving() as (port, _), asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(some())


def run(first, count):
    """So many sequences on the event loop that the API has."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(check_all(first, count))


def test_a_sequence_of_requests_gets_the_same_answers_however_its_bytes_arrive():
    run(0, SEQUENCES)


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]))
