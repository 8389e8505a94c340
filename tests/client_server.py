"""A small real HTTP server that speaks the parts of the API which the client uses, and can misbehave."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Seen:
    """One request as it arrived; header names are lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class World:
    """What the server knows and what it shall do wrong. It outlives restarts of the server."""

    files: dict[str, bytes] = field(default_factory=dict)
    answers: dict[tuple[str, str], deque[tuple[int, dict[str, Any]]]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    refusals: deque[tuple[int, dict[str, str]]] = field(default_factory=deque)
    break_downloads_after: deque[int] = field(default_factory=deque)
    etag: str | None = "sha256"
    events: dict[str, list[tuple[str, dict[str, Any]]]] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    cut_streams_after: deque[int] = field(default_factory=deque)
    heartbeat_s: float = 0.02
    stream_left: threading.Event = field(default_factory=threading.Event)

    def script(self, method: str, path: str, *answers: dict[str, Any], status: int = 200) -> None:
        """Answers in this order, the last one for ever."""
        self.answers.setdefault((method, path), deque()).extend((status, answer) for answer in answers)

    def status(self, task_id: str, *answers: dict[str, Any]) -> None:
        full = ({"task_id": task_id, "message": "", **answer} for answer in answers)
        self.script("GET", f"/v1/tasks/{task_id}/status", *full)

    def seen_on(self, method: str, path: str) -> list[Seen]:
        return [one for one in self.seen if (one.method, one.path) == (method, path)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    world: World
    stopping: threading.Event

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *_: Any) -> None:
        pass

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.seen = Seen(self.command, unquote(parts.path), parts.query, headers, body)
        self.world.seen.append(self.seen)
        if self.world.refusals:
            status, headers = self.world.refusals.popleft()
            self._answer(status, b'{"detail": "not now"}', headers)
        elif self.seen.path.endswith("/events") and self.seen.path.split("/")[3] in self.world.events:
            self._stream(self.world.events[self.seen.path.split("/")[3]])
        elif self.seen.path in self.world.texts:
            self._answer(200, self.world.texts[self.seen.path])
        elif self.seen.path.startswith("/v1/files/"):
            self._file(self.seen.path.removeprefix("/v1/files/"))
        else:
            self._scripted()

    def _stream(self, events: list[tuple[str, dict[str, Any]]]) -> None:
        """Server-sent events with their numbers as ids; breaks off where `cut_streams_after` says."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        begin = int(self.seen.headers.get("last-event-id", 0))
        cut = begin + self.world.cut_streams_after.popleft() if self.world.cut_streams_after else None
        for number, (kind, data) in enumerate(events[begin:cut], begin + 1):
            self._chunk(f"event: {kind}\nid: {number}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n")
        if cut is not None:
            return
        if events and events[-1][0] == "end":
            self.wfile.write(b"0\r\n\r\n")
            return
        try:
            while not self.stopping.wait(self.world.heartbeat_s):
                self._chunk(": still here\n\n")
        except OSError:
            self.world.stream_left.set()

    def _chunk(self, text: str) -> None:
        piece = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    def _scripted(self) -> None:
        answers = self.world.answers.get((self.seen.method, self.seen.path))
        if not answers:
            missing = {"detail": "任务不存在: x", "error": {"code": "TASK_NOT_FOUND"}}
            self._answer(404, json.dumps(missing).encode(), {"x-request-id": "r-1"})
            return
        status, answer = answers[0] if len(answers) == 1 else answers.popleft()
        self._answer(status, json.dumps(answer).encode())

    def _file(self, key: str) -> None:
        if self.command == "PUT":
            self.world.files[key] = self.seen.body
            url = f"/v1/files/download/{key}"
            stored = {"file_path": key, "download_url": url, "size": len(self.seen.body)}
            self._answer(200, json.dumps(stored).encode())
        elif self.command == "DELETE":
            self._answer(200, b'{"message": "deleted"}')
        else:
            self._send_file(self.world.files.get(key.removeprefix("download/")))

    def _send_file(self, content: bytes | None) -> None:
        if content is None:
            self._answer(404, b'{"detail": "no such file"}')
            return
        etag = f'"{hashlib.sha256(content).hexdigest()}"' if self.world.etag == "sha256" else self.world.etag
        start = self._range_start(etag)
        if start > len(content) or (start and start == len(content)):
            self._answer(416, b"", {"content-range": f"bytes */{len(content)}"})
            return
        headers = {"etag": etag} if etag else {}
        if start:
            headers["content-range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._answer(206 if start else 200, content[start:], headers)

    def _range_start(self, etag: str | None) -> int:
        condition = self.seen.headers.get("if-range")
        if "range" not in self.seen.headers or (condition and condition != etag):
            return 0
        return int(self.seen.headers["range"].removeprefix("bytes=").rstrip("-"))

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if status in (200, 206) and "/download/" in self.seen.path and self.world.break_downloads_after:
            self.wfile.write(body[: self.world.break_downloads_after.popleft()])
            self.close_connection = True  # the promised length is never reached
        else:
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


@contextmanager
def serving(world: World, port: int = 0) -> Iterator[str]:
    """The base URL of a server for `world`, on `port` or a free one."""
    stopping = threading.Event()
    handler = type("Handler", (_Handler,), {"world": world, "stopping": stopping})
    server = _Server(("127.0.0.1", port), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
