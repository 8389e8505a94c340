"""Text-to-video: our engine beside the bare diffusers pipeline of the same folder; the model that ships."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.report import Report, console
from benchmarks.systems import ROOT, Place, System
from benchmarks.text_to_video_clips import TASK, Job
from benchmarks.warm_process import WarmProcess
from models.catalog import CATALOG
from models.engine import EngineKind
from models.site import Site, missing
from models.video_streams import decode_video

ROUNDS = 3
MIN_RATIO = 0.97
MAX_GUIDED_STEP_S = 1.3
MAX_EMBEDDED_S = 40.0
MIN_HIDDEN = 0.5
ON_CPU = Job()
ON_GPU = Job(device="cuda", width_px=832, height_px=480, num_frames=81, steps=10)
NONE = "–"
Row = tuple[str, ...]
Told = dict[str, Any]


class Clips(WarmProcess):
    """A process of `benchmarks.text_to_video_clips` that has made its first clip. Raises NotStarted."""

    def __init__(self, kind: str, job: Job, folder: Path) -> None:
        self._path = folder / kind
        super().__init__("benchmarks.text_to_video_clips", kind, job.text, log=folder / f"{kind}.log")

    def clip(self, number: int) -> Told:
        """What the process tells of another clip, and `path`, where that lies."""
        path = self._path.with_name(f"{self._path.name}-{number}.mp4")
        return {**self.ask(str(path)), "path": path}


@dataclass(slots=True)
class Pair:
    """The figures of our engine and of bare diffusers, round after round in turns."""

    title: str
    job: Job
    ours: list[Told] = field(default_factory=list)
    bare: list[Told] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return _seconds(self.bare) / _seconds(self.ours)

    @property
    def size(self) -> str:
        return f"{self.job.width_px}x{self.job.height_px}x{self.job.num_frames}, {self.job.steps} steps"

    def stage_s(self, name: str) -> float:
        return median(told["stage_seconds"][name] for told in self.ours)

    @property
    def rows(self) -> list[Row]:
        stages = ", ".join(
            f"{name} {self.stage_s(name):.2f}" for name in ("encode", "denoise", "decode", "mux")
        )
        seconds = [f"{_seconds(each):.2f}" for each in (self.ours, self.bare)]
        return [
            (f"{self.title}, {self.size}: seconds a clip", *seconds, f"{self.ratio:.3f}"),
            (f"{self.title}: seconds of its stages", stages, NONE, NONE),
            (f"{self.title}: seconds a guided step", f"{self.stage_s('denoise_per_step'):.3f}", NONE, NONE),
        ]

    @property
    def likeness_db(self) -> float:
        """PSNR between both videos of the last round: whether both did the same work."""
        ours, bare = (
            np.stack([frame for frame, _ in decode_video(told[-1]["path"])]).astype(np.float32)
            for told in (self.ours, self.bare)
        )
        return float(20 * np.log10(255 / max(1e-3, float(np.sqrt(np.mean((ours - bare) ** 2))))))

    @property
    def note(self) -> str:
        return f"{self.title}: the two videos of a seed are alike to {self.likeness_db:.1f} dB (PSNR)."


def measure_text_to_video(place: Place, systems: list[System]) -> Report:
    parts = [_on_cpu(place), _on_gpu(place), _embedded(place)]
    return Report(
        name="text_to_video",
        title=f"Text to video, median of {ROUNDS} rounds in turns",
        header=("what", "ours", "bare diffusers", "bare / ours"),
        rows=[row for part in parts for row in part.rows],
        notes=[note for part in parts for note in part.notes],
        claims={claim: held for part in parts for claim, held in part.claims.items()},
        raw={name: figures for part in parts for name, figures in part.raw.items()},
    )


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the report; without rows where a note says why."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    claims: dict[str, bool] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict)


def _on_cpu(place: Place) -> Part:
    pair = measured_pair(place, "CPU", "small", ON_CPU)
    claims = {f"CPU: at least {MIN_RATIO} of bare diffusers' speed": pair.ratio >= MIN_RATIO}
    return Part(pair.rows, [pair.note], claims, {"cpu": _raw(pair)})


def _on_gpu(place: Place) -> Part:
    """Wan2.1-1.3B with random weights: peak memory, and decoding and encoding at the same time."""
    import torch

    if not torch.cuda.is_available():
        return Part(notes=["No CUDA device is here: the rows of Wan2.1-1.3B are left out."])
    pair = measured_pair(place, "Wan2.1-1.3B", "wan2.1-1.3b", ON_GPU)
    with Clips("parts", pair.job, place.new_folder("parts")) as clips:
        together = [clips.clip(number) for number in range(ROUNDS)]
    decode_s, encode_s, both_s = (
        median(told[name] for told in together) for name in ("decode_s", "encode_s", "both_s")
    )
    hidden = (decode_s + encode_s - both_s) / min(decode_s, encode_s)
    peaks = [_gibibytes(each, "peak_gpu_memory_bytes") for each in (pair.ours, pair.bare)]
    overlap = f"{both_s:.2f} (decoding alone {decode_s:.2f}, encoding alone {encode_s:.2f})"
    step_s = pair.stage_s("denoise_per_step")
    rows: list[Row] = [
        *pair.rows,
        ("Wan2.1-1.3B: peak GPU memory", *peaks, NONE),
        ("Wan2.1-1.3B: seconds to decode and encode a clip", overlap, NONE, NONE),
    ]
    claims = {
        f"Wan2.1-1.3B: at least {MIN_RATIO} of bare diffusers' speed": pair.ratio >= MIN_RATIO,
        f"Wan2.1-1.3B: at most {MAX_GUIDED_STEP_S} s a guided step": step_s <= MAX_GUIDED_STEP_S,
        f"at least {MIN_HIDDEN:.0%} of the shorter of decoding and encoding is hidden": hidden >= MIN_HIDDEN,
    }
    notes = [f"On one {torch.cuda.get_device_name()}; the text encoder is a small one.", pair.note]
    return Part(rows, notes, claims, {"gpu": _raw(pair), "gpu_parts": _plain(together)})


def _embedded(place: Place) -> Part:
    lacks = _embedded_lacks()
    if lacks:
        return Part(notes=[f"The row of the embedded model is left out: {lacks}."])
    with Clips("embedded", Job(), place.new_folder("embedded")) as clips:
        made = [clips.clip(number) for number in range(ROUNDS)]
    seconds, last = _seconds(made), made[-1]
    what = f"embedded model, {last['width']}x{last['height']}x{last['num_frames']} on this CPU"
    rows: list[Row] = [
        (f"{what}: seconds a clip", f"{seconds:.2f}", NONE, NONE),
        (f"{what}: peak memory (RSS)", _gibibytes(made, "peak_memory_bytes"), NONE, NONE),
    ]
    claims = {f"embedded model: a clip within {MAX_EMBEDDED_S:g} s": seconds <= MAX_EMBEDDED_S}
    return Part(rows, [], claims, {"embedded": _plain(made)})


def _embedded_lacks() -> str:
    found = (spec for spec in CATALOG[TASK].engines if spec.kind is EngineKind.EMBEDDED)
    spec = next(found, None)
    if spec is None:
        return "this version ships none (models/text_to_video/shapes)"
    return "; ".join(missing(spec, Site()))


def measured_pair(place: Place, title: str, shape: str, job: Job, *, rounds: int = ROUNDS) -> Pair:
    """Both on a folder of random weights of `shape`, which is made first."""
    folder = place.new_folder("text-to-video")
    made = folder / "text_to_video" / f"random-{shape}"
    subprocess.run([sys.executable, "-m", "benchmarks.random_wan", shape, str(made)], check=True, cwd=ROOT)
    pair = Pair(title, replace(job, models_dir=str(folder)))
    with Clips("ours", pair.job, folder) as ours, Clips("bare", pair.job, folder) as bare:
        for number in range(rounds):
            console.print(f"{title} round {number + 1}/{rounds}")
            pair.ours.append(ours.clip(number))
            pair.bare.append(bare.clip(number))
    return pair


def _seconds(told: list[Told]) -> float:
    return median(each["seconds"] for each in told)


def _gibibytes(told: list[Told], name: str) -> str:
    return f"{max(each[name] for each in told) / 1024**3:.2f} GiB"


def _plain(told: list[Told]) -> list[Told]:
    return [{name: value for name, value in each.items() if name != "path"} for each in told]


def _raw(pair: Pair) -> dict[str, list[Told]]:
    return {"ours": _plain(pair.ours), "bare": _plain(pair.bare)}
