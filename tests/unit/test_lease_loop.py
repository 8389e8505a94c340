"""The lease loop sees every attempt through, whatever the registry, the engines and the store do."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import keys
from cluster.errors import RegistryFault, RegistryUnavailable, StorageFailure
from cluster.settings import Settings
from cluster.storage import ArtifactStore, open_store
from cluster.task import (
    Attempt,
    Beat,
    FailureCode,
    LeaseRequest,
    LogLines,
    Outcome,
    OutcomeKind,
    Task,
    Verdict,
)
from deployments import lease_loop as module
from deployments.attempt import RunningAttempt
from deployments.lease_loop import LeaseLoop, LeaseTerms
from models.errors import Cancelled
from tests.stores import file_access, keys_below, put
from tests.unit.test_attempt import TASK, engines

Key = tuple[str, str]


def task(task_id: str, number: int = 1, **fields: Any) -> Task:
    return replace(TASK, id=task_id, attempts=number, attempt=Attempt(number, "w", "r", 0.0), **fields)


class ScriptedRegistry:
    """Hands out `tasks`; answers as `verdicts` and `answers` say, and OK and True beyond that."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.verdicts: dict[Key, Verdict] = {}
        self.answers: list[bool | Exception] = []
        self.finished: list[Outcome] = []
        self.beaten: list[list[Key]] = []
        self.logs: list[LogLines] = []
        self.deaf_beats = 0
        self.turned = asyncio.Condition()

    async def lease(self, request: LeaseRequest) -> Sequence[Task]:
        await asyncio.sleep(0.001)
        taken, self.tasks = self.tasks[: request.slots], self.tasks[request.slots :]
        return taken

    async def beat(self, worker: str, beats: Sequence[Beat]) -> Sequence[Verdict]:
        found = [(beat.task_id, beat.fence) for beat in beats]
        told = [beat.log for beat in beats if beat.log is not None]
        self.logs += told
        await self._note(self.beaten, found)
        if told and self.deaf_beats:
            self.deaf_beats -= 1
            raise RegistryUnavailable("away")
        return [self.verdicts.get(key, Verdict.OK) for key in found]

    async def finish(self, outcomes: Sequence[Outcome]) -> Sequence[bool]:
        await self._note(self.finished, outcomes[0])
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, Exception):
            raise answer
        return [answer]

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with self.turned:
            await self.turned.wait_for(is_so)

    async def beats_more(self, count: int = 2) -> None:
        seen = len(self.beaten)
        await self.until(lambda: len(self.beaten) >= seen + count)

    async def _note(self, notes: list[Any], note: Any) -> None:
        async with self.turned:
            notes.append(note)
            self.turned.notify_all()


class Workshop:
    """A worker whose attempts end when the test says so."""

    def __init__(self, storage: ArtifactStore, folder: Path) -> None:
        self._storage = storage
        self._folder = folder
        self.attempts: dict[Key, RunningAttempt] = {}
        self.ended: dict[Key, asyncio.Future[Outcome]] = {}
        self.begun: asyncio.Queue[Key] = asyncio.Queue()
        self.problem: Exception | None = None
        self.niceness: int | None = None

    async def prepare(self) -> None:
        self.niceness = os.getpriority(os.PRIO_PROCESS, 0)
        if self.problem is not None:
            raise self.problem

    def begin(self, task: Task) -> tuple[RunningAttempt, asyncio.Future[Outcome]]:
        key = (task.id, task.fence)
        folder = self._folder / f"{task.id}-{task.fence}"
        self.attempts[key] = RunningAttempt(task, folder, file_access(self._storage), device="cpu", threads=1)
        self.ended[key] = asyncio.get_running_loop().create_future()
        self.begun.put_nowait(key)
        return self.attempts[key], self.ended[key]

    def end(self, task_id: str, fence: str = "1-r", kind: OutcomeKind = OutcomeKind.SUCCEEDED) -> None:
        self.ended[task_id, fence].set_result(Outcome(task_id, fence, "w", kind, result={}))


