"""The way of a call, hop by hop, is the one that docs/architecture.md draws: the files of ours that
it passes, from its first byte to its answer.
"""

import re
import socket
import sys
import threading
from asyncio import to_thread
from pathlib import Path

import pytest

from tests.api.http.test_framing import serving

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()
JSON = b'{"campaignId": "cmp", "leads": [{"externalId": "x"}, {"phoneNumber": "+15555551234"}]}'
CSV = b"externalId,phoneNumber\nx,\n,+15555551234\n"


def drawn(title):
    """The files that stand under the heading, in their order."""
    section = re.search(rf"^### {title}\n(.*?)(?=^#)", PAGE, re.MULTILINE | re.DOTALL)[1]
    return re.findall(r"^\d+\. `([a-z_/]+\.py)`", section, re.MULTILINE)


def answer_to(port, request):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request)
        return connection.recv(65536)


class Passed:
    """The files of api and shared in which a function is called, each once, as it comes."""

    def __init__(self):
        self.files = {}

    def __call__(self, frame, event, _):
        if event == "call":
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(ROOT / "api") or path.is_relative_to(ROOT / "shared"):
                self.files.setdefault(path.relative_to(ROOT).as_posix())


@pytest.mark.parametrize(
    ("title", "path", "media_type", "body", "most"),
    [
        ("A submission", "/api/v1/leads/bulk-delete", "application/json", JSON, 12),
        ("A file", "/api/v1/leads/bulk-delete/files?campaignId=cmp", "text/csv", CSV, None),
    ],
)
async def test_a_call_passes_the_files_that_are_drawn(service, title, path, media_type, body, most):
    head = f"host: x\r\nx-api-key: {service.write}\r\ncontent-type: {media_type}\r\n"
    head = f"POST {path} HTTP/1.1\r\n{head}content-length: {len(body)}\r\n\r\n"
    async with serving(service.app) as (port, _):
        await service.post(JSON)  # from now on the key is remembered, and not looked up
        passed = Passed()
        threading.setprofile(passed)
        sys.setprofile(passed)
        try:
            answer = await to_thread(answer_to, port, head.encode() + body)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    assert answer.startswith(b"HTTP/1.1 202"), answer
    assert list(passed.files) == drawn(title)
    assert most is None or len(passed.files) <= most


@pytest.mark.parametrize("title", ["A webhook", "A submit at the command line"])
def test_the_files_of_a_way_exist(title):
    assert drawn(title)
    for path in drawn(title):
        assert (ROOT / path).is_file(), path
