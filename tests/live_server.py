"""The HTTP application as an ingress replica runs it: over a follower of the registry, on a real port."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import uvicorn

from api.context import ApiContext
from cluster.book import RegistryLimits
from cluster.errors import RegistryUnavailable
from cluster.follower import TaskFollower
from cluster.registry import TaskRegistry
from cluster.store import TaskStore
from cluster.task import Beat, Feed, LogLines, Progress, Task
from models.catalog import CATALOG
from tests.api_client import Server, application, serving
from tests.server import NO_AUTHORITIES, free_port


class Line:
    """The way to a registry: counts what goes over it, and can be cut as when its process dies."""

    def __init__(self, registry: TaskRegistry) -> None:
        self.registry = registry
        self.calls: Counter[str] = Counter()
        self._cut = asyncio.Event()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        self.calls[name] += 1
        return getattr(self.registry, name)

    async def watch(self, epoch: int, since: int, wait_s: float) -> Feed:
        self.calls["watch"] += 1
        loop = asyncio.get_running_loop()
        answer = loop.create_task(self.registry.watch(epoch, since, wait_s))
        cut = loop.create_task(self._cut.wait())
        await asyncio.wait([answer, cut], return_when=asyncio.FIRST_COMPLETED)
        if not cut.done():
            cut.cancel()
            return await answer
        answer.cancel()
        raise RegistryUnavailable("the line is cut")

    def cut(self) -> None:
        self._cut.set()

    def mend(self, registry: TaskRegistry) -> None:
        self.registry = registry
        self._cut.clear()


@dataclass
class LiveServer:
    """`base` is what lies behind the replica and how tests play the workers; `http` reaches the replica."""

    base: Server
    line: Line
    context: ApiContext
    http: httpx.AsyncClient

    async def report(self, task: Task, *lines: str, first: int = 0, **progress: Any) -> None:
        log = LogLines(task.fence, first, lines) if lines else None
        await self.base.registry.beat("w1", [Beat(task.id, task.fence, Progress(**progress), log)])

    def store_log(self, task: Task, *lines: str) -> None:
        self.base.store(f"tasks/{task.id}/{task.fence}/attempt.log", "\n".join([*lines, ""]).encode())

    @contextlib.asynccontextmanager
    async def events(self, task_id: str, last_event_id: str = "") -> AsyncIterator[Stream]:
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        url = f"/v1/tasks/{task_id}/events"
        async with httpx_sse.aconnect_sse(self.http, "GET", url, headers=headers) as source:
            yield Stream(source.aiter_sse())

    async def restart_registry(self) -> None:
        """A registry that begins anew on the same database, as after kill -9."""
        self.line.cut()
        await self.base.registry.close()
        url = self.base.settings.resolved_database_url
        clock = self.base.clock
        self.base.registry = TaskRegistry(TaskStore(url), clock, RegistryLimits(), clock)
        await self.base.registry.open()
        self.line.mend(self.base.registry)


@dataclass
class Stream:
    """Events as (kind, data); the ids are kept."""

    source: AsyncIterator[httpx_sse.ServerSentEvent]
    last_id: str = ""

    async def next(self) -> tuple[str, dict[str, Any]]:
        event = await anext(self.source)
        self.last_id = event.id
        return event.event, json.loads(event.data)

    async def rest(self) -> list[tuple[str, dict[str, Any]]]:
        return [(event.event, json.loads(event.data)) async for event in self.source]


@contextlib.asynccontextmanager
async def live_serving(folder: Path, **settings: Any) -> AsyncIterator[LiveServer]:
    async with serving(folder, **settings) as base:
        first = base.registry
        line = Line(first)
        follower = TaskFollower(line, waiting_kept_s=0)
        follower.start()
        context = ApiContext(base.settings, follower, base.storage, CATALOG, base.system, base.clock)
        try:
            async with _listening(application(context)) as http:
                yield LiveServer(base, line, context, http)
        finally:
            await follower.stop()
            if base.registry is not first:
                await base.registry.close()


@contextlib.asynccontextmanager
async def _listening(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    port = free_port()
    config = uvicorn.Config(app, port=port, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
    server = _Server(config)
    running = asyncio.get_running_loop().create_task(server.serve())
    await server.is_up.wait()
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=60, verify=NO_AUTHORITIES
        ) as http:
            yield http
    finally:
        server.should_exit = True
        await running


class _Server(uvicorn.Server):
    """On the test's own loop, without its signals."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.is_up.set()
