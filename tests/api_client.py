"""The HTTP application in process, over the real registry and the real local store."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.routing import BaseRoute

from api.app import create_app
from api.context import ApiContext, GpuInfo
from cluster.book import RegistryLimits
from cluster.local_storage import LocalArtifactStore
from cluster.registry import TaskRegistry
from cluster.settings import Settings
from cluster.store import TaskStore
from cluster.task import Artifact, Beat, Failure, FailureCode, OutcomeKind, Progress, Task, TaskQuery
from models.catalog import CATALOG
from models.engine import ModelSpec
from tests.manual_clock import ManualClock
from tests.tasks import lease_request, outcome

SAMPLES = Path(__file__).parents[1] / "samples"
BASE_URL = "http://127.0.0.1"
_routes: list[BaseRoute] = []
"""Those of the first application that was made here."""


@dataclass
class StaticSystem:
    """A cluster of one node, with a GPU where a test says so."""

    gpu_info: GpuInfo | None = None

    async def live_nodes(self) -> int:
        return 1

    async def gpu(self) -> GpuInfo | None:
        return self.gpu_info


@dataclass
class Server:
    """One application with everything behind it, and a client that talks to it."""

    app: FastAPI
    http: httpx.AsyncClient
    registry: TaskRegistry
    storage: LocalArtifactStore
    settings: Settings
    system: StaticSystem
    clock: ManualClock
    leases: int = 0

    async def put(self, path: str, content: bytes) -> str:
        """Upload a file under `path` of the caller; returns `path`."""
        answer = await self.http.put(f"/v1/files/{path}", content=content)
        assert answer.status_code == 200, answer.text
        return path

    async def submit(self, name: str = "diagnostics.echo", inputs: Any = None, **body: Any) -> httpx.Response:
        inputs = {"payload": 1} if inputs is None else inputs
        return await self.http.post("/v1/tasks", json={"task_name": name, "input_data": inputs, **body})

    async def start(self, service: str = "diagnostics") -> Task:
        """Lease the next task of a service, as a replica does; the first attempt's fence is 1-lease1."""
        self.leases += 1
        request = lease_request(service=service, request_id=f"lease{self.leases}")
        (task,) = await self.registry.lease(request)
        return task

    async def report(self, task: Task, **progress: Any) -> None:
        await self.registry.beat("w1", [Beat(task.id, task.fence, Progress(**progress))])

    async def succeed(self, task: Task, result: dict[str, Any] | None = None, **files: bytes) -> None:
        """End a started task with a result, and with outputs of these names and contents."""
        artifacts = tuple(self.publish(task, name, content) for name, content in files.items())
        await self.registry.finish([outcome(task, result=result or {}, artifacts=artifacts)])

    def publish(self, task: Task, name: str, content: bytes) -> Artifact:
        name = name.replace("__", ".")
        stored = self.store(f"tasks/{task.id}/{task.fence}/{name}", content)
        return Artifact(name, stored.key, stored.media_type, stored.size_bytes, stored.sha256)

    async def fail(self, task: Task, message: str = "it broke", code: str = "INTERNAL_ERROR") -> None:
        failure = Failure(FailureCode(code), message)
        await self.registry.finish([outcome(task, OutcomeKind.FAILED, failure=failure)])

    async def stopped(self, task: Task) -> None:
        """Tell that a cancelled attempt has stopped."""
        await self.registry.finish([outcome(task, OutcomeKind.CANCELLED)])

    def store(self, key: str, content: bytes) -> Any:
        with self.storage.writer(key) as writer:
            writer.write(content)
            return writer.commit()

    async def remains(self) -> tuple[int, list[str], int]:
        """What there is: tasks, stored keys, unfinished uploads."""
        tasks = (await self.registry.list(TaskQuery())).total
        root = self.settings.data_path / "artifacts"
        objects = [path for path in (root / "objects").rglob("*") if path.is_file()]
        keys = sorted(path.relative_to(root / "objects").as_posix() for path in objects)
        return tasks, keys, len(list((root / ".incoming").iterdir()))


def key_entry(tenant: str, key: str) -> str:
    """What MEDIARAY_API_KEYS holds for a key."""
    return f"{tenant}:sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def application(context: ApiContext) -> FastAPI:
    """`create_app` with the routes of the first application, which are the same: a request tells them which
    application it is for. FastAPI works them out when they are first matched, 80 ms for each application.
    """
    app = create_app(context)
    _routes[:] = _routes or app.router.routes
    app.router.routes[:] = _routes
    return app


@contextlib.asynccontextmanager
async def serving(
    folder: Path, catalog: Mapping[str, ModelSpec] = CATALOG, *, gpu: GpuInfo | None = None, **settings: Any
) -> AsyncIterator[Server]:
    configured = Settings(data_dir=folder, **{"rate_limit_create": 0, "rate_limit_status": 0} | settings)
    clock = ManualClock()
    limits = RegistryLimits(max_queued_tasks=configured.max_queued_tasks)
    registry = TaskRegistry(TaskStore(configured.resolved_database_url), clock, limits, clock)
    await registry.open()
    storage = LocalArtifactStore(folder / "artifacts", now=clock)
    system = StaticSystem(gpu)
    app = application(ApiContext(configured, registry, storage, catalog, system, clock))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    try:
        async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as http:
            yield Server(app, http, registry, storage, configured, system, clock)
    finally:
        await registry.close()
