"""What an upload of 1 GiB costs each server process in memory: by our client, and as a plain form."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx

from benchmarks.processes import MemoryTrace, MemoryWatch
from benchmarks.report import Report, console
from benchmarks.systems import Place, Server, System, start_ours
from mediaray import Client

SIZE_BYTES = 1024**3
MAX_GROWTH_BYTES = 64 * 1024**2
MIB = 1024**2

Upload = Callable[[Server, Path], None]


def by_client(server: Server, path: Path) -> None:
    with Client(server.url, timeout_s=300) as client:
        stored = client.upload(path, "bench/client.bin")
        if stored.size_bytes != SIZE_BYTES:
            raise AssertionError(f"stored {stored.size_bytes} of {SIZE_BYTES} bytes")


def as_form(server: Server, path: Path) -> None:
    """As curl -F or a browser sends it: no header that asks Serve for back-pressure."""
    with path.open("rb") as file, httpx.Client(timeout=300, trust_env=False) as http:
        answer = http.post(
            f"{server.url}/v1/files/upload", data={"file_path": "bench/form.bin"}, files={"file": file}
        )
        answer.raise_for_status()


UPLOADS: dict[str, Upload] = {"our client (PUT)": by_client, "plain multipart form": as_form}


def measure_upload(place: Place, systems: list[System]) -> Report:
    """Each on a server of its own: freed memory that a process keeps would hide the second's growth."""
    source = place.folder / "upload.bin"
    with source.open("wb") as file:
        file.truncate(SIZE_BYTES)
    found: dict[str, tuple[MemoryTrace, float]] = {}
    for name, upload in UPLOADS.items():
        console.print(f"upload: {name}")
        with start_ours(place, 0) as server:
            found[name] = _watched(server, upload, source)
    rows = [
        (name, f"{trace.growth_bytes / MIB:,.0f} MiB", trace.name, f"{SIZE_BYTES / MIB / wall_s:,.0f} MiB/s")
        for name, (trace, wall_s) in found.items()
    ]
    ours = found["our client (PUT)"][0].growth_bytes
    return Report(
        name="upload",
        title="Upload of 1 GiB: the server process that grew most (USS)",
        header=("how", "growth", "process", "speed"),
        rows=rows,
        claims={
            f"our client grows no process by more than {MAX_GROWTH_BYTES // MIB} MiB": ours
            <= MAX_GROWTH_BYTES
        },
        raw={
            name: {"growth_bytes": trace.growth_bytes, "wall_s": wall_s}
            for name, (trace, wall_s) in found.items()
        },
    )


def _watched(server: Server, upload: Upload, source: Path) -> tuple[MemoryTrace, float]:
    with MemoryWatch(server.process) as watch:
        started_at = time.perf_counter()
        upload(server, source)
        wall_s = time.perf_counter() - started_at
    return watch.largest_growth, wall_s
