"""Requests that must be refused: with the right status, a text that helps, and nothing left behind."""

from __future__ import annotations

import asyncio
import subprocess
from urllib.parse import quote, unquote

import pytest
import pytest_asyncio

from models.media import ffmpeg_path
from tests.api_client import SAMPLES, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1024**2


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory):
    async with serving(tmp_path_factory.mktemp("bad"), max_upload_bytes=8 * MIB) as started:
        yield started


@pytest.fixture(scope="module")
def mute_video():
    return (SAMPLES / "carphone_pristine.mp4").read_bytes()


@pytest.fixture(scope="module")
def sound():
    return (SAMPLES / "conversation.wav").read_bytes()[:200_000]


@pytest.fixture(scope="module")
def truncated(tmp_path_factory):
    """An MP4 with its index at the end, cut in the middle."""
    path = tmp_path_factory.mktemp("cut") / "whole.mp4"
    source = ("-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=1")
    command = (ffmpeg_path(), "-v", "error", *source, "-pix_fmt", "yuv420p", str(path))
    subprocess.run(command, check=True)
    return path.read_bytes()[: path.stat().st_size // 2]


@pytest_asyncio.fixture(loop_scope="module")
async def nothing_left(server):
    """The test may change nothing that stays."""
    before = await server.remains()
    yield
    assert await server.remains() == before


@pytest_asyncio.fixture(loop_scope="module")
async def stored(server):
    """Puts objects straight into the store, and takes them out again after `nothing_left` looked."""
    keys = []

    def put(path, content):
        keys.append(server.store(f"files/local/{path}", content).key)
        return path

    yield put
    for key in keys:
        server.storage.delete(key)


VIDEO_TASK, AUDIO_TASK = "ffmpeg.extract_keyframes", "ffmpeg.extract_audio"


@pytest.mark.parametrize(
    ("task", "source", "words"),
    [
        (VIDEO_TASK, "text", "not a media file"),
        (AUDIO_TASK, "text", "not a media file"),
        (VIDEO_TASK, "sound", "no video stream"),
        (AUDIO_TASK, "mute_video", "no audio stream"),
        (VIDEO_TASK, "zero", "zero bytes"),
        (VIDEO_TASK, "truncated", "truncated"),
    ],
    ids=lambda value: value.replace(" ", "-"),
)
async def test_files_that_are_not_what_the_task_needs(server, stored, request, task, source, words):
    plain = {"text": b"I am no video\n" * 50, "zero": b""}
    content = plain[source] if source in plain else request.getfixturevalue(source)
    path = stored("bad/input.mp4", content)
    before = await server.remains()
    answer = await server.submit(task, {"video_path": path})
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("video_path: ")
    assert words in answer.json()["detail"]
    assert answer.json()["error"]["details"] == {"field": "video_path"}
    assert await server.remains() == before


async def test_pictures_larger_than_the_limit(tmp_path, mute_video):
    async with serving(tmp_path, max_pixels=176 * 144 - 1) as server:
        path = await server.put("v.mp4", mute_video)
        answer = await server.submit(VIDEO_TASK, {"video_path": path})
    assert answer.status_code == 400
    assert "176x144" in answer.json()["detail"]


@pytest.mark.usefixtures("nothing_left")
async def test_unknown_object_key(server):
    answer = await server.submit(VIDEO_TASK, {"video_path": "videos/nowhere.mp4"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["details"]) == (
        "FILE_NOT_FOUND",
        {"field": "video_path", "path": "videos/nowhere.mp4"},
    )


HOSTILE_PATHS = [
    "../secret.mp4",
    "a/../../b.mp4",
    "/etc/passwd",
    "a//b.mp4",
    "./a.mp4",
    "..",
    "a\\..\\b.mp4",
    "a\x00.mp4",
    "a\nb.mp4",
    "files/other/x.mp4",
    "tasks/../x.mp4",
    "tasks/t",
    "tasks/nope/1/out.mp4",
    "x" * 901,
    "s3://mediaray/../x",
    "s3://mediaray",
    "file:///etc/passwd",
    "ftp://example.com/x.mp4",
    "gopher://x/y",
]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("path", HOSTILE_PATHS, ids=lambda path: repr(path[:24]))
async def test_hostile_object_keys(server, path):
    answer = await server.submit(VIDEO_TASK, {"video_path": path})
    assert answer.status_code == 400
    assert "video_path" in answer.json()["detail"]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254 is not a public address"),
        ("http://localhost:8000/x.mp4", "localhost is not a public address"),
        ("HTTP://[::ffff:10.0.0.1]/x.mp4", "::ffff:10.0.0.1 is not a public address"),
        ("http://2130706433/x.mp4", "2130706433 is not a public address"),
        ("https://user:secret@example.com/x.mp4", "must not carry a user name or password"),
        ("https://", "with a plain host name"),
    ],
    ids=["metadata", "localhost", "mapped", "decimal", "userinfo", "no host"],
)
async def test_a_url_that_no_attempt_would_open_is_refused(server, url, reason):
    answer = await server.submit(VIDEO_TASK, {"video_path": url})
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("video_path: ")
    assert reason in answer.json()["detail"]
    assert "/v1/files/upload" in answer.json()["detail"]


