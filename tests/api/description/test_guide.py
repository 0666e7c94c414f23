"""`/guide` serves the site that `make docs` builds: its files and nothing else, under a policy as
strict as that of `/docs`.
"""

import re
import shutil
from base64 import b64encode
from hashlib import sha256

import pytest

from api.description import pages

SCRIPT = "document.title += '!'"
FIRST = f'<title>Guide</title><script>{SCRIPT}</script><script src="assets/a.js"></script>'
TYPES = {
    "": "text/html; charset=utf-8",
    "how-to/undo/": "text/html; charset=utf-8",
    "404.html": "text/html; charset=utf-8",
    "assets/a.css": "text/css; charset=utf-8",
    "assets/a.js": "text/javascript; charset=utf-8",
    "assets/LICENSE": "text/plain; charset=utf-8",
    "images/way.svg": "image/svg+xml",
    "images/dot.png": "image/png",
    "search.json": "application/json",
    "sitemap.xml": "application/xml",
}


@pytest.fixture
def guide(tmp_path, monkeypatch):
    """A small guide in the place of the one that is built, with something secret beside it."""
    folder = tmp_path / "guide"
    for name in TYPES:
        path = folder / (f"{name}index.html" if name.endswith("/") or not name else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FIRST if not name else f"the file {name}")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "guide-too").mkdir()
    (tmp_path / "guide-too/secret.txt").write_text("secret")
    monkeypatch.setattr(pages, "_GUIDE", pages.read_guide(folder))
    shutil.rmtree(folder)  # it was read once: no reader opens a file


@pytest.mark.parametrize("name", TYPES)
async def test_each_file_is_served_as_what_it_is_and_head_says_the_same(service, guide, name):
    got = await service.http.get(f"/guide/{name}")
    assert (got.status_code, got.headers["content-type"]) == (200, TYPES[name])
    assert got.text == (FIRST if not name else f"the file {name}")
    head = await service.http.head(f"/guide/{name}")
    assert (head.status_code, head.content) == (200, b"")
    own = {"x-request-id", "date"}
    assert {n: v for n, v in head.headers.items() if n not in own} == {
        n: v for n, v in got.headers.items() if n not in own
    }


@pytest.mark.parametrize("path", ["/guide", "/guide/how-to/undo"])
async def test_a_page_without_its_slash_leads_to_the_one_with_it(service, guide, path):
    for method in ("GET", "HEAD"):
        answer = await service.http.request(method, path)
        assert (answer.status_code, answer.headers["location"]) == (307, f"{path}/")


@pytest.mark.parametrize(
    "path",
    [
        "nothing",
        "how-to",  # a folder without a page
        "how-to/",
        "how-to/undo//",
        "how-to/undo/index.html",
        "/",
        "../secret.txt",
        "..%2fsecret.txt",
        "%2e%2e/secret.txt",
        "..%5csecret.txt",
        "how-to/../../secret.txt",
        "../guide-too/secret.txt",
        "%2fetc%2fpasswd",
        "/etc/passwd",
        "%00",
        "assets/a.js%00.html",
        "%f0%28%8c",
        "a" * 5000,
    ],
)
async def test_nothing_else_is_served(service, guide, path):
    answer = await service.http.get(f"http://leadsweep/guide/{path}")
    assert answer.status_code == 404, answer.text
    assert answer.json()["error"] == "Not found"


async def test_other_methods_are_refused(service, guide):
    answer = await service.http.post("/guide/")
    assert (answer.status_code, answer.json()["error"]) == (405, "Method not allowed")
    assert answer.headers["allow"] == "GET, HEAD"


async def test_the_policy_allows_our_files_and_the_scripts_of_the_page_alone(service, guide):
    answer = await service.http.get("/guide/")
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";")
    )
    digest = b64encode(sha256(SCRIPT.encode()).digest()).decode()
    assert policy["script-src"] == f"'self' 'sha256-{digest}'"
    assert (policy["default-src"], policy["connect-src"]) == ("'none'", "'self'")
    assert not re.search(r"https?:|\*", str(policy))
    other = await service.http.get("/guide/how-to/undo/")
    assert "sha256" not in other.headers["content-security-policy"]


async def test_a_guide_that_was_not_built_is_not_found(service, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "_GUIDE", pages.read_guide(tmp_path / "none"))
    for path in ("/guide", "/guide/"):
        assert (await service.http.get(path)).json()["error"] == "Not found"
