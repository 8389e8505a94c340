"""/v1/files: upload, download with ranges and validators, delete."""

from __future__ import annotations

import hashlib
import threading
from urllib.parse import quote

import pytest

from api.file_responses import Span, Unsatisfiable, asked_span
from api.routes import files
from tests.api_client import SAMPLES, key_entry, serving

CONTENT = bytes(range(256)) * 4


@pytest.fixture
async def server(tmp_path):
    async with serving(tmp_path) as started:
        yield started


async def upload(server, path="a/b.bin", content=CONTENT, **query):
    parts = {"file": ("name on disk.bin", content)}
    return await server.http.post("/v1/files/upload", files=parts, data={"file_path": path}, params=query)


async def test_upload_answers_with_what_tasks_take(server):
    answer = await upload(server, "videos/in.mp4", (SAMPLES / "carphone_pristine.mp4").read_bytes())
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert set(body) == {"file_path", "bucket", "download_url", "size", "uploaded_at", "content_type"}
    assert (body["file_path"], body["bucket"], body["content_type"]) == (
        "videos/in.mp4",
        "mediaray",
        "video/mp4",
    )
    assert body["size"] == (SAMPLES / "carphone_pristine.mp4").stat().st_size
    assert (
        await server.submit("ffmpeg.extract_keyframes", {"video_path": body["file_path"]})
    ).status_code == 200
    assert (await server.http.get(body["download_url"])).content[:16] == (
        SAMPLES / "carphone_pristine.mp4"
    ).read_bytes()[:16]


@pytest.mark.parametrize("order", ["before", "after", "query"])
async def test_file_path_may_come_before_after_or_in_the_query(server, order):
    file, path = ("file", ("x", CONTENT)), ("file_path", (None, "a/b.bin"))
    parts = {"before": [path, file], "after": [file, path], "query": [file]}[order]
    params = {"file_path": "a/b.bin", "bucket": "mediaray"} if order == "query" else {}
    answer = await server.http.post("/v1/files/upload/", files=parts, params=params)
    assert answer.status_code == 200, answer.text
    assert answer.json()["size"] == len(CONTENT)
    assert await server.remains() == (0, ["files/local/a/b.bin"], 0)
    assert (await server.http.get("/v1/files/download/a/b.bin")).content == CONTENT


@pytest.mark.parametrize(
    ("parts", "status", "text"),
    [
        ([("file", ("x", b"abc"))], 400, "file_path不能为空"),
        ([("file_path", (None, "")), ("file", ("x", b"abc"))], 400, "file_path不能为空"),
        ([("file_path", (None, "a")), ("file", ("x", b""))], 400, "文件大小为0"),
        ([("file_path", (None, "../a")), ("file", ("x", b"abc"))], 400, "无效的文件路径"),
        ([("file", ("x", b"abc")), ("file_path", (None, "../a"))], 400, "无效的文件路径"),
        (
            [("bucket", (None, "other")), ("file", ("x", b"abc")), ("file_path", (None, "a"))],
            400,
            "bucket must be mediaray",
        ),
    ],
    ids=["no path", "empty path", "empty file", "bad path", "bad path after", "other bucket"],
)
async def test_uploads_that_are_refused(server, parts, status, text):
    answer = await server.http.post("/v1/files/upload", files=parts)
    assert (answer.status_code, answer.json()["detail"]) == (status, text)
    assert await server.remains() == (0, [], 0)


@pytest.mark.parametrize("first", ["field", "query"])
async def test_an_upload_with_two_paths_is_kept_at_neither(server, first):
    await upload(server, "kept.bin", b"old")
    file, last = ("file", ("x", CONTENT)), ("file_path", (None, "b.bin"))
    parts = [file, last] if first == "query" else [("file_path", (None, "kept.bin")), file, last]
    params = {"file_path": "kept.bin"} if first == "query" else {}
    answer = await server.http.post("/v1/files/upload", files=parts, params=params)
    assert (answer.status_code, answer.json()["detail"]) == (400, "file_path is given twice")
    assert await server.remains() == (0, ["files/local/kept.bin"], 0)
    assert (await server.http.get("/v1/files/download/kept.bin")).content == b"old"


async def test_upload_without_a_file(server):
    answer = await server.http.post("/v1/files/upload", files={"file_path": (None, "a")})
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body", "file"])


