"""An attempt says how it ended, whatever its engine does, and when it should have ended."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from cluster.errors import StorageFailure
from cluster.settings import Settings
from cluster.storage import ArtifactStore, open_store
from cluster.task import Attempt, FailureCode, OutcomeKind, Progress, Task
from deployments import attempt as module
from deployments.attempt import MAX_MESSAGE_CHARS, RunningAttempt
from deployments.attempt_logs import ATTEMPT_LOGS
from deployments.engines import EngineRoom
from models.engine import (
    Cancelled,
    Engine,
    EngineKind,
    EngineSpec,
    ModelSpec,
    PermanentFailure,
    Result,
    RunContext,
)
from models.site import Site
from tests.stores import content_of, file_access, keys_below

Run = Callable[[RunContext], Result]

TASK = Task(
    id="t",
    name="toy.run",
    service="toy",
    inputs={},
    files={},
    facts={},
    tenant="local",
    dialect="tasks",
    priority=0,
    max_attempts=3,
    run_timeout_s=60.0,
    fingerprint="",
    created_at=0.0,
    updated_at=0.0,
    attempts=1,
    attempt=Attempt(1, "w", "r", 0.0),
)


class NoInputs(BaseModel):
    pass


class Toy(Engine):
    def __init__(self, run: Run) -> None:
        self._run = run

    def run(self, inputs: Any, context: RunContext) -> Result:
        return self._run(context)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def engines(run: Run) -> EngineRoom:
    spec = EngineSpec(name="toy-engine", kind=EngineKind.EMBEDDED, make=lambda: Toy(run))
    model = ModelSpec(name="toy.run", title="A toy", inputs=NoInputs, engines=(spec,))
    return EngineRoom([model], site=Site(), device="cpu", threads=1)


def raising(error: BaseException) -> Run:
    def run(context: RunContext) -> Result:
        raise error

    return run


@pytest.fixture
def storage(tmp_path: Path) -> ArtifactStore:
    return open_store(Settings(data_dir=tmp_path / "data"))


@pytest.fixture
def attempt(storage: ArtifactStore, tmp_path: Path) -> RunningAttempt:
    return RunningAttempt(TASK, tmp_path / "work", file_access(storage), device="cpu", threads=1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt: "),
        (RuntimeError("no file a\udcff.mp4"), "RuntimeError: no file a?.mp4"),
        (PermanentFailure("bad \ud800"), "bad ?"),
        (Unprintable(), "Unprintable: (an error without a readable text)"),
    ],
    ids=["exit", "interrupt", "surrogate", "surrogate on purpose", "unprintable"],
)
def test_whatever_an_engine_raises_is_a_failed_outcome(
    attempt: RunningAttempt, error: BaseException, message: str
) -> None:
    outcome = attempt.run(engines(raising(error)))
    assert outcome.kind is OutcomeKind.FAILED
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.message) == (FailureCode.INTERNAL_ERROR, message)


@pytest.mark.parametrize(
    "error", [RuntimeError("x" * 10_000), PermanentFailure("x" * 10_000)], ids=["unexpected", "on purpose"]
)
def test_a_long_message_keeps_its_head(attempt: RunningAttempt, error: Exception) -> None:
    failure = attempt.run(engines(raising(error))).failure
    assert failure is not None
    assert len(failure.message) == MAX_MESSAGE_CHARS


@pytest.mark.parametrize(
    "value",
    [{1, 2}, Decimal(1), np.float32(1), math.nan, b"bytes", {(1, 2): 3}],
    ids=["set", "decimal", "numpy", "nan", "bytes", "key"],
)
def test_a_result_that_json_cannot_carry_fails_before_it_is_published(
    attempt: RunningAttempt, storage: ArtifactStore, value: Any
) -> None:
    def run(context: RunContext) -> Result:
        (context.output_dir / "out.txt").write_text("x")
        return Result({"deep": [value]})

    failure = attempt.run(engines(run)).failure
    assert failure is not None
    assert failure.message.startswith("the engine toy-engine answered what JSON cannot carry: ")
    assert not failure.is_transient
    assert f"tasks/t/{TASK.fence}/out.txt" not in keys_below(storage, "tasks/t/")


def test_a_result_comes_back_as_plain_utf8_json(attempt: RunningAttempt) -> None:
    outcome = attempt.run(engines(lambda _: Result({"text": "é\ud800", "pair": (1, 2)})))
    assert outcome.result is not None
    assert (outcome.result["text"], outcome.result["pair"]) == ("é?", [1, 2])
    assert outcome.result["engine"]["name"] == "toy-engine"


def test_a_result_may_name_who_did_the_work(attempt: RunningAttempt) -> None:
    outcome = attempt.run(engines(lambda _: Result({"a": 1}, engine={"name": "stand-in"})))
    assert outcome.result == {"a": 1, "engine": {"name": "stand-in"}}


def test_a_log_line_that_utf8_cannot_carry_is_stored_all_the_same(
    attempt: RunningAttempt, storage: ArtifactStore
) -> None:
    attempt.log.append("no such file a\udcff.mp4")
    assert attempt.run(engines(lambda _: Result())).kind is OutcomeKind.SUCCEEDED
    assert content_of(storage, f"tasks/t/{TASK.fence}/attempt.log") == b"no such file a?.mp4\n"


@pytest.mark.parametrize("error", [StorageFailure("S3 is down"), OSError(28, "full")], ids=repr)
def test_a_log_that_is_not_stored_costs_no_result(
    attempt: RunningAttempt,
    storage: ArtifactStore,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def writer(key: str) -> Any:
        raise error

    monkeypatch.setattr(storage, "writer", writer)
    attempt.log.append("a line")
    assert attempt.run(engines(lambda _: Result())).kind is OutcomeKind.SUCCEEDED


def test_a_bad_log_line_costs_no_result(attempt: RunningAttempt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logging.raiseExceptions", False)

    def run(context: RunContext) -> Result:
        record = context.logger.logger.makeRecord(  # type: ignore[union-attr]
            "x", 20, "f", 1, "%d apples", ("many",), None, extra={"attempt_log": context.logger}
        )
        ATTEMPT_LOGS.emit(record)
        return Result()

    assert attempt.run(engines(run)).kind is OutcomeKind.SUCCEEDED


def test_progress_is_plain_numbers_and_text(attempt: RunningAttempt) -> None:
    attempt.report(np.float32(1.5), np.int64(3), stage="a\udcff")  # type: ignore[arg-type]
    assert (attempt.progress.done, attempt.progress.total, attempt.progress.stage) == (1.5, 3.0, "a?")
    assert {type(attempt.progress.done), type(attempt.progress.total)} == {float}
    attempt.report(math.nan)
    assert attempt.progress == Progress(0.0)


def test_an_attempt_ages_only_while_it_runs(attempt: RunningAttempt, clock: list[float]) -> None:
    """Neither waiting for a thread nor waiting for the registry's answer counts."""
    clock[0] += 10_000
    assert attempt.overdue_s == -math.inf
    seen = []

    def run(context: RunContext) -> Result:
        context.check()
        clock[0] += 70
        seen.append(attempt.overdue_s)
        clock[0] -= 20
        return Result()

    assert attempt.run(engines(run)).kind is OutcomeKind.SUCCEEDED
    assert seen == [10]
    clock[0] += 10_000
    assert attempt.overdue_s == -math.inf


