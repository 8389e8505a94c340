"""The services that hear or speak, beside the bare library on the same sound: seconds, RTF, memory.

What else runs on its host changes a machine's speed by more than the difference sought, for minutes: both
sides take turns, each goes first in every other round, and the ratio is the median of the rounds' own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bare_speech import PORTRAIT, TEXT
from benchmarks.clips import looped_sound
from benchmarks.processes import MemoryWatch
from benchmarks.report import Report, console
from benchmarks.systems import Place, System, start_ours
from benchmarks.warm_process import WarmProcess
from mediaray import Client

ROUNDS = 8
SOUND_S = 60.0
MIN_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Job:
    """A task of the section. `takes`: its inputs' names, and what they are in `_inputs`.

    The speed of one that takes no sound is counted in the sound that it makes.
    """

    service: str
    task: str
    peer: str
    takes: tuple[str, ...] = ("audio_path",)

    @property
    def takes_sound(self) -> bool:
        return "audio_path" in self.takes


JOBS = (
    Job("faster_whisper", "faster_whisper.transcribe_audio", "faster-whisper's transcribe"),
    Job("audio_separator", "audio_separator.separate_vocals", "Spleeter, file to files"),
    Job("pyannote_audio", "pyannote_audio.diarize_speakers", "our engine without a server"),
    Job("indextts", "indextts.generate_speech", "our engine without a server", ("text",)),
    Job("hallo2", "hallo2.animate_portrait", "our engine without a server", ("audio_path", "image_path")),
)


@dataclass(slots=True)
class Figures:
    """Of one job: seconds of each round, seconds of sound, and the most memory of the whole server."""

    job: Job
    bare_s: list[float]
    task_s: list[float]
    sound_s: float = SOUND_S
    peak_bytes: int = 0

    @property
    def share(self) -> float:
        return median(bare_s / task_s for bare_s, task_s in zip(self.bare_s, self.task_s, strict=True))

    @property
    def row(self) -> tuple[str, ...]:
        bare_s, task_s = median(self.bare_s), median(self.task_s)
        factors = [f"{seconds:.2f} s (RTF {seconds / self.sound_s:.3f})" for seconds in (task_s, bare_s)]
        return self.job.task, *factors, self.job.peer, f"{self.share:.0%}", f"{self.peak_bytes >> 20:,} MiB"


def measure_speech(place: Place, systems: list[System]) -> Report:
    sound = looped_sound(place.folder, SOUND_S)
    found = [_measure(job, place, sound) for job in JOBS]
    return Report(
        name="speech",
        title=f"Speech and portraits on {SOUND_S:g} s of sound, one thread each, median of {ROUNDS} rounds",
        header=("task", "through the service", "bare", "which is", "bare / service", "server's memory"),
        rows=[figures.row for figures in found],
        claims={
            f"{one.job.task} at least {MIN_SHARE:.0%} of the bare library's speed": one.share >= MIN_SHARE
            for one in found
        },
        raw={one.job.task: {"bare_s": one.bare_s, "task_s": one.task_s} for one in found},
    )


def _measure(job: Job, place: Place, sound: Path) -> Figures:
    figures = Figures(job, [], [])
    log = place.folder / f"bare-{job.service}.log"
    with (
        start_ours(place, 0, warm=(job.service,)) as server,
        Client(server.url) as client,
        WarmProcess("benchmarks.bare_speech", job.service, str(sound), log=log) as bare,
    ):
        inputs = {name: value for name, value in _inputs(client, sound).items() if name in job.takes}
        with MemoryWatch(server.process) as watch:  # not in the rounds: to look costs time, of one side only
            _, result = _run(client, job, inputs)
        figures.peak_bytes = watch.peak_total_bytes
        turns = [
            lambda: figures.bare_s.append(float(bare.ask()["seconds"])),
            lambda: figures.task_s.append(_run(client, job, inputs)[0]),
        ]
        for number in range(ROUNDS):
            console.print(f"{job.service} round {number + 1}/{ROUNDS}")
            for turn in turns:
                turn()
            turns.reverse()
    if not job.takes_sound:
        figures.sound_s = float(result["duration"])
    return figures


def _inputs(client: Client, sound: Path) -> dict[str, Any]:
    return {
        "audio_path": client.upload(sound).path,
        "image_path": client.upload(PORTRAIT).path,
        "text": TEXT,
    }


def _run(client: Client, job: Job, inputs: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Seconds of run time of one task, and its result."""
    task = client.submit(job.task, inputs)
    done = client.wait(task.id, timeout_s=900, poll_s=0.5)
    timing = client.result(task.id).timing or {}
    return float(timing["finished_at"]) - float(timing["started_at"]), done.result
