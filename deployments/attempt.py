"""One attempt: fetch inputs, run the engine, publish its outputs, and say how it ended.

Runs on a worker thread; the replica's control thread tells it to stop and reads its progress.
"""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from cluster import keys
from cluster.errors import (
    ArtifactNotFound,
    ClusterError,
    StorageFailure,
    StorageFull,
    UnsafeUrl,
    UrlNotFound,
    UrlNotUsable,
    UrlUnreachable,
)
from cluster.log_lines import as_file
from cluster.task import Artifact, Failure, FailureCode, Json, Outcome, OutcomeKind, Progress, Task
from deployments.attempt_inputs import FileAccess, InputFetch
from deployments.attempt_logs import ATTEMPT_LOGS, AttemptLog
from deployments.engines import EngineRoom, LoadedEngine
from deployments.pace import Pace
from deployments.results import replaced_paths
from models.engine import Result, RunContext
from models.errors import (
    Cancelled,
    InvalidInput,
    ModelNotReady,
    OutOfMemory,
    PermanentFailure,
    TimedOut,
    TransientFailure,
)

MAX_MESSAGE_CHARS = 4_000
# How long an attempt may load, fetch or store without any progress after it should have ended. None of
# that hears a cancel, and all of it ends by itself.
_TRANSFER_BOUND_S = 600.0

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
    (UrlNotFound, FailureCode.FILE_NOT_FOUND, False),
    (UrlNotUsable, FailureCode.INVALID_PARAMS, False),
    (UnsafeUrl, FailureCode.INVALID_PARAMS, False),
    (UrlUnreachable, FailureCode.INTERNAL_ERROR, True),
    (MemoryError, FailureCode.INTERNAL_ERROR, True),
)

StageSeconds = Callable[[str, float], None]