async def test_raw_upload_in_pieces(server):
    async def pieces():
        for _ in range(50):
            yield b"0123456789" * 10_000

    answer = await server.http.put("/v1/files/a/raw.txt", content=pieces())
    assert (answer.status_code, answer.json()["size"]) == (200, 5_000_000)
    assert answer.json()["content_type"].startswith("text/plain")
    empty = await server.http.put("/v1/files/a/empty", content=b"")
    assert (empty.status_code, empty.json()["detail"]) == (400, "文件大小为0")


@pytest.mark.parametrize("name", ["视频 🎬.mp4", 'a"b;c.mp4', "100%.mp4", "a+b&c=d.mp4", "#frag?.mp4"])
async def test_names_survive_the_round_trip(server, name):
    answer = await server.http.put(f"/v1/files/{quote('x/' + name)}", content=CONTENT)
    assert answer.json()["file_path"] == f"x/{name}"
    for url in (answer.json()["download_url"], f"/v1/files/download/{quote('x/' + name)}"):
        served = await server.http.get(url)
        assert (served.status_code, served.content) == (200, CONTENT)
    assert "\n" not in served.headers["content-disposition"]
    if not name.isascii():
        assert f"filename*=UTF-8''{quote(name)}" in served.headers["content-disposition"]


@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
async def test_a_name_and_a_line_end_is_not_the_name(server, method):
    await upload(server, "a")
    below = "/v1/files/download" if method == "GET" else "/v1/files"
    answer = await server.http.request(method, f"{below}/a%0A", content=b"other")
    assert answer.status_code == 404
    assert (await server.http.get("/v1/files/download/a")).content == CONTENT


@pytest.mark.parametrize("asked", ["../../x.bin", "C:\\x.bin", "x\r\n.bin"])
async def test_a_download_is_named_without_folders(server, asked):
    url = (await upload(server)).json()["download_url"]
    headers = (await server.http.get(f"{url}&filename={quote(asked)}")).headers
    assert headers["content-disposition"].endswith('filename="x.bin"')


