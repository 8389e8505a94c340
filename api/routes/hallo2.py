"""The `hallo2` dialect: talking portraits (contracts §4)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from api.answers import Json
from api.bodies import is_out_of_range, parse_query, read_json
from api.callers import caller, known_caller
from api.dialects import HALLO2
from api.edge import Edge, edge_of, own_task
from api.errors import BadRequest, NotFound, ServerFault, Unprocessable, error_list
from api.file_responses import file_response
from api.hallo2_defaults import change_defaults
from api.hallo2_uploads import TASK_NAME, create
from api.results import video_artifact
from api.routing import FILE_FIELD, direct_router, file_answers, form_body, json_body, query_parameters
from api.task_logs import log_lines
from api.views.hallo2 import (
    CANCELLED,
    CONFIGURED,
    NOT_CANCELLED,
    QUEUED,
    Cancelled,
    Config,
    Configured,
    Created,
    NotCancelled,
    RecentTasks,
    TaskLogs,
    TaskStatus,
    TaskTable,
    detailed_health,
    log_text,
    simple_health,
    task_view,
)
from api.views.problems import problems
from cluster.errors import IllegalStep, StorageFailure, TaskNotFound
from cluster.task import Status, Task, TaskQuery
from models.engine import ModelNotReady

MODEL = "hallo2"
NO_VIDEO = "Video file not found"
NOT_COMPLETED = "Task not completed. Status: {status}"
_PAGE_TASKS = 250  # as many as are shown without keeping the other requests waiting
_MAX_TASKS = 1_000

router: APIRouter = direct_router("hallo2")


class RecentQuery(BaseModel):
    """How many tasks GET …/recent shows."""

    limit: Annotated[int, Field(ge=1, le=100)] = 10


_FORM = form_body(
    {
        "image_file": FILE_FIELD,
        "audio_file": FILE_FIELD,
        "use_cache": {"type": "boolean", "default": True},
    },
    ["image_file", "audio_file"],
)


@router.post(
    "/api/v1/inference/hallo2",
    response_model=Created,
    responses=problems(400, 413, 422, 500, 503),
    openapi_extra=_FORM,
)
async def create_task(request: Request) -> Response:
    """Upload a portrait and a recording, and queue the video."""
    task = await create(request)
    # A free replica may have it already; the documented answer to a submit is queued all the same.
    return Json({"task_id": task.id, "status": HALLO2.words[Status.QUEUED], "message": QUEUED})


@router.post(
    "/api/v1/inference/hallo2/config",
    response_model=Configured,
    responses=problems(400, 422, 500),
    openapi_extra=json_body(Config),
)
async def configure(request: Request) -> Response:
    """Change the defaults of the caller's later tasks; what is left out stays as it is."""
    changes = _config_of(await read_json(request))
    edge = edge_of(request)
    try:
        await change_defaults(edge, caller(request).tenant, changes)
    except StorageFailure as error:
        raise ServerFault(f"Failed to update configuration: {error}") from error
    return Json({"status": "success", "message": CONFIGURED})


def _config_of(body: Any) -> Config:
    """Raises BadRequest for a value out of range, Unprocessable for a wrong type."""
    try:
        return Config.model_validate(body)
    except ValidationError as error:
        found = error_list(error.errors(include_context=False), "body")
        if not is_out_of_range(found):
            raise Unprocessable(found) from error
        raise BadRequest("; ".join(f"{problem['loc'][1]}: {problem['msg']}" for problem in found)) from error


@router.get("/api/v1/tasks", response_model=TaskTable)
async def list_tasks(request: Request) -> Response:
    """The tasks of this dialect, newest first: the newest 1,000 where there are more."""
    url_of = edge_of(request).url_of(request)
    shown = {task.id: task_view(task, url_of) async for task in _own_tasks(request)}
    return Json({"tasks": shown, "count": len(shown)})


async def _own_tasks(request: Request) -> AsyncIterator[Task]:
    registry = edge_of(request).context.registry
    tenant = caller(request).tenant
    for offset in range(0, _MAX_TASKS, _PAGE_TASKS):
        query = TaskQuery(tenant=tenant, dialect=HALLO2.name, offset=offset, limit=_PAGE_TASKS)
        page = await registry.list(query)
        for task in page.tasks:
            yield task
        if len(page.tasks) < _PAGE_TASKS:
            return