class RunningAttempt(RunContext):
    """The run context of one attempt of one task."""

    def __init__(
        self,
        task: Task,
        workspace: Path,
        files: FileAccess,
        *,
        device: str,
        threads: int,
        on_stage_s: StageSeconds = lambda _stage, _seconds: None,
    ) -> None:
        self.task = task
        self.task_id = task.id
        self.device = device
        self.threads = threads
        self.logger = self.log = AttemptLog(task.fence)
        self.workspace = workspace
        self._files = files
        self._storage = files.storage
        self._on_stage_s = on_stage_s
        self._deadline_s = math.inf  # an attempt that waits for its thread does not age
        self._moved_s = math.inf
        self._is_in_engine = False
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
        done, total = _number(done) or 0.0, _number(total)
        eta = self._pace.eta(stage, done, total, time.monotonic())
        self._progress = Progress(done, total, _text(unit), _text(stage), *eta)
        self.check()

    def check(self) -> None:
        if self._stop is not None:
            raise self._stop
        if time.monotonic() > self._deadline_s:
            raise TimedOut

    def commit(self, path: Path) -> None:
        self._has_committed = True
        self._storage.put_file(keys.partial_prefix(self.task_id) + keys.clean_name(path.name), path)

    def committed(self, name: str) -> Path | None:
        path = self.scratch_dir / keys.clean_name(name)
        try:
            self._storage.fetch(keys.partial_prefix(self.task_id) + path.name, path)
        except ArtifactNotFound:
            return None
        self._has_committed = True
        self._move()
        return path

    # What the replica sees

    @property
    def progress(self) -> Progress:
        return self._progress

    @property
    def overdue_s(self) -> float:
        """Seconds since the attempt should have stopped; negative while it may go on.

        An engine should stop at once. Before and after it, every file that is moved counts as progress.
        Neither an attempt that waits for its thread nor one that has ended is ever overdue.
        """
        if self._is_in_engine:
            return time.monotonic() - self._deadline_s
        return time.monotonic() - max(self._deadline_s, self._moved_s) - _TRANSFER_BOUND_S

    def cancel(self) -> None:
        """Make the next report or check raise Cancelled. Callable from any thread."""
        if self._stop is None:
            self._stop = Cancelled
            self._deadline_s = min(self._deadline_s, time.monotonic())

    def run(self, engines: EngineRoom) -> Outcome:
        """Do the work and publish it; every way to end becomes an Outcome. Never raises."""
        self._moved_s = time.monotonic()
        self._deadline_s = min(self._deadline_s, self._moved_s + self.task.run_timeout_s)
        with ATTEMPT_LOGS.collecting(self.log):
            outcome = self._ended(engines)
            self._moved_s = time.monotonic()
            self.store_log()
        self._moved_s = math.inf
        return outcome

    def failed_outcome(self, error: BaseException) -> Outcome:
        """How an attempt ends that `error` ended."""
        return self._outcome(OutcomeKind.FAILED, failure=self._failure(error))

    def deaf_outcome(self) -> Outcome:
        """How an attempt ends that did not stop when it was told to."""
        if self._stop is not None:
            return self._outcome(OutcomeKind.CANCELLED)
        return self._timed_out()

    def settle(self, outcome: Outcome, *, is_accepted: bool) -> None:
        """Remove what nobody needs any more: outputs that were refused, parts of a finished whole.

        The log of a cancelled attempt stays; that of one whose report was refused goes with its files.
        """
        if not is_accepted:
            self._storage.delete_prefix(keys.attempt_prefix(self.task_id, self.task.fence))
        elif outcome.kind is OutcomeKind.CANCELLED:
            self._delete_outputs()
        elif outcome.kind is OutcomeKind.SUCCEEDED and self._has_committed:
            self._storage.delete_prefix(keys.partial_prefix(self.task_id))

    def store_log(self) -> None:
        """Keep the log beside the outputs; losing it must not cost the result."""
        known = self.log.known()
        if not known.lines:
            return
        try:
            with self._storage.writer(keys.log_key(self.task_id, self.task.fence)) as writer:
                writer.write(as_file(known))
                writer.commit()
        except Exception as error:  # noqa: BLE001 - the attempt edge: the outcome is known and must be told
            self.logger.warning("the attempt's log was not stored: %s", error)

    def _delete_outputs(self) -> None:
        log_key = keys.log_key(self.task_id, self.task.fence)
        for stored in list(self._storage.list(keys.attempt_prefix(self.task_id, self.task.fence))):
            if stored.key != log_key:
                self._storage.delete(stored.key)

    def _ended(self, engines: EngineRoom) -> Outcome:
        try:
            return self._run(engines)
        except Cancelled:
            return self._outcome(OutcomeKind.CANCELLED)
        except TimedOut:
            return self._timed_out()
        except BaseException as error:  # noqa: BLE001 - the attempt edge: also a library's SystemExit
            return self.failed_outcome(error)

    def _run(self, engines: EngineRoom) -> Outcome:
        self.check()
        loaded = engines.get(self.task.name)
        with self._stage("fetch"):
            inputs = InputFetch(self._files, self.workspace / "input", self, self._move).inputs_of(
                self.task, loaded.model
            )
        self.check()
        with self._stage("run"), self._in_engine():
            result = loaded.engine.run(inputs, self)
        self.check()
        values = self._public(result, loaded) | {"engine": loaded.label_of(result)}
        return self._outcome(OutcomeKind.SUCCEEDED, artifacts=self._publish(), result=values)

    def _move(self) -> None:
        self._moved_s = time.monotonic()

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
        except ClusterError as error:
            self.logger.warning("unfinished outputs were not removed: %s", error)

    def _put(self, path: Path) -> Artifact:
        self.check()
        name = path.relative_to(self.output_dir).as_posix()
        stored = self._storage.put_file(keys.artifact_key(self.task_id, self.task.fence, name), path)
        self._moved_s = time.monotonic()
        return Artifact(name, stored.key, stored.media_type, stored.size_bytes, stored.sha256)

    def _public(self, result: Result, loaded: LoadedEngine) -> Json:
        """The result as callers may see it: plain JSON, with storage keys instead of local paths."""
        prefix = keys.attempt_prefix(self.task_id, self.task.fence)
        root = self.output_dir if "output_dir" in self.__dict__ else self.workspace
        try:
            return _as_json(replaced_paths(result.values, root, prefix))
        except (TypeError, ValueError, RecursionError) as error:
            text = f"the engine {loaded.spec.name} answered what JSON cannot carry: {error}"
            raise PermanentFailure(text) from error

    def _outcome(self, kind: OutcomeKind, **fields: Any) -> Outcome:
        worker = self.task.attempt.worker if self.task.attempt else ""
        return Outcome(self.task_id, self.task.fence, worker, kind, **fields)

    def _timed_out(self) -> Outcome:
        text = f"the task ran longer than {self.task.run_timeout_s:g} s"
        return self._outcome(OutcomeKind.FAILED, failure=Failure(FailureCode.TIMEOUT, text))

    def _failure(self, error: BaseException) -> Failure:
        text = _text_of(error)
        for kind, code, is_transient in FAILURES:
            if isinstance(error, kind):
                self.logger.error("failed: %s", text)
                return Failure(code, text or code.value, is_transient)
        self.logger.error("failed unexpectedly\n%s", "".join(traceback.format_exception(error)))
        text = f"{type(error).__name__}: {text}"[:MAX_MESSAGE_CHARS]
        return Failure(FailureCode.INTERNAL_ERROR, text)

    def _folder(self, name: str) -> Path:
        path = self.workspace / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        begin_s = time.monotonic()
        yield
        self._on_stage_s(name, time.monotonic() - begin_s)

    @contextmanager
    def _in_engine(self) -> Iterator[None]:
        self._is_in_engine = True
        try:
            yield
        finally:
            self._moved_s = time.monotonic()
            self._is_in_engine = False


def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _as_json(values: Json) -> Json:
    """`values` as they come back from a store of UTF-8 JSON.

    Raises TypeError or ValueError for what JSON has no form for, such as sets, NumPy's numbers and NaN.
    """
    text = json.dumps(values, allow_nan=False, ensure_ascii=False)
    plain: Json = json.loads(_text(text))
    return plain


def _number(value: float | None) -> float | None:
    """A plain finite number, whatever kind of number an engine counts with."""
    if value is None or type(value) is int:
        return value
    plain = float(value)
    return plain if math.isfinite(plain) else None


def _text(text: str) -> str:
    """`text` without lone surrogates, which UTF-8 cannot carry."""
    return text.encode(errors="replace").decode()


def _text_of(error: BaseException) -> str:
    try:
        return _text(str(error))[:MAX_MESSAGE_CHARS]
    except Exception:  # noqa: BLE001 - an error that cannot be printed is still to be reported
        return "(an error without a readable text)"
