"""Tasks as rows and back: which part of a task is its request, which its state. Pure.

The request is written once; the state is rewritten with every step, so it stays small.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from typing import Any

from cluster.delivery import Delivery, DeliveryStatus, DeliveryTry
from cluster.task import Artifact, Attempt, Failure, FailureCode, Json, Progress, Status, Task

COLUMNS = (
    "id", "tenant", "dialect", "service", "status", "is_deleted", "created_at", "expires_at",
    "idempotency_key", "dedupe_key",
)  # fmt: skip
REQUEST = (
    "name", "inputs", "files", "priority", "max_attempts", "run_timeout_s", "fingerprint",
    "start_deadline_at",
)  # fmt: skip
STATE = tuple(
    field.name for field in fields(Task) if field.name not in {*COLUMNS, *REQUEST, "version", "progress"}
)


def to_row(task: Task) -> dict[str, Any]:
    """The full row of a new task."""
    return to_update(task) | {"request": _dump({name: getattr(task, name) for name in REQUEST})}


def to_update(task: Task) -> dict[str, Any]:
    """The columns that a step may change, and the id."""
    row = {name: getattr(task, name) for name in COLUMNS}
    row["status"] = task.status.value
    row["callback_due_at"] = task.callback_due_at
    row["state"] = _dump({name: getattr(task, name) for name in STATE})
    return row


def from_row(row: Any) -> Task:
    """The task of a row with all columns; progress and version live in memory only."""
    state = json.loads(row.state)
    columns = {name: getattr(row, name) for name in COLUMNS}
    columns["status"] = Status(row.status)
    columns["is_deleted"] = bool(row.is_deleted)
    if state["attempt"]:
        state["attempt"] = Attempt(**state["attempt"])
    if state["failure"]:
        state["failure"] = Failure(**state["failure"] | {"code": FailureCode(state["failure"]["code"])})
    state["artifacts"] = tuple(Artifact(**artifact) for artifact in state["artifacts"])
    # A record of an earlier version has none.
    state["deliveries"] = tuple(_delivery(delivery) for delivery in state.get("deliveries", ()))
    task = Task(**columns, **json.loads(row.request), **state)
    return task if not task.status.is_final else with_final_progress(task)


def _delivery(values: Json) -> Delivery:
    tries = tuple(DeliveryTry(**tried) for tried in values["tries"])
    return Delivery(**values | {"status": DeliveryStatus(values["status"]), "tries": tries})


def with_final_progress(task: Task) -> Task:
    """An ended task with the progress of its end: all where it succeeded, else as far as it was known."""
    known = task.progress
    total = known.total or 1.0
    done = total if task.status is Status.SUCCEEDED else known.done
    return replace(task, progress=Progress(done, total, known.unit, known.stage))


def _dump(values: dict[str, Any]) -> str:
    # ASCII: a lone surrogate in a caller's text is escaped, where a database would refuse it.
    return json.dumps(values, separators=(",", ":"), default=asdict)
