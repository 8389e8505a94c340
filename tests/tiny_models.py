"""Models that take a moment and make real files: for tests of what happens around an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.task import Task
from deployments.attempt import RunningAttempt
from deployments.engines import EngineRoom
from models.catalog import CATALOG
from models.engine import Engine, EngineKind, EngineSpec, ModelSpec, Result, RunContext
from models.media import ffmpeg_path
from models.site import Site
from tests.api_client import Server
from tests.stores import file_access

WIDTH_PX, HEIGHT_PX, FRAMES = 64, 48, 10


class TestPicture(Engine):
    """Writes a short H.264 video, whatever it is asked for."""

    __test__ = False

    def run(self, inputs: Any, context: RunContext) -> Result:
        path = context.output_dir / "made.mp4"
        source = f"testsrc2=size={WIDTH_PX}x{HEIGHT_PX}:rate=10"
        context.run_process(
            [
                ffmpeg_path(), "-v", "error", "-f", "lavfi", "-i", source, "-frames:v", str(FRAMES),
                "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(path),
            ]
        )  # fmt: skip
        context.report(FRAMES, FRAMES, stage="made", unit="frames")
        return Result({"video_path": path})


def with_tiny_engine(*names: str) -> Mapping[str, ModelSpec]:
    """The catalogue, in which these models have an engine that runs here."""
    engine = EngineSpec(name="tiny", kind=EngineKind.EMBEDDED, make=TestPicture)
    return CATALOG | {name: replace(CATALOG[name], engines=(engine,)) for name in names}


async def work(server: Server, service: str, catalog: Mapping[str, ModelSpec], folder: Path) -> Task:
    """Run the next task of a service as a replica does, and report it; how it then stands."""
    return await run_task(server, await server.start(service), catalog, folder)


async def run_task(server: Server, task: Task, catalog: Mapping[str, ModelSpec], folder: Path) -> Task:
    """Run a leased task and report it; how it then stands."""
    models = [model for model in catalog.values() if model.service == task.service]
    engines = EngineRoom(models, site=Site(), device="cpu", threads=1)
    attempt = RunningAttempt(task, folder / task.id, file_access(server.storage), device="cpu", threads=1)
    ended = await asyncio.to_thread(attempt.run, engines)
    await server.registry.finish([ended])
    return await server.registry.get(task.id)
