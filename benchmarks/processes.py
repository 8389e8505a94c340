"""Processes of a measurement: started with a log, watched for memory, ended by their handle."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
SAMPLE_INTERVAL_S = 0.2


class NotStarted(Exception):
    """A server of the benchmark ended, or was not ready in time; the end of its log says why."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    argv: Sequence[str], log_path: Path, environment: Mapping[str, str], cwd: Path
) -> Iterator[psutil.Popen]:
    """A process and, on leaving, the end of it and of all its descendants."""
    with log_path.open("ab") as log:
        process = psutil.Popen(
            list(argv), stdout=log, stderr=subprocess.STDOUT, env=dict(environment), cwd=cwd
        )
    try:
        yield process
    finally:
        end_tree(process)


def end_tree(process: psutil.Popen) -> None:
    """Ask the process to end as Ctrl-C does not: SIGTERM; kill whatever of its tree is left."""
    tree: list[psutil.Process] = [process]
    with suppress(psutil.NoSuchProcess):
        tree += process.children(recursive=True)
        process.terminate()
    psutil.wait_procs([process], timeout=STOP_TIMEOUT_S)
    _, alive = psutil.wait_procs(tree, timeout=3)
    for one in alive:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(alive, timeout=5)


def wait_ready(url: str, process: psutil.Popen, log_path: Path) -> None:
    """Returns when `url` answers 200. Raises NotStarted."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise NotStarted(f"exit code {process.returncode} before {url} answered:\n{tail(log_path)}")
        if _answers(url):
            return
        time.sleep(0.1)
    raise NotStarted(f"{url} did not answer 200 within {START_TIMEOUT_S:g} s:\n{tail(log_path)}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def tail(path: Path, lines: int = 25) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


@dataclass(slots=True)
class MemoryTrace:
    """One process while it was watched, in bytes of memory of its own (USS)."""

    name: str
    first_bytes: int
    peak_bytes: int

    @property
    def growth_bytes(self) -> int:
        return self.peak_bytes - self.first_bytes


class MemoryWatch:
    """Samples every process of a tree until the `with` block ends."""

    def __init__(self, root: psutil.Process) -> None:
        self.traces: dict[int, MemoryTrace] = {}
        self.peak_total_bytes = 0
        self._root = root
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def largest_growth(self) -> MemoryTrace:
        return max(self.traces.values(), key=lambda trace: trace.growth_bytes)

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_INTERVAL_S):
            self._sample()

    def _sample(self) -> None:
        sizes = [self._note(process) for process in [self._root, *self._root.children(recursive=True)]]
        self.peak_total_bytes = max(self.peak_total_bytes, sum(sizes))

    def _note(self, process: psutil.Process) -> int:
        try:
            size = int(process.memory_full_info().uss)
            trace = self.traces.setdefault(process.pid, MemoryTrace(process_name(process), size, size))
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            return 0
        trace.peak_bytes = max(trace.peak_bytes, size)
        return size


def process_name(process: psutil.Process) -> str:
    """What tells processes apart: Ray's workers rename themselves to ray::…, Python ones show a module."""
    words = process.cmdline()
    if not words or words[0].startswith("ray::"):
        return words[0] if words else process.name()
    if "-m" in words:
        return f"python -m {words[words.index('-m') + 1]}"
    return process.name()
