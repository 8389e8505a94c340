"""Each dialect's own interactive documents below its prefix: /docs, /redoc, and the schema that they show."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from api.answers import Json
from api.dialects import Dialect
from api.openapi import describe

SCHEMA = "openapi.json"
PAGES: Mapping[str, Callable[..., Response]] = {"/docs": get_swagger_ui_html, "/redoc": get_redoc_html}


def documents(dialect: Dialect, routers: Iterable[APIRouter]) -> APIRouter:
    """Routes to be served below the dialect's prefix.

    Pages name the schema, and the schema its server, relative to themselves: that holds below the prefix
    and on a host name that serves the dialect alone.
    """
    title = f"mediaray: {dialect.name}"

    @lru_cache
    def schema() -> dict[str, Any]:
        return _schema(dialect, tuple(routers), title)

    async def show_schema(_request: Request) -> Response:
        return Json(schema())

    shown = APIRouter(include_in_schema=False)
    shown.add_route(f"/{SCHEMA}", show_schema)
    for path, render in PAGES.items():
        shown.add_route(path, _shows(bytes(render(openapi_url=SCHEMA, title=title).body)))
    return shown


def _shows(page: bytes) -> Callable[[Request], Awaitable[Response]]:
    async def show(_request: Request) -> Response:
        return HTMLResponse(page)

    return show


def _schema(dialect: Dialect, routers: Iterable[APIRouter], title: str) -> dict[str, Any]:
    alone = FastAPI(title=title, version="0.1.0", servers=[{"url": "."}])
    for router in routers:
        alone.include_router(router, prefix=dialect.prefix)
    describe(alone)
    schema = alone.openapi()
    return schema | {"paths": {path.removeprefix(dialect.prefix): of for path, of in schema["paths"].items()}}
