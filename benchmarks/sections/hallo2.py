"""Hallo2 with random weights: our clips beside the same clips made in the plain way."""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median
from typing import Any

from benchmarks.report import Report, console
from benchmarks.systems import ROOT, Place, System

ROUNDS = 3
MIN_RATIO = 3.0
NONE = "–"
Row = tuple[str, ...]


def measure_hallo2(place: Place, systems: list[System]) -> Report:
    import torch

    small = _measured("small")
    rows, claims, raw = _rows("a small shape on this CPU", small), {}, {"small": small}
    notes = [f"The small shape's two videos are alike to {small['likeness_db']:.1f} dB (PSNR)."]
    if torch.cuda.is_available():
        full = raw["full"] = _measured("full")
        rows += [*_rows("full size, 512x512", full), _memory(full)]
        notes.append(
            f"Full size on one {torch.cuda.get_device_name()}; alike to {full['likeness_db']:.1f} dB."
        )
        claims[f"full size: at least {MIN_RATIO:g} times the plain way"] = _ratio(full) >= MIN_RATIO
    else:
        notes.append("No CUDA device is here: the rows of the full size are left out.")
    return Report(
        name="hallo2",
        title=f"Hallo2, clips of 16 frames, median of {ROUNDS} rounds in turns",
        header=("what", "ours", "the plain way", "plain / ours"),
        rows=rows,
        notes=notes,
        claims=claims,
        raw=raw,
    )


def _measured(shape: str) -> dict[str, Any]:
    console.print(f"hallo2 {shape}, {ROUNDS} rounds")
    command = [sys.executable, "-m", "benchmarks.hallo2_clips", shape, str(ROUNDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def _ratio(told: dict[str, Any]) -> float:
    ours, plain = (median(told["rounds"][name][0]) for name in ("ours", "plain"))
    return plain / ours


def _rows(title: str, told: dict[str, Any]) -> list[Row]:
    ways = [told["rounds"][name] for name in ("ours", "plain")]
    clips = [f"{median(clip_s):.2f}" for clip_s, _, _ in ways]
    steps = [f"{median(denoise_s) / told['steps']:.3f}" for _, denoise_s, _ in ways]
    return [
        (f"{title}, {told['steps']} steps: seconds a clip", *clips, f"{_ratio(told):.2f}"),
        (f"{title}: seconds a step", *steps, NONE),
    ]


def _memory(told: dict[str, Any]) -> Row:
    peaks = [f"{told['rounds'][name][2] / 1024**3:.2f} GiB" for name in ("ours", "plain")]
    return ("full size: peak GPU memory", *peaks, NONE)
