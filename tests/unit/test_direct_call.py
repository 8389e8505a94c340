"""Direct calls: on the replica's own worker threads, and with ends that an event loop survives."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from deployments.direct_call import run_directly
from deployments.engines import EngineRoom
from deployments.replica import ModelReplica
from deployments.workspaces import Workspaces
from models.engine import Engine, EngineKind, EngineSpec, ModelSpec, PermanentFailure, Result, RunContext
from models.site import Site

Run = Callable[[RunContext], Result]


class NoInputs(BaseModel):
    pass


class Toy(Engine):
    def __init__(self, run: Run) -> None:
        self._run = run

    def run(self, inputs: Any, context: RunContext) -> Result:
        return self._run(context)


def engines(run: Run, run_timeout_s: float = 60.0) -> EngineRoom:
    spec = EngineSpec(name="toy-engine", kind=EngineKind.EMBEDDED, make=lambda: Toy(run))
    model = ModelSpec(
        name="toy.run", title="A toy", inputs=NoInputs, engines=(spec,), run_timeout_s=run_timeout_s
    )
    return EngineRoom([model], site=Site(), device="cpu", threads=1)


@pytest.fixture
def workspaces(tmp_path: Path) -> Iterator[Workspaces]:
    workspaces = Workspaces(tmp_path, "owner")
    yield workspaces
    workspaces.close()


def call(room: EngineRoom, workspaces: Workspaces) -> dict[str, Any]:
    return run_directly(room, workspaces, name="toy.run", inputs={}, files={})


async def test_a_call_takes_a_worker_thread_of_the_replica(workspaces: Workspaces) -> None:
    room = engines(lambda _: Result({"thread": threading.current_thread().name}))
    with ThreadPoolExecutor(1, thread_name_prefix="toy-worker") as pool:
        replica: Any = SimpleNamespace(_engines=room, _workspaces=workspaces, _pool=pool)
        answer = await ModelReplica.call(replica, "toy.run", {})
    assert answer["result"]["thread"] == "toy-worker_0"


def test_a_call_names_who_did_the_work(workspaces: Workspaces) -> None:
    assert call(engines(lambda _: Result()), workspaces)["result"]["engine"]["name"] == "toy-engine"
    room = engines(lambda _: Result(engine={"name": "stand-in"}))
    assert call(room, workspaces)["result"] == {"engine": {"name": "stand-in"}}


def test_calls_leave_no_loggers_behind(workspaces: Workspaces) -> None:
    def run(context: RunContext) -> Result:
        context.logger.info("a line")
        (context.output_dir / "out.txt").write_text("x")
        return Result()

    room = engines(run)
    call(room, workspaces)
    before = len(logging.Logger.manager.loggerDict)
    assert call(room, workspaces)["files"] == {"out.txt": b"x"}
    assert len(logging.Logger.manager.loggerDict) == before


def test_a_call_past_its_time_is_a_timeout_error(workspaces: Workspaces) -> None:
    def run(context: RunContext) -> Result:
        context.check()
        raise AssertionError("its time was over")

    with pytest.raises(TimeoutError, match="longer than -1 s"):
        call(engines(run, run_timeout_s=-1), workspaces)


def test_an_engine_that_exits_is_a_failure(workspaces: Workspaces) -> None:
    def run(context: RunContext) -> Result:
        raise SystemExit(3)

    with pytest.raises(PermanentFailure, match="toy-engine ended with SystemExit"):
        call(engines(run), workspaces)