class Rig:
    """A running lease loop between a scripted registry and a workshop."""

    def __init__(self, storage: ArtifactStore, folder: Path, slots: int = 2) -> None:
        self.registry = ScriptedRegistry()
        self.worker = Workshop(storage, folder)
        make: Any = lambda: self.registry  # noqa: E731 - a scripted registry is no RegistryClient
        self.loop = LeaseLoop(LeaseTerms("toy", "w", slots), make, self.worker)

    async def begin(self, *tasks: Task) -> None:
        self.registry.tasks += tasks
        if not hasattr(self, "main"):
            self.main = asyncio.get_running_loop().create_task(self.loop._main())
        for _ in tasks:
            await self.worker.begun.get()

    async def drain(self) -> None:
        self.loop._is_draining.set()
        await self.main

    @property
    def reports(self) -> list[tuple[str, str, OutcomeKind]]:
        return [(outcome.task_id, outcome.fence, outcome.kind) for outcome in self.registry.finished]


@pytest.fixture
def storage(tmp_path: Path) -> ArtifactStore:
    return open_store(Settings(data_dir=tmp_path / "data"))


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []
    monkeypatch.setattr(module, "os", SimpleNamespace(_exit=codes.append))
    return codes


@pytest.fixture
async def rig(
    storage: ArtifactStore, tmp_path: Path, exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Rig]:
    monkeypatch.setattr(module, "_BEAT_S", 0.002)
    monkeypatch.setattr(module, "_PAUSE_S", 0.01)
    monkeypatch.setattr(module, "_STOP_BOUND_S", 0.0)
    rig = Rig(storage, tmp_path / "work")
    yield rig
    rig.main.cancel()


def publish(storage: ArtifactStore, task_id: str) -> str:
    return put(storage, keys.artifact_key(task_id, "1-r", "out.txt"), b"x").key


@pytest.mark.parametrize("is_taken", [True, False], ids=["taken", "refused"])
async def test_only_the_answer_to_the_report_decides_about_the_files(
    rig: Rig, storage: ArtifactStore, is_taken: bool
) -> None:
    """A finish whose answer was lost: by then the beats say that the lease is gone."""
    await rig.begin(task("x"))
    key = publish(storage, "x")
    rig.registry.verdicts["x", "1-r"] = Verdict.LOST
    await rig.registry.beats_more()
    rig.registry.answers = [RegistryUnavailable("restarting"), is_taken]
    rig.worker.end("x")
    await rig.drain()
    assert rig.reports == [("x", "1-r", OutcomeKind.SUCCEEDED)] * 2
    assert keys_below(storage, "tasks/x/") == ([key] if is_taken else [])


async def test_an_attempt_that_waits_for_its_report_is_not_deaf(rig: Rig, exits: list[int]) -> None:
    rig.registry.answers = [RegistryUnavailable("away")] * 3
    await rig.begin(task("x", run_timeout_s=0.0))
    rig.worker.end("x")
    await rig.registry.beats_more(3)
    await rig.drain()
    assert set(rig.reports) == {("x", "1-r", OutcomeKind.SUCCEEDED)}
    assert exits == []


async def test_an_engine_that_ignores_its_deadline_is_reported_and_ended(
    rig: Rig, exits: list[int], storage: ArtifactStore
) -> None:
    hears, released = threading.Event(), threading.Event()

    def deaf(context: Any) -> Any:
        hears.set()
        released.wait()
        context.check()

    await rig.begin(task("x", run_timeout_s=0.05))
    rig.worker.attempts["x", "1-r"].log.append("the last words")
    running = asyncio.create_task(asyncio.to_thread(rig.worker.attempts["x", "1-r"].run, engines(deaf)))
    await asyncio.to_thread(hears.wait)
    await rig.registry.until(lambda: bool(rig.registry.finished))
    assert keys_below(storage, "tasks/x/") == [keys.log_key("x", "1-r")]
    await rig.registry.beats_more(1)
    released.set()
    rig.worker.ended["x", "1-r"].set_result(await running)
    await rig.drain()
    failure = rig.registry.finished[0].failure
    assert failure is not None
    assert failure.code is FailureCode.TIMEOUT
    assert set(exits) == {1}


