"""The `tasks` dialect: /v1/tasks (contracts §6), the most general one and the base of our own API."""

from __future__ import annotations

import asyncio
import secrets

from starlette.requests import Request
from starlette.responses import Response

from api.answers import Json
from api.bodies import parse, read_json, read_optional_json
from api.callers import caller
from api.dialects import TASKS
from api.edge import edge_of, own_task
from api.errors import REGISTRY_FAULT, BadRequest, ServerFault
from api.health import redacted_url
from api.results import signed
from api.retries import kept_files, record_retry
from api.routing import direct_router, header_parameter, json_body, query_parameters
from api.submission import Draft, check_task_id, idempotency_key
from api.task_lists import ListQuery, cursor_after, list_values
from api.views.problems import problems
from api.views.tasks import (
    CANCELLED,
    RETRIED,
    CreateTask,
    Receipt,
    RetryTask,
    TaskList,
    TaskResult,
    TaskStatus,
    receipt,
    result_view,
    status_view,
    submission_view,
)
from cluster.errors import IllegalStep, RegistryFault
from cluster.task import Status

RESERVED_IDS = frozenset({"health", "supported-tasks"})
MAX_ID_CHARS = 128
NOT_CREATED = "创建单任务失败: {error}"
DOCUMENTED_TASKS = (
    "ffmpeg.extract_keyframes",
    "ffmpeg.extract_audio",
    "ffmpeg.crop_subtitle_images",
    "ffmpeg.split_audio_segments",
    "faster_whisper.transcribe_audio",
    "audio_separator.separate_vocals",
    "pyannote_audio.diarize_speakers",
    "paddleocr.detect_subtitle_area",
    "paddleocr.perform_ocr",
    "indextts.generate_speech",
    "wservice.generate_subtitle_files",
    "wservice.correct_subtitles",
    "wservice.ai_optimize_subtitles",
)
"""The order of seed 4; what it does not name follows in the catalogue's order."""

router = direct_router("tasks")

_IDEMPOTENCY = header_parameter("Idempotency-Key", "The same key and body give the same task")


@router.post(
    "/v1/tasks",
    response_model=Receipt,
    responses=problems(400, 409, 413, 422, 500, 503),
    openapi_extra=json_body(CreateTask, parameters=[_IDEMPOTENCY]),
)
async def create_task(request: Request) -> Response:
    """Check the inputs, record the task durably, and answer with its id."""
    body = parse(CreateTask, await read_json(request))
    if not body.task_name:
        raise BadRequest("task_name不能为空", details={"field": "task_name"})
    submitter = edge_of(request).submitter
    callback_url = await submitter.callback_url(body.callback)
    if body.input_data is None:
        raise BadRequest("缺少必需参数: input_data", details={"field": "input_data"})
    tenant = caller(request).tenant
    key = idempotency_key(request.headers.get("idempotency-key"), tenant)
    draft = Draft(
        name=body.task_name,
        inputs=body.input_data,
        tenant=tenant,
        dialect=TASKS.name,
        task_id=None if body.task_id is None else check_task_id(body.task_id, RESERVED_IDS),
        idempotency_key=key if body.task_id is None else None,
        priority=body.priority,
        callback_url=callback_url,
    )
    try:
        submission = await submitter.submit(draft)
    except RegistryFault as error:
        raise ServerFault(NOT_CREATED.format(error=REGISTRY_FAULT)) from error
    url_of = edge_of(request).url_of(request)
    return Json(await signed([submission.task], submission_view, submission, url_of))


@router.get(
    "/v1/tasks", response_model=TaskList, responses=problems(422), openapi_extra=query_parameters(ListQuery)
)
async def list_tasks(request: Request) -> Response:
    """The caller's tasks of every dialect, newest first."""
    query = parse(ListQuery, list_values(request.query_params), "query")
    edge = edge_of(request)
    page = await edge.context.registry.list(query.of(caller(request).tenant))
    url_of = edge.url_of(request)
    shown = await signed(page.tasks, lambda: [status_view(task, url_of) for task in page.tasks])
    return Json(
        {
            "tasks": shown,
            "total": page.total,
            "limit": query.limit,
            "offset": query.offset,
            "next_cursor": cursor_after(page.tasks) if page.has_more else None,
        }
    )


