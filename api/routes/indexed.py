"""The `indexed` dialect: numbered jobs of the operator's catalogue, and their files (contracts §2)."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from anyio import to_thread
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from api.answers import Json
from api.bodies import parse_query
from api.callers import caller
from api.dialects import INDEXED, iso_time
from api.edge import edge_of, own_task
from api.errors import BadRequest, NotFound
from api.file_responses import file_response
from api.job_files import stored_files
from api.pages import PageQuery, PageSize
from api.routing import direct_router, file_answers, query_parameters
from api.submission import Draft
from api.views.indexed import (
    Created,
    NoResult,
    TaskList,
    TaskResult,
    TaskStatus,
    created_view,
    item_view,
    named_files,
    result_view,
    status_view,
)
from api.views.problems import problems
from cluster.errors import RegistryUnavailable
from cluster.task import Status, Task

VERSION = "1.0.0"
BAD_INDEX = "index must be an integer of 1 or more, as a query parameter: POST /api/inference?index=1"
NO_FILE = "文件不存在"
MAX_SUBFOLDER_CHARS = 255
_MAX_INDEX_DIGITS = 18

router = direct_router("indexed")


class JobQuery(BaseModel):
    """Which job POST /api/inference runs. `subfolder` is the caller's own label, shown again."""

    index: Annotated[int, Field(ge=1)]
    subfolder: Annotated[str, Field(max_length=MAX_SUBFOLDER_CHARS)] | None = None


class ListQuery(PageQuery):
    """Which page GET /api/tasks shows."""

    page_size: PageSize = 10


@router.post(
    "/api/inference",
    response_model=Created,
    responses=problems(400, 404, 503),
    openapi_extra=query_parameters(JobQuery),
)
async def create_task(request: Request) -> Response:
    """Queue the job of this index."""
    edge = edge_of(request)
    tenant = caller(request).tenant
    label = _subfolder(request)
    job = edge.jobs.job(_index(request))
    draft = Draft(
        name=job.task,
        inputs=job.inputs,
        tenant=tenant,
        dialect=INDEXED.name,
        task_id=str(uuid.uuid4()),
        files=await to_thread.run_sync(stored_files, edge.context.storage, edge.jobs, job),
        facts={"index": job.index, **label},
        is_fresh_id=True,
    )
    return Json(created_view((await edge.submitter.submit(draft)).task))


@router.get("/api/task/{task_id}/status", response_model=TaskStatus, responses=problems(404))
async def task_status(request: Request, task_id: str) -> Response:
    return Json(status_view(await _task(request, task_id)))


@router.get("/api/task/{task_id}/result", response_model=TaskResult | NoResult, responses=problems(404))
async def task_result(request: Request, task_id: str) -> Response:
    """The files of a completed task; how it stands otherwise."""
    return Json(result_view(await _task(request, task_id)))


@router.get("/api/task/{task_id}/file/{filename:path}", response_class=Response, responses=file_answers(404))
@router.head("/api/task/{task_id}/file/{filename:path}", include_in_schema=False)
async def result_file(request: Request, task_id: str, filename: str) -> Response:
    """One output file, with Range and ETag, shown inline."""
    artifact = named_files(await _task(request, task_id)).get(filename)
    if artifact is None:
        raise NotFound(NO_FILE, code="FILE_NOT_FOUND")
    storage = edge_of(request).context.storage
    return await file_response(request, storage, artifact.key, filename=filename, missing=NO_FILE)


@router.get(
    "/api/tasks", response_model=TaskList, responses=problems(422), openapi_extra=query_parameters(ListQuery)
)
async def list_tasks(request: Request) -> Response:
    """The tasks of this dialect, newest first."""
    query = parse_query(ListQuery, request)
    page = await edge_of(request).context.registry.list(query.of(INDEXED, caller(request).tenant))
    return Json(query.numbers(page) | {"tasks": [item_view(task) for task in page.tasks]})


@router.get("/api/system/status")
async def system_status(request: Request) -> Response:
    """Whether tasks can run, and how many wait."""
    return Json(await status_of(request))


async def status_of(request: Request) -> dict[str, Any]:
    """`ssh_connected` is an old name: whether a node can run tasks. `queue_running`: leases are given."""
    context = edge_of(request).context
    try:
        counts = await context.registry.counts(tenant=caller(request).tenant, dialect=INDEXED.name)
        queue = {"queue_size": counts.get(Status.QUEUED, 0), "queue_running": True}
    except RegistryUnavailable:
        queue = {"queue_size": 0, "queue_running": False}
    has_nodes = await context.system.live_nodes() > 0
    return {"status": "running", "ssh_connected": has_nodes, **queue, **_subfolder(request)}


@router.get("/api/health")
async def health(request: Request) -> Response:
    now = edge_of(request).context.now()
    return Json({"status": "healthy", "timestamp": iso_time(now, "microseconds")})


@router.get("/")
async def about(_request: Request) -> Response:
    return Json({"name": "Indexed inference", "version": VERSION, "docs": "/docs", "health": "/api/health"})


def _index(request: Request) -> int:
    text = request.query_params.get("index", "")
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_INDEX_DIGITS and int(text) >= 1):
        raise BadRequest(BAD_INDEX, details={"field": "index"})
    return int(text)


def _subfolder(request: Request) -> dict[str, str]:
    """The caller's own label, where one is given: shown again, never a path here. Raises BadRequest."""
    label = request.query_params.get("subfolder")
    if label is None:
        return {}
    if len(label) > MAX_SUBFOLDER_CHARS or not label.isprintable():
        text = f"subfolder must be at most {MAX_SUBFOLDER_CHARS} printable characters"
        raise BadRequest(text, details={"field": "subfolder"})
    return {"subfolder": label}


async def _task(request: Request, task_id: str) -> Task:
    return await own_task(request, task_id, INDEXED.name)
