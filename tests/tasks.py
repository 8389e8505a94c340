"""Factories of tasks and of what replicas send, with good defaults."""

from __future__ import annotations

import uuid
from typing import Any

from cluster.task import LeaseRequest, NewTask, Outcome, OutcomeKind, Task


def new_task(**fields: Any) -> NewTask:
    defaults: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "name": "diagnostics.echo",
        "service": "diagnostics",
        "inputs": {"payload": 1},
    }
    return NewTask(**defaults | fields)


def lease_request(worker: str = "w1", slots: int = 1, **fields: Any) -> LeaseRequest:
    defaults: dict[str, Any] = {"service": "diagnostics", "request_id": uuid.uuid4().hex, "wait_s": 0.0}
    return LeaseRequest(worker=worker, slots=slots, **defaults | fields)


def outcome(task: Task, kind: OutcomeKind = OutcomeKind.SUCCEEDED, **fields: Any) -> Outcome:
    assert task.attempt is not None
    return Outcome(task.id, task.fence, task.attempt.worker, kind, **fields)
