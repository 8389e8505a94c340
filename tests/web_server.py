"""A web server for tests: real sockets on 127.0.0.1, one answer per path."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One request, and how to answer it."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def answer(self, status: int = 200, body: bytes = b"", **headers: str) -> None:
        self.head(status, **{"Content_Length": str(len(body)), **headers})
        self.wfile.write(body)

    def head(self, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Connection", "close")
        self.end_headers()

    def wait_for_the_end(self) -> None:
        """Say nothing more until the test is over."""
        self.server.is_over.wait()

    def handle_one_request(self) -> None:
        with suppress(ConnectionError):
            super().handle_one_request()

    def do_GET(self) -> None:
        self.close_connection = True
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(self)
        self.server.answers[self.path.partition("?")[0]](self)

    do_POST = do_GET

    def log_message(self, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.answers: dict[str, Answer] = {}
        self.seen: list[Request] = []
        self.is_over = threading.Event()

    def handle_error(self, *args: object) -> None:
        """A client that leaves in the middle of a TLS handshake is part of some tests."""


class WebServer:
    """`answers` maps a path to what answers it; `seen` lists the requests."""

    def __init__(self, server: _Server) -> None:
        self.answers = server.answers
        self.seen = server.seen
        self.port = server.server_address[1]

    def url(self, path: str, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def serve(self, path: str, status: int = 200, body: bytes = b"", **headers: str) -> str:
        """Answer `path` with this; the URL of it."""
        self.answers[path] = lambda request: request.answer(status, body, **headers)
        return self.url(path)


@contextmanager
def web_server(tls: ssl.SSLContext | None = None) -> Iterator[WebServer]:
    with _Server() as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield WebServer(server)
        finally:
            server.is_over.set()
            server.shutdown()
            thread.join()
