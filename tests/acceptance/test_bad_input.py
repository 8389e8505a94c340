"""Hostile requests to a real server, byte by byte through HAProxy: refused, and nothing is left of them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.server import HTTP, ServerProcess, eventually

SAMPLES = Path(__file__).parents[2] / "samples"
MIB = 1024**2
UPLOAD_LIMIT_BYTES = 4 * MIB
FORM_HEAD = b'--B\r\nContent-Disposition: form-data; name="file"; filename="clip.mp4"\r\n\r\n'
FORM_END = b"\r\n--B--\r\n"
FORM, JSON = "multipart/form-data; boundary=B", "application/json"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(
        tmp_path_factory.mktemp("bad") / "data",
        sets=["ffmpeg.min_replicas=0"],
        max_upload_bytes=str(UPLOAD_LIMIT_BYTES),
        hosts="flashvsr.example.com=flashvsr",
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def nothing_left(server: ServerProcess) -> Iterator[None]:
    """No task, no stored file, no half of one. A client that hung up is noticed a moment later."""
    yield
    artifacts = server.data_dir / "artifacts"
    eventually(lambda: not [path for path in artifacts.rglob("*") if path.is_file()])
    assert HTTP.get(f"{server.url}/v1/tasks").json()["total"] == 0


@dataclass(frozen=True)
class Answer:
    """What came back, as it came."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def detail(self) -> str:
        return str(json.loads(self.body)["detail"])


