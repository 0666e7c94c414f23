"""A client that costs little: raw HTTP/1.1 on kept-alive connections, in a process of its own, so
that servers are measured.
"""

import asyncio
import json
import multiprocessing
import time

from benchmarks.ground import CAMPAIGN


def body_of(external_ids, phone_numbers):
    """The JSON of a submission."""
    leads = [
        {"externalId": e} if e else {"phoneNumber": n}
        for e, n in zip(external_ids, phone_numbers, strict=True)
    ]
    return json.dumps({"campaignId": CAMPAIGN, "leads": leads}).encode()


def request_of(body, key):
    """The bytes of a POST."""
    head = (
        "POST /api/v1/leads/bulk-delete HTTP/1.1\r\nHost: bench\r\n"
        "Content-Type: application/json\r\n"
        f"x-api-key: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def requests_per_second(port, requests, clients=8):
    """All `requests` sent once by `clients` concurrent connections; each must be answered with
    202.
    """
    with multiprocessing.Pool(1) as pool:
        return pool.apply(_measure, (port, requests, clients))


def _measure(port, requests, clients):
    return asyncio.run(_send_all(port, requests, clients))


async def _send_all(port, requests, clients):
    waiting = iter(requests)

    async def one_client():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for request in waiting:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 202"):
                raise RuntimeError(head.decode())
            length = next(
                (
                    int(line[15:])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                ),
                None,
            )
            await (
                reader.readexactly(length) if length is not None else reader.readuntil(b"0\r\n\r\n")
            )
        writer.close()
        await writer.wait_closed()

    started = time.perf_counter()
    await asyncio.gather(*(one_client() for _ in range(clients)))
    return len(requests) / (time.perf_counter() - started)
