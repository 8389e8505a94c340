"""A real HTTP server on a thread that takes callbacks, answers as a test says, and remembers them."""

from __future__ import annotations

import base64
import json
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HANG, CLOSE = -1, -2
SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()
"""For a server whose callbacks a test verifies."""


@dataclass(frozen=True)
class Received:
    """One POST; header names are lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Receiver:
    """`answers` are status codes, HANG or CLOSE for the next requests; then 200."""

    def __init__(self, port: int = 0) -> None:
        self.answers: list[int] = []
        self.headers: dict[str, str] = {}
        self.received: queue.Queue[Received] = queue.Queue()
        self.release = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def __enter__(self) -> Receiver:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def all(self) -> list[Received]:
        found = []
        while not self.received.empty():
            found.append(self.received.get())
        return found

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                answer = receiver.answers.pop(0) if receiver.answers else 200
                receiver.received.put(Received(self.path, headers, body))
                if answer == HANG:
                    receiver.release.wait()
                if answer < 0:
                    self.close_connection = True
                    return
                self.send_response(answer)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        return Handler


@contextmanager
def closed_port() -> Iterator[int]:
    """A loopback port that refuses connections, as long as the context lasts."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
