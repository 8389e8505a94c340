"""The `indexed` dialect, row by row of seed 0 and contracts §2, over HTTP in process."""

from __future__ import annotations

import re
import shutil
import uuid
from dataclasses import replace

import pytest
import pytest_asyncio

from cluster.errors import RegistryUnavailable
from cluster.task import Status
from models.catalog import CATALOG
from tests.api_client import SAMPLES, serving
from tests.tiny_models import work

VIDEO = SAMPLES / "carphone_distorted.mp4"
JOBS = """
jobs:
  1:
    task: ffmpeg.extract_keyframes
    inputs: {video_path: clip.mp4, keyframe_sample_count: 2, compress_keyframes_before_upload: true}
  2:
    task: diagnostics.echo
    inputs: {payload: two}
  3:
    task: ffmpeg.extract_audio
    inputs: {video_path: absent.mp4}
  4:
    task: ffmpeg.extract_audio
    inputs: {video_path: silent.mp4}
  5:
    task: text_to_video.generate_video
    inputs: {prompt: a cat}
"""
BASES = ["", "/indexed"]


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    folder = tmp_path / "jobs"
    folder.mkdir()
    shutil.copy(VIDEO, folder / "clip.mp4")
    shutil.copy(VIDEO, folder / "silent.mp4")
    path = folder / "jobs.yaml"
    path.write_text(JOBS)
    monkeypatch.setenv("MEDIARAY_CATALOG", str(path))
    return path


@pytest.fixture
async def server(tmp_path, jobs):
    async with serving(tmp_path) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def idle(tmp_path_factory):
    """A server for requests that must leave nothing behind."""
    async with serving(tmp_path_factory.mktemp("idle")) as started:
        yield started
        assert await started.remains() == (0, [], 0)


on_idle = pytest.mark.asyncio(loop_scope="module")


async def submit(server, index=2, base="/indexed", **query):
    return await server.http.post(f"{base}/api/inference", params={"index": index, **query})


async def submitted(server, index=2, **query):
    answer = await submit(server, index, **query)
    assert answer.status_code == 200, answer.text
    return answer.json()["task_id"]