async def test_download_headers(server):
    await upload(server)
    answer = await server.http.get("/v1/files/download/a/b.bin")
    headers = answer.headers
    assert headers["etag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    assert (headers["accept-ranges"], headers["content-length"]) == ("bytes", str(len(CONTENT)))
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["last-modified"].endswith("GMT")
    head = await server.http.head("/v1/files/download/a/b.bin/")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("etag", "content-length", "content-type", "content-disposition", "last-modified"):
        assert head.headers[name] == headers[name]


@pytest.mark.parametrize(
    ("header", "status", "start", "stop"),
    [
        ("bytes=0-9", 206, 0, 10),
        ("bytes=1000-", 206, 1000, 1024),
        ("bytes=-24", 206, 1000, 1024),
        ("bytes=-5000", 206, 0, 1024),
        ("bytes=1023-99999", 206, 1023, 1024),
        ("bytes=1024-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
        ("bytes=5-2", 200, 0, 1024),
        ("bytes=0-1,5-6", 200, 0, 1024),
        ("bytes=-", 200, 0, 1024),
        ("items=0-9", 200, 0, 1024),
        ("bytes=a-b", 200, 0, 1024),
        ("bytes=" + "9" * 5000 + "-", 200, 0, 1024),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_ranges(server, header, status, start, stop):
    await upload(server)
    path = "/v1/files/download/a/b.bin"
    answer = await server.http.get(path, headers={"range": header})
    assert answer.status_code == status
    shown = {206: f"bytes {start}-{stop - 1}/1024", 416: "bytes */1024"}
    assert answer.headers.get("content-range") == shown.get(status)
    assert (answer.headers["content-length"], answer.content) == (str(stop - start), CONTENT[start:stop])
    head = await server.http.head(path, headers={"range": header})  # RFC 9110 §14.2: only GET has ranges
    assert (head.status_code, head.headers["content-length"]) == (200, "1024")
    assert "content-range" not in head.headers


async def test_validators(server):
    await upload(server)
    path = "/v1/files/download/a/b.bin"
    first = (await server.http.get(path)).headers
    tag, date = first["etag"], first["last-modified"]
    for headers in (
        {"if-none-match": tag},
        {"if-none-match": f'"x", W/{tag}'},
        {"if-none-match": "*"},
        {"if-modified-since": date},
    ):
        answer = await server.http.get(path, headers=headers)
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    for headers in (
        {"if-none-match": '"x"'},
        {"if-none-match": '"x"', "if-modified-since": date},
        {"if-modified-since": "soon"},
    ):
        assert (await server.http.get(path, headers=headers)).status_code == 200
    for condition, status in (
        (tag, 206),
        ('"x"', 200),
        (f"W/{tag}", 200),
        (date, 206),
        ("Mon, 01 Jan 1990 00:00:00 GMT", 200),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 200),
        ("soon", 200),
    ):
        answer = await server.http.get(path, headers={"range": "bytes=0-0", "if-range": condition})
        assert answer.status_code == status, condition


@pytest.mark.parametrize(
    ("content", "disposition"),
    [
        (b"<html><script>alert(1)</script></html>", "text/plain"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>', "text/plain"),
        (b"PK\x03\x04" + b"\0" * 40, "attachment"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "inline"),
    ],
    ids=["html", "svg", "zip", "png"],
)
async def test_nothing_that_runs_is_shown_in_our_origin(server, content, disposition):
    await upload(server, "page.html", content)
    headers = (await server.http.get("/v1/files/download/page.html")).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "html" not in headers["content-type"]
    assert "svg" not in headers["content-type"]
    assert disposition in headers["content-type"] + headers["content-disposition"]


async def test_signed_urls(server):
    url = (await upload(server)).json()["download_url"]
    assert (await server.http.get(url)).status_code == 200
    forged = await server.http.get(url[:-4] + "AAAA")
    assert (forged.status_code, forged.json()["error"]["code"]) == (403, "FORBIDDEN")
    await upload(server, "a/c.bin")
    assert (await server.http.get(url.replace("b.bin", "c.bin"))).status_code == 403
    server.clock.advance(3601)
    expired = await server.http.get(url)
    assert (expired.status_code, expired.json()["error"]["code"]) == (403, "URL_EXPIRED")


async def test_the_store_s_own_keys_need_a_signature(server):
    await upload(server)
    answer = await server.http.get("/v1/files/download/files/local/a/b.bin")
    assert answer.status_code == 404


async def test_artifacts_belong_to_their_task(server):
    await server.submit(task_id="t")
    task = await server.start()
    await server.succeed(task, out__txt=b"hello")
    assert (await server.http.get("/v1/files/download/tasks/t/1-lease1/out.txt")).text == "hello"
    assert (await server.http.delete("/v1/files/tasks/t/1-lease1/out.txt")).status_code == 400
    await server.registry.delete("t")
    assert (await server.http.get("/v1/files/download/tasks/t/1-lease1/out.txt")).status_code == 404


async def keyframes(server):
    """A task whose result names a folder of two files by its URL; returns that URL."""
    await server.submit(task_id="t")
    task = await server.start()
    for name, content in (("frames/1.txt", b"one"), ("frames/deep/视频 2.txt", b"two"), ("framesX", b"no")):
        server.publish(task, name, content)
    await server.succeed(task, {"url": {"$download": "tasks/t/1-lease1/frames"}})
    return (await server.http.get("/v1/tasks/t/result")).json()["result"]["url"]


async def test_a_signed_folder_is_a_list_of_its_files(server):
    url = await keyframes(server)
    answer = await server.http.get(url)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert (body["path"], body["is_truncated"]) == ("tasks/t/1-lease1/frames", False)
    told = [(file["name"], file["size"], file["content_type"]) for file in body["files"]]
    text = "text/plain; charset=utf-8"
    assert told == [("1.txt", 3, text), ("deep/视频 2.txt", 3, text)]
    contents = [(await server.http.get(file["download_url"])).content for file in body["files"]]
    assert contents == [b"one", b"two"]
    assert (await server.http.head(url)).status_code == 200


async def test_the_token_of_a_folder_opens_only_its_list(tmp_path):
    async with serving(tmp_path, api_keys=key_entry("local", "k")) as server:
        server.http.headers["x-api-key"] = "k"
        url = await keyframes(server)
        del server.http.headers["x-api-key"]
        assert (await server.http.get(url)).status_code == 200
        token = url.partition("?")[2]
        for path, query, status in (
            ("tasks/t/1-lease1/frames", token[:-4] + "AAAA", 403),
            ("tasks/t/1-lease1/frames/1.txt", token, 403),
            ("tasks/t/1-lease1", token, 403),
            ("tasks/t/1-lease1/frames", "", 401),
        ):
            answer = await server.http.get(f"/v1/files/download/{path}?{query}")
            assert answer.status_code == status, path


async def test_the_urls_of_a_list_end_with_its_own(server):
    url = await keyframes(server)
    server.clock.advance(3000)
    (first, _) = (await server.http.get(url)).json()["files"]
    server.clock.advance(599)
    assert (await server.http.get(first["download_url"])).status_code == 200
    server.clock.advance(2)
    for ended in (url, first["download_url"]):
        answer = await server.http.get(ended)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "URL_EXPIRED")


async def test_a_caller_lists_its_own_folders_without_a_token(server):
    await upload(server, "d/1.bin")
    await upload(server, "d/e/2.bin", b"x")
    await keyframes(server)
    for path, names in (("d", ["1.bin", "e/2.bin"]), ("d/", ["1.bin", "e/2.bin"]), ("d/e", ["2.bin"])):
        body = (await server.http.get(f"/v1/files/download/{path}")).json()
        assert [file["name"] for file in body["files"]] == names
        assert (await server.http.get(body["files"][-1]["download_url"])).content == b"x"
    outputs = (await server.http.get("/v1/files/download/tasks/t/1-lease1/frames")).json()
    assert [file["name"] for file in outputs["files"]] == ["1.txt", "deep/视频 2.txt"]


@pytest.mark.parametrize("path", ["nowhere", "d/1.bin/x", "tasks", "tasks/other", "files/local", "files"])
async def test_where_nothing_lies_there_is_nothing_to_list(server, path):
    await upload(server, "d/1.bin")
    answer = await server.http.get(f"/v1/files/download/{path}")
    assert (answer.status_code, answer.json()["detail"]) == (404, "文件不存在")


async def test_a_long_list_says_that_it_is_cut(server, monkeypatch):
    monkeypatch.setattr(files, "MAX_LISTED_FILES", 2)
    for number, is_truncated in enumerate((False, False, True), start=1):
        await upload(server, f"d/{number}")
        body = (await server.http.get("/v1/files/download/d")).json()
        assert (len(body["files"]), body["is_truncated"]) == (min(number, 2), is_truncated)


async def test_delete_a_file(server):
    await upload(server)
    assert (await server.http.delete("/v1/files/a/b.bin")).status_code == 200
    again = await server.http.delete("/v1/files/a/b.bin")
    assert (again.status_code, again.json()["detail"]) == (404, "文件不存在")
    assert (await server.remains())[1] == []


async def test_delete_a_directory_is_idempotent(server):
    for path in ("d/1", "d/e/2", "dd/3"):
        await upload(server, path)
    for directory, count in (("d/", 2), ("d", 0), ("nowhere", 0)):
        answer = await server.http.delete("/v1/files/directories", params={"directory_path": directory})
        assert (answer.status_code, answer.json()["deleted_count"]) == (200, count)
    assert (await server.remains())[1] == ["files/local/dd/3"]
    for directory in ("", "../x", "/", "a//b"):
        answer = await server.http.delete("/v1/files/directories", params={"directory_path": directory})
        assert answer.status_code == 400
    assert (await server.http.delete("/v1/files/directories")).status_code == 400


async def test_a_large_file_is_streamed_in_pieces(server):
    content = b"0123456789abcdef" * 65536 * 4  # 4 MiB
    await server.http.put("/v1/files/big", content=content)
    pieces = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        if message["type"] == "http.response.body":
            pieces.append(len(message["body"]))

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/files/download/big",
        "raw_path": b"",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "asgi": {"version": "3.0", "spec_version": "2.4"},
    }
    await server.app(scope, receive, send)
    assert sum(pieces) == len(content)
    assert max(pieces) <= 1024**2


async def test_a_store_that_answers_slowly_holds_up_nobody_else(server, monkeypatch):
    """Opening an object is a request where the store is S3."""
    await upload(server)
    opened_by = []
    read = server.storage.read

    def watched(*args):
        opened_by.append(threading.current_thread())
        return read(*args)

    monkeypatch.setattr(server.storage, "read", watched)
    assert (await server.http.get("/v1/files/download/a/b.bin")).content == CONTENT
    (thread,) = opened_by
    assert thread is not threading.current_thread()


async def test_a_file_that_goes_between_two_looks_at_it(server, monkeypatch):
    await upload(server)
    stat = server.storage.stat

    def last_seen(key):
        stored = stat(key)
        server.storage.delete(key)
        return stored

    monkeypatch.setattr(server.storage, "stat", last_seen)
    answer = await server.http.get("/v1/files/download/a/b.bin")
    assert (answer.status_code, answer.json()["detail"]) == (404, "文件不存在")


def test_spans_of_an_empty_file():
    assert asked_span("", 0) is None
    with pytest.raises(Unsatisfiable):
        asked_span("bytes=0-", 0)
    assert asked_span("bytes = 0 - 1", 10) is None
    assert asked_span("bytes=0-1", 10) == Span(0, 2)
