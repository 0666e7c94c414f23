"""Serves `/openapi.json` and `/docs`: Swagger UI from this package, so that it works offline and calls no foreign host."""

from pathlib import Path

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response

from api.answers import Answer

router = APIRouter(include_in_schema=False, redirect_slashes=False)

_STATIC = Path(__file__).parent / "static"
_ASSETS = {
    "docs.js": (_STATIC / "docs.js", "text/javascript"),
    "swagger-ui-bundle.js": (_STATIC / "swagger-ui/swagger-ui-bundle.js", "text/javascript"),
    "swagger-ui.css": (_STATIC / "swagger-ui/swagger-ui.css", "text/css"),
}
# Swagger UI sets style attributes and draws its icons from data: URLs; scripts and calls are our own or none.
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
    return FileResponse(_STATIC / "docs.html", media_type="text/html", headers=_HEADERS)


@router.get("/docs/{name}")
async def get_asset(name: str) -> Response:
    """A file that the page loads."""
    if name not in _ASSETS:
        raise HTTPException(404)
    path, media_type = _ASSETS[name]
    return FileResponse(path, media_type=media_type, headers=_HEADERS)
