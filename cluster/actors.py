"""The Ray seam of this layer: the registry as a detached named actor, and the client that calls it.

The actor outlives Serve, its deployments and their versions; Ray restarts it when its process dies,
and everything it knows comes back from the task database.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.metrics import Counter, Gauge
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_delay,
    wait_exponential_jitter,
)

from cluster.book import RegistryLimits
from cluster.channel import ChannelAddress, ChannelBroken, ChannelClient, ChannelServer
from cluster.errors import ClusterError, RegistryUnavailable
from cluster.registry import TaskRegistry
from cluster.settings import Settings
from cluster.storage import open_store
from cluster.store import TaskStore
from cluster.task import (
    Beat,
    Depth,
    Feed,
    Json,
    LeaseRequest,
    NewTask,
    Outcome,
    Status,
    Submission,
    Task,
    TaskEvent,
    TaskPage,
    TaskQuery,
    Verdict,
)

NAMESPACE = "mediaray"
NAME = "task-registry"
_TICK_S = 0.5
_SWEEP_EVERY_TICKS = 10
_MAX_CONCURRENCY = 10_000
_PATIENCE_S = 30.0

_HEAD_NODE = {"node:__internal_head__": 0.001}

# What says that the actor's process is gone or going.
_BROKEN = (RayActorError, ChannelBroken)

_Calls = list[tuple[str, tuple[Any, ...]]]
_Pending = list[tuple[str, tuple[Any, ...], asyncio.Future[Any]]]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RegistryFacts:
    """What the running actor says of itself.

    `settings_digest` tells whether it must be replaced, `channel` where to reach it without Ray.
    """

    pid: int
    epoch: int
    settings_digest: str
    database_url: str
    channel: ChannelAddress


class RegistryActor:
    """TaskRegistry behind Ray calls, with its clock and its sweep. Runs on one asyncio loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = TaskStore(settings.resolved_database_url)
        self._artifacts = open_store(settings)
        limits = RegistryLimits(settings.lease_s, settings.max_queued_tasks, settings.retention_s)
        self._registry = TaskRegistry(self._store, time.time, limits)
        self._metrics = RegistryMetrics()
        self._channel = ChannelServer(self.call_many)
        self._opened: asyncio.Task[None] | None = None
        self._clock: asyncio.Task[None] | None = None

    async def facts(self) -> RegistryFacts:
        await self._open()
        return self._facts()

    def _facts(self) -> RegistryFacts:
        return RegistryFacts(
            os.getpid(),
            self._registry.epoch,
            _digest(self._settings),
            self._store.redacted_url,
            self._address,
        )

    async def call_many(self, calls: _Calls) -> list[Any]:
        """Run registry operations that arrived together; a refusal comes back as its exception."""
        await self._open()
        return await asyncio.gather(*(self._call(method, args) for method, args in calls))

    async def close(self) -> None:
        """Write what is pending; the actor is about to be killed."""
        await self._open()
        self._channel.close()
        await self._registry.close()

    async def _call(self, method: str, args: tuple[Any, ...]) -> Any:
        if method == "facts":
            return self._facts()
        try:
            return await getattr(self._registry, method)(*args)
        except ClusterError as error:
            return error

    async def _open(self) -> None:
        if self._opened is None:
            self._opened = asyncio.get_running_loop().create_task(self._start())
        await asyncio.shield(self._opened)

    async def _start(self) -> None:
        await self._registry.open()
        self._address = await self._channel.start(ray.util.get_node_ip_address())
        self._clock = asyncio.get_running_loop().create_task(self._run_clock())

    async def _run_clock(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(_TICK_S)
            ticks += 1
            try:
                await self._registry.tick()
                self._metrics.observe(await self._registry.depths(), self._registry.tally())
                if ticks % _SWEEP_EVERY_TICKS == 0:
                    await self._sweep()
            except Exception:  # the loop edge: one bad turn must not stop the clock
                logger.exception("registry clock: this turn failed, the next one follows")

    async def _sweep(self) -> None:
        """Remove the files of tasks whose time is over, then their records."""
        done = []
        for task_id in await self._registry.removable():
            await asyncio.to_thread(self._artifacts.delete_prefix, f"tasks/{task_id}/")
            done.append(task_id)
        if done:
            await self._registry.forget(done)


class RegistryClient:
    """The registry from any process: same methods, same errors, batched and retried calls.

    Quick calls that are made while a batch is under way travel together in the next. While the actor
    restarts, calls are repeated (every operation is idempotent) until `_PATIENCE_S` is over; then
    RegistryUnavailable. One instance belongs to one event loop.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._line: ChannelClient | None = None
        self._connecting = asyncio.Lock()
        self._pending: _Pending = []
        self._sender: asyncio.Task[None] | None = None

    async def submit(self, new: NewTask) -> Submission:
        submission: Submission = await self._call_together("submit", new)
        return submission

    async def get(self, task_id: str) -> Task:
        task: Task = await self._call("get", task_id)
        return task

    async def counts(self, tenant: str | None = None, dialect: str | None = None) -> dict[Status, int]:
        counts: dict[Status, int] = await self._call("counts", tenant, dialect)
        return counts

    async def events(self, task_id: str) -> Sequence[TaskEvent]:
        events: Sequence[TaskEvent] = await self._call("events", task_id)
        return events

    async def depths(self) -> dict[str, Depth]:
        depths: dict[str, Depth] = await self._call("depths")
        return depths

    async def cancel(self, task_id: str) -> Task:
        task: Task = await self._call("cancel", task_id)
        return task

    async def delete(self, task_id: str) -> None:
        await self._call("delete", task_id)

    async def annotate(self, task_id: str, facts: Json) -> Task:
        task: Task = await self._call("annotate", task_id, facts)
        return task

    async def watch(self, epoch: int, since: int, wait_s: float) -> Feed:
        feed: Feed = await self._call("watch", epoch, since, wait_s)
        return feed

    async def lease(self, request: LeaseRequest) -> Sequence[Task]:
        ask = self._call if request.wait_s else self._call_together
        tasks: Sequence[Task] = await ask("lease", request)
        return tasks

    async def beat(self, worker: str, beats: Sequence[Beat]) -> Sequence[Verdict]:
        verdicts: Sequence[Verdict] = await self._call_together("beat", worker, beats)
        return verdicts

    async def finish(self, outcomes: Sequence[Outcome]) -> Sequence[bool]:
        accepted: Sequence[bool] = await self._call_together("finish", outcomes)
        return accepted

    async def facts(self) -> RegistryFacts:
        facts: RegistryFacts = await self._call("facts")
        return facts

    async def list(self, query: TaskQuery) -> TaskPage:
        page: TaskPage = await self._call("list", query)
        return page

    async def _call(self, method: str, *args: Any) -> Any:
        """A call that may wait or read the database for long, and so travels alone."""
        return _value((await self._ask([(method, args)]))[0])

    async def _call_together(self, method: str, *args: Any) -> Any:
        """A quick call: travels with those made in this turn, or while a batch is under way."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending.append((method, args, answer))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.get_running_loop().create_task(self._send_pending())
        return _value(await answer)

    async def _send_pending(self) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            await self._send(batch)

    async def _send(self, batch: _Pending) -> None:
        answers: Sequence[Any]
        try:
            answers = await self._ask([(method, args) for method, args, _ in batch])
        except ClusterError as error:
            answers = [error] * len(batch)
        for (_, _, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)

    async def _ask(self, calls: _Calls) -> Sequence[Any]:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_BROKEN),
            wait=wait_exponential_jitter(initial=0.05, max=1.0),
            stop=stop_after_delay(_PATIENCE_S),
            before_sleep=_mark_repeated,
            reraise=True,
        )
        try:
            answers: Sequence[Any] = await retrying(self._ask_once, calls)
        except _BROKEN as error:
            raise RegistryUnavailable("the task registry is restarting; try again") from error
        return answers

    async def _ask_once(self, calls: _Calls) -> Sequence[Any]:
        line = self._line or await self._connect()
        try:
            answers: Sequence[Any] = await line.call_many(calls)
        except ChannelBroken:
            if self._line is line:
                self._line = None
                line.close()
            raise
        return answers

    async def _connect(self) -> ChannelClient:
        """Ask Ray for the actor, starting it where it is gone, and open the line it names."""
        async with self._connecting:
            if self._line is None:
                actor = await asyncio.to_thread(get_or_start, self._settings)
                facts: RegistryFacts = await actor.facts.remote()
                self._line = await ChannelClient.connect(facts.channel)
            return self._line


