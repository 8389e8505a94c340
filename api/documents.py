"""Interactive documents, of the root and of each dialect below its prefix: /docs, /redoc, and their schema.

Everything a page loads comes from this server: it works offline, and no foreign script sees a caller's key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import lru_cache, partial
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from api.answers import Json
from api.dialects import Dialect
from api.middleware import PAGE_FILES, slash_form
from api.openapi import describe

SCHEMA = "openapi.json"
# What swagger-ui and redoc need: styles and scripts in the page, redoc's search in a worker.
_FROM_HERE_ONLY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; worker-src blob:"
)
_NO_ICON = "data:,"


def _swagger(title: str, up: str) -> Response:
    return get_swagger_ui_html(
        openapi_url=up + SCHEMA,
        title=title,
        swagger_js_url=f"{up}docs/swagger-ui-bundle.js",
        swagger_css_url=f"{up}docs/swagger-ui.css",
        swagger_favicon_url=_NO_ICON,
    )


def _redoc(title: str, up: str) -> Response:
    return get_redoc_html(
        openapi_url=up + SCHEMA,
        title=title,
        redoc_js_url=f"{up}docs/redoc.standalone.js",
        redoc_favicon_url=_NO_ICON,
        with_google_fonts=False,
    )


_PAGES: Mapping[str, Callable[[str, str], Response]] = {"/docs": _swagger, "/redoc": _redoc}


def pages(title: str) -> APIRouter:
    """Both pages and what they load.

    They name their files and the schema relative to themselves: that holds on the root, below a prefix
    and on a host name that serves a dialect alone.
    """
    shown = APIRouter(include_in_schema=False)
    for path, render in _PAGES.items():
        shown.add_route(path, _shows(partial(render, title)))
    for path in PAGE_FILES:
        shown.add_route(path, _sends(path))
    return shown


def documents(dialect: Dialect, routers: Iterable[APIRouter]) -> APIRouter:
    """Routes to be served below the dialect's prefix; the schema names its server relative to itself."""
    title = f"mediaray: {dialect.name}"

    @lru_cache
    def schema() -> dict[str, Any]:
        return _schema(dialect, tuple(routers), title)

    async def show_schema(_request: Request) -> Response:
        return Json(schema())

    shown = pages(title)
    shown.add_route(f"/{SCHEMA}", show_schema)
    return shown


def _shows(render: Callable[[str], Response]) -> Callable[[Request], Awaitable[Response]]:
    async def show(request: Request) -> Response:
        page = render("../" if slash_form(request.scope) else "")
        return HTMLResponse(page.body, headers={"Content-Security-Policy": _FROM_HERE_ONLY})

    return show


def _sends(path: str) -> Callable[[Request], Awaitable[Response]]:
    file = str(files("fastapi_offline").joinpath("static", path.rpartition("/")[2]))

    async def send(_request: Request) -> Response:
        return FileResponse(file)

    return send


def _schema(dialect: Dialect, routers: Iterable[APIRouter], title: str) -> dict[str, Any]:
    alone = FastAPI(title=title, version="0.1.0", servers=[{"url": "."}])
    for router in routers:
        alone.include_router(router, prefix=dialect.prefix)
    describe(alone)
    schema = alone.openapi()
    return schema | {"paths": {path.removeprefix(dialect.prefix): of for path, of in schema["paths"].items()}}
