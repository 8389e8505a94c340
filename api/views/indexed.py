"""How the `indexed` dialect shows a task (contracts §2). Pure: a record in, JSON out."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import quote

from pydantic import BaseModel

from api.dialects import INDEXED
from api.pages import StatusWord
from cluster.task import Artifact, Json, Status, Task

CREATED = "任务已创建，正在处理中"
NOT_FINISHED = "任务尚未完成"

FileType = Literal["image", "video", "other"]

_TYPES: dict[str, FileType] = {
    **dict.fromkeys((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp"), "image"),
    **dict.fromkeys((".mp4", ".avi", ".mov", ".mkv", ".webm"), "video"),
}


class Created(BaseModel):
    """Answer of POST /api/inference; `subfolder` is there when it was given."""

    task_id: str
    index: int
    message: str


class TaskItem(BaseModel):
    """A task in the list."""

    task_id: str
    index: int | None
    status: StatusWord
    created_at: str
    completed_at: str | None


class TaskStatus(TaskItem):
    """Answer of GET …/status; `inference_time` is in seconds."""

    inference_time: float | None
    error_message: str | None


class ResultFile(BaseModel):
    """An output file; `url` is relative to the dialect's base."""

    filename: str
    type: FileType
    url: str


class TaskResult(TaskItem):
    """Answer of GET …/result for a completed task."""

    inference_time: float | None
    files: list[ResultFile]


class NoResult(BaseModel):
    """Answer of GET …/result before completion and after failure."""

    task_id: str
    status: StatusWord
    message: str
    error_message: str | None


class TaskList(BaseModel):
    """One page, newest first."""

    total: int
    page: int
    page_size: int
    tasks: list[TaskItem]


def created_view(task: Task) -> Json:
    return {"task_id": task.id, "index": task.facts["index"], "message": CREATED, **_subfolder(task)}


def item_view(task: Task) -> Json:
    return {
        "task_id": task.id,
        "index": task.facts.get("index"),
        "status": INDEXED.word(task),
        "created_at": INDEXED.time(task.created_at),
        "completed_at": INDEXED.time(task.finished_at),
    }


def status_view(task: Task) -> Json:
    shown = {"inference_time": _run_s(task), "error_message": INDEXED.error_text(task)}
    return item_view(task) | shown | _subfolder(task)


def result_view(task: Task) -> Json:
    if task.status is not Status.SUCCEEDED:
        return {
            "task_id": task.id,
            "status": INDEXED.word(task),
            "message": NOT_FINISHED,
            "error_message": INDEXED.error_text(task),
        }
    files = [_file(task, name) for name in named_files(task)]
    return item_view(task) | {"inference_time": _run_s(task), "files": files} | _subfolder(task)


def named_files(task: Task) -> dict[str, Artifact]:
    """The outputs by a name of one path segment: the file's own, or its whole path where that is taken."""
    named: dict[str, Artifact] = {}
    for artifact in task.artifacts:
        named[_free_name(artifact.name, named)] = artifact
    return named


def _free_name(path: str, taken: dict[str, Artifact]) -> str:
    flat = path.replace("/", "_")
    wanted = (path.rpartition("/")[2], flat, *(f"{number}_{flat}" for number in range(len(taken))))
    return next(name for name in wanted if name not in taken)


def _file(task: Task, name: str) -> Json:
    kind = _TYPES.get(PurePosixPath(name).suffix.lower(), "other")
    return {"filename": name, "type": kind, "url": f"/api/task/{task.id}/file/{quote(name, safe='')}"}


def _run_s(task: Task) -> float | None:
    return None if task.run_s is None else round(task.run_s, 2)


def _subfolder(task: Task) -> Json:
    """The caller's own label, where one was given."""
    return {"subfolder": task.facts["subfolder"]} if "subfolder" in task.facts else {}
