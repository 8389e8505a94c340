"""How the `creation` dialect shows a task (contracts §5). Pure: a record in, JSON out."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from api.dialects import CREATION
from api.pages import StatusWord
from api.results import video_artifact
from cluster.task import Json, Status, Task
from models.zoo.text_to_video import GenerateInputs

DELETED = "任务已删除"
HEALTHY = "服务运行正常"


class VideoRequest(GenerateInputs):
    """Body of POST /api/tasks: the prompt, and how to make the video where that is given."""

    model_config = ConfigDict(extra="ignore")


class TaskResponse(BaseModel):
    """A task; `result` is the path of its video below the dialect's base."""

    task_id: str
    status: StatusWord
    prompt: str
    result: str | None
    created_at: str
    error: str | None


class TaskListResponse(BaseModel):
    """Some of the tasks, oldest first; `total` counts all."""

    tasks: list[TaskResponse]
    total: int


class Deleted(BaseModel):
    """Answer of DELETE."""

    message: str


class ModelStatus(BaseModel):
    """Whether a submitted task would run, and on what. Memory is in GiB, null without a GPU.

    `llm_loaded` speaks of the text encoder, which is part of the engine: it is as ready as the video model.
    """

    llm_loaded: bool
    video_loaded: bool
    device: str
    cuda_available: bool
    gpu_name: str | None
    gpu_memory_allocated: float | None
    gpu_memory_total: float | None


def task_view(task: Task) -> Json:
    has_video = video_artifact(task) is not None
    return {
        "task_id": task.id,
        "status": CREATION.word(task),
        "prompt": task.inputs.get("prompt", ""),
        "result": f"videos/{video_name(task.id)}" if has_video else None,
        "created_at": CREATION.time(task.created_at),
        "error": CREATION.error_text(task),
    }


def created_view(task: Task) -> Json:
    """As documented: a task that was just made is pending, even where a free replica has it already."""
    return task_view(task) | {"status": CREATION.words[Status.QUEUED]}


def video_name(task_id: str) -> str:
    return f"{task_id}_final.mp4"