TRAVERSALS = ["../x", "%2e%2e%2fx", "%2e%2e/x", "..%5cx", "a%00b", "%2fetc%2fpasswd", "a%5c..%5cb", "a//b"]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("path", TRAVERSALS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_traversal_in_file_urls(server, method, path):
    base = "/v1/files/download/" if method == "GET" else "/v1/files/"
    answer = await raw_request(server, method, base + path, b"x" if method == "PUT" else b"")
    assert answer in {400, 404}


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("path", TRAVERSALS)
@pytest.mark.parametrize("form", ["/v1/tasks/{}/status", "/v1/tasks/{}/result", "/api/files/{}/result"])
async def test_traversal_in_task_ids(server, form, path):
    assert await raw_request(server, "GET", form.format(path)) in {400, 404}


async def raw_request(server, method, target, body=b""):
    """The status for a path sent as it is: clients tidy paths before they send them."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    await server.app(request_scope(method, target), receive, send)
    return sent[0]["status"]


def request_scope(method, target):
    return {
        "type": "http", "method": method, "path": unquote(target), "raw_path": target.encode(),
        "query_string": b"", "headers": [(b"host", b"127.0.0.1")], "http_version": "1.1", "scheme": "http",
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "root_path": "", "asgi": {"version": "3.0"},
    }  # fmt: skip


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("path", [*HOSTILE_PATHS[:12], "tasks/t/1/x", ".incoming/x", "directories"], ids=repr)
async def test_hostile_upload_paths(server, path):
    answer = await server.http.post(
        "/v1/files/upload", files={"file": ("x", b"abc")}, data={"file_path": path}
    )
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("无效的文件路径")
    by_query = await server.http.post(
        f"/v1/files/upload?file_path={quote(path, safe='')}", files={"file": ("x", b"a")}
    )
    assert by_query.status_code == 400


BAD_JSON = {
    "not json": b"{task_name",
    "empty": b"",
    "cut": b'{"task_name": "diagnostics.echo", "input_',
    "bad utf-8": b'{"task_name": "\xff\xfe"}',
    "NaN": b'{"task_name": "diagnostics.echo", "input_data": {"payload": NaN}}',
    "Infinity": b'{"task_name": "diagnostics.echo", "input_data": {"payload": -Infinity}}',
    "1e400": b'{"task_name": "diagnostics.echo", "input_data": {"payload": [-1e400]}}',
    "400 digits and a point": b'{"task_name": "diagnostics.echo", "input_data": {"payload": '
    + b"9" * 400
    + b".0}}",
    "lone surrogate": rb'{"task_name": "diagnostics.echo", "input_data": {"payload": "\ud800"}}',
    "deep nesting": b'{"task_name":"diagnostics.echo","input_data":{"payload":' + b"[" * 100_000,
    "deep but closed": b'{"task_name":"diagnostics.echo","input_data":{"payload":'
    + b"[" * 5000
    + b"]" * 5000
    + b"}}",
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "wrong types": b'{"task_name": 5, "input_data": []}',
}


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON.keys())
async def test_bodies_that_are_no_request(server, body):
    answer = await server.http.post("/v1/tasks", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    for error in answer.json()["detail"]:
        assert error["loc"][0] == "body"
        assert error["type"]
        assert error["msg"]


@pytest.mark.parametrize("number", ["1e400", "9" * 5000], ids=["float", "integer"])
async def test_numbers_beyond_measure_do_no_harm(server, number):
    body = f'{{"task_name":"diagnostics.echo","input_data":{{"payload":{number}}}}}'
    answer = await server.http.post("/v1/tasks", content=body)
    assert answer.status_code in {200, 400, 422}
    if answer.status_code == 200:
        shown = await server.http.get(f"/v1/tasks/{answer.json()['task_id']}/result")
        assert shown.status_code == 200
        assert (await server.http.delete(f"/v1/tasks/{answer.json()['task_id']}")).status_code == 200


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
async def test_a_json_string_of_ten_megabytes(server, chunked):
    body = b'{"task_name":"diagnostics.echo","input_data":{"payload":"' + b"x" * 10 * MIB + b'"}}'
    answer = await server.http.post("/v1/tasks", content=pieces(body) if chunked else body)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "BODY_TOO_LARGE"
    assert "1048576 bytes" in answer.json()["detail"]


async def pieces(body):
    for start in range(0, len(body), 65536):
        yield body[start : start + 65536]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_uploads_over_the_limit(server, method, chunked):
    content = b"x" * (10 * MIB)
    if method == "POST":
        head = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        content = head + content + b"\r\n--B--\r\n"
    path = "/v1/files/big.bin" if method == "PUT" else "/v1/files/upload?file_path=big.bin"
    headers = {"content-type": "multipart/form-data; boundary=B"}
    answer = await server.http.request(
        method, path, content=pieces(content) if chunked else content, headers=headers
    )
    assert answer.status_code == 413
    assert answer.json()["detail"].startswith("文件太大")


CREATES = [
    ("POST", "/v1/tasks"),
    ("POST", "/v1/tasks/any/retry"),
    ("POST", "/v1/files/upload"),
    ("PUT", "/v1/files/huge.bin"),
    ("POST", "/api/tasks/"),
    ("POST", "/api/inference?index=1"),
    ("POST", "/api/v1/inference/hallo2"),
    ("POST", "/flashvsr/api/tasks/"),
    ("POST", "/flashvsr/api/tasks/any/export_from_chunks"),
    ("POST", "/hallo2/api/v1/inference/hallo2"),
    ("POST", "/hallo2/api/v1/inference/hallo2/config"),
    ("POST", "/creation/api/tasks/"),
    ("POST", "/indexed/api/inference?index=1"),
    ("POST", "/tasks/v1/files/upload"),
]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data; boundary=B"])
@pytest.mark.parametrize(("method", "path"), CREATES, ids=lambda word: word)
async def test_five_gib_are_refused_by_their_announcement(server, method, path, content_type):
    """Before the body is read: there is none here."""
    scope = request_scope(method, path.partition("?")[0])
    scope["query_string"] = path.partition("?")[2].encode()
    length = str(5 * 1024**3).encode()
    scope["headers"] += [(b"content-type", content_type.encode()), (b"content-length", length)]
    sent = []

    async def receive():
        raise AssertionError("the body was read")

    async def send(message):
        sent.append(message)

    await server.app(scope, receive, send)
    assert sent[0]["status"] == 413
    assert (b"connection", b"close") in sent[0]["headers"]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("length", ["-1", "1e9", "0x10", " ", "9" * 40])
async def test_lengths_that_are_no_numbers(server, length):
    headers = {"content-type": "application/json", "content-length": length}
    answer = await server.http.post("/v1/tasks", content=b"[]", headers=headers)
    assert answer.status_code in {400, 413, 422}


@pytest.mark.usefixtures("nothing_left")
async def test_only_upload_routes_take_large_forms(server):
    headers = {"content-type": "multipart/form-data; boundary=B"}
    answer = await server.http.post("/v1/tasks", content=b"x" * 2 * MIB, headers=headers)
    assert answer.status_code == 413


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"--B\r\nno headers at all", "multipart/form-data; boundary=B"),
        (
            b'--B\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nabc',
            "multipart/form-data; boundary=B",
        ),
        (b"--B\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--B--\r\n", "multipart/form-data; boundary=B"),
        (b"abc", "multipart/form-data"),
        (b"abc", "multipart/form-data; boundary=" + "B" * 300),
        (
            b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"x" * 70_000 + b"\r\n--B--\r\n",
            "multipart/form-data; boundary=B",
        ),
        (
            b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 101 + b"--B--\r\n",
            "multipart/form-data; boundary=B",
        ),
        (
            b"--B\r\n" + b"X-Long: " + b"y" * 9000 + b"\r\n\r\n\r\n--B--\r\n",
            "multipart/form-data; boundary=B",
        ),
    ],
    ids=[
        "garbage",
        "cut",
        "no name",
        "no boundary",
        "long boundary",
        "long field",
        "many parts",
        "long header",
    ],
)
async def test_malformed_forms(server, body, content_type):
    for path in ("/v1/files/upload?file_path=a.bin", "/flashvsr/api/tasks/"):
        answer = await server.http.post(path, content=body, headers={"content-type": content_type})
        assert answer.status_code == 400, answer.text


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("path", ["/v1/files/half.bin", "/v1/files/upload", "/flashvsr/api/tasks"])
async def test_a_cancelled_upload_leaves_nothing(server, path):
    """Ray Serve cancels the request of a client that hangs up."""
    is_form = path != "/v1/files/half.bin"
    head = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n' if is_form else b""
    scope = request_scope("POST" if is_form else "PUT", path)
    scope["headers"].append((b"content-type", b"multipart/form-data; boundary=B"))
    waiting = asyncio.Event()
    messages = iter([{"type": "http.request", "body": head + b"x" * 3 * MIB, "more_body": True}])

    async def receive():
        for message in messages:
            return message
        waiting.set()
        await asyncio.Event().wait()

    async def send(message):
        raise AssertionError(message)

    serving_it = asyncio.create_task(server.app(scope, receive, send))
    await waiting.wait()
    assert (await server.remains())[2] == 1
    serving_it.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving_it


@pytest.mark.usefixtures("nothing_left")
async def test_a_server_that_loses_its_client_leaves_nothing(server):
    messages = iter([
        {"type": "http.request", "body": b"x" * 3 * MIB, "more_body": True},
        {"type": "http.disconnect"},
    ])  # fmt: skip
    sent = []

    async def receive():
        return next(messages)

    async def send(message):
        sent.append(message)

    await server.app(request_scope("PUT", "/v1/files/half.bin"), receive, send)
    assert sent[0]["status"] == 400