def ask(server: ServerProcess, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
    """One request with exactly this target; the server's Content-Length is ours unless given."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if "transfer-encoding" not in named:
        named.setdefault("content-length", str(len(body)))
    named.setdefault("host", "127.0.0.1")
    head = f"{method} {target} HTTP/1.1\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in named.items()) + "\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # refused before it was read to its end
            connection.sendall(head.encode() + body)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> Answer:
    with connection.makefile("rb") as stream:
        status = int(stream.readline().split()[1])
        headers = []
        while line := stream.readline().strip():
            name, _, value = line.decode().partition(":")
            headers.append((name.lower(), value.strip()))
        length = int(dict(headers).get("content-length", 0))
        return Answer(status, headers, stream.read(length))


def chunked(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)


def form(content: bytes) -> bytes:
    return FORM_HEAD + content + FORM_END


@pytest.mark.parametrize(
    "target",
    [
        "/v1/files/download/../../../../../../etc/passwd",
        "/v1/files/download/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/v1/files/download/..%2f..%2f..%2fetc%2fpasswd",
        "/v1/files/download/..%5c..%5ctasks.sqlite",
        "/v1/files/download/%2fetc%2fpasswd",
        "/v1/files/download/a%00.mp4",
        "/v1/tasks/..%2f..%2ftasks.sqlite/status",
        "/api/files/../../tasks.sqlite/result",
        "/flashvsr/api/files/%2e%2e/result",
        "/indexed/api/task/x/file/..%2f..%2f..%2ftasks.sqlite",
        "/creation/videos/..%2f..%2ftasks.sqlite",
    ],
)
def test_no_path_leaves_its_folder(server: ServerProcess, target: str) -> None:
    answer = ask(server, "GET", target)
    assert answer.status in {400, 404}
    assert b"root:" not in answer.body
    assert b"SQLite" not in answer.body


@pytest.mark.parametrize("target", ["/v1/files/../x", "/v1/files/%2e%2e%2fx", "/v1/files/a%0ab"])
def test_nothing_is_written_outside_either(server: ServerProcess, target: str) -> None:
    assert ask(server, "PUT", target, b"x").status in {400, 404, 405}


@pytest.mark.parametrize(
    ("method", "target", "kind", "text"),
    [
        ("POST", "/v1/tasks", JSON, "the request body is too large"),
        ("POST", "/creation/api/tasks/", JSON, "the request body is too large"),
        ("POST", "/flashvsr/api/tasks/", FORM, "文件太大。最大支持 "),
        ("PUT", "/v1/files/huge.bin", JSON, "文件太大。最大支持 "),
    ],
)
def test_five_announced_gib_are_refused_before_they_come(
    server: ServerProcess, method: str, target: str, kind: str, text: str
) -> None:
    headers = {"content_length": str(5 * 1024**3), "content_type": kind}
    answer = ask(server, method, target, b"{", **headers)
    assert answer.status == 413
    if not target.startswith("/creation"):
        assert answer.detail.startswith(text)


@pytest.mark.parametrize(
    ("method", "target", "kind", "content"),
    [
        ("PUT", "/v1/files/huge.bin", "video/mp4", b"x" * 2 * UPLOAD_LIMIT_BYTES),
        ("POST", "/flashvsr/api/tasks/", FORM, form(b"x" * 2 * UPLOAD_LIMIT_BYTES)),
        ("POST", "/v1/tasks", JSON, b'{"task_name":"' + b"x" * 10 * MIB + b'"}'),
    ],
    ids=["raw", "form", "json"],
)
@pytest.mark.parametrize("announced", [True, False], ids=["content-length", "chunked"])
def test_too_much_is_refused_however_it_comes(
    server: ServerProcess, method: str, target: str, kind: str, content: bytes, announced: bool
) -> None:
    if announced:
        answer = ask(server, method, target, content, content_type=kind)
    else:
        answer = ask(server, method, target, chunked(content), content_type=kind, transfer_encoding="chunked")
    assert answer.status == 413


@pytest.mark.parametrize(
    "body",
    [b'{"task_name": "\xff\xfe"}', b"{", b"", b"[" * 100_000, rb'{"task_name": "\ud800"}'],
    ids=["bad utf-8", "cut", "empty", "deep", "surrogate"],
)
def test_what_is_no_json_is_422(server: ServerProcess, body: bytes) -> None:
    answer = ask(server, "POST", "/v1/tasks", body, content_type=JSON)
    assert answer.status == 422
    assert json.loads(answer.body)["detail"][0]["loc"][0] == "body"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"I am no video\n" * 50, "not a media file"),
        (b"", "0"),
        ((SAMPLES / "carphone_pristine.mp4").read_bytes()[:3000], "truncated"),
    ],
    ids=["text", "zero bytes", "truncated"],
)
def test_what_is_no_video(server: ServerProcess, content: bytes, words: str) -> None:
    answer = ask(server, "POST", "/flashvsr/api/tasks/", form(content), content_type=FORM)
    assert answer.status == 400
    assert words in answer.detail


@pytest.mark.parametrize("target", ["/v1/files/half.bin", "/flashvsr/api/tasks/"])
def test_a_client_that_hangs_up_leaves_nothing(server: ServerProcess, target: str) -> None:
    method, body = ("PUT", b"") if target.startswith("/v1") else ("POST", FORM_HEAD)
    head = f"{method} {target} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {FORM}\r\n"
    head += f"content-length: {3 * MIB}\r\n\r\n"
    incoming = server.data_dir / "artifacts" / ".incoming"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.encode() + body + b"x" * 2 * MIB)
        eventually(lambda: any(incoming.iterdir()))


def test_two_lengths_are_one_too_many(server: ServerProcess) -> None:
    head = b"POST /v1/tasks HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 40\r\n\r\n{}"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head)
        assert read_answer(connection).status == 400


def test_a_mapped_host_name_reaches_its_dialect_through_the_proxy(server: ServerProcess) -> None:
    mapped = ask(server, "GET", "/", host="FlashVSR.example.com:8443")
    assert json.loads(mapped.body)["name"] == "FlashVSR"
    forwarded = ask(server, "GET", "/", x_forwarded_host="flashvsr.example.com")
    assert json.loads(forwarded.body)["name"] == "mediaray"


def test_forwarded_headers_of_a_caller_are_not_believed(server: ServerProcess) -> None:
    for head in ({}, {"x_forwarded_for": "203.0.113.7", "x_forwarded_proto": "https"}):
        answer = ask(server, "PUT", "/v1/files/seen.txt", b"x", **head)
        assert json.loads(answer.body)["download_url"].startswith("http://127.0.0.1/")
    assert ask(server, "DELETE", "/v1/files/seen.txt").status == 200


def test_foreign_hosts_and_pages_are_refused_through_the_proxy(server: ServerProcess) -> None:
    assert ask(server, "GET", "/v1/tasks", host="evil.example").status == 403
    assert ask(server, "DELETE", "/v1/tasks/none", origin="https://evil.example").status == 403
    assert ask(server, "DELETE", "/v1/tasks/none", origin="http://localhost:5173").status == 404
    assert HTTP.head(f"{server.url}/readyz").status_code == 200


@pytest.mark.parametrize("given", ["", "find-me-1"], ids=["none", "given"])
def test_an_answer_has_one_request_id(server: ServerProcess, given: str) -> None:
    for target in ("/v1/tasks", "/v1/tasks/none/status", "/nowhere"):
        answer = ask(server, "GET", target, **({"x_request_id": given} if given else {}))
        (found,) = [value for name, value in answer.headers if name == "x-request-id"]
        assert (found == given) if given else len(found) >= 32
