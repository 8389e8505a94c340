"""How the `tasks` dialect shows a task (contracts §6). Pure: a record and a URL maker in, JSON out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from api.bodies import NO_BOOL
from api.dialects import TASKS, iso_time_z
from api.results import UrlOf, file_list, result_of
from cluster.task import FailureCode, Progress, Status, Submission, Task

MESSAGES: Mapping[Status, str] = {
    Status.QUEUED: "任务已创建，等待执行",
    Status.RUNNING: "任务正在执行中",
    Status.SUCCEEDED: "任务执行成功",
    Status.CANCELLED: "任务已取消",
}
CREATED = "任务已创建并开始执行"
ALREADY_ACTIVE = "任务已存在执行中，等待完成后回调"
REUSED = "任务已命中缓存并完成回调"
RETRIED = "任务重试已开始，原任务ID: {id}"
CANCELLED = "任务已成功取消"


class CreateTask(BaseModel):
    """Body of POST /v1/tasks. Unknown fields beside `input_data` are ignored; inside it they are refused."""

    task_name: str | None = Field(None, description="Such as ffmpeg.extract_audio")
    task_id: str | None = Field(
        None, description="1-128 of A-Z a-z 0-9 . _ -; made by the server when absent"
    )
    callback: str | None = Field(None, description="http(s) URL that is told when the task ends")
    input_data: dict[str, Any] | None = Field(None, description="The inputs of the task, by its schema")
    priority: Annotated[int, NO_BOOL] = Field(0, ge=-10, le=10, description="Higher runs first")


class RetryTask(BaseModel):
    """Optional body of a retry: inputs to lay over the old ones."""

    input_data: dict[str, Any] = Field(default_factory=dict)


class Receipt(BaseModel):
    """What a request that changed a task is answered with."""

    model_config = ConfigDict(extra="allow")

    task_id: str
    status: str
    message: str


class TaskFile(BaseModel):
    """An output file; `file_path` can be an input of another task."""

    file_path: str
    download_url: str
    size: int
    content_type: str
    name: str
    url: str
    type: str


class ProgressView(BaseModel):
    """Committed units of a total; `fraction` is 0..1 and null while the total is not known."""

    stage: str
    done: float
    total: float | None
    unit: str
    fraction: float | None
    eta_s: float | None


class TaskStatus(BaseModel):
    """Answer of GET …/status."""

    task_id: str
    task_name: str
    status: str
    message: str
    progress: ProgressView
    result: dict[str, Any] | None = None
    minio_files: list[TaskFile] | None = None
    created_at: str
    updated_at: str
    callback_status: str | None


class TaskResult(TaskStatus):
    """Answer of GET …/result."""

    input_params: dict[str, Any]
    execution_info: dict[str, Any]
    timing: dict[str, float | None] = Field(description="Seconds since the epoch, UTC")


class TaskList(BaseModel):
    """Answer of GET /v1/tasks: newest first; `total` counts all pages, `next_cursor` is null on the last."""

    tasks: list[TaskStatus]
    total: int
    limit: int
    offset: int
    next_cursor: str | None


def status_view(task: Task, url_of: UrlOf) -> dict[str, Any]:
    return {
        "task_id": task.id,
        "task_name": task.name,
        "status": TASKS.word(task),
        "message": message(task),
        "progress": progress_view(task.progress),
        **_outcome(task, url_of),
        "created_at": TASKS.time(task.created_at),
        "updated_at": TASKS.time(task.updated_at),
        "callback_status": task.deliveries[-1].status if task.deliveries else None,
    }


def result_view(task: Task, url_of: UrlOf) -> dict[str, Any]:
    params = {"task_name": task.name, "task_id": task.id, "input_data": task.inputs}
    timing = {name: getattr(task, name) for name in ("created_at", "started_at", "finished_at")}
    return status_view(task, url_of) | {
        "input_params": params,
        "execution_info": _execution(task),
        "timing": timing,
    }


def callback_view(task: Task, url_of: UrlOf) -> dict[str, Any]:
    """What a callback tells of an ended task; `timestamp` is when it ended."""
    outcome = {"result": None, "minio_files": []} | _outcome(task, url_of)
    ended_at = task.updated_at if task.finished_at is None else task.finished_at
    return {"task_id": task.id, "status": TASKS.word(task), **outcome, "timestamp": iso_time_z(ended_at)}


def receipt(task_id: str, status: str, message: str) -> dict[str, Any]:
    return {"task_id": task_id, "status": status, "message": message}


def submission_view(submission: Submission, url_of: UrlOf) -> dict[str, Any]:
    """The answer to a submit: a new task, or how the existing one stands."""
    task = submission.task
    if submission.created:
        # A free replica may have it already; the documented answer to a submit is pending all the same.
        return receipt(task.id, TASKS.words[Status.QUEUED], CREATED)
    if not task.status.is_final:
        return receipt(task.id, TASKS.word(task), ALREADY_ACTIVE)
    if task.status is Status.SUCCEEDED:
        return receipt(task.id, TASKS.word(task), REUSED) | {
            "reuse_info": _reuse(task),
            "result": result_of(task, url_of),
        }
    return receipt(task.id, TASKS.word(task), message(task)) | _outcome(task, url_of)


def _reuse(task: Task) -> dict[str, Any]:
    return {
        "reuse_hit": True,
        "task_name": task.name,
        "source": "task_registry",
        "cached_at": TASKS.time(task.finished_at),
    }


def message(task: Task) -> str:
    return MESSAGES[task.status] if task.failure is None else task.failure.message


def progress_view(progress: Progress) -> dict[str, Any]:
    return {
        "stage": progress.stage,
        "done": progress.done,
        "total": progress.total,
        "unit": progress.unit,
        "fraction": progress.fraction if progress.total else None,
        "eta_s": progress.eta_s,
    }


def _outcome(task: Task, url_of: UrlOf) -> dict[str, Any]:
    if task.status is Status.SUCCEEDED:
        return {"result": result_of(task, url_of), "minio_files": file_list(task, url_of)}
    if task.failure is not None:
        return {"result": {"error": task.failure.message, "error_code": task.failure.code}}
    if task.status is Status.CANCELLED:
        return {"result": {"error": MESSAGES[task.status], "error_code": FailureCode.CANCELLED}}
    return {}


def _execution(task: Task) -> dict[str, Any]:
    """`start_time` and `duration` are of the last attempt; `duration` is in seconds."""
    return {
        "start_time": TASKS.time(task.started_at),
        "end_time": TASKS.time(task.finished_at),
        "duration": None if task.run_s is None else round(task.run_s, 3),
        "worker_id": task.attempt.worker if task.attempt else None,
        "queue": task.service,
        "attempts": task.attempts,
        "cancel_requested_at": TASKS.time(task.cancel_requested_at),
    }
