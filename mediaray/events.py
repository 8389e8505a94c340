"""What the server tells while a task lives, as frozen values, and how its event stream is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

from mediaray.values import Json, Progress, TaskView, progress_view, task_view


@dataclass(frozen=True, slots=True)
class StatusChange:
    """The task has a new status; `waiting` says why it waits just then. `at` is the server's text, UTC."""

    task_id: str
    status: str
    message: str
    at: str
    attempt: int
    waiting: Json | None
    progress: Progress


@dataclass(frozen=True, slots=True)
class ProgressChange:
    """The task is further than before."""

    progress: Progress


@dataclass(frozen=True, slots=True)
class LogLines:
    """Lines that the task wrote; `first` is the number of the first one."""

    lines: tuple[str, ...]
    first: int


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """The last event: the task is final, and this is how it stands."""

    view: TaskView


TaskEvent: TypeAlias = StatusChange | ProgressChange | LogLines | TaskEnd


class EventReader:
    """Turns the messages of one task's stream into events; remembers status and progress between them."""

    def __init__(self, task_id: str) -> None:
        self._progress = Progress("")
        self._task_id = task_id

    def read(self, kind: str, data: str) -> TaskEvent | None:
        """None for a kind of a newer server. Raises KeyError, TypeError, ValueError when malformed."""
        reader = self._READERS.get(kind)
        return reader(self, json.loads(data)) if reader else None

    def polled(self, view: TaskView) -> TaskEvent:
        """The event that a look at the task amounts to."""
        before, self._progress = self._progress, view.progress or Progress(view.status)
        if view.is_final:
            return TaskEnd(view)
        if before.status == view.status:
            return ProgressChange(self._progress)
        return StatusChange(
            view.id, view.status, view.message, view.updated_at, 0, view.waiting, self._progress
        )

    def _status(self, data: Mapping[str, Any]) -> StatusChange:
        status, attempt = str(data["status"]), int(data.get("attempt") or 0)
        self._progress = replace(self._progress, status=status)
        return StatusChange(
            task_id=str(data.get("task_id") or self._task_id),
            status=status,
            message=str(data.get("message") or ""),
            at=str(data.get("at") or ""),
            attempt=attempt,
            waiting=data.get("waiting"),
            progress=self._progress,
        )

    def _advance(self, data: Mapping[str, Any]) -> ProgressChange:
        self._progress = progress_view(self._progress.status or "running", data)
        return ProgressChange(self._progress)

    def _log(self, data: Mapping[str, Any]) -> LogLines:
        return LogLines(tuple(str(line) for line in data["lines"]), int(data.get("first") or 0))

    def _end(self, data: Mapping[str, Any]) -> TaskEnd:
        return TaskEnd(task_view(data))

    _READERS: ClassVar[Mapping[str, Callable[[Any, Any], TaskEvent]]] = {
        "status": _status,
        "progress": _advance,
        "log": _log,
        "end": _end,
    }
