"""The `creation` dialect: videos from text (contracts §5)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from api.answers import Json
from api.bodies import parse, parse_query, read_json
from api.callers import caller
from api.dialects import CREATION, Dialect
from api.edge import edge_of, own_task
from api.errors import NotFound
from api.file_responses import file_response
from api.pages import PageSize
from api.results import video_artifact
from api.routing import direct_router, file_answers, json_body, query_parameters
from api.submission import Draft
from api.views.creation import (
    DELETED,
    HEALTHY,
    Deleted,
    ModelStatus,
    TaskListResponse,
    TaskResponse,
    VideoRequest,
    created_view,
    task_view,
    video_name,
)
from api.views.problems import problems
from cluster.task import Task, TaskQuery
from models.engine import EngineSpec, ModelNotReady

TASK_NAME = "text_to_video.generate_video"
NO_FILE = "文件不存在"

router = direct_router("creation")


class ListQuery(BaseModel):
    """Which tasks GET /api/tasks shows."""

    skip: Annotated[int, Field(ge=0, le=10**9)] = 0
    limit: PageSize = 10

    def of(self, dialect: Dialect, tenant: str) -> TaskQuery:
        """The registry's query for this stretch of a tenant's tasks."""
        return TaskQuery(
            tenant=tenant, dialect=dialect.name, newest_first=False, offset=self.skip, limit=self.limit
        )


@router.post(
    "/api/tasks",
    response_model=TaskResponse,
    responses=problems(413, 422, 503),
    openapi_extra=json_body(VideoRequest),
)
async def create_task(request: Request) -> Response:
    """Queue the making of a video."""
    body = parse(VideoRequest, await read_json(request))
    draft = Draft(
        name=TASK_NAME,
        inputs=body.model_dump(exclude_none=True),
        tenant=caller(request).tenant,
        dialect=CREATION.name,
    )
    return Json(created_view((await edge_of(request).submitter.submit(draft)).task))


@router.get(
    "/api/tasks",
    response_model=TaskListResponse,
    responses=problems(422),
    openapi_extra=query_parameters(ListQuery),
)
async def list_tasks(request: Request) -> Response:
    """The tasks of this dialect, oldest first."""
    query = parse_query(ListQuery, request)
    page = await edge_of(request).context.registry.list(query.of(CREATION, caller(request).tenant))
    return Json({"tasks": [task_view(task) for task in page.tasks], "total": page.total})


@router.get("/api/tasks/{task_id}", response_model=TaskResponse, responses=problems(404))
async def get_task(request: Request, task_id: str) -> Response:
    return Json(task_view(await _task(request, task_id)))


@router.delete("/api/tasks/{task_id}", response_model=Deleted, responses=problems(404))
async def delete_task(request: Request, task_id: str) -> Response:
    """Remove the task in any state; running work is stopped, files are removed."""
    task = await _task(request, task_id)
    await edge_of(request).context.registry.delete(task.id)
    return Json({"message": DELETED})


@router.get("/videos/{filename}", response_class=Response, responses=file_answers(404))
@router.head("/videos/{filename}", include_in_schema=False)
async def video_file(request: Request, filename: str) -> Response:
    """The video of a completed task, with Range and ETag."""
    task_id, suffix, rest = filename.rpartition(video_name(""))
    if not suffix or rest:
        raise NotFound(NO_FILE, code="FILE_NOT_FOUND")
    artifact = video_artifact(await _task(request, task_id))
    if artifact is None:
        raise NotFound(NO_FILE, code="FILE_NOT_FOUND")
    storage = edge_of(request).context.storage
    return await file_response(request, storage, artifact.key, filename=filename, missing=NO_FILE)


@router.get("/api/model/status", response_model=ModelStatus)
async def model_status(request: Request) -> Response:
    """Whether a submitted task would run, and on what."""
    edge = edge_of(request)
    try:
        engine: EngineSpec | None = await edge.readiness.engine(edge.submitter.model(TASK_NAME))
    except ModelNotReady:
        engine = None
    gpu = await edge.context.system.gpu()
    status = ModelStatus(
        llm_loaded=engine is not None,
        video_loaded=engine is not None,
        device="cuda" if gpu and engine and engine.needs_gpu else "cpu",
        cuda_available=gpu is not None,
        gpu_name=gpu.name if gpu else None,
        gpu_memory_allocated=gpu.memory_allocated if gpu else None,
        gpu_memory_total=gpu.memory_total if gpu else None,
    )
    return Json(status)


@router.get("/health")
async def health(_request: Request) -> Response:
    return Json({"status": "ok", "message": HEALTHY})


async def _task(request: Request, task_id: str) -> Task:
    return await own_task(request, task_id, CREATION.name)
