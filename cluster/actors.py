"""The Ray seam of this layer: the registry as a detached named actor.

The actor outlives Serve, its deployments and their versions; Ray restarts it when its process dies,
and everything it knows comes back from the task database.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.metrics import Counter, Gauge

from cluster.awake_clock import AwakeClock
from cluster.book import RegistryLimits
from cluster.channel import ChannelServer
from cluster.client import RegistryFacts
from cluster.errors import ClusterError, RegistryFault
from cluster.registry import TaskRegistry
from cluster.registry_address import CONNECT_S, NAME, NAMESPACE
from cluster.retention import Sweep
from cluster.settings import Settings
from cluster.storage import open_store
from cluster.store import TaskStore
from cluster.task import Depth

_TICK_S = 0.5
_REPLACEMENTS = 5
_SWEEP_EVERY_TICKS = 10
_MAX_CONCURRENCY = 10_000

_HEAD_NODE = {"node:__internal_head__": 0.001}

_Calls = list[tuple[str, tuple[Any, ...]]]
logger = logging.getLogger(__name__)


class RegistryActor:
    """TaskRegistry behind Ray calls, with its clock and its sweep. Runs on one asyncio loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = TaskStore(settings.resolved_database_url)
        limits = RegistryLimits(
            settings.lease_s,
            settings.max_queued_tasks,
            settings.retention_s,
            settings.max_running_per_tenant,
        )
        self._awake = AwakeClock()
        self._registry = TaskRegistry(self._store, time.time, limits, self._awake)
        self._sweep = Sweep(self._registry, open_store(settings), time.time)
        self._metrics = RegistryMetrics()
        self._operations = RegistryOperations(self._registry, self._facts)
        self._channel = ChannelServer(self._operations.run)
        self._opened: asyncio.Task[None] | None = None
        self._clock: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def facts(self) -> RegistryFacts:
        await self._open()
        return self._facts()

    def _facts(self) -> RegistryFacts:
        return RegistryFacts(
            os.getpid(),
            self._registry.epoch,
            _digest(self._settings),
            self._address,
        )

    async def call_many(self, calls: _Calls) -> list[Any]:
        """Run registry operations that arrived together; a refusal comes back as its exception."""
        await self._open()
        return await self._operations.run(calls)

    async def close(self) -> None:
        """Write what is pending; the actor is about to be killed."""
        await self._open()
        self._channel.close()
        await self._registry.close()

    async def _open(self) -> None:
        if self._opened is None:
            self._opened = asyncio.get_running_loop().create_task(self._start())
        opened = self._opened
        try:
            await asyncio.shield(opened)
        except ClusterError:
            # The database may be up by the next call.
            if self._opened is opened:
                self._opened = None
            raise

    async def _start(self) -> None:
        await self._registry.open()
        self._address = await self._channel.start(ray.util.get_node_ip_address())
        self._clock = asyncio.get_running_loop().create_task(self._run_clock())

    async def _run_clock(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(_TICK_S)
            self._awake.turn(_TICK_S)
            ticks += 1
            try:
                await self._registry.tick()
                self._metrics.observe(await self._registry.depths(), self._registry.tally())
                if ticks % _SWEEP_EVERY_TICKS == 0 and (self._sweeping is None or self._sweeping.done()):
                    self._sweeping = asyncio.get_running_loop().create_task(self._sweep.run())
            except Exception:  # the loop edge: one bad turn must not stop the clock
                logger.exception("registry clock: this turn failed, the next one follows")


class RegistryOperations:
    """What callers may ask of the registry, by name. Not the actor itself: Ray traces each of its methods."""

    def __init__(self, registry: TaskRegistry, facts: Callable[[], RegistryFacts]) -> None:
        self._registry = registry
        self._facts = facts

    async def run(self, calls: _Calls) -> list[Any]:
        """Run operations that arrived together; a refusal comes back as its exception."""
        if len(calls) == 1:
            return [await self._run(*calls[0])]
        return await asyncio.gather(*(self._run(method, args) for method, args in calls))

    async def _run(self, method: str, args: tuple[Any, ...]) -> Any:
        if method == "facts":
            return self._facts()
        try:
            return await getattr(self._registry, method)(*args)
        except ClusterError as error:
            return error
        except Exception as error:  # the loop edge: one bad call must not fail those beside it
            logger.exception("registry call %s failed", method)
            return RegistryFault(f"{type(error).__name__}: {error}")


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
    """Start the registry, or replace one of other settings or code. Blocks until it answers.

    Raises what keeps it from starting, and RuntimeError when another one keeps taking its place.
    """
    for _ in range(_REPLACEMENTS):
        facts: RegistryFacts = ray.get(get_or_start(settings).facts.remote())
        if facts.settings_digest == _digest(settings):
            return facts
        logger.info("the task registry runs with other settings or code: replacing it")
        stop_registry()
    raise RuntimeError("another application keeps starting a task registry with other settings")


def stop_registry() -> bool:
    """End the registry actor for good; False when there was none."""
    try:
        actor = ray.get_actor(NAME, NAMESPACE)
    except ValueError:
        return False
    try:
        ray.get(actor.close.remote(), timeout=CONNECT_S)
    except (RayError, ClusterError) as error:
        logger.warning("the task registry did not close in peace: %s", error)
    ray.kill(actor, no_restart=True)
    return True


def _digest(settings: Settings) -> str:
    """Equal for registries that would behave the same: settings, and the code of this folder."""
    code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    facts = (
        hashlib.sha256(code).hexdigest(),
        settings.resolved_database_url,
        settings.resolved_storage_url,
        settings.lease_s,
        settings.max_queued_tasks,
        settings.retention_s,
        settings.max_running_per_tenant,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()
