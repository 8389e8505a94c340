"""A RunContext for tests: one attempt without a cluster, which records what the engine tells it."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.engine import Cancelled, RunContext, TimedOut


@dataclass(frozen=True, slots=True)
class Report:
    done: float
    total: float | None
    stage: str
    unit: str


class LocalRunContext(RunContext):
    """Folders below `root`; `cancel` and `time_out` make the next check or report raise.

    `cancel_at` cancels by itself when a report reaches that many units; `kept` are the parts that an earlier
    attempt committed.
    """

    def __init__(
        self,
        root: Path,
        *,
        task_id: str = "0123456789abcdef",
        threads: int = 1,
        cancel_at: float | None = None,
        kept: Sequence[Path] = (),
    ) -> None:
        self.output_dir = root / "output"
        self.scratch_dir = root / "scratch"
        for folder in (self.output_dir, self.scratch_dir):
            folder.mkdir(parents=True, exist_ok=True)
        self.task_id = task_id
        self.threads = threads
        self.device = "cpu"
        self.logger = logging.getLogger(f"test.{task_id}")
        self.reports: list[Report] = []
        self.commits: list[Path] = []
        self._kept = {path.name: path for path in kept}
        self._cancel_at = cancel_at
        self._cancelled = threading.Event()
        self._timed_out = threading.Event()

    def cancel(self) -> None:
        self._cancelled.set()

    def time_out(self) -> None:
        self._timed_out.set()

    def report(self, done: float, total: float | None = None, *, stage: str = "", unit: str = "") -> None:
        self.reports.append(Report(done, total, stage, unit))
        if self._cancel_at is not None and done >= self._cancel_at:
            self.cancel()
        self.check()

    def check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled
        if self._timed_out.is_set():
            raise TimedOut

    def commit(self, path: Path) -> None:
        assert path.is_file(), f"{path} is committed but does not exist"
        assert path.is_relative_to(self.scratch_dir), f"{path} is not below scratch_dir"
        self.commits.append(path)

    def committed(self, name: str) -> Path | None:
        if name not in self._kept:
            return None
        return Path(shutil.copy(self._kept[name], self.scratch_dir / name))