async def test_a_task_that_is_leased_again_keeps_its_beats(rig: Rig) -> None:
    await rig.begin(task("x", 1))
    rig.registry.verdicts["x", "1-r"] = Verdict.LOST
    await rig.begin(task("x", 2))
    await rig.registry.beats_more()
    with pytest.raises(Cancelled):
        rig.worker.attempts["x", "1-r"].check()
    rig.worker.attempts["x", "2-r"].check()
    rig.worker.end("x", "1-r", OutcomeKind.CANCELLED)
    await rig.registry.until(lambda: bool(rig.registry.finished))
    await rig.registry.beats_more(3)
    assert rig.registry.beaten[-1] == [("x", "2-r")]
    rig.worker.end("x", "2-r")
    await rig.drain()
    assert rig.reports == [("x", "1-r", OutcomeKind.CANCELLED), ("x", "2-r", OutcomeKind.SUCCEEDED)]


async def test_beats_carry_new_log_lines_until_one_is_heard(rig: Rig) -> None:
    rig.registry.deaf_beats = 2
    await rig.begin(task("x"))
    rig.worker.attempts["x", "1-r"].log.append("one")
    await rig.registry.until(lambda: len(rig.registry.logs) >= 3)
    rig.worker.attempts["x", "1-r"].log.append("two")
    await rig.registry.until(lambda: len(rig.registry.logs) >= 4)
    await rig.registry.beats_more()
    rig.worker.end("x")
    await rig.drain()
    assert [(log.first, log.lines) for log in rig.registry.logs] == [(0, ("one",))] * 3 + [(1, ("two",))]


async def test_engines_that_do_not_load_end_nothing(rig: Rig) -> None:
    rig.worker.problem = RuntimeError("broken zip archive")
    await rig.begin(task("x"))
    rig.worker.end("x")
    await rig.drain()
    assert rig.reports == [("x", "1-r", OutcomeKind.SUCCEEDED)]


@pytest.mark.parametrize("error", [StorageFailure("S3 is down"), OSError("bug")], ids=repr)
async def test_files_that_cannot_be_removed_end_no_drain(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    await rig.begin(task("a"), task("b"))
    drains = threading.Event()

    def settle(outcome: Outcome, *, is_accepted: bool) -> None:
        drains.wait()
        raise error

    monkeypatch.setattr(rig.worker.attempts["a", "1-r"], "settle", settle)
    rig.worker.end("a")
    draining = asyncio.create_task(rig.drain())
    await rig.registry.beats_more(10)
    drains.set()
    await rig.registry.beats_more(10)
    assert not draining.done()
    rig.worker.end("b")
    await draining
    assert rig.reports == [("a", "1-r", OutcomeKind.SUCCEEDED), ("b", "1-r", OutcomeKind.SUCCEEDED)]


@pytest.mark.parametrize("error", [RuntimeError("no thread"), SystemExit(1)], ids=repr)
async def test_a_broken_worker_thread_fails_its_task_and_frees_its_slot(
    rig: Rig, error: BaseException
) -> None:
    await rig.begin(task("a"), task("b"))
    rig.worker.ended["a", "1-r"].set_exception(error)
    await rig.begin(task("c"))
    rig.worker.end("b")
    rig.worker.end("c")
    await rig.drain()
    assert rig.reports[0] == ("a", "1-r", OutcomeKind.FAILED)
    failure = rig.registry.finished[0].failure
    assert failure is not None
    assert failure.code is FailureCode.INTERNAL_ERROR


async def test_an_outcome_that_cannot_be_recorded_is_a_failure(rig: Rig) -> None:
    rig.registry.answers = [RegistryFault("task a cannot be recorded")]
    await rig.begin(task("a"))
    rig.worker.end("a")
    await rig.drain()
    assert rig.reports == [("a", "1-r", OutcomeKind.SUCCEEDED), ("a", "1-r", OutcomeKind.FAILED)]


def test_the_loop_lets_the_rest_of_the_server_go_first(storage: ArtifactStore, tmp_path: Path) -> None:
    rig = Rig(storage, tmp_path)
    rig.loop.start()
    rig.loop.drain()
    assert rig.worker.niceness == 10
    assert os.getpriority(os.PRIO_PROCESS, 0) < 10
