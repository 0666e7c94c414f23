#!/usr/bin/env bash
# Seen: uvicorn 0.54.0 with httptools 0.9.0 and with h11 0.16.0, 28 November 2026.
#
# One expects: a POST that offers HTTP/2 besides (`curl --http2`, and Java's client unless it is told otherwise) is the same POST
# to a server that does not speak it, which may pass over the offer (RFC 9110, 7.8). In fact uvicorn on httptools, which it
# prefers where it is installed, hands the application an empty body and says that it is whole; the bytes are dropped. The parser
# ends the message where the offer is, and uvicorn does not go on from there. Its other protocol class, on h11, hands over all.
# What takes no body for "no options" does something else then than it was asked to.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv "$work/python"
"$work/python/bin/pip" install --quiet uvicorn==0.54.0 httptools==0.9.0 h11==0.16.0
cat >"$work/ask.py" <<'PYTHON'
import asyncio

import uvicorn

OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\n%sContent-Length: 16\r\n\r\n{\"dryRun\": true}"


async def application(scope, receive, send):
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    answer = b"%d bytes" % len(body)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})


async def ask(parser, offer):
    config = uvicorn.Config(application, port=0, http=parser, lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.servers[0].sockets[0].getsockname()[1])
    writer.write(REQUEST % offer)
    head = await reader.readuntil(b"\r\n\r\n")
    answer = await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r")[0]))
    writer.close()
    server.should_exit = True
    await serving
    return answer.decode()


for parser in ("httptools", "h11"):
    for name, offer in (("alone", b""), ("with the offer", OFFER)):
        print(f"{parser}, {name}: {asyncio.run(ask(parser, offer))}")
PYTHON
"$work/python/bin/python" "$work/ask.py" | tee "$work/seen"

diff - "$work/seen" <<'EXPECTED'
httptools, alone: 16 bytes
httptools, with the offer: 0 bytes
h11, alone: 16 bytes
h11, with the offer: 16 bytes
EXPECTED
