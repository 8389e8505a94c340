"""The HTTP application as an explicit list of parts, wired once: routers, middleware, error answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import Response

from api import middleware
from api.access import Access, access_of
from api.context import ApiContext
from api.dialects import CREATION, DIALECTS, FLASHVSR, HALLO2, INDEXED, TASKS, Dialect
from api.documents import documents, pages
from api.edge import build_edge
from api.errors import HANDLED, answer_error
from api.hosts import HostNames
from api.openapi import describe
from api.origins import OriginGate, served_names
from api.rate_limits import RateGate
from api.routes import creation, deliveries, files, flashvsr, hallo2, indexed, live, root, system, tasks

TITLE = "mediaray"
DESCRIPTION = (
    "Generative-media models behind one durable task API. Every dialect is served under its own prefix and,"
    " together with the others, on the root."
)

ON_ROOT: tuple[tuple[APIRouter, bool], ...] = (
    (tasks.router, True),
    (live.router, True),
    (deliveries.router, True),
    (files.router, True),
    (system.router, True),
    (root.router, True),
    (flashvsr.router, False),
    (creation.router, False),
    (indexed.router, False),
    (hallo2.router, False),
)
"""What the root serves, in the order of matching: the hot routes, the shared paths, then each dialect's own.

The flag says whether the schema shows a route here; the others are shown under their prefix.
"""

BELOW_PREFIX: tuple[tuple[Dialect, APIRouter, bool], ...] = (
    (TASKS, tasks.router, False),
    (TASKS, live.router, False),
    (TASKS, deliveries.router, False),
    (TASKS, files.router, False),
    (FLASHVSR, flashvsr.router, True),
    (CREATION, creation.router, True),
    (INDEXED, indexed.router, True),
    (HALLO2, hallo2.router, True),
)
"""What each dialect serves alone and exactly, below its own prefix."""


def create_app(context: ApiContext, *, is_named: bool = False) -> FastAPI:
    """The application over `context`; it opens and closes nothing itself.

    `is_named`: what serves it puts X-Request-ID on every answer. Raises ValueError for unusable settings.
    """
    access = access_of(context.settings)
    app = FastAPI(
        title=TITLE,
        description=DESCRIPTION,
        version="0.1.0",
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.edge = build_edge(context)
    _add_routers(app)
    for kind in HANDLED:
        app.add_exception_handler(kind, _handler(context.now))
    describe(app)
    _add_middleware(app, context, access, is_named=is_named)
    return app


def _add_routers(app: FastAPI) -> None:
    for router, is_shown in ON_ROOT:
        app.include_router(router, include_in_schema=is_shown)
    for dialect, router, is_shown in BELOW_PREFIX:
        app.include_router(router, prefix=dialect.prefix, include_in_schema=is_shown)
    app.include_router(pages(TITLE))
    for dialect in DIALECTS:
        routers = [router for owner, router, _ in BELOW_PREFIX if owner is dialect]
        app.include_router(documents(dialect, routers), prefix=dialect.prefix)


def _add_middleware(app: FastAPI, context: ApiContext, access: Access, *, is_named: bool) -> None:
    settings = context.settings
    # The last one added is the outermost.
    app.add_middleware(
        middleware.BodyLimit,
        max_json_bytes=settings.max_json_bytes,
        max_upload_bytes=settings.max_upload_bytes,
        now=context.now,
    )
    app.add_middleware(RateGate, limits=access.limits, now=context.now)
    app.add_middleware(middleware.KeyGate, keys=access.keys, now=context.now)
    app.add_middleware(middleware.HealthHeads)
    app.add_middleware(middleware.SlashForms)
    if not access.keys:
        app.add_middleware(OriginGate, names=served_names(settings, access.hosts), now=context.now)
    app.add_middleware(HostNames, hosts=access.hosts)
    app.add_middleware(middleware.Outermost, now=context.now, is_named=is_named)


def _handler(now: Callable[[], float]) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(request: Request, error: Exception) -> Response:
        return answer_error(error, request.url.path, now())

    return handle
