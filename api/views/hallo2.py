"""How the `hallo2` dialect shows a task (contracts §4). Pure: a record in, JSON out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel

from api.bodies import NO_BOOL
from api.context import GpuInfo
from api.dialects import HALLO2
from api.results import UrlOf, result_of, video_artifact
from cluster.task import Json, Status, Task
from models.zoo.hallo2 import GuidanceScale, InferenceSteps

QUEUED = "Inference task queued successfully"
CONFIGURED = "Configuration updated successfully"
CANCELLED = "Task cancelled successfully"
NOT_CANCELLED = "Task not found in queue or already running"
_LOG_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[.,]\d{3} (?=\[)")
_MESSAGES: Mapping[Status, str] = {
    Status.QUEUED: "Task queued",
    Status.RUNNING: "Running inference...",
    Status.SUCCEEDED: "Task completed",
    Status.FAILED: "Task failed",
    Status.CANCELLED: "Task cancelled",
}


_VERBS = {"clip": "Generating"}  # by the first word of an engine's stage


class Config(BaseModel):
    """Defaults of later tasks; what is left out stays as it is."""

    guidance_scale: Annotated[GuidanceScale | None, NO_BOOL] = None
    inference_steps: Annotated[InferenceSteps | None, NO_BOOL] = None
    enable_cache: bool | None = None


class Created(BaseModel):
    """Answer of a new task."""

    task_id: str
    status: Literal["queued"]
    message: str


class Configured(BaseModel):
    """Answer of a changed configuration."""

    status: Literal["success"]
    message: str


class TaskStatus(BaseModel):
    """A task. `progress` is 0-100; times are UTC."""

    task_id: str
    status: Literal["queued", "processing", "completed", "failed"]
    progress: int
    status_message: str
    result: dict[str, Any] | None
    error: str | None
    created_at: str
    updated_at: str


class TaskTable(BaseModel):
    """Tasks by id."""

    tasks: dict[str, TaskStatus]
    count: int


class RecentTasks(BaseModel):
    """The newest tasks, newest first."""

    tasks: list[TaskStatus]
    count: int


class TaskLogs(BaseModel):
    """The log of a task's last attempt: lines that begin with their level in brackets."""

    task_id: str
    logs: str


class Cancelled(BaseModel):
    """Answer of a cancelled task."""

    status: Literal["cancelled"]
    task_id: str
    message: str


class NotCancelled(BaseModel):
    """Answer where there is nothing to cancel."""

    status: Literal["error"]
    detail: str
    error_code: str


def task_view(task: Task, url_of: UrlOf) -> Json:
    return {
        "task_id": task.id,
        "status": HALLO2.word(task),
        "progress": _percent(task),
        "status_message": _message(task),
        "result": _result(task, url_of),
        "error": HALLO2.error_text(task),
        "created_at": HALLO2.time(task.created_at),
        "updated_at": HALLO2.time(task.updated_at),
    }


def log_text(lines: tuple[str, ...]) -> str:
    """Log lines without their times, as this dialect's clients know them."""
    return "\n".join(_LOG_TIME.sub("", line) for line in lines)


def simple_health(gpu: GpuInfo | None) -> Json:
    return {
        "status": "healthy",
        "gpu_available": gpu is not None,
        "gpu_count": gpu.count if gpu else 0,
        "gpu_name": gpu.name if gpu else None,
    }


def detailed_health(
    gpu: GpuInfo | None, counts: Mapping[Status, int], ready: list[str], *, now: float, uptime_s: float
) -> Json:
    """`ready` are the models that would run a task now."""
    tasks = {"queued": 0, "processing": 0, "completed": 0, "failed": 0}
    for status, count in counts.items():
        tasks[HALLO2.words[status]] += count
    tasks = {"queued": tasks["queued"], "running": tasks.pop("processing"), **tasks}
    return {
        "status": "healthy",
        "timestamp": HALLO2.time(now),
        "uptime": round(uptime_s, 1),
        "models_loaded": ready,
        "gpu": {"available": gpu is not None, "count": gpu.count if gpu else 0, "devices": _devices(gpu)},
        "tasks": tasks,
        "gpu_available": gpu is not None,
        "gpu_name": gpu.name if gpu else None,
        "loaded_models": ready,
    }


def _devices(gpu: GpuInfo | None) -> list[Json]:
    """The device whose memory is known: the first."""
    if gpu is None:
        return []
    return [
        {
            "index": 0,
            "name": gpu.name,
            "memory_allocated": f"{round(gpu.memory_allocated, 1):g} GB",
            "memory_total": f"{round(gpu.memory_total, 1):g} GB",
        }
    ]


def _percent(task: Task) -> int:
    """Whole per cent; 100 only when the video is there."""
    if task.status is Status.SUCCEEDED:
        return 100
    return min(99, int(task.progress.fraction * 100))


def _message(task: Task) -> str:
    if task.status is Status.RUNNING and task.cancel_requested_at is not None:
        return "Cancelling..."
    if task.status is Status.RUNNING and (stage := task.progress.stage):
        return f"{_VERBS.get(stage.partition(' ')[0], 'Running')} {stage}..."
    return _MESSAGES[task.status]


def _result(task: Task, url_of: UrlOf) -> Json | None:
    if task.status is not Status.SUCCEEDED:
        return None
    video = video_artifact(task)
    shown: Json = {"video_path": video.key if video else None, "task_id": task.id}
    return shown | (result_of(task, url_of) or {})
