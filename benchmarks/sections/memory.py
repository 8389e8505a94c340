"""Peak memory of the server while it upscales a short and a twelve times longer video."""

from __future__ import annotations

from benchmarks.clips import looped_clip
from benchmarks.processes import MemoryWatch
from benchmarks.report import Report, console
from benchmarks.sections.upscale import run_task
from benchmarks.systems import Place, System, start_ours
from mediaray import Client

DURATIONS_S = (5.0, 60.0)
FPS = 8
"""Low, so that a minute of video is done in about a minute on two cores."""
TOLERANCE = 0.10


def measure_memory(place: Place, systems: list[System]) -> Report:
    """Each length on a server of its own, so that the first leaves nothing for the second."""
    peaks_bytes: dict[float, int] = {}
    runs_s: dict[float, float] = {}
    for duration_s in DURATIONS_S:
        console.print(f"memory: {duration_s:g} s of video")
        clip = looped_clip(place.folder, duration_s, FPS)
        with start_ours(place, 0, warm=("flashvsr",)) as server, Client(server.url) as client:
            key = client.upload(clip).path
            with MemoryWatch(server.process) as watch:
                runs_s[duration_s] = run_task(client, key)
            peaks_bytes[duration_s] = watch.peak_total_bytes
    short_bytes, long_bytes = (peaks_bytes[duration_s] for duration_s in DURATIONS_S)
    rows = [
        (f"{duration_s:g} s", f"{peaks_bytes[duration_s] / 1024**2:,.0f} MiB", f"{runs_s[duration_s]:.1f} s")
        for duration_s in DURATIONS_S
    ]
    return Report(
        name="memory",
        title=f"Peak memory (USS, all server processes) by video length, 320x180 at {FPS} fps, twofold",
        header=("input", "peak", "run time"),
        rows=rows,
        notes=[f"long / short: {long_bytes / short_bytes:.3f}"],
        claims={f"equal within {TOLERANCE:.0%}": abs(long_bytes / short_bytes - 1) <= TOLERANCE},
        raw={"peak_bytes": {f"{duration_s:g}": peak for duration_s, peak in peaks_bytes.items()}},
    )
