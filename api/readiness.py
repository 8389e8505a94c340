"""Which engine would run a model now, remembered for half a minute.

Verifying weights may hash gigabytes, so that happens in a worker thread and once at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread

from api.context import SystemProbe
from cluster.settings import Settings
from models import site
from models.engine import Endpoint, EngineSpec, ModelNotReady, ModelSpec
from models.site import Site
from models.weights import ModelFolder, missing_files

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

    async def missing_files(self, engine: EngineSpec) -> list[str]:
        """The files of the operator's folders that `engine` lacks, as paths below the models directory."""
        return await to_thread.run_sync(_missing_files, engine, self._settings.models_path)

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


def _missing_files(engine: EngineSpec, models_dir: Path | None) -> list[str]:
    return [file for folder in engine.folders for file in _absent(folder, models_dir)]


def _absent(folder: ModelFolder, models_dir: Path | None) -> list[str]:
    """What the fullest folder that matches lacks; all of its files where none does."""
    found = sorted(models_dir.glob(folder.path)) if models_dir else []
    lacks = [(path, missing_files(path, folder.files)) for path in found if path.is_dir()]
    path, names = min(lacks, key=lambda each: len(each[1]), default=(None, list(folder.files)))
    where = path.relative_to(models_dir).as_posix() if path and models_dir else folder.path
    return [f"{where}/{name}" for name in names]
