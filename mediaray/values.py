"""What the server tells, as frozen values. Unknown extra fields of an answer are ignored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

Json = dict[str, Any]

COMPLETED, FAILED, CANCELLED, DELETED = "completed", "failed", "cancelled", "deleted"
FINAL = frozenset({COMPLETED, FAILED, CANCELLED, DELETED})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a task is. `total`, `fraction` (0..1) and the estimates are None where the server cannot know.

    The rest takes between `eta_low_s` and `eta_high_s`; `eta_s` is one number for it.
    """

    status: str
    stage: str = ""
    done: float = 0.0
    total: float | None = None
    unit: str = ""
    fraction: float | None = None
    eta_s: float | None = None
    eta_low_s: float | None = None
    eta_high_s: float | None = None


@dataclass(frozen=True, slots=True)
class Transfer:
    """How far an upload or a download is; `total_bytes` is None where the server does not say."""

    name: str
    done_bytes: int
    total_bytes: int | None


ProgressCallback = Callable[[Progress], None]
TransferCallback = Callable[[Transfer], None]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A stored file: `path` is its object key, usable as an input; `name` is what to call it locally."""

    path: str
    url: str
    size_bytes: int
    media_type: str
    name: str


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as the server last showed it.

    `status` is pending, running, completed, failed or cancelled (deleted: only at the end of its
    events); times are the server's texts, UTC.
    `name` is the task's name, such as ffmpeg.extract_audio; `waiting` tells why it does not run yet.
    `inputs`, `execution` and `timing` are only told by `Client.result`.
    """

    id: str
    status: str
    message: str = ""
    result: Json | None = None
    files: tuple[RemoteFile, ...] = ()
    progress: Progress | None = None
    created_at: str = ""
    updated_at: str = ""
    callback_status: str | None = None
    inputs: Json | None = None
    execution: Json | None = None
    timing: Json | None = None
    name: str = ""
    waiting: Json | None = None

    @property
    def is_final(self) -> bool:
        return self.status in FINAL


@dataclass(frozen=True, slots=True)
class EngineView:
    """An engine of a model; `missing` names absent weights, packages and servers, each with what to do."""

    name: str
    kind: str
    needs_gpu: bool
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model of the server: the engine that would run now, and what its engines lack.

    `engines` are in order of preference: a model that is ready may lack a better one.
    """

    name: str
    service: str
    engine: str
    is_ready: bool
    missing: tuple[str, ...]
    engines: tuple[EngineView, ...] = ()


@dataclass(frozen=True, slots=True)
class DeliveryTry:
    """One try to deliver a callback; `status_code` is None where no answer came, and `error` says why."""

    at: str
    status_code: int | None
    error: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class Delivery:
    """A callback that a task owes, or owed, to one URL; `number` counts from 1 within the task.

    `status` is pending, sent or failed; `next_try_at` is empty when none is due; `tries` are the last
    ones of `num_tries`.
    """

    number: int
    url: str
    status: str
    created_at: str
    next_try_at: str
    num_tries: int
    tries: tuple[DeliveryTry, ...]


def remote_file(answer: Mapping[str, Any]) -> RemoteFile:
    """An item of `minio_files`, or the answer to an upload."""
    path = str(answer.get("file_path", ""))
    url = str(answer.get("download_url") or answer.get("url") or "")
    name = str(answer.get("name") or PurePosixPath(path).name)
    return RemoteFile(path, url, int(answer.get("size") or 0), str(answer.get("content_type") or ""), name)


def task_view(answer: Mapping[str, Any]) -> TaskView:
    status = str(answer["status"])
    params = answer.get("input_params") or {}
    return TaskView(
        id=str(answer["task_id"]),
        status=status,
        message=str(answer.get("message") or ""),
        result=answer.get("result"),
        files=tuple(remote_file(item) for item in answer.get("minio_files") or ()),
        progress=progress_view(status, answer.get("progress") or {}),
        created_at=str(answer.get("created_at") or ""),
        updated_at=str(answer.get("updated_at") or ""),
        callback_status=answer.get("callback_status"),
        inputs=params.get("input_data"),
        execution=answer.get("execution_info"),
        timing=answer.get("timing"),
        name=str(answer.get("task_name") or ""),
        waiting=answer.get("waiting"),
    )


def progress_view(status: str, answer: Mapping[str, Any]) -> Progress:
    return Progress(
        status=status,
        stage=str(answer.get("stage") or ""),
        done=float(answer.get("done") or 0.0),
        total=answer.get("total"),
        unit=str(answer.get("unit") or ""),
        fraction=answer.get("fraction"),
        **_eta(answer.get("eta_s")),
    )


def _eta(answer: Any) -> dict[str, float | None]:
    """Of an interval its ends and its middle; of a single number that number."""
    if not isinstance(answer, Mapping):
        return {"eta_s": answer}
    low_s, high_s = float(answer["low"]), float(answer["high"])
    return {"eta_s": (low_s + high_s) / 2, "eta_low_s": low_s, "eta_high_s": high_s}


def model_view(answer: Mapping[str, Any]) -> ModelView:
    return ModelView(
        name=str(answer["name"]),
        service=str(answer.get("service") or str(answer["name"]).partition(".")[0]),
        engine=str(answer.get("engine") or ""),
        is_ready=bool(answer.get("ready")),
        missing=_texts(answer.get("missing")),
        engines=tuple(_engine_view(item) for item in answer.get("engines") or ()),
    )


def _engine_view(answer: Mapping[str, Any]) -> EngineView:
    return EngineView(
        name=str(answer["name"]),
        kind=str(answer.get("kind") or ""),
        needs_gpu=bool(answer.get("needs_gpu")),
        missing=_texts(answer.get("missing")),
    )


def _texts(answer: Any) -> tuple[str, ...]:
    return (answer,) if isinstance(answer, str) else tuple(str(item) for item in answer or ())


def delivery_view(answer: Mapping[str, Any]) -> Delivery:
    return Delivery(
        number=int(answer["number"]),
        url=str(answer["url"]),
        status=str(answer["status"]),
        created_at=str(answer.get("created_at") or ""),
        next_try_at=str(answer.get("next_try_at") or ""),
        num_tries=int(answer.get("num_tries") or 0),
        tries=tuple(_delivery_try(item) for item in answer.get("tries") or ()),
    )


def _delivery_try(answer: Mapping[str, Any]) -> DeliveryTry:
    return DeliveryTry(
        at=str(answer.get("at") or ""),
        status_code=answer.get("status_code"),
        error=str(answer.get("error") or ""),
        duration_s=float(answer.get("duration_s") or 0.0),
    )
