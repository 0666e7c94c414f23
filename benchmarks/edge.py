"""The contest of the edge: the API's memory, and a well-behaved neighbour's p95, while strangers
misbehave.

Each load meets an API of its own. It comes from a process of its own with a low priority, is
bounded in connections, bytes and seconds, and stays on loopback.
"""

import asyncio
import http.client
import json
import os
import socket
import statistics
import time
from contextlib import suppress
from multiprocessing import Pool
from typing import NamedTuple
from uuid import uuid4

from benchmarks.builds import THIS
from benchmarks.contests import OURS_ALONE, Round, _wait_until_open
from benchmarks.ground import CAMPAIGN, peak_mb
from cli.stack.embedded import free_port
from shared.credentials import new_key

MEMORY_MB = 200  # the limit for the API process, at its peak
P95_MS = 100  # the limit for the neighbour
# Of each load: enough for some hundred calls of the neighbour, and below the API's time-outs.
SECONDS = 15
RAMP = 0.25  # of these until all connections are there; a burst of arrivals is not what is measured
NEIGHBOUR_TIMEOUT = 5.0  # seconds that the neighbour gives a call; one that fails counts as these
POST = "/api/v1/leads/bulk-delete"
MIB = 1024 * 1024


class Load(NamedTuple):
    """What each connection does: send `opening`, then `count` times `piece`, and stay until it is
    ended.
    """

    connections: int
    opening: bytes = b""
    piece: bytes = b""
    count: int = 0
    pause: float = 0.0  # seconds between pieces
    again: float = 5.0  # seconds before a connection that was ended is opened anew


class Strain(NamedTuple):
    """What one load did to the API and to the neighbour."""

    memory: float  # MB
    p95: float  # ms
    longest: float  # ms
    calls: int  # of the neighbour
    failed: int  # of these
    sent: float  # MiB of the load
    ended: int  # connections that the API ended

    @property
    def share(self):
        """Percent of the limit that is nearer, or further exceeded."""
        return 100 * max(self.memory / MEMORY_MB, self.p95 / P95_MS)


HEADINGS = ("memory MB", "p95 ms", "longest ms", "calls", "failed", "sent MiB", "ended")


def edge(ground, processes, number, scale):
    """Percent of a limit, the highest of all loads: 200 MB for the API, 100 ms for the neighbour's
    p95.
    """
    print(
        f"  {'ours' if ground.build == THIS else 'theirs':30}",
        *(f"{heading:>10}" for heading in HEADINGS),
    )
    shares = []
    for name, load in loads(ground.key).items():
        strain = _under(load, ground, processes, SECONDS / scale)
        figures = " ".join(f"{round(figure, 1):10,}" for figure in strain)
        print(
            f"    {name:28} {figures}   {'kept' if strain.share <= 100 else 'MISSED'}", flush=True
        )
        shares.append(strain.share)
    return Round(max(shares), None if number is OURS_ALONE else 100.0)


