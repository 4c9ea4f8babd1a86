"""Serves the web page beside the API that it uses. The page itself is in `static/`.

The page is open to everyone who reaches the server; it asks for an API key if the API does.
"""

import secrets
from pathlib import Path

from fastapi import FastAPI
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"
PATH = "/studio"
NONCE = "{{nonce}}"  # in index.html; for the style sheet that wavesurfer.js adds
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "cache-control": "no-cache",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(self)",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class PageFiles(StaticFiles):
    """Static files that browsers check for a newer version before each use."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = HEADERS["cache-control"]
        response.headers["x-content-type-options"] = HEADERS["x-content-type-options"]
        return response


def add_page(app: FastAPI) -> None:
    """Serves the page at / of a service."""
    text = (STATIC / "index.html").read_text(encoding="utf-8")

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        policy = {"content-security-policy": POLICY.format(nonce=nonce)}
        return HTMLResponse(text.replace(NONCE, nonce), headers={**HEADERS, **policy})

    app.mount(PATH, PageFiles(directory=STATIC))
