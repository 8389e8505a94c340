"""The ffmpeg program as a child of an attempt: how it is started, followed, and what its failures mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.disk import DISK_FULL_TEXTS, disk_full
from models.engine import (
    Engine,
    EngineError,
    EngineKind,
    EngineSpec,
    InvalidInput,
    PermanentFailure,
    Resources,
    RunContext,
    TransientFailure,
)
from models.media import MediaInfo, ffmpeg_path, ffmpeg_version, probe

_PROGRESS_PERIOD_S = "0.2"
_MAX_STEM_BYTES = 200  # a file name may have 255 bytes, and results add a suffix of their own

# What ffmpeg prints when the file is to blame. Earlier entries say more, so they are quoted first.
_BAD_INPUT_TEXTS = (
    "Decode error rate",
    "moov atom not found",
    "matches no streams",
    "does not contain any stream",
    "Could not find codec parameters",
    "Invalid data found when processing input",
    "Error while decoding",
    "Error opening input",
)
_LOG_PREFIX = re.compile(r"\[[^\]]*@ 0x[0-9a-f]+\]\s*")
_FOLDERS = re.compile(r"(?:file:)?/(?:[^/\s]+/)+")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one run of ffmpeg has come: seconds of output, and frames written."""

    time_s: float = 0.0
    num_frames: int = 0


def run_ffmpeg(
    context: RunContext,
    arguments: Sequence[str],
    *,
    field: str,
    on_progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Run ffmpeg to its end and tell how much it wrote.

    Raises InvalidInput naming `field` where the file cannot be decoded, else what `explain` finds.
    """
    lines = _ProgressLines(on_progress)
    options = ("-hide_banner", "-nostdin", "-nostats", "-y", "-loglevel", "error")
    progress = ("-progress", "pipe:1", "-stats_period", _PROGRESS_PERIOD_S)
    try:
        context.run_process([ffmpeg_path(), *options, *progress, *arguments], on_line=lines.read)
    except PermanentFailure as error:
        raise explain(str(error), field) from error
    return lines.latest


def report_seconds(context: RunContext, total_s: float, stage: str) -> Callable[[Progress], None]:
    """An `on_progress` that reports seconds of output; `total_s` 0 means that the total is unknown."""

    def report(progress: Progress) -> None:
        done_s = min(progress.time_s, total_s) if total_s else progress.time_s
        context.report(done_s, total_s or None, stage=stage, unit="s")

    return report


def explain(stderr: str, field: str) -> EngineError:
    """The error that a failed run stands for, from the tail of its stderr."""
    lines = [_without_paths(line) for line in stderr.splitlines() if line.strip()]
    full = _first_line_with(lines, DISK_FULL_TEXTS)
    if full is not None:
        return disk_full(full)
    bad = _first_line_with(lines, _BAD_INPUT_TEXTS)
    if bad is not None:
        return InvalidInput(f"{field} cannot be decoded: {bad}", field=field)
    if lines and lines[-1].endswith("exited with -9"):
        return TransientFailure("ffmpeg was killed from outside; the worker may be out of memory")
    return PermanentFailure(f"ffmpeg failed: {lines[0] if lines else 'it printed no reason'}")


def probe_input(path: Path, field: str) -> MediaInfo:
    """`probe`, with the name of the input in its InvalidInput."""
    try:
        return probe(path)
    except InvalidInput as error:
        raise InvalidInput(str(error), field=field) from error


def short_stem(path: Path) -> str:
    """The file name without suffix, cut so that a result may add to it."""
    return path.stem.encode("utf-8", "replace")[:_MAX_STEM_BYTES].decode("utf-8", "ignore")


class FfmpegEngine(Engine):
    """An engine whose work the ffmpeg program does; results name the program's version."""

    def load(self, _resources: Resources) -> None:
        self.version = ffmpeg_version()


def ffmpeg_engine(make: Callable[[], FfmpegEngine]) -> tuple[EngineSpec, ...]:
    """The engines of an ffmpeg model: the program itself, whose licence depends on its build."""
    return (
        EngineSpec(
            name="ffmpeg", kind=EngineKind.FULL, make=make, licence="LGPL-2.1-or-later or GPL-2.0-or-later"
        ),
    )


class _ProgressLines:
    """Reads the key=value lines of `-progress`; a block ends with the key `progress`."""

    def __init__(self, on_progress: Callable[[Progress], None] | None) -> None:
        self.latest = Progress()
        self._on_progress = on_progress
        self._values: dict[str, str] = {}

    def read(self, line: str) -> None:
        key, _, value = line.partition("=")
        self._values[key.strip()] = value.strip()
        if key != "progress":
            return
        time_us, num_frames = self._number("out_time_us"), self._number("frame")
        self.latest = Progress(max(time_us / 1e6, self.latest.time_s), num_frames)
        if self._on_progress is not None:
            self._on_progress(self.latest)

    def _number(self, key: str) -> int:
        """0 for what ffmpeg does not know yet, which it prints as N/A."""
        value = self._values.get(key, "")
        return int(value) if value.lstrip("-").isdigit() else 0


def _first_line_with(lines: Sequence[str], texts: Sequence[str]) -> str | None:
    return next((line for text in texts for line in lines if text in line), None)


def _without_paths(line: str) -> str:
    """A stderr line without memory addresses and without the folders of this machine."""
    return _FOLDERS.sub("", _LOG_PREFIX.sub("", line)).strip()