def loads(key):
    """Each load by its name; `key` is the neighbour's."""
    body = json.dumps({"campaignId": CAMPAIGN, "leads": [{"externalId": "waited for"}]}).encode()
    waiting = _head("POST", POST, key, "Prefer: wait=60", f"Content-Length: {len(body)}") + body
    get = _head("GET", f"/api/v1/jobs/{uuid4()}")
    queued = Load(4, piece=get * 500, count=2500, pause=0.01, again=0.1)
    queued_behind = queued._replace(opening=waiting)

    def fields(key):
        opening = _head("POST", POST, key, "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n"
        field = b"X-Field: " + b"v" * 4000 + b"\r\n"
        return Load(8, opening, field * 16, count=1000, pause=0.01, again=0.1)

    def tiny(key):
        opening = _head("POST", POST, key, "Transfer-Encoding: chunked")
        return Load(8, opening, b"1\r\n \r\n" * 10_000, count=1000, pause=0.01, again=0.1)

    def held(key):
        opening = _head("POST", POST, key, f"Content-Length: {MIB}")
        return Load(500, opening, b" " * ((MIB - 1) // 15), count=15, pause=0.02)

    def uploads(key):
        path = f"{POST}/files?campaignId={CAMPAIGN}"
        opening = _head("POST", path, key, "Transfer-Encoding: chunked", kind="text/csv")
        kib = b"400\r\n" + b"CRM_0000000001\r\n" * 64 + b"\r\n"
        return Load(300, opening + b"c\r\nexternalId\r\n\r\n", kib, count=1000, pause=1.0)

    return {
        "none": Load(0),
        "queued requests, no key": queued,
        "queued behind a waiting call": queued_behind,
        "fields after bodies, no key": fields(None),
        "fields after bodies, a key": fields(key),
        "tiny chunks, no key": tiny(None),
        "tiny chunks, a key": tiny(key),
        "700 silent connections": Load(700),
        "500 held bodies, no key": held(None),
        "500 held bodies, unknown key": held(new_key()),
        "500 held bodies, a key": held(key),
        "300 uploads, no key": uploads(None),
        "300 uploads, a key": uploads(key),
    }


def _head(method, path, key=None, *lines, kind="application/json"):
    key_line = [f"x-api-key: {key}"] if key else []
    head = [f"{method} {path} HTTP/1.1", "Host: bench", f"Content-Type: {kind}", *key_line, *lines]
    return "\r\n".join([*head, "", ""]).encode()


def _under(load, ground, processes, seconds):
    ground.fill(1000)
    port = free_port()
    with (
        processes.run("api", "api", "--port", port, ready="api ready") as api,
        Pool(1) as strangers,
    ):
        _wait_until_open(port)
        neighbour = Neighbour(port, ground.key)
        sending = strangers.apply_async(_misbehave, (port, load, seconds))
        neighbour.call_for(seconds)
        sent, ended = sending.get()
        memory = peak_mb(api.pid)
    p95 = statistics.quantiles(neighbour.took, n=20)[-1] * 1000
    longest = max(neighbour.took) * 1000
    return Strain(memory, p95, longest, len(neighbour.took), neighbour.failed, sent / MIB, ended)


class Neighbour:
    """Reads a job and submits another, in turn, on one connection."""

    def __init__(self, port, key):
        """Has submitted a job."""
        self.took, self.failed = [], 0
        self._client = http.client.HTTPConnection("127.0.0.1", port, timeout=NEIGHBOUR_TIMEOUT)
        self._headers = {"x-api-key": key, "Content-Type": "application/json"}
        self._body = json.dumps({"campaignId": CAMPAIGN, "leads": [{"externalId": "CRM_00000001"}]})
        _status, answer = self._call("POST", POST, self._body)
        self._job = answer["data"]["statusUrl"]

    def call_for(self, seconds):
        """Notes how long each call took."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for call in (("GET", self._job), ("POST", POST, self._body)):
                began, status = time.monotonic(), None
                try:
                    status, _answer = self._call(*call)
                except (OSError, http.client.HTTPException):
                    self._client.close()
                succeeded = status in (http.HTTPStatus.OK, http.HTTPStatus.ACCEPTED)
                self.failed += not succeeded
                self.took.append(time.monotonic() - began if succeeded else NEIGHBOUR_TIMEOUT)
            time.sleep(0.02)  # a caller who leaves the processor to what is measured

    def _call(self, method, path, body=None):
        self._client.request(method, path, body, self._headers)
        answer = self._client.getresponse()
        return answer.status, json.loads(answer.read())


def _misbehave(port, load, seconds):
    """(bytes sent, connections that the other side ended) of a load."""
    os.nice(10)
    return asyncio.run(_open_all(port, load, seconds))


async def _open_all(port, load, seconds):
    tally = {"sent": 0, "ended": 0}
    delays = [seconds * RAMP * number / load.connections for number in range(load.connections)]
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(_keep_open(port, load, delay, tally) for delay in delays))
    return tally["sent"], tally["ended"]


async def _keep_open(port, load, delay, tally):
    loop = asyncio.get_running_loop()
    await asyncio.sleep(delay)
    while True:
        with (
            socket.socket() as connection,
            suppress(OSError),
        ):  # which is how a connection ends that is ended
            connection.setblocking(False)
            await loop.sock_connect(connection, ("127.0.0.1", port))
            await loop.sock_sendall(connection, load.opening)
            for _ in range(load.count):
                await loop.sock_sendall(connection, load.piece)
                tally["sent"] += len(load.piece)
                await asyncio.sleep(load.pause)
            while await loop.sock_recv(connection, MIB):
                pass
        tally["ended"] += 1
        await asyncio.sleep(load.again)
