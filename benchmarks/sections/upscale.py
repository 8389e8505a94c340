"""Frames per second of a whole upscaling task, beside the bare network on the same frames."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

from benchmarks.clips import looped_clip
from benchmarks.processes import MemoryWatch
from benchmarks.report import Report, console
from benchmarks.systems import OURS, ROOT, Place, Server, System, start_ours
from mediaray import Client

TASK = "flashvsr.upscale_video"
ROUNDS = 3
CLIP_S, FPS = 4.0, 24
MIN_SHARE = 0.95


def bare(clip: Path) -> tuple[int, float]:
    """Frames in the clip, and the bare network's frames per second."""
    command = [sys.executable, "-m", "benchmarks.bare_upscale", str(clip)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    answer = json.loads(done.stdout)
    return int(answer["frames"]), float(answer["frames_per_s"])


def run_task(client: Client, key: str, *, timeout_s: float = 900.0) -> float:
    """Seconds of run time of one upscaling task."""
    task = client.submit(TASK, {"video_path": key, "scale": 2.0})
    client.wait(task.id, timeout_s=timeout_s, poll_s=0.5)
    timing = client.result(task.id).timing or {}
    return float(timing["finished_at"]) - float(timing["started_at"])


def measure_upscale(place: Place, systems: list[System]) -> Report:
    clip = looped_clip(place.folder, CLIP_S, FPS)
    bare_per_s: list[float] = []
    run_s: list[float] = []
    with start_ours(place, 0, warm=("flashvsr",)) as server:
        frames, peak_bytes = _rounds(server, clip, bare_per_s, run_s)
    ours_per_s = [frames / one for one in run_s]
    share = median(ours_per_s) / median(bare_per_s)
    rows = [
        ("bare network loop", f"{median(bare_per_s):.2f}", "100 %"),
        (f"{OURS.name}: decode, network, encode, store", f"{median(ours_per_s):.2f}", f"{share:.1%}"),
    ]
    return Report(
        name="upscale",
        title=f"Upscaling {frames} frames of 320x180 twofold, median of {ROUNDS} rounds in turns",
        header=("what", "frames/s", "share"),
        rows=rows,
        notes=[f"All server processes together: at most {peak_bytes / 1024**2:,.0f} MiB (USS)."],
        claims={f"at least {MIN_SHARE:.0%} of the bare network": share >= MIN_SHARE},
        raw={"bare_frames_per_s": bare_per_s, "service_frames_per_s": ours_per_s},
    )


def _rounds(server: Server, clip: Path, bare_per_s: list[float], run_s: list[float]) -> tuple[int, int]:
    """Fills both lists; returns the clip's frames and the peak memory of the server in bytes."""
    frames, peak_bytes = 0, 0
    with Client(server.url) as client:
        key = client.upload(clip).path
        run_task(client, client.upload(looped_clip(clip.parent, 0.5, FPS)).path)
        for number in range(ROUNDS):
            console.print(f"upscale round {number + 1}/{ROUNDS}")
            frames, per_s = bare(clip)
            bare_per_s.append(per_s)
            with MemoryWatch(server.process) as watch:
                run_s.append(run_task(client, key))
            peak_bytes = max(peak_bytes, watch.peak_total_bytes)
    return frames, peak_bytes
