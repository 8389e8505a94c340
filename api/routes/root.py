"""The root of the origin, where the dialects meet: ONE table of the paths that more than one claims.

Served before the dialects' own routes; what is not here belongs to one dialect alone (contracts §1).
"""

from __future__ import annotations

from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import Response

from api.answers import Json
from api.bodies import parse
from api.edge import edge_of
from api.middleware import slash_form
from api.routes import flashvsr
from api.routing import direct_router

PAGE_SIZES = {False: 10, True: 20}
"""Default page size of the task list by slash form: `indexed` without the slash, `flashvsr` with it."""

router = direct_router("root")


@router.get("/api/tasks")
async def list_tasks(request: Request) -> Response:
    query = {"page_size": PAGE_SIZES[slash_form(request.scope)], **request.query_params}
    return await flashvsr.tasks_page(request, parse(flashvsr.ListQuery, query, "query"))


@router.get("/")
async def about(_request: Request) -> Response:
    about = {"name": "mediaray", "version": flashvsr.VERSION, "status": "running"}
    return Json(about | {"docs": "/docs", "health": "/health"})


@router.get("/health")
async def health(request: Request) -> Response:
    """Whether this process answers, and which GPU it may use; `/readyz` asks the parts behind it."""
    gpu = await edge_of(request).context.system.gpu()
    known = {"count": 0, "name": None} if gpu is None else asdict(gpu)
    return Json(
        {
            "status": "healthy",
            "gpu_available": gpu is not None,
            "gpu_count": known["count"],
            "gpu_name": known["name"],
            "message": "服务运行正常",
        }
    )