@router.get(
    "/api/v1/tasks/recent",
    response_model=RecentTasks,
    responses=problems(422),
    openapi_extra=query_parameters(RecentQuery),
)
async def recent_tasks(request: Request) -> Response:
    """The newest tasks of this dialect."""
    limit = parse_query(RecentQuery, request).limit
    edge = edge_of(request)
    query = TaskQuery(tenant=caller(request).tenant, dialect=HALLO2.name, limit=limit)
    page = await edge.context.registry.list(query)
    url_of = edge.url_of(request)
    return Json({"tasks": [task_view(task, url_of) for task in page.tasks], "count": len(page.tasks)})


@router.get("/api/v1/tasks/{task_id}", response_model=TaskStatus, responses=problems(404))
async def get_task(request: Request, task_id: str) -> Response:
    return Json(task_view(await _task(request, task_id), edge_of(request).url_of(request)))


@router.get("/api/v1/tasks/{task_id}/video", response_class=Response, responses=file_answers(400, 404))
@router.head("/api/v1/tasks/{task_id}/video", include_in_schema=False)
async def get_video(request: Request, task_id: str) -> Response:
    """The video of a completed task."""
    task = await _task(request, task_id)
    if task.status is not Status.SUCCEEDED:
        raise BadRequest(NOT_COMPLETED.format(status=HALLO2.word(task)), code="TASK_NOT_COMPLETED")
    video = video_artifact(task)
    if video is None:
        raise NotFound(NO_VIDEO, code="FILE_NOT_FOUND")
    storage = edge_of(request).context.storage
    return await file_response(
        request, storage, video.key, filename=f"hallo2_{task.id}.mp4", missing=NO_VIDEO
    )


@router.post("/api/v1/tasks/{task_id}/logs", response_model=TaskLogs, responses=problems(404))
async def get_logs(request: Request, task_id: str) -> Response:
    """What the task's last attempt logged; empty while there is nothing."""
    task = await _task(request, task_id)
    found = await log_lines(edge_of(request).context, task)
    return Json({"task_id": task.id, "logs": log_text(found.lines)})


@router.delete(
    "/api/v1/tasks/{task_id}",
    response_model=Cancelled,
    responses={400: {"model": NotCancelled, "description": "There is nothing to cancel"}},
)
async def cancel_task(request: Request, task_id: str) -> Response:
    """Stop a queued or running task; running work stops within about a second."""
    try:
        task = await _task(request, task_id)
        await edge_of(request).context.registry.cancel(task.id)
    except (TaskNotFound, IllegalStep) as error:
        code = "TASK_NOT_FOUND" if isinstance(error, TaskNotFound) else "INVALID_STATUS"
        return Json({"status": "error", "detail": NOT_CANCELLED, "error_code": code}, 400)
    return Json({"status": "cancelled", "task_id": task.id, "message": CANCELLED})


@router.get("/health")
async def health(request: Request) -> Response:
    """Whether this process answers, and which GPU it may use."""
    return Json(simple_health(await edge_of(request).context.system.gpu()))


@router.get("/api/v1/health", responses=problems(503))
async def health_in_detail(request: Request) -> Response:
    """The GPU, the models that would run a task now, and the caller's tasks by status (0 without a key)."""
    edge = edge_of(request)
    context = edge.context
    gpu = await context.system.gpu()
    known = known_caller(request)
    counts = await context.registry.counts(tenant=known.tenant, dialect=HALLO2.name) if known else {}
    ready = [MODEL] if await edge.readiness.is_ready(edge.submitter.model(TASK_NAME)) else []
    now = context.now()
    return Json(detailed_health(gpu, counts, ready, now=now, uptime_s=now - edge.started_at))


@router.get("/api/v1/models")
async def list_models(request: Request) -> Response:
    """The one model of this dialect, and whether it is ready."""
    model = await _model(edge_of(request))
    return Json({"models": {MODEL: model}, "loaded_models": [MODEL] if model["initialized"] else []})


@router.get("/api/v1/models/{name}", responses=problems(404))
async def get_model(request: Request, name: str) -> Response:
    if name != MODEL:
        raise NotFound(f"Model {name[:200]} not registered", code="MODEL_NOT_FOUND")
    return Json(await _model(edge_of(request)))


async def _model(edge: Edge) -> dict[str, Any]:
    """`missing` says why it is not ready; "" when it is."""
    missing, engine = "", None
    try:
        engine = await edge.readiness.engine(edge.submitter.model(TASK_NAME))
    except ModelNotReady as error:
        missing = str(error)
    return {
        "name": MODEL,
        "initialized": engine is not None,
        "version": engine.version if engine else None,
        "engine": engine.name if engine else None,
        "missing": missing,
    }


async def _task(request: Request, task_id: str) -> Task:
    return await own_task(request, task_id, HALLO2.name)
