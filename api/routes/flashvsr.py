"""The `flashvsr` dialect: video super-resolution (contracts §3)."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from anyio import to_thread
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.answers import Json
from api.bodies import parse_query
from api.callers import caller
from api.dialects import FLASHVSR
from api.edge import Edge, edge_of, own_task
from api.errors import BadRequest, NotFound
from api.file_responses import file_response
from api.flashvsr_files import ensure_preview, join_finished_parts
from api.flashvsr_uploads import TASK_NAME, create
from api.pages import PageQuery
from api.results import video_artifact
from api.routing import FILE_FIELD, direct_router, file_answers, form_body, query_parameters
from api.to_the_end import remove
from api.views.flashvsr import (
    MODEL_VARIANT,
    NOTHING_TO_RECOVER,
    TaskListResponse,
    TaskParameters,
    TaskProgressResponse,
    TaskResponse,
    parameter_schema,
    partial_name,
    progress_view,
    task_view,
    with_error,
)
from api.views.problems import problems
from cluster import keys
from cluster.errors import ArtifactNotFound, TaskNotFound
from cluster.storage import Stored
from cluster.task import Status, Task
from models.engine import EngineKind, EngineSpec, ModelNotReady, ModelSpec
from models.weights import ModelFolder, WeightFile

VERSION = "1.0.0"
WEIGHTS_VERSION = "v1.1"
NO_RESULT_YET = "任务尚未完成或没有可用的部分结果"
NO_RESULT = "结果文件不存在"
STILL_RUNNING = "任务仍在处理中，请在任务结束后再导出。"

router: APIRouter = direct_router("flashvsr")


FORM = form_body({"file": FILE_FIELD, **TaskParameters.model_json_schema()["properties"]}, ["file"])


@router.post(
    "/api/tasks",
    status_code=201,
    response_model=TaskResponse,
    responses=problems(400, 409, 413, 422, 500, 503),
    openapi_extra=FORM,
)
async def create_task(request: Request) -> Response:
    """Upload a video and queue its upscaling."""
    return Json(task_view(await create(request)), 201)


@router.get(
    "/api/tasks",
    response_model=TaskListResponse,
    responses=problems(422),
    openapi_extra=query_parameters(PageQuery),
)
async def list_tasks(request: Request) -> Response:
    """The tasks of this dialect, newest first."""
    query = parse_query(PageQuery, request)
    page = await edge_of(request).context.registry.list(query.of(FLASHVSR, caller(request).tenant))
    return Json({"tasks": [task_view(task) for task in page.tasks]} | query.numbers(page))


@router.get("/api/tasks/parameter_schema")
async def get_parameter_schema(_request: Request) -> Response:
    """The parameters as a form: limits, defaults, groups and presets."""
    return Json(parameter_schema())


@router.get("/api/tasks/{task_id}", response_model=TaskResponse, responses=problems(404))
async def get_task(request: Request, task_id: str) -> Response:
    return Json(task_view(await _task(request, task_id)))


@router.get("/api/tasks/{task_id}/progress", response_model=TaskProgressResponse, responses=problems(404))
async def get_progress(request: Request, task_id: str) -> Response:
    return Json(progress_view(await _task(request, task_id)))


@router.delete("/api/tasks/{task_id}", status_code=204, responses=problems(404))
async def delete_task(request: Request, task_id: str) -> Response:
    """Remove the task in any state; running work is stopped, files are removed."""
    task = await _task(request, task_id)
    await edge_of(request).context.registry.delete(task.id)
    return Response(status_code=204)


@router.post(
    "/api/tasks/{task_id}/export_from_chunks",
    response_model=TaskProgressResponse,
    responses=problems(400, 404),
)
async def export_from_chunks(request: Request, task_id: str) -> Response:
    """Deliver what a failed or stopped task had finished; a completed task is left as it is."""
    task = await _task(request, task_id)
    if not task.status.is_final:
        raise BadRequest(STILL_RUNNING)
    if task.status is Status.SUCCEEDED:
        return Json(progress_view(task))
    edge = edge_of(request)
    stored = await _export(edge, task)
    if stored is None:
        return Json(with_error(progress_view(task), NOTHING_TO_RECOVER))
    name = partial_name(task.facts.get("input_file_name", ""))
    facts: dict[str, object] = {"partial": {"key": stored.key, "name": name}, "output_file_name": name}
    try:
        task = await edge.context.registry.annotate(task.id, facts)
    except TaskNotFound:  # deleted meanwhile: its new file must go too
        await remove(edge.context.storage, [stored.key])
        raise
    return Json(progress_view(task))


async def _export(edge: Edge, task: Task) -> Stored | None:
    context = edge.context
    target_key = keys.derived_key(task.id, "partial.mp4")
    return await to_thread.run_sync(
        join_finished_parts,
        context.storage,
        task.id,
        task.files.get("video_path", ""),
        target_key,
        context.settings.workspace_path,
    )


@router.get("/api/files/{task_id}/result", response_class=Response, responses=file_answers(400, 404))
@router.head("/api/files/{task_id}/result", include_in_schema=False)
async def result_file(request: Request, task_id: str) -> Response:
    """The upscaled video, or what was exported of a failed task."""
    task = await _task(request, task_id)
    key = _result_key(task)
    if key is None:
        raise BadRequest(NO_RESULT_YET)
    name = task.facts.get("output_file_name")
    return await file_response(
        request, edge_of(request).context.storage, key, filename=name, missing=NO_RESULT
    )


@router.get("/api/files/{task_id}/preview", response_class=Response, responses=file_answers(404))
@router.head("/api/files/{task_id}/preview", include_in_schema=False)
async def preview_file(request: Request, task_id: str) -> Response:
    """The first frame as JPEG: of the result, or of the input while there is none."""
    task = await _task(request, task_id)
    result_key = _result_key(task)
    source_key = result_key or task.files.get("video_path", "")
    preview_key = keys.derived_key(task.id, "result.jpg" if result_key else "input.jpg")
    storage = edge_of(request).context.storage
    try:
        await to_thread.run_sync(storage.stat, preview_key)
    except ArtifactNotFound:
        await _make_preview(request, task.id, source_key, preview_key)
    return await file_response(request, storage, preview_key, filename=f"{task.id}.jpg")


async def _make_preview(request: Request, task_id: str, source_key: str, preview_key: str) -> None:
    edge = edge_of(request)
    storage = edge.context.storage
    try:
        await to_thread.run_sync(
            ensure_preview, storage, source_key, preview_key, limiter=edge.submitter.decoders
        )
    except ArtifactNotFound as error:
        raise NotFound(NO_RESULT, code="FILE_NOT_FOUND") from error
    try:
        await _task(request, task_id)
    except TaskNotFound:  # deleted meanwhile: its new file must go too
        await remove(storage, [preview_key])
        raise


@router.get("/api/files/{task_id}/input", response_class=Response, responses=file_answers(404))
@router.head("/api/files/{task_id}/input", include_in_schema=False)
async def input_file(request: Request, task_id: str) -> Response:
    """The video as it was uploaded."""
    task = await _task(request, task_id)
    key = task.files.get("video_path", "")
    name = task.facts.get("input_file_name")
    return await file_response(request, edge_of(request).context.storage, key, filename=name)


@router.get("/api/system/status")
async def system_status(request: Request) -> Response:
    """Tasks by status, the GPU, and which weights are there."""
    return Json(await status_of(request))


async def status_of(request: Request) -> dict[str, Any]:
    edge = edge_of(request)
    gpu = await edge.context.system.gpu()
    counts = await edge.context.registry.counts(tenant=caller(request).tenant, dialect=FLASHVSR.name)
    tasks = {"total": sum(counts.values()), "pending": 0, "processing": 0, "completed": 0, "failed": 0}
    for status, count in counts.items():
        tasks[FLASHVSR.words[status]] += count
    return {
        "gpu_available": gpu is not None,
        "gpu_info": None if gpu is None else asdict(gpu),
        "tasks": tasks,
        "flashvsr": await _weights_status(edge),
    }


@router.get("/api/system/assets")
async def system_assets(request: Request) -> Response:
    """Every weight file of FlashVSR and of the engine that stands in for it, and whether it is there."""
    edge = edge_of(request)
    model = edge.submitter.model(TASK_NAME)
    full, missing = await _full_weights(edge, model)
    files = [(folder, name) for engine in full for folder in engine.folders for name in folder.files]
    assets = [_operators_asset(folder, name, missing) for folder, name in files]
    pinned = [await _asset(edge, engine, weight) for engine in model.engines for weight in engine.weights]
    missing += [asset["name"] for asset in pinned if not asset["ready"]]
    return Json({"version": WEIGHTS_VERSION, "assets": assets + pinned, "missing_files": missing})


def _operators_asset(folder: ModelFolder, name: str, missing: list[str]) -> dict[str, Any]:
    """A file that the operator provides, in whatever version: neither its size nor its content is pinned."""
    return {
        "name": name,
        "engine": "flashvsr",
        "size": None,
        "sha256": None,
        "ready": not any(path.endswith(f"/{name}") for path in missing),
        "hint": f"put {name} into MEDIARAY_MODELS_DIR/{folder.path}",
    }


async def _asset(edge: Edge, engine: EngineSpec, weight: WeightFile) -> dict[str, Any]:
    return {
        "name": weight.path.rpartition("/")[2],
        "engine": engine.name,
        "size": weight.size_bytes,
        "sha256": weight.sha256,
        "ready": not await edge.readiness.missing(replace(engine, weights=(weight,))),
        "hint": weight.hint,
    }


async def _weights_status(edge: Edge) -> dict[str, Any]:
    model = edge.submitter.model(TASK_NAME)
    _, missing = await _full_weights(edge, model)
    try:
        engine: EngineSpec | None = await edge.readiness.engine(model)
    except ModelNotReady:
        engine = None
    models_dir = edge.context.settings.models_dir
    return {
        "version": WEIGHTS_VERSION,
        "default_variant": MODEL_VARIANT,
        "available_variants": [MODEL_VARIANT],
        "ready_variants": {MODEL_VARIANT: engine is not None},
        "missing_files": missing,
        "model_path": str(models_dir) if models_dir else "",
        "weights_ready": not missing,
        "auto_download_used": False,
        "model_source": engine.kind.value if engine else "",
        "engine": engine.name if engine else None,
    }


async def _full_weights(edge: Edge, model: ModelSpec) -> tuple[list[EngineSpec], list[str]]:
    """FlashVSR itself in the layout that is whole, else in that of its release, and the files it lacks."""
    full = [engine for engine in model.engines if engine.kind is EngineKind.FULL]
    lacks = [([engine], await edge.readiness.missing_files(engine)) for engine in full]
    return min(lacks, key=lambda each: bool(each[1]), default=([], []))


@router.get("/")
async def about(_request: Request) -> Response:
    return Json({"name": "FlashVSR", "version": VERSION, "status": "running"})


@router.get("/health")
async def health(_request: Request) -> Response:
    return Json({"status": "healthy"})


async def _task(request: Request, task_id: str) -> Task:
    return await own_task(request, task_id, FLASHVSR.name)


def _result_key(task: Task) -> str | None:
    """The key of what the task delivered, whole or in part."""
    artifact = video_artifact(task)
    if artifact is not None:
        return artifact.key
    partial = task.facts.get("partial")
    return partial["key"] if partial else None