@router.get("/v1/tasks/health")
async def health(request: Request) -> Response:
    """503 with the failing part when the queue or the file store does not answer."""
    edge = edge_of(request)
    failing = await edge.health.failing()
    if failing:
        error = "; ".join(f"{part}: {problem}" for part, problem in failing.items())
        return Json({"status": "unhealthy", "error": error}, 503)
    return Json(
        {
            "status": "healthy",
            "service": "single_task_api",
            "celery_broker": redacted_url(edge.context.settings.resolved_database_url),
            "minio_service": "available",
        }
    )


@router.get("/v1/tasks/supported-tasks")
async def supported_tasks(request: Request) -> Response:
    """The task names this server would run now, by service; `/v1/models` also shows what is not ready."""
    edge = edge_of(request)
    shown = [
        name
        for name, model in edge.context.catalog.items()
        if (model.is_listed or edge.context.settings.show_diagnostics)
        and await edge.readiness.is_ready(model)
    ]
    documented = [name for name in DOCUMENTED_TASKS if name in shown]
    ordered = documented + [name for name in shown if name not in DOCUMENTED_TASKS]
    by_service: dict[str, list[str]] = {}
    for name in ordered:
        by_service.setdefault(name.partition(".")[0], []).append(name)
    return Json(
        {
            "supported_tasks": by_service,
            "total_count": len(ordered),
            "description": "所有支持的单个工作流节点任务",
        }
    )


@router.get("/v1/tasks/{task_id}/status", response_model=TaskStatus, responses=problems(404))
async def task_status(request: Request, task_id: str) -> Response:
    task = await own_task(request, task_id)
    return Json(await signed([task], status_view, task, edge_of(request).url_of(request)))


@router.get("/v1/tasks/{task_id}/result", response_model=TaskResult, responses=problems(404))
async def task_result(request: Request, task_id: str) -> Response:
    """The status with the inputs and what is known about the execution."""
    task = await own_task(request, task_id)
    return Json(await signed([task], result_view, task, edge_of(request).url_of(request)))


@router.post(
    "/v1/tasks/{task_id}/retry",
    response_model=Receipt,
    responses=problems(400, 404, 422, 503),
    openapi_extra=json_body(RetryTask, required=False),
)
async def retry_task(request: Request, task_id: str) -> Response:
    """Submit an ended task again under a new id, with the body's inputs laid over the old ones."""
    edge = edge_of(request)
    task = await own_task(request, task_id)
    if not task.status.is_final:
        raise BadRequest(f"任务状态不允许重试: {TASKS.word(task)}", code="INVALID_STATUS")
    overrides = parse(RetryTask, await read_optional_json(request)).input_data
    draft = Draft(
        name=task.name,
        inputs=task.inputs | overrides,
        tenant=task.tenant,
        dialect=TASKS.name,
        priority=task.priority,
        files=kept_files(task, edge.submitter.model(task.name), overrides),
        is_fresh_id=True,
        callback_url=task.callback_url,
    )
    # A client that hangs up now must not tear apart the record and its files.
    new = await asyncio.shield(record_retry(edge, draft, _retry_id(task.id), task.id))
    return Json(receipt(new.id, TASKS.words[Status.QUEUED], RETRIED.format(id=task.id)))


@router.delete("/v1/tasks/{task_id}", response_model=Receipt, responses=problems(400, 404))
async def cancel_task(request: Request, task_id: str) -> Response:
    """Stop a waiting or running task; running work stops within about a second."""
    edge = edge_of(request)
    task = await own_task(request, task_id)
    try:
        await edge.context.registry.cancel(task.id)
    except IllegalStep as error:
        word = TASKS.words[Status(error.status)]
        raise BadRequest(f"任务状态不允许取消: {word}", code="INVALID_STATUS") from error
    return Json(receipt(task.id, TASKS.words[Status.CANCELLED], CANCELLED))


def _retry_id(task_id: str) -> str:
    suffix = f"-retry-{secrets.token_hex(4)}"
    return task_id[: MAX_ID_CHARS - len(suffix)] + suffix
