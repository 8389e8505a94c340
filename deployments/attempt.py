"""One attempt: fetch inputs, run the engine, publish its outputs, and say how it ended.

Runs on a worker thread; the replica's control thread tells it to stop and reads its progress.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from cluster import keys
from cluster.errors import ArtifactNotFound, StorageFailure, StorageFull
from cluster.storage import ArtifactStore
from cluster.task import Artifact, Failure, FailureCode, Json, Outcome, OutcomeKind, Progress, Task
from deployments.attempt_logs import ATTEMPT_LOGS, AttemptLog
from deployments.engines import EngineRoom
from deployments.pace import Pace
from deployments.results import replaced_paths
from models.engine import ModelSpec, Result, RunContext, file_fields
from models.errors import (
    Cancelled,
    InvalidInput,
    ModelNotReady,
    OutOfMemory,
    PermanentFailure,
    TimedOut,
    TransientFailure,
)

LOG_NAME = "attempt.log"

# Which failure an exception stands for; the first class that matches decides.
FAILURES: tuple[tuple[type[BaseException], FailureCode, bool], ...] = (
    (InvalidInput, FailureCode.INVALID_PARAMS, False),
    (ModelNotReady, FailureCode.MODEL_NOT_READY, False),
    (OutOfMemory, FailureCode.GPU_OUT_OF_MEMORY, True),
    (TransientFailure, FailureCode.INTERNAL_ERROR, True),
    (PermanentFailure, FailureCode.INTERNAL_ERROR, False),
    (ArtifactNotFound, FailureCode.FILE_NOT_FOUND, False),
    (StorageFull, FailureCode.INTERNAL_ERROR, False),
    (StorageFailure, FailureCode.INTERNAL_ERROR, True),
    (MemoryError, FailureCode.INTERNAL_ERROR, True),
)

StageSeconds = Callable[[str, float], None]


class RunningAttempt(RunContext):
    """The run context of one attempt of one task."""

    def __init__(
        self,
        task: Task,
        workspace: Path,
        storage: ArtifactStore,
        *,
        device: str,
        threads: int,
        on_stage_s: StageSeconds = lambda _stage, _seconds: None,
    ) -> None:
        self.task = task
        self.task_id = task.id
        self.device = device
        self.threads = threads
        self.logger = self._log = AttemptLog()
        self.started_s = time.monotonic()
        self.workspace = workspace
        self._storage = storage
        self._on_stage_s = on_stage_s
        self._deadline_s = self.started_s + task.run_timeout_s
        self._stop: type[BaseException] | None = None
        self._progress = Progress()
        self._pace = Pace()
        self._has_committed = False

    # What the engine sees

    @cached_property
    def output_dir(self) -> Path:  # type: ignore[override]  # made when first used
        return self._folder("output")

    @cached_property
    def scratch_dir(self) -> Path:  # type: ignore[override]  # made when first used
        return self._folder("scratch")

    def report(self, done: float, total: float | None = None, *, stage: str = "", unit: str = "") -> None:
        if stage != self._progress.stage and self._progress.stage:
            self.logger.info("stage: %s", stage)
        eta_s = self._pace.eta_s(stage, done, total, time.monotonic())
        self._progress = Progress(done, total, unit, stage, eta_s)
        self.check()

    def check(self) -> None:
        if self._stop is not None:
            raise self._stop
        if time.monotonic() > self._deadline_s:
            raise TimedOut

    def commit(self, path: Path) -> None:
        self._has_committed = True
        self._storage.put_file(keys.partial_prefix(self.task_id) + keys.clean_name(path.name), path)

    # What the replica sees

    @property
    def progress(self) -> Progress:
        return self._progress

    @property
    def overdue_s(self) -> float:
        """Seconds since the attempt should have stopped; negative while it may run."""
        return time.monotonic() - self._deadline_s

    def cancel(self) -> None:
        """Make the next report or check raise Cancelled. Callable from any thread."""
        if self._stop is None:
            self._stop = Cancelled
            self._deadline_s = min(self._deadline_s, time.monotonic())

    def run(self, engines: EngineRoom) -> Outcome:
        """Do the work and publish it; every way to end becomes an Outcome. Never raises."""
        with ATTEMPT_LOGS.collecting(self._log):
            try:
                outcome = self._run(engines)
            except Cancelled:
                outcome = self._outcome(OutcomeKind.CANCELLED)
            except TimedOut:
                outcome = self._timed_out()
            except Exception as error:  # noqa: BLE001 - the attempt edge: anything else is the task's failure
                outcome = self._outcome(OutcomeKind.FAILED, failure=self._failure(error))
        self._store_log()
        return outcome

    def deaf_outcome(self) -> Outcome:
        """How an attempt ends that did not stop when it was told to."""
        if self._stop is not None:
            return self._outcome(OutcomeKind.CANCELLED)
        return self._timed_out()

    def settle(self, outcome: Outcome, *, is_accepted: bool) -> None:
        """Remove what nobody needs any more: outputs that were refused, parts of a finished whole."""
        if not is_accepted or outcome.kind is OutcomeKind.CANCELLED:
            self._storage.delete_prefix(keys.attempt_prefix(self.task_id, self.task.fence))
        elif outcome.kind is OutcomeKind.SUCCEEDED and self._has_committed:
            self._storage.delete_prefix(keys.partial_prefix(self.task_id))

    def _run(self, engines: EngineRoom) -> Outcome:
        loaded = engines.get(self.task.name)
        inputs = loaded.model.inputs.model_validate(self.task.inputs | self._fetched(loaded.model))
        with self._stage("run"):
            result = loaded.engine.run(inputs, self)
        self.check()
        artifacts = self._publish()
        values = self._public(result) | {"engine": loaded.spec.label}
        return self._outcome(OutcomeKind.SUCCEEDED, result=values, artifacts=artifacts)

    def _fetched(self, model: ModelSpec) -> Json:
        """Local paths of the file inputs, with the names that callers gave them."""
        if not self.task.files:
            return {}
        with self._stage("fetch"):
            fields = file_fields(model.inputs).keys() & self.task.files.keys()
            return {field: str(self._fetch(field, self.task.files[field])) for field in fields}

    def _fetch(self, field: str, key: str) -> Path:
        path = self._folder("input") / field / Path(key).name
        path.parent.mkdir()
        self._storage.fetch(key, path)
        return path

    def _publish(self) -> tuple[Artifact, ...]:
        if "output_dir" not in self.__dict__:
            return ()
        with self._stage("publish"), ExitStack() as undo:
            undo.callback(self._unpublish)  # half a result helps nobody, and may be what fills the store
            artifacts = tuple(self._put(path) for path in _files_below(self.output_dir))
            undo.pop_all()
            return artifacts

    def _unpublish(self) -> None:
        try:
            self._storage.delete_prefix(keys.attempt_prefix(self.task_id, self.task.fence))
        except StorageFailure as error:
            self.logger.warning("unfinished outputs were not removed: %s", error)

    def _put(self, path: Path) -> Artifact:
        self.check()
        name = path.relative_to(self.output_dir).as_posix()
        stored = self._storage.put_file(keys.artifact_key(self.task_id, self.task.fence, name), path)
        return Artifact(name, stored.key, stored.media_type, stored.size_bytes, stored.sha256)

    def _public(self, result: Result) -> Json:
        """The result as callers may see it: storage keys instead of local paths."""
        prefix = keys.attempt_prefix(self.task_id, self.task.fence)
        root = self.output_dir if "output_dir" in self.__dict__ else self.workspace
        return replaced_paths(result.values, root, prefix)

    def _outcome(self, kind: OutcomeKind, **fields: Any) -> Outcome:
        worker = self.task.attempt.worker if self.task.attempt else ""
        return Outcome(self.task_id, self.task.fence, worker, kind, **fields)

    def _timed_out(self) -> Outcome:
        text = f"the task ran longer than {self.task.run_timeout_s:g} s"
        return self._outcome(OutcomeKind.FAILED, failure=Failure(FailureCode.TIMEOUT, text))

    def _failure(self, error: Exception) -> Failure:
        for kind, code, is_transient in FAILURES:
            if isinstance(error, kind):
                self.logger.error("failed: %s", error)
                return Failure(code, str(error) or code.value, is_transient)
        self.logger.error("failed unexpectedly\n%s", "".join(traceback.format_exception(error)))
        return Failure(FailureCode.INTERNAL_ERROR, f"{type(error).__name__}: {error}")

    def _folder(self, name: str) -> Path:
        path = self.workspace / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        begin_s = time.monotonic()
        yield
        self._on_stage_s(name, time.monotonic() - begin_s)

    def _store_log(self) -> None:
        """Keep the log beside the outputs; losing it must not cost the result."""
        if not self._log.lines:
            return
        try:
            with self._storage.writer(keys.artifact_key(self.task_id, self.task.fence, LOG_NAME)) as writer:
                writer.write("\n".join([*self._log.lines, ""]).encode())
                writer.commit()
        except StorageFailure as error:
            self.logger.warning("the attempt's log was not stored: %s", error)


def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
