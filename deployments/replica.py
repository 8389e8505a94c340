"""ModelReplica: one Serve replica of one service, which pulls its work from the task registry.

Threads: Serve's own loop answers health checks and direct calls; the lease loop's thread leases and
beats; worker threads, one per slot, load engines and run attempts. The latter two, and what they start,
yield the cores to everything else of the server.
"""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from api.readiness import site_of
from cluster.client import RegistryClient
from cluster.registry_address import find_registry
from cluster.settings import Settings
from cluster.storage import open_store
from cluster.task import Outcome, Task
from cluster.url_downloads import UrlDownloads
from cluster.urls import UrlGuard
from deployments.attempt import RunningAttempt
from deployments.attempt_inputs import FileAccess
from deployments.attempt_logs import ATTEMPT_LOGS
from deployments.direct_call import run_directly
from deployments.engines import EngineRoom
from deployments.lease_loop import LeaseLoop, LeaseTerms, logger
from deployments.niceness import yield_cores
from deployments.serve_print import repair_print
from deployments.stage_metrics import StageMetrics
from deployments.workspaces import Workspaces
from models.catalog import MODELS


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """What one replica of a service is: the service's row of serve_config.yaml, resolved.

    `slots` attempts run at a time; `threads` is what each may use; `device` is "cpu" or "cuda".
    """

    service: str
    slots: int = 1
    threads: int = 1
    device: str = "cpu"
    engine: str = "auto"


class ModelReplica:
    """The deployment class of every service. Serve drains a replica through `__del__`."""

    def __init__(self, settings: Settings, plan: ReplicaPlan) -> None:
        worker = f"{plan.service}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        ATTEMPT_LOGS.install()
        repair_print()
        self._plan = plan
        self._metrics = StageMetrics(plan.service)
        self._files = FileAccess(
            open_store(settings), _downloads(settings), settings.max_pixels, settings.max_upload_bytes
        )
        self._workspaces = Workspaces(settings.workspace_path, worker)
        self._engines = EngineRoom(
            [model for model in MODELS if model.service == plan.service],
            site=site_of(settings, has_gpu=plan.device != "cpu"),
            device=plan.device,
            threads=plan.threads,
            pinned_engine=plan.engine,
            on_load_s=self._metrics.observe,
        )
        self._pool = ThreadPoolExecutor(
            plan.slots, thread_name_prefix=f"{plan.service}-worker", initializer=yield_cores
        )
        terms = LeaseTerms(plan.service, worker, plan.slots)
        self._lease_loop = LeaseLoop(terms, lambda: RegistryClient(find_registry), self)
        self._lease_loop.start()

    async def check_health(self) -> None:
        """Raise when the lease loop has died or hangs; Serve then replaces this replica."""
        self._lease_loop.check()

    async def call(
        self, name: str, inputs: dict[str, Any], files: Mapping[str, bytes] | None = None
    ) -> dict[str, Any]:
        """Run one short task without a record: for Python handles that would rather wait than poll.

        It waits for a worker thread like a leased task, so that both together never exceed the slots.
        `files` holds the content of file inputs by field name. Answers
        `{"result": {…}, "files": {name: bytes}}`; nothing is stored. Raises what the engine raises.
        """
        run = partial(
            run_directly, self._engines, self._workspaces, name=name, inputs=inputs, files=files or {}
        )
        return await asyncio.get_running_loop().run_in_executor(self._pool, run)

    async def __del__(self) -> None:
        """Drain: lease nothing more, finish and report what runs, leave no folder behind."""
        lease_loop = getattr(self, "_lease_loop", None)
        if lease_loop is None:
            return
        await asyncio.to_thread(lease_loop.drain)
        self._pool.shutdown()
        self._workspaces.close()

    async def prepare(self) -> None:
        """Load the engines. A model that is not ready is logged; its tasks fail with the reason."""
        loading = asyncio.get_running_loop().run_in_executor(self._pool, self._engines.load_all)
        for problem in await loading:
            logger.warning("not ready: %s", problem)

    def begin(self, task: Task) -> tuple[RunningAttempt, asyncio.Future[Outcome]]:
        """Start an attempt on a worker thread; called on the lease loop's event loop."""
        attempt = RunningAttempt(
            task,
            self._workspaces.path(f"{task.id}-{task.fence}"),
            self._files,
            device=self._plan.device,
            threads=self._plan.threads,
            on_stage_s=self._metrics.observe,
        )
        return attempt, asyncio.get_running_loop().run_in_executor(self._pool, self._run, attempt)

    def _run(self, attempt: RunningAttempt) -> Outcome:
        with self._workspaces.removed_after(attempt.workspace):
            return attempt.run(self._engines)


def _downloads(settings: Settings) -> UrlDownloads:
    """Input URLs within the operator's bounds."""
    return UrlDownloads(
        UrlGuard(settings.callback_networks),
        max_bytes=settings.input_url_max_bytes or settings.max_upload_bytes,
        timeout_s=settings.input_url_timeout_s,
    )
