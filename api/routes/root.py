"""The root of the origin, where the dialects meet: the paths that more than one of them claims.

Served before the dialects' own routes; what is not here belongs to one dialect alone (contracts §1). The
tables say who answers: by Content-Type what is created, by its creator what exists.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.answers import Json
from api.bodies import parse, parse_query
from api.callers import caller
from api.dialects import CREATION, FLASHVSR
from api.edge import edge_of, own_task
from api.errors import Unprocessable
from api.middleware import slash_form
from api.pages import PageQuery
from api.routes import creation, flashvsr, indexed
from api.routing import direct_router, query_parameters
from api.views.creation import HEALTHY, VideoRequest
from api.views.creation import TaskResponse as CreationTask
from api.views.flashvsr import TaskResponse as FlashvsrTask
from api.views.hallo2 import simple_health
from api.views.problems import problems
from api.views.root import ITEM_VIEWS, item_view
from cluster.errors import TaskNotFound
from cluster.task import TaskPage, TaskQuery

PAGE_SIZES = {False: 10, True: 20}
"""Default page size of the task list by slash form: `indexed` without the slash, `flashvsr` with it."""

CREATORS: Mapping[str, Callable[[Request], Awaitable[Response]]] = {
    "multipart/form-data": flashvsr.create_task,
    "application/json": creation.create_task,
}
"""Who makes the task of POST /api/tasks, by the media type of the body."""


@dataclass(frozen=True, slots=True)
class Owner:
    """How the dialect that created a task answers for it."""

    get: Callable[[Request, str], Awaitable[Response]]
    delete: Callable[[Request, str], Awaitable[Response]]


OWNERS: Mapping[str, Owner] = {
    FLASHVSR.name: Owner(flashvsr.get_task, flashvsr.delete_task),
    CREATION.name: Owner(creation.get_task, creation.delete_task),
}

router = direct_router("root")

_BODIES = {
    **flashvsr.FORM["requestBody"]["content"],
    "application/json": {"schema": VideoRequest.model_json_schema()},
}


@router.post(
    "/api/tasks",
    responses={
        200: {"model": CreationTask, "description": "A prompt, as application/json"},
        201: {"model": FlashvsrTask, "description": "A video to enlarge, as multipart/form-data"},
        **problems(400, 409, 413, 422, 500, 503),
    },
    openapi_extra={"requestBody": {"required": True, "content": _BODIES}},
)
async def create_task(request: Request) -> Response:
    """Make a video of a prompt (JSON), or enlarge one (a form)."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    create = CREATORS.get(media_type)
    if create is None:
        text = f"Content-Type must be one of {', '.join(CREATORS)}"
        raise Unprocessable([{"type": "media_type", "loc": ["header", "content-type"], "msg": text}])
    return await create(request)


@router.get(
    "/api/tasks",
    responses=problems(422),
    openapi_extra={
        "parameters": [
            *query_parameters(PageQuery)["parameters"],
            *query_parameters(creation.ListQuery)["parameters"],
        ]
    },
)
async def list_tasks(request: Request) -> Response:
    """Tasks of several dialects: pages, newest first; with `skip` or `limit` a stretch, oldest first."""
    is_skipped = not {"skip", "limit"}.isdisjoint(request.query_params)
    return Json(await (_skipped_list if is_skipped else _paged_list)(request))


async def _paged_list(request: Request) -> dict[str, Any]:
    given = {"page_size": PAGE_SIZES[slash_form(request.scope)], **request.query_params}
    query = parse(PageQuery, given, "query")
    page = await _page(request, query.of(FLASHVSR, caller(request).tenant))
    return _shown(page) | query.numbers(page)


async def _skipped_list(request: Request) -> dict[str, Any]:
    query = parse_query(creation.ListQuery, request)
    return _shown(await _page(request, query.of(CREATION, caller(request).tenant)))


async def _page(request: Request, query: TaskQuery) -> TaskPage:
    """The page of a query of one dialect, of all that are listed here."""
    of_all = replace(query, dialect=None, dialects=tuple(ITEM_VIEWS))
    return await edge_of(request).context.registry.list(of_all)


def _shown(page: TaskPage) -> dict[str, Any]:
    return {"tasks": [item_view(task) for task in page.tasks], "total": page.total}


router.get("/api/tasks/parameter_schema", include_in_schema=False)(flashvsr.get_parameter_schema)


@router.get("/api/tasks/{task_id}", responses=problems(404))
async def get_task(request: Request, task_id: str) -> Response:
    """The task as the dialect that created it shows it."""
    return await (await _owner(request, task_id)).get(request, task_id)


@router.delete("/api/tasks/{task_id}", responses={204: {"description": "Deleted"}, **problems(404)})
async def delete_task(request: Request, task_id: str) -> Response:
    """Remove the task in any state; answered as the dialect that created it does."""
    return await (await _owner(request, task_id)).delete(request, task_id)


async def _owner(request: Request, task_id: str) -> Owner:
    owner = OWNERS.get((await own_task(request, task_id)).dialect)
    if owner is None:
        raise TaskNotFound(task_id)
    return owner


@router.get("/api/system/status")
async def system_status(request: Request) -> Response:
    """Queue, tasks by status, the GPU and weights: the union of what two dialects tell."""
    return Json(await indexed.status_of(request) | await flashvsr.status_of(request))


@router.get("/")
async def about(_request: Request) -> Response:
    about = {"name": "mediaray", "version": flashvsr.VERSION, "status": "running"}
    return Json(about | {"docs": "/docs", "health": "/health"})


@router.get("/health")
async def health(request: Request) -> Response:
    """Whether this process answers, and which GPU it may use; `/readyz` asks the parts behind it."""
    gpu = await edge_of(request).context.system.gpu()
    return Json(simple_health(gpu) | {"message": HEALTHY})
