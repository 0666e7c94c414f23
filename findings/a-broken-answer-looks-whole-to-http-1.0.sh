#!/usr/bin/env bash
# Seen: uvicorn 0.54.0 with h11 0.16.0 and with httptools 0.9.0, hypercorn 0.18.0, 28 November 2026.
#
# One expects: where an application fails in the middle of an answer of unknown length, whoever reads it can tell. In HTTP/1.1 they
# can: the last chunk is missing. In HTTP/1.0, which nginx has long spoken by default to what stands behind it, such an answer
# ends where the connection does, and these servers end it as they would after a whole one: the caller reads half a file, and no
# error. A reset (SO_LINGER of 0 before the close) is what would tell them; `transport.abort()` of asyncio is none, as long
# as nothing is left unsent.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv "$work/python"
"$work/python/bin/pip" install --quiet uvicorn==0.54.0 httptools==0.9.0 h11==0.16.0 hypercorn==0.18.0
cat >"$work/ask.py" <<'PYTHON'
import asyncio
import logging
import socket

import hypercorn.asyncio
import hypercorn.config
import uvicorn

logging.disable(logging.CRITICAL)


async def application(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/csv")]})
    await send({"type": "http.response.body", "body": b"first,line\r\n", "more_body": True})
    raise RuntimeError("the rest cannot be read")


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


async def of_uvicorn(parser, port, stop):
    server = uvicorn.Server(uvicorn.Config(application, port=port, http=parser, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve())
    await stop.wait()
    server.should_exit = True
    await serving


async def of_hypercorn(_parser, port, stop):
    config = hypercorn.config.Config.from_mapping(bind=[f"127.0.0.1:{port}"], errorlog=None)
    await hypercorn.asyncio.serve(application, config, shutdown_trigger=stop.wait)


async def connected(port):
    for _ in range(500):
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.01)
    raise TimeoutError


async def end_of(serve, parser, version):
    port, stop = free_port(), asyncio.Event()
    serving = asyncio.create_task(serve(parser, port, stop))
    reader, writer = await connected(port)
    writer.write(f"GET / HTTP/{version}\r\nHost: x\r\n\r\n".encode())
    try:
        body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")[2]
        end = "the end of a file"
    except ConnectionResetError:
        body, end = b"", "a reset"
    writer.close()
    stop.set()
    await asyncio.wait_for(serving, 10)
    whole = version == "1.0" or body.endswith(b"0\r\n\r\n")  # all that HTTP says of the end of such an answer
    return f"{end}, which is {'a whole answer' if whole and end != 'a reset' else 'a broken one'}"


for name, serve, parser in (
    ("uvicorn on h11", of_uvicorn, "h11"),
    ("uvicorn on httptools", of_uvicorn, "httptools"),
    ("hypercorn", of_hypercorn, None),
):
    for version in ("1.1", "1.0"):
        print(f"{name}, HTTP/{version}: {asyncio.run(end_of(serve, parser, version))}")
PYTHON
"$work/python/bin/python" "$work/ask.py" | tee "$work/seen"

diff - "$work/seen" <<'EXPECTED'
uvicorn on h11, HTTP/1.1: the end of a file, which is a broken one
uvicorn on h11, HTTP/1.0: the end of a file, which is a whole answer
uvicorn on httptools, HTTP/1.1: the end of a file, which is a broken one
uvicorn on httptools, HTTP/1.0: the end of a file, which is a whole answer
hypercorn, HTTP/1.1: the end of a file, which is a broken one
hypercorn, HTTP/1.0: the end of a file, which is a whole answer
EXPECTED
