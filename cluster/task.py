"""What a task is: its statuses, the steps between them, and its frozen values.

Pure: no I/O, no clock, no third-party package. Owns THE table of statuses (`STEPS`): nothing else
in the project decides which status may follow which.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cluster.delivery import Delivery
from cluster.errors import IllegalStep

Json = dict[str, Any]


class Status(StrEnum):
    """Where a task stands. A wish to cancel is a flag (`Task.cancel_requested_at`), not a status."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in FINAL


FINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})


class Event(StrEnum):
    """What may happen to a task."""

    LEASE = "lease"  # a replica takes it
    REQUEUE = "requeue"  # the attempt ended without a verdict: lost lease, transient failure, drain
    SUCCEED = "succeed"
    FAIL = "fail"
    CANCEL = "cancel"  # queued: at once; running: when the work has really stopped


STEPS: Mapping[tuple[Status, Event], Status] = {
    (Status.QUEUED, Event.LEASE): Status.RUNNING,
    (Status.QUEUED, Event.FAIL): Status.FAILED,  # start deadline passed
    (Status.QUEUED, Event.CANCEL): Status.CANCELLED,
    (Status.RUNNING, Event.REQUEUE): Status.QUEUED,
    (Status.RUNNING, Event.SUCCEED): Status.SUCCEEDED,
    (Status.RUNNING, Event.FAIL): Status.FAILED,
    (Status.RUNNING, Event.CANCEL): Status.CANCELLED,
}


def step(status: Status, event: Event) -> Status:
    """The status after `event`; raises IllegalStep where the table has no such step."""
    try:
        return STEPS[status, event]
    except KeyError:
        raise IllegalStep(status, event) from None


class FailureCode(StrEnum):
    """Why a task failed, in words callers can program against (contracts §6)."""

    INVALID_PARAMS = "INVALID_PARAMS"
    TASK_NOT_FOUND = "TASK_NOT_FOUND"
    FILE_NOT_FOUND = "FILE_NOT_FOUND"
    GPU_OUT_OF_MEMORY = "GPU_OUT_OF_MEMORY"
    TIMEOUT = "TIMEOUT"
    CANCELLED = "CANCELLED"
    MODEL_NOT_READY = "MODEL_NOT_READY"
    INTERNAL_ERROR = "INTERNAL_ERROR"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt or a task ended without a result."""

    code: FailureCode
    message: str
    is_transient: bool = False


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored output: `name` is relative to the attempt's folder, `key` addresses the store."""

    name: str
    key: str
    media_type: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Committed units of a total, as the running attempt last reported them.

    `eta_s` is the best single guess, `eta_low_s` and `eta_high_s` the honest interval around it.
    """

    done: float = 0.0
    total: float | None = None
    unit: str = ""
    stage: str = ""
    eta_s: float | None = None
    eta_low_s: float | None = None
    eta_high_s: float | None = None

    @property
    def fraction(self) -> float:
        """0..1."""
        return min(1.0, self.done / self.total) if self.total else 0.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a task by one replica; `number` counts from 1.

    `request_id` is the lease call that started it, so that a repeated call finds it again.
    """

    number: int
    worker: str
    request_id: str
    started_at: float

    @property
    def fence(self) -> str:
        """What tells this attempt from every other of its task.

        The number alone would not: a registry that dies before a lease is on disk gives it again.
        """
        return f"{self.number}-{self.request_id[:8]}"


@dataclass(frozen=True, slots=True)
class NewTask:
    """What a caller asked for, checked and ready to be recorded.

    `inputs` are as the caller wrote them; `files` maps each file field to its storage key.
    `facts` are what the submitting side learned and a dialect shows again (file names, probes).
    `compared` are the inputs with their defaults filled in: requests that equal in these are the same.
    `dedupe_key`: refuse while a task with the same key is active or succeeded.
    `is_fresh_id`: the id was made just now for this very call, so nothing can hold it yet; a repeated
    call must clear it.
    `callback_request_id` names this very call: repeated, it owes no second callback to `callback_url`.
    """

    id: str
    name: str
    service: str
    inputs: Json
    files: dict[str, str] = field(default_factory=dict)
    facts: Json = field(default_factory=dict)
    tenant: str = "local"
    dialect: str = "tasks"
    priority: int = 0
    max_attempts: int = 3
    run_timeout_s: float = 3600.0
    start_timeout_s: float | None = None
    idempotency_key: str | None = None
    dedupe_key: str | None = None
    is_fresh_id: bool = False
    compared: Json | None = None
    callback_url: str | None = None
    callback_request_id: str = ""

    @property
    def fingerprint(self) -> str:
        """sha256 of what was asked; equal fingerprints are the same request."""
        return fingerprint_of(self.name, self.inputs if self.compared is None else self.compared)