class RegistryMetrics:
    """Queue and lease figures in Ray's own Prometheus endpoint."""

    def __init__(self) -> None:
        tags = ("service",)
        self._waiting = Gauge("mediaray_tasks_waiting", "Tasks that wait for a replica", tags)
        self._running = Gauge("mediaray_tasks_running", "Tasks that a replica runs", tags)
        self._age = Gauge("mediaray_queue_age_seconds", "Age of the longest-waiting task", tags)
        self._counted = {
            "attempts": Counter("mediaray_attempts_total", "Attempts started", tags),
            "leases_lost": Counter("mediaray_leases_lost_total", "Attempts whose lease lapsed", tags),
        }
        self._ended = Counter("mediaray_tasks_ended_total", "Tasks that ended", ("service", "status"))
        self._seen: dict[tuple[str, str], int] = {}

    def observe(self, depths: Mapping[str, Depth], tally: Mapping[tuple[str, str], int]) -> None:
        """Export the present depths and what was counted since the last call."""
        for service, depth in depths.items():
            tags = {"service": service}
            self._waiting.set(depth.waiting, tags)
            self._running.set(depth.running, tags)
            self._age.set(depth.oldest_wait_s, tags)
        for (service, what), count in tally.items():
            new = count - self._seen.get((service, what), 0)
            self._seen[service, what] = count
            if not new:
                continue
            if what in self._counted:
                self._counted[what].inc(new, {"service": service})
            else:
                self._ended.inc(new, {"service": service, "status": what})