async def get(server, path):
    answer = await server.http.get(f"/indexed/api/{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("slash", ["", "/"])
async def test_submit(server, base, slash):
    answer = await server.http.post(f"{base}/api/inference{slash}?index=2")
    assert answer.status_code == 200
    body = answer.json()
    assert body == {"task_id": body["task_id"], "index": 2, "message": "任务已创建，正在处理中"}
    assert uuid.UUID(body["task_id"]).version == 4
    task = await server.registry.get(body["task_id"])
    assert (task.name, task.inputs, task.dialect) == ("diagnostics.echo", {"payload": "two"}, "indexed")


@on_idle
@pytest.mark.parametrize(
    "query",
    [
        "", "index=", "index=0", "index=-1", "index=one", "index=1.5", "index=%20", "index=١",
        f"index={'9' * 5000}",
    ],
    ids=["missing", "empty", "0", "negative", "word", "fraction", "blank", "arabic digit", "endless"],
)  # fmt: skip
async def test_an_index_that_is_none_is_400_with_a_text(idle, query):
    answer = await idle.http.post(f"/indexed/api/inference?{query}")
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("index must be an integer of 1 or more")
    assert (await idle.remains())[0] == 0


@pytest.mark.parametrize("index", [6, 999_999_999_999])
async def test_an_index_without_an_entry_is_404(server, index):
    answer = await submit(server, index)
    assert answer.status_code == 404
    assert answer.json() == {"detail": f"no job has the index {index}; this server has 1, 2, 3, 4, 5"}


async def test_a_job_whose_file_is_missing_is_503_until_it_is_there(server, jobs):
    answer = await submit(server, 3)
    assert answer.status_code == 503
    assert "absent.mp4 is not on this server" in answer.json()["detail"]
    assert str(jobs.parent) not in answer.text
    shutil.copy(SAMPLES / "bigbuckbunny.mp4", jobs.parent / "absent.mp4")
    assert (await submit(server, 3)).status_code == 200


async def test_a_job_whose_file_does_not_fit_its_task_is_400(server):
    answer = await submit(server, 4)
    assert (answer.status_code, answer.json()) == (
        400,
        {"detail": "video_path: the file has no audio stream"},
    )
    assert (await server.remains())[0] == 0


async def test_a_job_whose_model_cannot_run_is_503(tmp_path, jobs):
    name = "text_to_video.generate_video"
    async with serving(tmp_path, CATALOG | {name: replace(CATALOG[name], engines=())}) as server:
        answer = await submit(server, 5)
        assert answer.status_code == 503
        assert name in answer.json()["detail"]
        assert (await server.remains())[0] == 0


async def test_a_full_queue_is_503_and_keeps_no_record(tmp_path, jobs):
    async with serving(tmp_path, max_queued_tasks=1) as server:
        await submitted(server)
        answer = await submit(server)
        assert (answer.status_code, answer.json()) == (503, {"detail": "服务繁忙，请稍后重试"})
        assert int(answer.headers["retry-after"]) >= 1
        assert (await server.remains())[0] == 1


async def test_subfolder_is_echoed_and_is_never_a_path(server):
    body = (await submit(server, subfolder="../../day 1")).json()
    assert body["subfolder"] == "../../day 1"
    assert (await get(server, f"task/{body['task_id']}/status"))["subfolder"] == "../../day 1"
    assert (await get(server, "system/status?subfolder=a"))["subfolder"] == "a"
    assert (await server.remains())[1] == []


@on_idle
@pytest.mark.parametrize("label", ["x" * 256, "a\nb", "a\x00b"], ids=["long", "line break", "nul"])
async def test_subfolder_that_is_refused(idle, label):
    answer = await submit(idle, subfolder=label)
    assert (answer.status_code, answer.json()["detail"][:9]) == (400, "subfolder")


async def test_status_from_pending_to_completed(server):
    task_id = await submitted(server)
    created_at = (await get(server, f"task/{task_id}/status"))["created_at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", created_at)
    shown = {
        "task_id": task_id, "index": 2, "status": "pending", "created_at": created_at, "completed_at": None,
        "inference_time": None, "error_message": None,
    }  # fmt: skip
    assert await get(server, f"task/{task_id}/status") == shown
    task = await server.start()
    assert await get(server, f"task/{task_id}/status") == shown | {"status": "processing"}
    server.clock.advance(2.346)
    await server.succeed(task)
    done = await get(server, f"task/{task_id}/status/")
    assert (done["status"], done["inference_time"], done["error_message"]) == ("completed", 2.35, None)
    assert done["completed_at"] > created_at


async def test_result_before_completion_and_after_failure(server):
    task_id = await submitted(server)
    unfinished = {"task_id": task_id, "message": "任务尚未完成", "error_message": None}
    assert await get(server, f"task/{task_id}/result") == unfinished | {"status": "pending"}
    task = await server.start()
    assert await get(server, f"task/{task_id}/result") == unfinished | {"status": "processing"}
    await server.fail(task, "the disk is full")
    failed = {"status": "failed", "error_message": "the disk is full"}
    assert await get(server, f"task/{task_id}/result") == unfinished | failed
    assert (await get(server, f"task/{task_id}/status"))["error_message"] == "the disk is full"


async def test_cancelled_is_shown_as_failed(server):
    task_id = await submitted(server)
    await server.registry.cancel(task_id)
    shown = await get(server, f"task/{task_id}/status")
    assert (shown["status"], shown["error_message"]) == ("failed", "任务已取消")
    assert [item["task_id"] for item in (await get(server, "tasks?status=failed"))["tasks"]] == [task_id]


async def test_a_real_job_and_its_files(server, tmp_path):
    task_id = await submitted(server, 1)
    task = await work(server, "ffmpeg", CATALOG, tmp_path)
    assert task.status is Status.SUCCEEDED, task.failure
    body = await get(server, f"task/{task_id}/result")
    assert set(body) == {
        "task_id", "index", "status", "inference_time", "created_at", "completed_at", "files",
    }  # fmt: skip
    assert (body["status"], body["index"]) == ("completed", 1)
    kinds = {file["filename"]: file["type"] for file in body["files"]}
    assert sorted(kinds.values()) == ["image", "image", "other", "other"]
    assert {"keyframes.json", "keyframes.zip"} <= kinds.keys()
    for file in body["files"]:
        assert file["url"] == f"/api/task/{task_id}/file/{file['filename']}"
        for base in BASES:
            served = await server.http.get(base + file["url"])
            assert served.status_code == 200
            assert len(served.content) == int(served.headers["content-length"])


async def with_files(server, files):
    task_id = await submitted(server)
    task = await server.start()
    await server.succeed(task, None, **files)
    return task_id, {
        file["filename"]: file for file in (await get(server, f"task/{task_id}/result"))["files"]
    }


async def test_types_by_suffix_and_urls_that_browsers_can_use(server):
    names = {
        "image": ["a.jpg", "a.jpeg", "a.PNG", "a.bmp", "a.gif", "a.webp"],
        "video": ["a.mp4", "a.avi", "a.mov", "a.mkv", "a.webm"],
        "other": ["a.wav", "a.svg", "plain", "图 1#?.txt"],
    }
    task_id, files = await with_files(server, {name: b"x" for found in names.values() for name in found})
    assert {name: files[name]["type"] for name in files} == {
        name: kind for kind, found in names.items() for name in found
    }
    answer = await server.http.get("/indexed" + files["图 1#?.txt"]["url"])
    assert (answer.status_code, answer.content) == (200, b"x")
    assert files["图 1#?.txt"]["url"] == f"/api/task/{task_id}/file/%E5%9B%BE%201%23%3F.txt"


async def test_files_of_equal_names_in_different_folders(server):
    contents = {"a/x.jpg": b"1", "b/x.jpg": b"2", "b_x.jpg": b"3", "c/b_x.jpg": b"4"}
    _, files = await with_files(server, contents)
    served = [(await server.http.get("/indexed" + file["url"])).content for file in files.values()]
    assert served == list(contents.values())
    assert not [name for name in files if "/" in name]


async def test_files_are_served_inline_with_range_and_etag(server):
    video = VIDEO.read_bytes()
    task_id, _ = await with_files(server, {"output.mp4": video, "page.html": b"<script>alert(1)</script>"})
    path = f"/indexed/api/task/{task_id}/file/output.mp4"
    whole = await server.http.get(path)
    assert (whole.content, whole.headers["content-type"]) == (video, "video/mp4")
    assert whole.headers["content-disposition"].startswith("inline")
    part = await server.http.get(path, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, video[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(video)}"
    known = await server.http.get(path, headers={"if-none-match": whole.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")
    behind = await server.http.get(path, headers={"range": f"bytes={len(video)}-"})
    assert behind.status_code == 416
    head = await server.http.head(path)
    assert (head.content, head.headers["content-length"]) == (b"", str(len(video)))
    page = await server.http.get(f"/indexed/api/task/{task_id}/file/page.html")
    assert page.headers["content-type"].startswith("text/plain")
    assert page.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "name",
    [
        "none.jpg", "..%2F1%2Fa.jpg", "%2e%2e%2f%2e%2e%2fsecret", "..%5Ca.jpg", "1%2Fa.jpg", "a.jpg%00",
        "%2Fetc%2Fpasswd",
    ],
)  # fmt: skip
async def test_a_file_that_is_not_one_of_the_task_is_404(server, name):
    task_id, _ = await with_files(server, {"a.jpg": b"x"})
    answer = await server.http.get(f"/indexed/api/task/{task_id}/file/{name}")
    assert (answer.status_code, answer.json()) == (404, {"detail": "文件不存在"})


async def test_files_of_an_unfinished_or_failed_task_are_404(server):
    task_id = await submitted(server)
    path = f"/indexed/api/task/{task_id}/file/a.jpg"
    assert (await server.http.get(path)).json() == {"detail": "文件不存在"}
    await server.fail(await server.start())
    assert (await server.http.get(path)).status_code == 404


@on_idle
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("rest", ["status", "result", "file/a.jpg"])
@pytest.mark.parametrize(
    "task_id", ["0b9a4f0e", "..", "%2e%2e", "x" * 200, "任务"], ids=lambda text: text[:9]
)
async def test_an_unknown_task_is_404(idle, base, rest, task_id):
    answer = await idle.http.get(f"{base}/api/task/{task_id}/{rest}")
    assert answer.status_code == 404
    if task_id != "..":  # the client itself takes that segment away
        assert answer.json() == {"detail": "任务不存在"}


async def test_tasks_of_other_dialects_are_unknown_here(server):
    other = (await server.submit()).json()["task_id"]
    assert (await server.http.get(f"/indexed/api/task/{other}/status")).status_code == 404
    assert (await get(server, "tasks"))["total"] == 0


async def test_list_pages_newest_first(server):
    ids = []
    for _ in range(12):
        ids.insert(0, await submitted(server))
        server.clock.advance(1.0)
    body = await get(server, "tasks")
    assert (body["total"], body["page"], body["page_size"]) == (12, 1, 10)
    assert [item["task_id"] for item in body["tasks"]] == ids[:10]
    assert set(body["tasks"][0]) == {"task_id", "index", "status", "created_at", "completed_at"}
    second = await get(server, "tasks/?page=2&page_size=5")
    assert [item["task_id"] for item in second["tasks"]] == ids[5:10]
    await server.succeed(await server.start())
    completed = await get(server, "tasks?page=1&page_size=10&status=completed")
    assert [(item["task_id"], item["status"]) for item in completed["tasks"]] == [(ids[-1], "completed")]
    assert (await get(server, "tasks?status=pending"))["total"] == 11


@on_idle
@pytest.mark.parametrize("query", ["page=0", "page=x", "page_size=0", "page_size=101", "status=running"])
async def test_list_queries_that_are_wrong_are_422(idle, query):
    answer = await idle.http.get(f"/indexed/api/tasks?{query}")
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", query.partition("=")[0]]


async def test_system_status(server):
    assert await get(server, "system/status") == {
        "status": "running", "ssh_connected": True, "queue_size": 0, "queue_running": True,
    }  # fmt: skip
    await submitted(server)
    await submitted(server)
    assert (await get(server, "system/status/"))["queue_size"] == 2
    await server.succeed(await server.start())
    assert (await get(server, "system/status/"))["queue_size"] == 1


async def test_system_status_tells_what_does_not_answer(server, monkeypatch):
    async def no_nodes():
        return 0

    async def restarting(**_):
        raise RegistryUnavailable

    monkeypatch.setattr(server.system, "live_nodes", no_nodes)
    monkeypatch.setattr(server.registry, "counts", restarting)
    assert await get(server, "system/status") == {
        "status": "running", "ssh_connected": False, "queue_size": 0, "queue_running": False,
    }  # fmt: skip


@on_idle
@pytest.mark.parametrize("base", BASES)
async def test_health(idle, base):
    body = (await idle.http.get(f"{base}/api/health")).json()
    assert body["status"] == "healthy"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}", body["timestamp"])


@on_idle
@pytest.mark.parametrize("path", ["/indexed", "/indexed/"])
async def test_about(idle, path):
    body = (await idle.http.get(path)).json()
    assert body.keys() == {"name", "version", "docs", "health"}
    assert (await idle.http.get(f"/indexed{body['health']}")).status_code == 200
    assert (await idle.http.get(body["docs"])).status_code == 200


async def test_the_input_of_a_job_is_no_upload_that_callers_can_touch(server):
    await submitted(server, 1)
    keys = (await server.remains())[1]
    assert [key.split("/")[0] for key in keys] == ["catalog"]
    assert (await server.http.delete(f"/v1/files/{keys[0]}")).status_code == 404
    answer = await server.submit("ffmpeg.extract_keyframes", {"video_path": keys[0]})
    assert answer.status_code == 400
    assert (await server.remains())[1] == keys


async def test_deleting_and_retrying_leave_the_jobs_file_alone(server):
    task_id = await submitted(server, 1)
    await server.fail(await server.start("ffmpeg"))
    again = await server.http.post(f"/v1/tasks/{task_id}/retry")
    assert again.status_code == 200, again.text
    retried = await server.registry.get(again.json()["task_id"])
    assert retried.files == (await server.registry.get(task_id)).files
    await server.registry.delete(task_id)
    assert [key.split("/")[0] for key in (await server.remains())[1]] == ["catalog"]
