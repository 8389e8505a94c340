"""The `creation` dialect, row by row of seed 3 and contracts §5, over HTTP in process."""

from __future__ import annotations

import io
import re
import uuid

import pytest
import pytest_asyncio

from api.context import GpuInfo
from cluster.task import Status
from models.catalog import CATALOG
from models.media import probe
from tests.api_client import serving
from tests.tiny_models import FRAMES, with_tiny_engine, work

NAME = "text_to_video.generate_video"
SERVICE = "text_to_video"
PROMPT = "制作一段关于森林探险的短视频，包含河流和小动物"
MODELS = with_tiny_engine(NAME)
FIELDS = {"task_id", "status", "prompt", "result", "created_at", "error"}


@pytest.fixture
async def server(tmp_path):
    async with serving(tmp_path, MODELS) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def idle(tmp_path_factory):
    """A server for requests that must leave nothing behind."""
    async with serving(tmp_path_factory.mktemp("idle"), MODELS) as started:
        yield started
        assert await started.remains() == (0, [], 0)


on_idle = pytest.mark.asyncio(loop_scope="module")


async def create(server, prompt=PROMPT, base="/creation", **body):
    return await server.http.post(f"{base}/api/tasks/", json={"prompt": prompt, **body})


async def created(server, **body):
    answer = await create(server, **body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def view(server, task_id):
    return (await server.http.get(f"/creation/api/tasks/{task_id}")).json()


@pytest.mark.parametrize("base", ["", "/creation"])
@pytest.mark.parametrize("slash", ["", "/"])
async def test_create(server, base, slash):
    answer = await server.http.post(f"{base}/api/tasks{slash}", json={"prompt": PROMPT})
    assert answer.status_code == 200
    body = answer.json()
    assert body == {
        "task_id": body["task_id"], "status": "pending", "prompt": PROMPT, "result": None,
        "created_at": body["created_at"], "error": None,
    }  # fmt: skip
    assert uuid.UUID(body["task_id"]).version == 4
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", body["created_at"])
    task = await server.registry.get(body["task_id"])
    assert (task.name, task.dialect, task.inputs) == (NAME, "creation", {"prompt": PROMPT})


async def test_known_extra_fields_are_honoured_and_others_ignored(server):
    asked = {
        "num_frames": 49, "width": 640, "height": 480, "fps": 24, "seed": 7, "num_inference_steps": 4,
        "guidance_scale": 1.5, "negative_prompt": "blurry",
    }  # fmt: skip
    body = await created(server, **asked, style="anime", user={"id": 1}, task_id="mine")
    task = await server.registry.get(body["task_id"])
    assert task.inputs == {"prompt": PROMPT, **asked}
    empty = await created(server, **dict.fromkeys(asked))
    assert (await server.registry.get(empty["task_id"])).inputs == {"prompt": PROMPT}


@on_idle
@pytest.mark.parametrize(
    ("body", "where", "kind"),
    [
        ({}, "prompt", "missing"),
        ({"prompt": ""}, "prompt", "string_too_short"),
        ({"prompt": " \n\t"}, "prompt", "string_pattern_mismatch"),
        ({"prompt": "长" * 4001}, "prompt", "string_too_long"),
        ({"prompt": None}, "prompt", "string_type"),
        ({"prompt": 7}, "prompt", "string_type"),
        ({"prompt": "x", "num_frames": 0}, "num_frames", "greater_than_equal"),
        ({"prompt": "x", "num_frames": 10**6}, "num_frames", "less_than_equal"),
        ({"prompt": "x", "width": 10**5}, "width", "less_than_equal"),
        ({"prompt": "x", "height": 8}, "height", "greater_than_equal"),
        ({"prompt": "x", "fps": "fast"}, "fps", "int_parsing"),
        ({"prompt": "x", "seed": -1}, "seed", "greater_than_equal"),
        ({"prompt": "x", "num_inference_steps": 0}, "num_inference_steps", "greater_than_equal"),
        ({"prompt": "x", "guidance_scale": -0.5}, "guidance_scale", "greater_than_equal"),
        ({"prompt": "x", "negative_prompt": "y" * 4001}, "negative_prompt", "string_too_long"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else None,
)
@pytest.mark.parametrize("base", ["", "/creation"])
async def test_what_is_wrong_is_422(idle, base, body, where, kind):
    answer = await idle.http.post(f"{base}/api/tasks/", json=body)
    assert answer.status_code == 422
    (error,) = answer.json()["detail"]
    assert (error["type"], error["loc"]) == (kind, ["body", where])
    assert (await idle.remains())[0] == 0


@on_idle
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"a"', b'{"prompt": "\xff"}'], ids=repr)
async def test_bodies_that_are_no_object_are_422(idle, content):
    headers = {"content-type": "application/json"}
    answer = await idle.http.post("/creation/api/tasks/", content=content, headers=headers)
    assert (answer.status_code, list(answer.json())) == (422, ["detail"])


async def test_a_prompt_of_the_greatest_length(server):
    assert (await created(server, prompt="长" * 4000))["prompt"] == "长" * 4000


async def test_the_words_of_a_tasks_life(server):
    task_id = (await created(server))["task_id"]
    task = await server.start(SERVICE)
    shown = await view(server, task_id)
    assert (set(shown), shown["status"], shown["result"]) == (FIELDS, "processing", None)
    await server.fail(task, "the GPU is gone")
    shown = await view(server, task_id)
    assert (shown["status"], shown["error"]) == ("failed", "the GPU is gone")


async def test_cancelled_is_shown_as_failed(server):
    task_id = (await created(server))["task_id"]
    await server.registry.cancel(task_id)
    shown = await view(server, task_id)
    assert (shown["status"], shown["error"]) == ("failed", "任务已取消")


async def test_a_completed_task_and_its_video(server, tmp_path):
    task_id = (await created(server))["task_id"]
    path = f"videos/{task_id}_final.mp4"
    assert (await server.http.get(f"/creation/{path}")).json() == {"detail": "文件不存在"}
    task = await work(server, SERVICE, MODELS, tmp_path / "work")
    assert task.status is Status.SUCCEEDED, task.failure
    shown = await view(server, task_id)
    assert (shown["status"], shown["result"], shown["error"]) == ("completed", path, None)
    for base in ("", "/creation"):
        whole = await server.http.get(f"{base}/{shown['result']}")
        assert (whole.status_code, whole.headers["content-type"]) == (200, "video/mp4")
        assert whole.headers["content-disposition"] == f'inline; filename="{task_id}_final.mp4"'
        part = await server.http.get(f"{base}/{path}", headers={"range": "bytes=4-7"})
        assert (part.status_code, part.content) == (206, b"ftyp")
        assert part.headers["content-range"] == f"bytes 4-7/{len(whole.content)}"
        head = await server.http.head(f"{base}/{path}")
        assert (head.content, head.headers["content-length"]) == (b"", str(len(whole.content)))
    video = probe(io.BytesIO(whole.content)).video
    assert (video.codec, video.pixel_format, video.num_frames) == ("h264", "yuv420p", FRAMES)
    assert whole.content.index(b"moov") < whole.content.index(b"mdat")


@on_idle
@pytest.mark.parametrize(
    ("name", "text"),
    [
        (f"{uuid.uuid4()}_final.mp4", "任务不存在"),
        ("_final.mp4", "任务不存在"),
        ("..%2f_final.mp4", "Not Found"),
        ("%2e%2e_final.mp4", "任务不存在"),
        ("some.mp4", "文件不存在"),
        ("x_final.mp4.exe", "文件不存在"),
    ],
    ids=["unknown", "no id", "folder", "dots", "another name", "more behind"],
)
async def test_videos_that_are_none(idle, name, text):
    answer = await idle.http.get(f"/creation/videos/{name}")
    assert (answer.status_code, answer.json()) == (404, {"detail": text})


async def test_the_video_of_another_dialects_task_is_unknown(server):
    other = (await server.submit(NAME, {"prompt": "x"})).json()["task_id"]
    assert (await server.http.get(f"/creation/videos/{other}_final.mp4")).status_code == 404
    assert (await server.http.get(f"/creation/api/tasks/{other}")).status_code == 404
    assert (await server.http.delete(f"/creation/api/tasks/{other}")).status_code == 404


async def test_list_oldest_first(server):
    ids = []
    for number in range(12):
        ids.append((await created(server, prompt=f"video {number}"))["task_id"])
        server.clock.advance(1.0)
    body = (await server.http.get("/creation/api/tasks/")).json()
    assert (set(body), body["total"]) == ({"tasks", "total"}, 12)
    assert [task["task_id"] for task in body["tasks"]] == ids[:10]
    assert set(body["tasks"][0]) == FIELDS
    rest = (await server.http.get("/creation/api/tasks?skip=10&limit=100")).json()
    assert [task["prompt"] for task in rest["tasks"]] == ["video 10", "video 11"]
    assert (await server.http.get("/creation/api/tasks?skip=12")).json() == {"tasks": [], "total": 12}


@on_idle
@pytest.mark.parametrize("query", ["skip=-1", "skip=x", "limit=0", "limit=101", "limit=1.5"])
async def test_list_queries_that_are_wrong_are_422(idle, query):
    answer = await idle.http.get(f"/creation/api/tasks?{query}")
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", query.partition("=")[0]]


async def test_delete_removes_the_task_and_its_files(server, tmp_path):
    task_id = (await created(server))["task_id"]
    await work(server, SERVICE, MODELS, tmp_path / "work")
    answer = await server.http.delete(f"/creation/api/tasks/{task_id}")
    assert (answer.status_code, answer.json()) == (200, {"message": "任务已删除"})
    for path in (f"api/tasks/{task_id}", f"videos/{task_id}_final.mp4"):
        gone = await server.http.get(f"/creation/{path}")
        assert (gone.status_code, gone.json()) == (404, {"detail": "任务不存在"})
    assert (await server.http.delete(f"/creation/api/tasks/{task_id}")).status_code == 404


async def test_delete_stops_a_running_task(server):
    task_id = (await created(server))["task_id"]
    task = await server.start(SERVICE)
    assert (await server.http.delete(f"/creation/api/tasks/{task_id}/")).status_code == 200
    assert (await server.http.get(f"/creation/api/tasks/{task_id}")).status_code == 404
    assert (await server.registry.beat("w1", [beat_of(task)]))[0] in {"cancel", "lost"}


def beat_of(task):
    from cluster.task import Beat, Progress

    return Beat(task.id, task.fence, Progress())


@on_idle
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_unknown_task_is_404(idle, method):
    answer = await idle.http.request(method, f"/creation/api/tasks/{uuid.uuid4()}")
    assert (answer.status_code, answer.json()) == (404, {"detail": "任务不存在"})


async def test_a_full_queue_is_503_and_keeps_no_record(tmp_path):
    async with serving(tmp_path, MODELS, max_queued_tasks=1) as server:
        await created(server)
        answer = await create(server)
        assert (answer.status_code, answer.json()) == (503, {"detail": "服务繁忙，请稍后重试"})
        assert int(answer.headers["retry-after"]) >= 1
        assert (await server.remains())[0] == 1


async def test_a_server_without_an_engine_says_so(tmp_path):
    from dataclasses import replace

    models = CATALOG | {NAME: replace(CATALOG[NAME], engines=())}
    async with serving(tmp_path, models) as server:
        answer = await create(server)
        assert answer.status_code == 503
        assert NAME in answer.json()["detail"]
        assert (await server.remains())[0] == 0
        status = (await server.http.get("/creation/api/model/status")).json()
        assert status == {
            "llm_loaded": False, "video_loaded": False, "device": "cpu", "cuda_available": False,
            "gpu_name": None, "gpu_memory_allocated": None, "gpu_memory_total": None,
        }  # fmt: skip
        assert (await create(server, prompt="")).status_code == 422


async def test_model_status_with_an_engine_and_a_gpu(tmp_path):
    async with serving(tmp_path, MODELS, gpu=GpuInfo("H100", 1, 1.5, 2.0, 80.0)) as server:
        for path in ("/creation/api/model/status", "/api/model/status/"):
            assert (await server.http.get(path)).json() == {
                "llm_loaded": True, "video_loaded": True, "device": "cpu", "cuda_available": True,
                "gpu_name": "H100", "gpu_memory_allocated": 1.5, "gpu_memory_total": 80.0,
            }  # fmt: skip


@on_idle
async def test_health(idle):
    for slash in ("", "/"):
        answer = await idle.http.get(f"/creation/health{slash}")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok", "message": "服务运行正常"})
