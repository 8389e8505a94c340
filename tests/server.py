"""A real server for tests: started as a user starts it, its processes found by name and killed for real."""

from __future__ import annotations

import os
import random
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

PATIENCE_S = 300.0
"""How long a test waits for what must come: a guard against hanging, no claim about speed."""
POLL_S = 0.05

T = TypeVar("T")

NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""What httpx reads otherwise for each client, and so for each `httpx.get`, costs 40 ms of CPU."""
HTTP = httpx.Client(timeout=60, verify=NO_AUTHORITIES, limits=httpx.Limits(max_keepalive_connections=0))
"""To servers on this machine. A kept connection would lead to a process that a test has killed since."""


class ServerProcess:
    """`mediaray serve` on a free port and a data folder, without rate limits; restartable on the folder."""

    def __init__(self, data_dir: Path, *, sets: Iterable[str] = (), **settings: str) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = data_dir.parent / f"{data_dir.name}.log"
        self._sets = [part for change in sets for part in ("--set", change)]
        unlimited = {"rate_limit_create": "0", "rate_limit_status": "0"}
        given = unlimited | settings
        self._settings = {f"MEDIARAY_{name.upper()}": value for name, value in given.items()}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when the server is ready."""
        self.launch()
        eventually(self.is_ready)

    def launch(self) -> None:
        """Returns at once, while Ray and the services start."""
        command = [sys.executable, "-m", "deployments.server", "serve", "--port", str(self.port), *self._sets]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=os.environ | {"MEDIARAY_DATA_DIR": str(self.data_dir)} | self._settings,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self) -> None:
        """As a user does: SIGTERM. Asserts that no process is left."""
        if self._process is None:
            return
        family = self.family()
        self._process.terminate()
        assert self._process.wait(timeout=60) == 0, self.log_path.read_text()[-3000:]
        _, left = psutil.wait_procs(family, timeout=10)
        assert not left, left
        self._process = None

    def kill_everything(self) -> None:
        """SIGKILL to every process of the server at once, as when the machine loses power."""
        assert self._process is not None
        family = self.family()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.kill()
        self._process.wait()
        psutil.wait_procs(family, timeout=10)
        self._process = None

    def family(self) -> list[psutil.Process]:
        assert self._process is not None
        return psutil.Process(self._process.pid).children(recursive=True)

    def processes(self, name: str) -> list[psutil.Process]:
        """The server's processes whose command line begins with `name` (Ray titles its workers)."""
        found = []
        for process in self.family():
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if " ".join(process.cmdline()).startswith(name):
                    found.append(process)
        return found

    def process(self, name: str) -> psutil.Process:
        """The one process of that name; waits for it."""
        return eventually(lambda: self.processes(name))[0]

    def kill(self, name: str) -> psutil.Process:
        process = self.process(name)
        process.send_signal(signal.SIGKILL)
        process.wait()
        return process

    def submit(self, task_name: str, inputs: dict[str, Any], task_id: str | None = None) -> str:
        """The id of a new task; repeated while the server says that it is busy restarting."""
        body = {"task_name": task_name, "input_data": inputs, "task_id": task_id}

        def post() -> str | None:
            with suppress(httpx.TransportError):
                answer = HTTP.post(f"{self.url}/v1/tasks", json=body)
                if answer.status_code < 500:
                    assert answer.status_code == 200, answer.text
                    return str(answer.json()["task_id"])
            return None

        return eventually(post)

    def upload(self, path: Path, file_path: str) -> str:
        with path.open("rb") as file:
            answer = HTTP.put(f"{self.url}/v1/files/{file_path}", content=file)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["file_path"])

    def result(self, task_id: str) -> dict[str, Any]:
        answer = HTTP.get(f"{self.url}/v1/tasks/{task_id}/result")
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def wait(self, task_id: str, *words: str) -> dict[str, Any]:
        """The task's record once its status is one of `words` (default: any final one)."""
        wanted = words or ("completed", "failed", "cancelled")

        def reached() -> dict[str, Any] | None:
            with suppress(httpx.TransportError, AssertionError):
                record = self.result(task_id)
                return record if record["status"] in wanted else None
            return None

        try:
            return eventually(reached)
        except AssertionError as error:
            error.add_note(f"{task_id}: {self.history(task_id)}")
            raise

    def history(self, task_id: str) -> list[str]:
        """The task's events, read from the database itself."""
        uri = f"file:{self.data_dir}/tasks.sqlite?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            rows = connection.execute("SELECT event FROM events WHERE task_id = ? ORDER BY seq", [task_id])
            return [event for (event,) in rows]

    def is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log_path.read_text()[-4000:]
        with suppress(httpx.TransportError):
            return HTTP.get(f"{self.url}/readyz", timeout=10).status_code == 200
        return False


def eventually(attempt: Callable[[], T]) -> T:
    """The first true answer of `attempt`; fails when none comes at all."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not (answer := attempt()):
        assert time.monotonic() < deadline_s, f"{attempt} did not come true within {PATIENCE_S:.0f} s"
        time.sleep(POLL_S)
    return answer


def free_port() -> int:
    """A port nobody listens on, beside the ranges of Ray's workers and of outgoing connections."""
    while True:
        port = random.randint(20_000, 28_999)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
