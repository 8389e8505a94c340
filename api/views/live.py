"""How live feedback is worded: the events of a stream, and why a task waits. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from api.dialects import TASKS
from api.results import UrlOf
from api.views.tasks import MESSAGES, TaskStatus, message, progress_view, status_view
from cluster.task import LogLines, Progress, Status, Task, TaskEvent
from cluster.waiting import Waiting, WaitReason

_STATUS_AFTER = {
    "create": Status.QUEUED,
    "requeue": Status.QUEUED,
    "lease": Status.RUNNING,
    "succeed": Status.SUCCEEDED,
    "fail": Status.FAILED,
    "cancel": Status.CANCELLED,
}


class WaitingView(BaseModel):
    """Why a task waits; `position` counts from 1 among the waiting tasks of its service."""

    reason: WaitReason
    since: str
    position: int | None
    ahead: int | None
    text: str


class LiveStatus(TaskStatus):
    """Answer of GET /v1/tasks/{id}; `version` grows with every change of status."""

    version: int
    waiting: WaitingView | None


@dataclass(frozen=True, slots=True)
class Step:
    """One status of a task's history.

    `number` orders them and is the same whoever works it out: attempt n runs at 2n, waits for the next
    attempt at 2n+1, and ends at 2n+2.
    """

    number: int
    status: Status
    at: float
    attempt: int
    message: str
    waiting: Waiting | None = None


def step_of(task: Task) -> Step:
    """The step that the task stands on."""
    number = _number(task.status, task.attempts)
    return Step(number, task.status, _since(task), task.attempts, message(task))


def steps_of(events: list[TaskEvent]) -> list[Step]:
    """A task's history in steps; what changed no status is no step."""
    return [_step(event, _STATUS_AFTER[event.event]) for event in events if event.event in _STATUS_AFTER]


def follows(last: Step, step: Step) -> bool:
    """Whether no step was missed between the two."""
    has_succeeded = last.status is Status.RUNNING and step.status is Status.SUCCEEDED
    # Other ends may come after one more wait: the history tells.
    return step.number - last.number == (2 if has_succeeded else 1)


def live_view(task: Task, waiting: Waiting | None, url_of: UrlOf) -> dict[str, Any]:
    return status_view(task, url_of) | {"version": step_of(task).number, "waiting": waiting_view(waiting)}


def step_view(task_id: str, step: Step) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "status": TASKS.words[step.status],
        "message": step.message,
        "at": TASKS.time(step.at),
        "attempt": step.attempt,
        "waiting": waiting_view(step.waiting),
    }


def waiting_view(waiting: Waiting | None) -> dict[str, Any] | None:
    if waiting is None:
        return None
    return {
        "reason": waiting.reason,
        "since": TASKS.time(waiting.since),
        "position": None if waiting.ahead is None else waiting.ahead + 1,
        "ahead": waiting.ahead,
        "text": waiting.text,
    }


def progress_event(progress: Progress) -> dict[str, Any]:
    """As the status shows it, with the time to the end as an interval."""
    interval = {"low": progress.eta_low_s, "high": progress.eta_high_s}
    return progress_view(progress) | {"eta_s": None if progress.eta_low_s is None else interval}


def log_view(log: LogLines) -> dict[str, Any]:
    return {"lines": log.lines, "first": log.first}


def waits(step: Step, waiting: Waiting | None) -> Step:
    """The step with the reason for waiting, where it is a wait."""
    return replace(step, waiting=waiting) if step.status is Status.QUEUED else step


def _step(event: TaskEvent, status: Status) -> Step:
    text = event.detail if status is Status.FAILED else MESSAGES[status]
    return Step(_number(status, event.attempt), status, event.at, event.attempt, text)


def _number(status: Status, attempts: int) -> int:
    if status.is_final:
        return 2 * attempts + 2
    return 2 * attempts + (status is Status.QUEUED)


def _since(task: Task) -> float:
    if task.status.is_final:
        return task.updated_at if task.finished_at is None else task.finished_at
    if task.status is Status.RUNNING:
        return task.updated_at if task.started_at is None else task.started_at
    return task.updated_at if task.attempts else task.created_at
