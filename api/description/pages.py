"""Serves `/openapi.json` and `/docs`: Swagger UI from this package, so that it works offline and
calls no foreign host.
"""

from pathlib import Path

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

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
# Swagger UI sets style attributes and draws its icons from data: URLs; scripts and calls are our
# own or none.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


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