def test_publishing_may_go_on_while_it_moves(
    attempt: RunningAttempt, storage: ArtifactStore, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_file, seen = storage.put_file, []

    def slow(key: str, path: Path) -> Any:
        clock[0] += 660
        seen.append(attempt.overdue_s)
        clock[0] += 60
        seen.append(attempt.overdue_s)
        return put_file(key, path)

    def run(context: RunContext) -> Result:
        (context.output_dir / "out.txt").write_text("x")
        return Result()

    monkeypatch.setattr(storage, "put_file", slow)
    assert attempt.run(engines(run)).kind is OutcomeKind.SUCCEEDED
    assert seen == [0, 60]


def test_an_attempt_that_is_cancelled_before_its_thread_is_free_never_starts(attempt: RunningAttempt) -> None:
    attempt.cancel()
    outcome = attempt.run(engines(raising(AssertionError("it ran"))))
    assert outcome.kind is OutcomeKind.CANCELLED
    with pytest.raises(Cancelled):
        attempt.check()


def test_an_engine_that_does_not_load_fails_its_task_and_is_tried_again(
    storage: ArtifactStore, tmp_path: Path
) -> None:
    loads = []

    class Fragile(Toy):
        def load(self, *args: Any) -> None:
            loads.append(args)
            if len(loads) == 1:
                raise RuntimeError("broken zip archive")

    room = engines(lambda _: Result())
    (model,) = room._models.values()
    spec = replace(model.engines[0], make=lambda: Fragile(lambda _: Result()))
    room._models["toy.run"] = replace(model, engines=(spec,))

    def outcome() -> Any:
        attempt = RunningAttempt(TASK, tmp_path / "work", file_access(storage), device="cpu", threads=1)
        return attempt.run(room)

    message = "the engine toy-engine does not load: RuntimeError: broken zip archive"
    assert outcome().failure.message == message
    assert outcome().kind is OutcomeKind.SUCCEEDED


@pytest.mark.parametrize("error", [RuntimeError("broken zip archive"), SystemExit(1)], ids=["error", "exit"])
def test_loading_all_engines_tells_problems_and_never_raises(error: BaseException) -> None:
    class Broken(Toy):
        def load(self, *args: Any) -> None:
            raise error

    spec = EngineSpec(name="toy-engine", kind=EngineKind.EMBEDDED, make=lambda: Broken(raising(error)))
    model = ModelSpec(name="toy.run", title="A toy", inputs=NoInputs, engines=(spec,))
    room = EngineRoom([model], site=Site(), device="cpu", threads=1)
    (problem,) = room.load_all()
    assert problem == f"toy.run: the engine toy-engine does not load: {type(error).__name__}: {error}"


def test_a_committed_part_comes_back_in_the_next_attempt_and_goes_with_success(
    storage: ArtifactStore, tmp_path: Path
) -> None:
    found: list[bytes | None] = []

    def lose(context: RunContext) -> Result:
        part = context.scratch_dir / "clip-0.bin"
        part.write_bytes(b"one")
        context.commit(part)
        raise RuntimeError("the replica is lost")

    def resume(context: RunContext) -> Result:
        parts = [context.committed(name) for name in ("clip-0.bin", "clip-1.bin")]
        found.extend(part.read_bytes() if part else None for part in parts)
        return Result()

    runs = []
    for number, run in enumerate((lose, resume), 1):
        task = replace(TASK, attempts=number, attempt=Attempt(number, "w", "r", 0.0))
        runs.append(
            RunningAttempt(task, tmp_path / f"w{number}", file_access(storage), device="cpu", threads=1)
        )
        outcome = runs[-1].run(engines(run))
    assert found == [b"one", None]
    assert keys_below(storage, "tasks/t/partial/") != []
    runs[-1].settle(outcome, is_accepted=True)
    assert keys_below(storage, "tasks/t/partial/") == []