def get_or_start(settings: Settings) -> Any:
    """The registry actor's handle; starts it on the head node, where the task database lies."""
    return (
        ray.remote(RegistryActor)
        .options(
            name=NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_concurrency=_MAX_CONCURRENCY,
            num_cpus=0,
            resources=_HEAD_NODE,
        )
        .remote(settings)
    )


def ensure_registry(settings: Settings) -> RegistryFacts:
    """Start the registry, or replace one that runs with other settings. Blocks until it answers."""
    facts: RegistryFacts = ray.get(get_or_start(settings).facts.remote())
    if facts.settings_digest == _digest(settings):
        return facts
    logger.info("the task registry runs with other settings: replacing it")
    stop_registry()
    facts = ray.get(get_or_start(settings).facts.remote())
    return facts


def stop_registry() -> bool:
    """End the registry actor for good; False when there was none."""
    try:
        actor = ray.get_actor(NAME, NAMESPACE)
    except ValueError:
        return False
    ray.get(actor.close.remote())
    ray.kill(actor, no_restart=True)
    return True


def _digest(settings: Settings) -> str:
    """Equal for registries that would behave the same."""
    facts = (
        settings.resolved_database_url,
        settings.resolved_storage_url,
        settings.lease_s,
        settings.max_queued_tasks,
        settings.retention_s,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _value(answer: Any) -> Any:
    if isinstance(answer, ClusterError):
        raise answer
    return answer


def _mark_repeated(state: RetryCallState) -> None:
    """Before a repetition: an id that was fresh may be recorded by now."""
    calls = state.args[0]
    calls[:] = [(method, tuple(map(_as_repeated, args))) for method, args in calls]


def _as_repeated(argument: Any) -> Any:
    return replace(argument, is_fresh_id=False) if isinstance(argument, NewTask) else argument
