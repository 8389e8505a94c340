"""A download takes the file and nothing else: judged at every hop, bounded, stopped when told."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from cluster import urls as module
from cluster.errors import StorageFull, UnsafeUrl, UrlNotFound, UrlNotUsable, UrlProblem, UrlUnreachable
from cluster.url_downloads import MAX_REDIRECTS, Downloaded, UrlDownloads
from cluster.urls import UrlGuard
from tests.stores import noise
from tests.unit.test_urls import LOOPBACK, PUBLIC, Names
from tests.web_server import Request, WebServer, web_server

MAX_BYTES = 1_000_000


def ignore(done_bytes: int, total_bytes: int | None) -> None:
    pass


class Stop(BaseException):
    """What an attempt raises when it is cancelled, as this layer sees it."""


def stop(done_bytes: int, total_bytes: int | None) -> None:
    raise Stop


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "file"


def downloads(guard: UrlGuard | None = None, timeout_s: float = 60.0) -> UrlDownloads:
    return UrlDownloads(guard or UrlGuard(LOOPBACK), max_bytes=MAX_BYTES, timeout_s=timeout_s)


def in_pieces(body: bytes) -> Callable[[Request], None]:
    """An answer without Content-Length."""

    def answer(request: Request) -> None:
        request.head(200, Transfer_Encoding="chunked")
        for start in range(0, len(body), 50_000):
            piece = body[start : start + 50_000]
            request.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        request.wfile.write(b"0\r\n\r\n")

    return answer


def stalling(request: Request) -> None:
    request.head(200, Content_Length="1000")
    request.wfile.write(b"half")
    request.wait_for_the_end()


def dripping(request: Request) -> None:
    request.head(200, Content_Length="1000000")
    while not request.server.is_over.wait(0.01):
        request.wfile.write(b"x")


def test_a_file_arrives_whole(server: WebServer, target: Path) -> None:
    body = noise(700_000)
    url = server.serve("/videos/a%20clip.mp4", 200, body, Content_Type="video/mp4; codecs=x")
    seen: list[tuple[int, int | None]] = []
    found = downloads().fetch(url + "?token=1", target, lambda *amounts: seen.append(amounts))
    assert found == Downloaded(700_000, "video/mp4", "a clip.mp4")
    assert target.read_bytes() == body
    assert seen[-1] == (700_000, 700_000)


def test_a_file_of_unknown_length_arrives_whole(server: WebServer, target: Path) -> None:
    body = noise(700_000)
    server.answers["/"] = in_pieces(body)
    seen: list[tuple[int, int | None]] = []
    found = downloads().fetch(server.url("/"), target, lambda *amounts: seen.append(amounts))
    assert (found, target.read_bytes()) == (Downloaded(700_000, "", "download"), body)
    assert seen[-1] == (700_000, None)


@pytest.mark.parametrize(
    ("path", "disposition", "name"),
    [
        ("/a.mp4", "", "a.mp4"),
        ("/a.mp4", 'attachment; filename="b.mp4"', "b.mp4"),
        ("/get", "attachment; filename*=UTF-8''%e4%b8%ad.srt", "中.srt"),
        ("/get", 'attachment; filename="../../etc/passwd"', "passwd"),
        ("/get", 'attachment; filename="..\\\\x.mp4"', "x.mp4"),
        ("/a.mp4", 'attachment; filename=".."', "a.mp4"),
        ("/a.mp4", "nonsense; =", "a.mp4"),
        ("/a.mp4", "attachment; filename*=idna''%C3%A4b.mp4", "a.mp4"),
        ("/%2e%2e", "", "download"),
        ("/x/%2fetc%2fpasswd", "", "passwd"),
        ("/" + "x" * 300, "", "download"),
    ],
)
def test_the_name_is_one_plain_segment(
    server: WebServer, target: Path, path: str, disposition: str, name: str
) -> None:
    url = server.serve(path, 200, b"x", Content_Disposition=disposition)
    assert downloads().fetch(url, target, ignore).name == name


def test_a_length_over_the_limit_is_refused_before_the_body(server: WebServer, target: Path) -> None:
    server.answers["/"] = lambda request: request.head(200, Content_Length=str(MAX_BYTES + 1))
    with pytest.raises(UrlNotUsable, match="larger than the 1000000 bytes"):
        downloads().fetch(server.url("/"), target, ignore)
    assert target.read_bytes() == b""


def test_a_body_over_the_limit_is_refused_while_it_comes(server: WebServer, target: Path) -> None:
    server.answers["/"] = in_pieces(bytes(2 * MAX_BYTES))
    with pytest.raises(UrlNotUsable, match="larger than the 1000000 bytes"):
        downloads().fetch(server.url("/"), target, ignore)
    assert target.stat().st_size <= MAX_BYTES


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((status, UrlNotFound) for status in (401, 403, 404, 410)),
        *((status, UrlUnreachable) for status in (408, 425, 429, 500, 502, 503, 504)),
        *((status, UrlNotUsable) for status in (201, 206, 300, 304, 400, 405, 418)),
    ],
)
def test_what_a_status_means(server: WebServer, target: Path, status: int, error: type[UrlProblem]) -> None:
    url = server.serve("/secret", status, b"" if status == 304 else b"a page")
    with pytest.raises(error, match=rf"127\.0\.0\.1 answered {status}") as caught:
        downloads().fetch(url, target, ignore)
    assert type(caught.value) is error
    assert "secret" not in str(caught.value)


def test_a_compressed_answer_is_refused(server: WebServer, target: Path) -> None:
    url = server.serve("/", 200, b"x", Content_Encoding="gzip")
    with pytest.raises(UrlNotUsable, match="compressed"):
        downloads().fetch(url, target, ignore)
    assert server.seen[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("hops", [MAX_REDIRECTS, MAX_REDIRECTS + 1])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_few_redirects_are_followed(server: WebServer, target: Path, status: int, hops: int) -> None:
    for hop in range(hops):
        server.serve(f"/{hop}", status, b"moved", Location=f"./{hop + 1}")
    server.serve(f"/{hops}", 200, b"here")
    if hops <= MAX_REDIRECTS:
        assert downloads().fetch(server.url("/0"), target, ignore).size_bytes == 4
        assert target.read_bytes() == b"here"
    else:
        with pytest.raises(UrlNotUsable, match="more than 5 times"):
            downloads().fetch(server.url("/0"), target, ignore)


def test_a_redirect_loop_ends(server: WebServer, target: Path) -> None:
    server.serve("/", 302, Location="/")
    with pytest.raises(UrlNotUsable, match="redirects more than"):
        downloads().fetch(server.url("/"), target, ignore)
    assert len(server.seen) == MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.2:{port}/x", "http://private.example:{port}/x", "//169.254.169.254/latest/", "file:///etc/passwd",
     "http://user:password@127.0.0.1:{port}/x", "ftp://127.0.0.1/x", "http://[::1", "http://0177.0.0.1/x"],
)  # fmt: skip
def test_a_redirect_into_private_space_is_refused(server: WebServer, target: Path, location: str) -> None:
    names = Names(
        public_example=[["127.0.0.1"]],
        private_example=[["10.0.0.1"]],
        **{"127_0_0_2": [["127.0.0.2"]], "169_254_169_254": [["169.254.169.254"]]},
    )
    server.serve("/x")
    server.serve("/", 302, Location=location.format(port=server.port))
    with pytest.raises(UnsafeUrl):
        downloads(UrlGuard(LOOPBACK, names)).fetch(server.url("/", "public.example"), target, ignore)
    assert [request.path for request in server.seen] == ["/"]


def test_a_name_that_moves_between_redirects_is_judged_anew(server: WebServer, target: Path) -> None:
    server.serve("/", 302, Location="/x")
    server.serve("/x", 200, b"secret")
    guard = UrlGuard(LOOPBACK, Names(moving_example=[["127.0.0.1"], ["127.0.0.2"]]))
    with pytest.raises(UnsafeUrl):
        downloads(guard).fetch(server.url("/", "moving.example"), target, ignore)
    assert [request.path for request in server.seen] == ["/"]


def test_a_name_that_moves_after_the_submit_is_refused(server: WebServer, target: Path) -> None:
    server.serve("/", 200, b"secret")
    guard = UrlGuard(resolver=Names(moving_example=[[PUBLIC], ["127.0.0.1"]]))
    url = server.url("/", "moving.example")
    asyncio.run(guard.judge(url))
    with pytest.raises(UnsafeUrl):
        downloads(guard).fetch(url, target, ignore)
    assert not server.seen


def test_a_body_that_breaks_off_is_tried_again(server: WebServer, target: Path) -> None:
    def broken(request: Request) -> None:
        request.head(200, Content_Length="1000")
        request.wfile.write(b"half")

    server.answers["/"] = broken
    with pytest.raises(UrlUnreachable, match=r"127\.0\.0\.1 cannot be reached"):
        downloads().fetch(server.url("/"), target, ignore)


def test_a_server_that_falls_silent_is_left(
    server: WebServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module._TIMEOUTS, "read", 0.1)
    server.answers["/"] = stalling
    with pytest.raises(UrlUnreachable, match="did not answer in time"):
        downloads().fetch(server.url("/"), target, ignore)


def test_a_server_that_drips_is_left_when_the_time_is_over(server: WebServer, target: Path) -> None:
    server.answers["/"] = dripping
    with pytest.raises(UrlUnreachable, match="did not answer in time"):
        downloads(timeout_s=0.3).fetch(server.url("/"), target, ignore)


@pytest.mark.parametrize("answer", [stalling, dripping, lambda request: request.wait_for_the_end()])
def test_a_download_stops_when_told(server: WebServer, target: Path, answer: Any) -> None:
    server.answers["/"] = answer
    with pytest.raises(Stop):
        downloads().fetch(server.url("/"), target, stop)


def test_a_resolver_that_hangs_holds_nothing_up(server: WebServer, target: Path) -> None:
    is_over = threading.Event()
    guard = UrlGuard(resolver=lambda *_, **__: is_over.wait())
    try:
        with pytest.raises(Stop):
            downloads(guard).fetch("http://hanging.example/", target, stop)
    finally:
        is_over.set()


def test_a_full_disk_is_told_as_such(server: WebServer) -> None:
    url = server.serve("/", 200, noise(100_000))
    with pytest.raises(StorageFull, match="MEDIARAY_WORKSPACE_DIR") as caught:
        downloads().fetch(url, Path("/dev/full"), ignore)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC


def test_proxies_of_the_environment_are_not_asked(
    server: WebServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert downloads().fetch(server.serve("/", 200, b"x"), target, ignore).size_bytes == 1


def test_an_allowed_network_is_that_network_only(server: WebServer, target: Path) -> None:
    guard = UrlGuard([ip_network("10.0.0.0/8")])
    with pytest.raises(UnsafeUrl):
        downloads(guard).fetch(server.serve("/", 200, b"x"), target, ignore)
