"""Which engine would run a model now, remembered for half a minute.

Verifying weights may hash gigabytes, so that happens in a worker thread and once at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from anyio import to_thread

from api.context import SystemProbe
from cluster.settings import Settings
from models import site
from models.engine import Endpoint, EngineSpec, ModelNotReady, ModelSpec
from models.site import Site

KEEP_S = 30.0


def site_of(settings: Settings, *, has_gpu: bool) -> Site:
    """What the operator's settings offer engines."""
    endpoints = {
        name: Endpoint(endpoint.url, endpoint.model, endpoint.api_key.get_secret_value())
        for name, endpoint in settings.endpoints.items()
    }
    return Site(settings.models_path, has_gpu, endpoints)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`engine` is the one that would run; None with the reason in `problem`."""

    engine: EngineSpec | None
    problem: str
    until: float

    def require(self) -> EngineSpec:
        if self.engine is None:
            raise ModelNotReady(self.problem)
        return self.engine


class Readiness:
    """Asks `models.site`, and the cluster for GPUs. One event loop only."""

    def __init__(self, system: SystemProbe, settings: Settings, now: Callable[[], float]) -> None:
        self._system = system
        self._settings = settings
        self._now = now
        self._known: dict[str, Verdict] = {}
        self._asking = asyncio.Lock()

    def known_engine(self, model: ModelSpec) -> EngineSpec | None:
        """The engine if the answer is fresh; raises ModelNotReady if that is the fresh answer."""
        verdict = self._known.get(model.name)
        return verdict.require() if verdict is not None and verdict.until > self._now() else None

    async def engine(self, model: ModelSpec) -> EngineSpec:
        """The engine that would run `model`; raises ModelNotReady naming what to install."""
        known = self.known_engine(model)
        if known is not None:
            return known
        async with self._asking:
            return self.known_engine(model) or await self._ask(model)

    async def is_ready(self, model: ModelSpec) -> bool:
        """Whether a task of `model` would run now."""
        try:
            await self.engine(model)
        except ModelNotReady:
            return False
        return True

    async def missing(self, engine: EngineSpec) -> list[str]:
        """What `engine` lacks but a GPU, each with the next step."""
        return await to_thread.run_sync(site.missing, engine, site_of(self._settings, has_gpu=False))

    async def _ask(self, model: ModelSpec) -> EngineSpec:
        has_gpu = await self._system.gpu() is not None
        verdict = await to_thread.run_sync(self._judge, model, has_gpu)
        self._known[model.name] = verdict
        return verdict.require()

    def _judge(self, model: ModelSpec, has_gpu: bool) -> Verdict:
        until = self._now() + KEEP_S
        try:
            return Verdict(site.ready_engine(model, site_of(self._settings, has_gpu=has_gpu)), "", until)
        except ModelNotReady as error:
            return Verdict(None, str(error), until)
