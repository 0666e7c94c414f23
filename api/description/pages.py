"""Serves `/openapi.json`, `/docs` and `/guide`: Swagger UI and the guide from this package, so that
both work offline and call no foreign host.
"""

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from api.http.answers import Answer

router = APIRouter(include_in_schema=False, redirect_slashes=False)

_STATIC = Path(__file__).parent / "static"
# Read once: a file that is open for each caller who does not take it would leave no descriptors for
# others.
_PAGE = (_STATIC / "docs.html").read_bytes()
_ASSETS = {
    "docs.js": ((_STATIC / "docs.js").read_bytes(), "text/javascript"),
    "swagger-ui-bundle.js": (
        (_STATIC / "swagger-ui/swagger-ui-bundle.js").read_bytes(),
        "text/javascript",
    ),
    "swagger-ui.css": ((_STATIC / "swagger-ui/swagger-ui.css").read_bytes(), "text/css"),
}


def _headers(script_hashes: str = "") -> dict[str, str]:
    """The headers of a page: it loads and calls nothing that is not ours, and runs no script within
    the page but those of which the hashes are given.

    Swagger UI and the guide's theme set style attributes, and draw their icons from data: URLs.
    """
    policy = (
        f"default-src 'none'; script-src 'self'{script_hashes}; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}


class _File(NamedTuple):
    """A file of the guide, as it is sent."""

    content: bytes
    media_type: str
    headers: dict[str, str]


_MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".xml": "application/xml",
}
_INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def _read(path: Path) -> _File:
    """Reads one file. The scripts within a page are those of the guide's theme, so they are allowed
    by their hashes.
    """
    content = path.read_bytes()
    scripts = _INLINE_SCRIPT.findall(content) if path.suffix == ".html" else []
    hashes = [f" 'sha256-{b64encode(sha256(script).digest()).decode()}'" for script in scripts]
    media_type = _MEDIA_TYPES.get(path.suffix, "text/plain")
    return _File(content, media_type, _headers("".join(hashes)))


def read_guide(folder: Path) -> dict[str, _File]:
    """Every file of the guide in `folder` by its path in the URL: that of a page ends in a slash,
    or is empty for the first one. A guide that was not built has no files.
    """
    return {
        path.relative_to(folder).as_posix().removesuffix("index.html"): _read(path)
        for path in folder.rglob("*")
        if path.is_file()
    }


_HEADERS = _headers()
# Some two megabytes. A path can only name what was found here, so none leads out of the folder.
_GUIDE = read_guide(_STATIC / "guide")


@router.get("/openapi.json")
async def get_openapi(request: Request) -> Answer:
    """The description of this API."""
    return Answer(request.app.openapi())


@router.get("/docs")
async def get_docs() -> Response:
    """The page that shows the description and tries calls."""
    return Response(_PAGE, media_type="text/html", headers=_HEADERS)


@router.get("/docs/{name}")
async def get_asset(name: str) -> Response:
    """A file that the page loads."""
    if name not in _ASSETS:
        raise HTTPException(404)
    content, media_type = _ASSETS[name]
    return Response(content, media_type=media_type, headers=_HEADERS)


@router.get("/guide")
@router.get("/guide/{path:path}")
async def get_guide(path: str | None = None) -> Response:
    """A page of the guide, or a file that one loads. Links in a page count from its slash."""
    if path is not None and path in _GUIDE:
        content, media_type, headers = _GUIDE[path]
        return Response(content, media_type=media_type, headers=headers)
    page = "" if path is None else f"{path}/"
    if page in _GUIDE:
        return RedirectResponse(f"/guide/{page}")
    raise HTTPException(404)
