"""An attempt's log: real lines, bounded, told once to the registry, and stored however the attempt ends."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from cluster import keys
from cluster.settings import Settings
from cluster.storage import ArtifactStore, open_store
from cluster.task import LogLines, OutcomeKind
from deployments.attempt import RunningAttempt
from deployments.attempt_logs import ATTEMPT_LOGS, MAX_LINES, AttemptLog
from models.engine import Result, RunContext
from models.errors import PermanentFailure
from tests.stores import content_of, keys_below, put
from tests.unit.test_attempt import TASK, engines, file_access

LOG_KEY = keys.log_key("t", TASK.fence)


@pytest.fixture(autouse=True)
def _installed() -> Any:
    ATTEMPT_LOGS.install()
    yield
    logging.getLogger().removeHandler(ATTEMPT_LOGS)


@pytest.fixture
def storage(tmp_path: Path) -> ArtifactStore:
    return open_store(Settings(data_dir=tmp_path / "data"))


@pytest.fixture
def attempt(storage: ArtifactStore, tmp_path: Path) -> RunningAttempt:
    return RunningAttempt(TASK, tmp_path / "work", file_access(storage), device="cpu", threads=1)


def test_lines_are_told_once_and_again_until_they_were_heard() -> None:
    log = AttemptLog("1-a")
    assert log.unheard() is None
    log.append("one\ntwo")
    told = log.unheard()
    assert told == log.unheard() == LogLines("1-a", 0, ("one", "two"))
    log.append("three")
    log.heard(told)
    assert log.unheard() == LogLines("1-a", 2, ("three",))
    log.heard(log.unheard())
    log.heard(None)
    assert log.unheard() is None


def test_a_beat_carries_the_newest_lines_and_long_ones_are_cut() -> None:
    log = AttemptLog("1-a")
    log.append("\n".join(str(number) for number in range(1000)))
    told = log.unheard()
    assert told is not None
    assert (told.first, told.next, len(told.lines)) == (900, 1000, 100)
    log.heard(told)
    log.append("x" * 10_000)
    told = log.unheard()
    assert told is not None
    assert (len(told.lines[0]), told.lines[0][-1]) == (2000, "…")


def test_memory_keeps_the_newest_lines_with_their_numbers() -> None:
    log = AttemptLog("1-a")
    for number in range(MAX_LINES + 10):
        log.append(str(number))
    known = log.known()
    assert (known.first, len(known.lines), known.lines[0]) == (10, MAX_LINES, "10")


def failing(context: RunContext) -> Result:
    context.logger.info("a real line")
    raise PermanentFailure("it broke")


def cancelled(context: RunContext) -> Result:
    context.logger.info("a real line")
    context.cancel()  # type: ignore[attr-defined]
    context.check()
    raise AssertionError("it went on")


@pytest.mark.parametrize(
    ("run", "kind"),
    [(failing, OutcomeKind.FAILED), (cancelled, OutcomeKind.CANCELLED)],
    ids=["failed", "cancelled"],
)
def test_the_log_of_an_attempt_without_a_result_stays_readable(
    run: Any, kind: OutcomeKind, attempt: RunningAttempt, storage: ArtifactStore
) -> None:
    outcome = attempt.run(engines(run))
    assert outcome.kind is kind
    put(storage, keys.artifact_key("t", TASK.fence, "half.mp4"), b"half")
    attempt.settle(outcome, is_accepted=True)
    assert b"[INFO] a real line\n" in content_of(storage, LOG_KEY)
    left = keys_below(storage, "tasks/t/")
    assert (LOG_KEY in left, len(left)) == (True, 1 if kind is OutcomeKind.CANCELLED else 2)


def test_a_refused_attempt_leaves_nothing(attempt: RunningAttempt, storage: ArtifactStore) -> None:
    outcome = attempt.run(engines(failing))
    attempt.settle(outcome, is_accepted=False)
    assert keys_below(storage, "tasks/t/") == []
