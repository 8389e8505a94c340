"""How each family of clients spells the API: ONE table, one row per dialect (contracts §1).

Pure. Routes read their row; nothing anywhere asks "which dialect is this?".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

from cluster.task import Status, Task

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Problem:
    """An error answer before a dialect gives it its shape. `at` is seconds since the epoch."""

    status: int
    code: str
    detail: Any
    details: Any = None
    at: float = 0.0


def iso_time(at: float, timespec: Literal["seconds", "milliseconds", "microseconds"] = "seconds") -> str:
    """ISO 8601 in UTC without a zone suffix."""
    return datetime.fromtimestamp(at, UTC).replace(tzinfo=None).isoformat(timespec=timespec)


def iso_time_ms(at: float) -> str:
    """ISO 8601 in UTC with milliseconds, without a zone suffix."""
    return iso_time(at, "milliseconds")


def iso_time_z(at: float) -> str:
    """ISO 8601 in UTC with the suffix Z."""
    return iso_time(at) + "Z"


def plain_error(problem: Problem) -> dict[str, Any]:
    return {"detail": problem.detail}


def coded_error(problem: Problem) -> dict[str, Any]:
    return {"detail": problem.detail, "error_code": problem.code}


def enveloped_error(problem: Problem) -> dict[str, Any]:
    """`detail` as everywhere, and beside it one object that programs can read."""
    message = problem.detail if isinstance(problem.detail, str) else "the request is not valid"
    details = problem.details if problem.details is not None else _listed(problem.detail)
    error = {
        "code": problem.code,
        "message": message,
        "timestamp": iso_time_z(problem.at),
        "details": details,
    }
    return {"detail": problem.detail, "error": error}


def _listed(detail: Any) -> Any:
    return None if isinstance(detail, str) else detail


def words(*spelled: str) -> Mapping[Status, str]:
    """Status words in the order queued, running, succeeded, failed, cancelled."""
    return MappingProxyType(dict(zip(Status, spelled, strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One row of the table.

    `root_paths` are the path heads that belong to it when it is served on the root; `uploads` are the
    (method, path head) pairs whose bodies may be as large as an upload; `creates` and `reads` are the
    routes, "METHOD /path/{id}", that the two rate limits count.
    """

    name: str
    prefix: str
    root_paths: tuple[str, ...]
    words: Mapping[Status, str]
    not_found: str = "任务不存在"
    cancelled: str = "任务已取消"
    too_large: str = "文件太大。最大支持 {gib:.1f}GB"
    format_time: Callable[[float], str] = iso_time_ms
    error_body: Callable[[Problem], dict[str, Any]] = plain_error
    uploads: tuple[tuple[str, str], ...] = ()
    creates: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()

    def word(self, task: Task) -> str:
        return self.words[task.status]

    def statuses(self, word: str) -> tuple[Status, ...]:
        """The statuses this dialect calls `word`; () for a word it does not know."""
        return tuple(status for status, spelled in self.words.items() if spelled == word)

    def time(self, at: float | None) -> str | None:
        return None if at is None else self.format_time(at)

    def error_text(self, task: Task) -> str | None:
        """What a client that knows no `cancelled` shows as the error."""
        if task.failure is not None:
            return task.failure.message
        return self.cancelled if task.status is Status.CANCELLED else None

    def too_large_text(self, limit_bytes: int) -> str:
        return self.too_large.format(gib=limit_bytes / GIB, bytes=limit_bytes)


INDEXED = Dialect(
    name="indexed",
    prefix="/indexed",
    root_paths=("/api/inference", "/api/task"),
    words=words("pending", "processing", "completed", "failed", "failed"),
    format_time=iso_time,
    creates=("POST /api/inference",),
    reads=("GET /api/task/{id}/status", "GET /api/task/{id}/result"),
)
FLASHVSR = Dialect(
    name="flashvsr",
    prefix="/flashvsr",
    root_paths=("/api/tasks", "/api/files", "/api/system"),
    words=words("pending", "processing", "completed", "failed", "failed"),
    uploads=(("POST", "/api/tasks"),),
    creates=("POST /api/tasks", "POST /api/tasks/{id}/export_from_chunks"),
    reads=("GET /api/tasks/{id}", "GET /api/tasks/{id}/progress"),
)
HALLO2 = Dialect(
    name="hallo2",
    prefix="/hallo2",
    root_paths=("/api/v1",),
    words=words("queued", "processing", "completed", "failed", "failed"),
    not_found="Task {id} not found",
    cancelled="cancelled",
    too_large="File too large: at most {gib:.1f} GB",
    format_time=iso_time_z,
    error_body=coded_error,
    uploads=(("POST", "/api/v1/inference/hallo2"),),
    creates=("POST /api/v1/inference/hallo2",),
    reads=("GET /api/v1/tasks", "GET /api/v1/tasks/{id}"),
)
CREATION = Dialect(
    name="creation",
    prefix="/creation",
    root_paths=("/videos", "/api/model"),
    words=words("pending", "processing", "completed", "failed", "failed"),
    format_time=iso_time,
    creates=("POST /api/tasks",),
    reads=("GET /api/tasks/{id}",),
)
TASKS = Dialect(
    name="tasks",
    prefix="/tasks",
    root_paths=("/v1",),
    words=words("pending", "running", "completed", "failed", "cancelled"),
    not_found="任务不存在: {id}",
    format_time=iso_time,
    error_body=enveloped_error,
    uploads=(("POST", "/v1/files/upload"), ("PUT", "/v1/files")),
    creates=(
        "POST /v1/tasks",
        "POST /v1/tasks/{id}/retry",
        "POST /v1/tasks/{id}/deliveries/{number}/replay",
    ),
    reads=(
        "GET /v1/tasks/{id}",
        "GET /v1/tasks/{id}/status",
        "GET /v1/tasks/{id}/result",
        "GET /v1/tasks/{id}/events",
    ),
)

DIALECTS: tuple[Dialect, ...] = (INDEXED, FLASHVSR, HALLO2, CREATION, TASKS)
BY_NAME: Mapping[str, Dialect] = MappingProxyType({dialect.name: dialect for dialect in DIALECTS})
PREFIXES: frozenset[str] = frozenset(dialect.prefix for dialect in DIALECTS)
_BY_PREFIX = {dialect.prefix: dialect for dialect in DIALECTS}
_BY_ROOT_PATH = {path: dialect for dialect in DIALECTS for path in dialect.root_paths}
_PLAIN = FLASHVSR  # the rest of the root speaks the plain error shape, which is this row's


def dialect_at(path: str) -> tuple[Dialect, str]:
    """The dialect that speaks at `path`, and the path without the dialect's own prefix."""
    first, second, third = (*path.split("/", 4)[1:4], "", "", "")[:3]
    owner = _BY_PREFIX.get(f"/{first}")
    if owner is not None:
        return owner, path[len(owner.prefix) :] or "/"
    head = f"/{first}"
    heads = (f"{head}/{second}/{third}", f"{head}/{second}", head)
    return next((_BY_ROOT_PATH[text] for text in heads if text in _BY_ROOT_PATH), _PLAIN), path


def is_below(path: str, head: str) -> bool:
    """True when `path` is `head` or lies below it."""
    return path == head or path.startswith(f"{head}/")