def fingerprint_of(name: str, inputs: Json) -> str:
    text = json.dumps([name, inputs], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Task:
    """The record of a task. Times are seconds since the epoch, UTC.

    `attempts` counts leases so far; `failed_attempts` of them count against `max_attempts`; `attempt` is
    the running or the last one. `version` grows with every change and orders the watch feed within one
    registry epoch.
    """

    id: str
    name: str
    service: str
    inputs: Json
    files: dict[str, str]
    facts: Json
    tenant: str
    dialect: str
    priority: int
    max_attempts: int
    run_timeout_s: float
    fingerprint: str
    created_at: float
    updated_at: float
    status: Status = Status.QUEUED
    attempts: int = 0
    failed_attempts: int = 0
    attempt: Attempt | None = None
    started_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = None
    start_deadline_at: float | None = None
    not_before: float = 0.0
    cancel_requested_at: float | None = None
    is_deleted: bool = False
    progress: Progress = Progress()
    result: Json | None = None
    failure: Failure | None = None
    artifacts: tuple[Artifact, ...] = ()
    idempotency_key: str | None = None
    dedupe_key: str | None = None
    callback_url: str | None = None
    callback_request_id: str = ""
    deliveries: tuple[Delivery, ...] = ()
    version: int = 0

    def __reduce__(self) -> tuple[type[Task], tuple[Any, ...]]:
        # Half the cost of what a dataclass with slots does, for what travels most.
        return Task, tuple(getattr(self, name) for name in self.__slots__)

    @property
    def fence(self) -> str:
        """The fence of the running or last attempt; "" before the first."""
        return self.attempt.fence if self.attempt else ""

    @property
    def run_s(self) -> float | None:
        """Seconds of run time of the last attempt, once it ended."""
        if self.started_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.started_at

    @property
    def callback_due_at(self) -> float | None:
        """When the next try of a callback is due; None when none is owed."""
        if self.is_deleted:
            return None
        return min((each.due_at for each in self.deliveries if each.due_at is not None), default=None)


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """One line of a task's history."""

    task_id: str
    at: float
    event: str
    attempt: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Submission:
    """The answer to a submit; `created` is false when the same request was already recorded."""

    task: Task
    created: bool


@dataclass(frozen=True, slots=True)
class TaskQuery:
    """Which tasks a list shows; None means any. `newest_first` orders by creation time.

    Created at or after `created_after` and before `created_before`; `after` is the (created_at, id) of the
    last task of the page before.
    """

    tenant: str | None = None
    dialect: str | None = None
    dialects: tuple[str, ...] | None = None
    statuses: tuple[Status, ...] | None = None
    service: str | None = None
    name: str | None = None
    created_after: float | None = None
    created_before: float | None = None
    after: tuple[float, str] | None = None
    newest_first: bool = True
    offset: int = 0
    limit: int = 20


@dataclass(frozen=True, slots=True)
class TaskPage:
    """One page of a list; `total` counts all pages, whatever `offset` and `after` skip."""

    tasks: list[Task]
    total: int
    has_more: bool = False


@dataclass(frozen=True, slots=True)
class Depth:
    """How much work a service has. `runnable`: of what waits; a tenant at its cap has none."""

    waiting: int
    running: int
    runnable: int
    oldest_wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LogLines:
    """Consecutive lines of one attempt's log; `first` is the number of the first, from 0."""

    fence: str = ""
    first: int = 0
    lines: tuple[str, ...] = ()

    @property
    def next(self) -> int:
        """The number of the line that follows."""
        return self.first + len(self.lines)

    def since(self, number: int) -> LogLines:
        """The lines from `number` on."""
        skipped = max(0, min(number, self.next) - self.first)
        return LogLines(self.fence, self.first + skipped, self.lines[skipped:])


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """A replica asks for up to `slots` tasks and waits up to `wait_s` for the first."""

    service: str
    worker: str
    request_id: str
    slots: int = 1
    wait_s: float = 20.0


@dataclass(frozen=True, slots=True)
class Beat:
    """A running attempt's sign of life; `log` holds the lines since the last one that was heard."""

    task_id: str
    fence: str
    progress: Progress
    log: LogLines | None = None


class Verdict(StrEnum):
    """The registry's answer to a beat."""

    OK = "ok"
    CANCEL = "cancel"
    LOST = "lost"  # the lease lapsed and the task moved on: stop, publish nothing


class OutcomeKind(StrEnum):
    """How an attempt ended, as its replica tells it."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    HANDED_BACK = "handed_back"  # a draining replica returns it; does not count as an attempt


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended, reported under its fence."""

    task_id: str
    fence: str
    worker: str
    kind: OutcomeKind
    result: Json | None = None
    artifacts: tuple[Artifact, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Feed:
    """Changed tasks since `since`. A new `epoch` or `is_reset` means: forget what you know.

    `logs` holds the new log lines of running tasks, by task id. `has_more`: `seq` is not the newest change.
    """

    epoch: int
    seq: int
    tasks: list[Task]
    is_reset: bool = False
    has_more: bool = False
    logs: Mapping[str, LogLines] = field(default_factory=dict)
