"""What the routes need, as interfaces: the HTTP edge is wired with these and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster.settings import Settings
from cluster.storage import ArtifactStore
from cluster.task import (
    Depth,
    LogLines,
    NewTask,
    Status,
    Submission,
    Task,
    TaskEvent,
    TaskPage,
    TaskQuery,
)
from cluster.waiting import Waiting
from models.engine import ModelSpec


class Registry(Protocol):
    """The callers' side of the task registry (the plain class, or a client of the actor)."""

    async def submit(self, new: NewTask) -> Submission:
        """Durable before it returns. Raises TaskConflict, DuplicateTask, QueueFull, RegistryUnavailable."""

    async def get(self, task_id: str) -> Task:
        """Raises TaskNotFound (also for deleted tasks)."""

    async def keyed(self, tenant: str, idempotency_key: str) -> Task | None:
        """The tenant's task that was made under this key; None where none is there (any more)."""

    async def list(self, query: TaskQuery) -> TaskPage: ...

    async def counts(self, *, tenant: str | None = None, dialect: str | None = None) -> dict[Status, int]: ...

    async def cancel(self, task_id: str) -> Task:
        """Queued: cancelled at once; running: flagged. Raises TaskNotFound, IllegalStep when final."""

    async def delete(self, task_id: str) -> None:
        """Any status: hidden at once, work stopped, files and record removed. Raises TaskNotFound."""

    async def annotate(self, task_id: str, facts: dict[str, object]) -> Task:
        """Merge `facts` into the task's facts. Raises TaskNotFound."""

    async def redirect_callback(self, task_id: str, url: str, request_id: str) -> Task:
        """Submitted again with this callback URL. Raises TaskNotFound."""

    async def replay_callback(self, task_id: str, number: int, request_id: str) -> Task:
        """Send an ended delivery again. Raises TaskNotFound, DeliveryNotFound, DeliveryPending."""

    async def events(self, task_id: str) -> Sequence[TaskEvent]: ...

    async def depths(self) -> dict[str, Depth]: ...

    async def changed(self, task: Task, wait_s: float) -> Task:
        """The task once it differs from `task`, or as it stands after `wait_s`. Raises TaskNotFound."""

    async def log_tail(self, task_id: str) -> LogLines:
        """The newest log lines of a running task; none for any other."""

    async def waiting(self, task_id: str) -> Waiting | None:
        """Why a task waits; None when it is not queued (any more)."""


@dataclass(frozen=True, slots=True)
class GpuInfo:
    """Sizes in GiB."""

    name: str
    count: int
    memory_allocated: float
    memory_reserved: float
    memory_total: float


class SystemProbe(Protocol):
    """What the routes ask about the cluster."""

    async def live_nodes(self) -> int: ...

    async def gpu(self) -> GpuInfo | None: ...


@dataclass(frozen=True)
class ApiContext:
    """Everything the HTTP edge may touch. `now` is seconds since the epoch."""

    settings: Settings
    registry: Registry
    storage: ArtifactStore
    catalog: Mapping[str, ModelSpec]
    system: SystemProbe
    now: Callable[[], float]
