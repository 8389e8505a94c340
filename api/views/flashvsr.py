"""How the `flashvsr` dialect shows a task (contracts §3). Pure: a record in, JSON out."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from pydantic import BaseModel, Field

from api.dialects import FLASHVSR
from api.pages import StatusWord
from cluster.task import Json, Status, Task
from models.zoo.flashvsr import UpscaleInputs, predicted_size

MODEL_VARIANT = "tiny_long"
MAX_SEED = 2**63 - 1
MAX_WIDTH_PX = 8192
RECOMMENDED_WIDTHS_PX = (640, 768, 896, 960, 1024, 1152, 1280)
NOTHING_TO_RECOVER = "未找到可用于恢复的分片文件，无法导出当前进度。"
RECOVERED = "已导出部分结果: {name}"


class TaskParameters(BaseModel):
    """The form fields of a task beside its file: defaults and limits."""

    scale: float = Field(2.0, ge=1.0, le=8.0)
    sparse_ratio: float = Field(2.0, ge=1.0, le=4.0)
    local_range: int = Field(11, ge=7, le=15)
    seed: int = Field(0, ge=0, le=MAX_SEED)
    preprocess_width: int = Field(640, ge=128, le=MAX_WIDTH_PX)
    preserve_aspect_ratio: bool = False


class ShownParameters(TaskParameters):
    """The parameters as a task shows them."""

    model_variant: str = MODEL_VARIANT


class VideoInfo(BaseModel):
    """What is known about the video. Right after creation only `preprocess_width` is set."""

    width: int | None = None
    height: int | None = None
    total_frames: int | None = None
    fps: int | None = None
    duration: float | None = None
    processed_frames: int | None = None
    processing_time: float | None = None
    inference_time: float | None = None
    bit_rate: int | None = None
    avg_frame_rate: str | None = None
    preprocess_applied: bool | None = None
    preprocess_width: int | None = None
    preprocess_result_width: int | None = None
    preprocess_result_height: int | None = None
    predicted_output_width: int | None = None
    predicted_output_height: int | None = None


class TaskResponse(BaseModel):
    """A task with everything about it. `progress` is 0-100."""

    id: str
    created_at: str
    updated_at: str
    started_at: str | None
    finished_at: str | None
    status: StatusWord
    input_file_name: str
    output_file_name: str | None
    video_info: VideoInfo
    parameters: ShownParameters
    progress: float
    total_frames: int
    processed_frames: int
    estimated_time_remaining: int | None
    error_message: str | None


class TaskListResponse(BaseModel):
    """One page, newest first."""

    tasks: list[TaskResponse]
    total: int
    page: int
    page_size: int


class TaskProgressResponse(BaseModel):
    """How far a task is. `progress` is 0-100, `estimated_time_remaining` in seconds."""

    task_id: str
    status: StatusWord
    progress: float
    started_at: str | None
    finished_at: str | None
    processed_frames: int
    total_frames: int
    estimated_time_remaining: int | None
    error_message: str | None


def output_name(task_id: str, input_name: str) -> str:
    """What the result is called: `{stem}_flashvsr_{8 hex of id}.mp4`."""
    return f"{PurePosixPath(input_name).stem}_flashvsr_{task_id.replace('-', '')[:8]}.mp4"


def partial_name(input_name: str) -> str:
    return f"{PurePosixPath(input_name).stem}_partial.mp4"


def task_view(task: Task) -> Json:
    facts = task.facts
    progress = progress_view(task)
    return {
        "id": task.id,
        "created_at": FLASHVSR.time(task.created_at),
        "updated_at": FLASHVSR.time(task.updated_at),
        "started_at": progress["started_at"],
        "finished_at": progress["finished_at"],
        "status": progress["status"],
        "input_file_name": facts.get("input_file_name", ""),
        "output_file_name": facts.get("output_file_name"),
        "video_info": _video_info(task),
        "parameters": _parameters(task),
        "progress": progress["progress"],
        "total_frames": progress["total_frames"],
        "processed_frames": progress["processed_frames"],
        "estimated_time_remaining": progress["estimated_time_remaining"],
        "error_message": progress["error_message"],
    }


def progress_view(task: Task) -> Json:
    is_running = task.status is Status.RUNNING
    eta_s = task.progress.eta_s
    return {
        "task_id": task.id,
        "status": FLASHVSR.word(task),
        "progress": _percent(task),
        "started_at": FLASHVSR.time(task.started_at),
        "finished_at": FLASHVSR.time(task.finished_at),
        "processed_frames": _processed_frames(task),
        "total_frames": _total_frames(task),
        "estimated_time_remaining": round(eta_s) if is_running and eta_s is not None else None,
        "error_message": error_message(task),
    }


def error_message(task: Task) -> str | None:
    """Why it failed, and what was saved of it."""
    text = FLASHVSR.error_text(task)
    partial = task.facts.get("partial")
    if partial is None:
        return text
    note = RECOVERED.format(name=partial["name"])
    return f"{text}\n{note}" if text else note


def _percent(task: Task) -> float:
    return 100.0 if task.status is Status.SUCCEEDED else round(task.progress.fraction * 100, 2)


def _probe(task: Task) -> Json:
    """What was found in the input; shown only once the task has started (contracts §3)."""
    probes: Json = task.facts.get("probes", {})
    return probes.get("video_path", {}) if task.started_at is not None else {}


def _total_frames(task: Task) -> int:
    counted = task.progress.total if task.progress.unit == "frames" else None
    return int(counted or (task.result or {}).get("total_frames") or _probe(task).get("num_frames") or 0)


def _processed_frames(task: Task) -> int:
    if task.status is Status.SUCCEEDED:
        return _total_frames(task)
    return int(task.progress.done) if task.progress.unit == "frames" else 0


def _parameters(task: Task) -> Json:
    known = TaskParameters.model_fields.keys()
    given = {name: value for name, value in task.inputs.items() if name in known}
    return TaskParameters.model_validate(given).model_dump() | {"model_variant": MODEL_VARIANT}


def _video_info(task: Task) -> Json:
    info: Json = dict.fromkeys(VideoInfo.model_fields)
    info["preprocess_width"] = _parameters(task)["preprocess_width"]
    probe = _probe(task)
    if not probe:
        return info
    run_s = None if task.run_s is None else round(task.run_s, 2)
    info |= {
        "width": probe["width_px"],
        "height": probe["height_px"],
        "total_frames": _total_frames(task) or None,
        "fps": round(probe["fps"]),
        "duration": probe["duration_s"],
        "processed_frames": _processed_frames(task),
        "processing_time": run_s,
        "inference_time": run_s,
        "bit_rate": probe["bit_rate"],
        "avg_frame_rate": probe["avg_frame_rate"],
        **_sizes(task, probe),
    }
    told = (task.result or {}).get("video_info", {})
    return info | {name: told[name] for name in VideoInfo.model_fields if told.get(name) is not None}


def _sizes(task: Task, probe: Json) -> Json:
    """What preprocessing and upscaling make of the picture."""
    inputs = UpscaleInputs.model_validate(task.inputs)
    sizes = predicted_size(probe["width_px"], probe["height_px"], inputs)
    return {
        "preprocess_applied": sizes.preprocess_width_px < probe["width_px"],
        "preprocess_result_width": sizes.preprocess_width_px,
        "preprocess_result_height": sizes.preprocess_height_px,
        "predicted_output_width": sizes.output_width_px,
        "predicted_output_height": sizes.output_height_px,
    }


_FIELD_TEXTS: dict[str, tuple[str, str, float | None, str]] = {
    "preprocess_width": ("预处理宽度", "推理前把视频缩放到的宽度（像素）", 1, "preprocess"),
    "scale": ("超分倍数", "输出相对预处理画面的放大倍数", 0.1, "preprocess"),
    "preserve_aspect_ratio": ("保持长宽比", "导出时按输入视频的长宽比裁剪黑边", None, "other"),
    "sparse_ratio": ("稀疏率", "越大越稳定，越小越快", 0.1, "advanced"),
    "local_range": ("局部范围", "越小越锐利，越大越稳定", 1, "advanced"),
    "seed": ("随机种子", "相同的种子得到相同的结果", 1, "advanced"),
}
_RECOMMENDED = {"preprocess_width": [(width, f"{width} px") for width in RECOMMENDED_WIDTHS_PX]}
_PRESETS = (
    ("1080p", "1080p", "接近 1080p 的输出", 960),
    ("2k", "2K", "接近 2K 的输出", 1152),
    ("fast", "快速", "更小的画面，更快的处理", 768),
)


def parameter_schema() -> Json:
    """The form as a frontend draws it; limits come from `TaskParameters`."""
    schema = TaskParameters.model_json_schema()["properties"]
    fields = [_field_schema(name, schema[name]) for name in _FIELD_TEXTS]
    presets = [
        {"key": key, "label": label, "description": text, "preprocess_width": width, "scale": 2.0}
        for key, label, text, width in _PRESETS
    ]
    return {"fields": fields, "presets": presets}


def _field_schema(name: str, limits: Json) -> Json:
    label, description, step, group = _FIELD_TEXTS[name]
    return {
        "name": name,
        "label": label,
        "description": description,
        "field_type": "boolean" if limits["type"] == "boolean" else "number",
        "min": limits.get("minimum"),
        "max": limits.get("maximum"),
        "step": step,
        "required": False,
        "default": limits["default"],
        "recommended": [
            {"label": text, "value": value, "description": ""} for value, text in _RECOMMENDED.get(name, ())
        ],
        "ui_group": group,
    }


def with_error(view: Json, text: str) -> dict[str, Any]:
    """`view` with another error text: of this answer only, nothing is recorded."""
    return view | {"error_message": text}
