"""The root of the origin: one test for each row of the collisions of contracts §1."""

from __future__ import annotations

import itertools
import re
import shutil
import uuid

import pytest
import pytest_asyncio

from tests.api_client import SAMPLES, key_entry, serving
from tests.tiny_models import with_tiny_engine, work

VIDEO = SAMPLES / "carphone_distorted.mp4"
MODELS = with_tiny_engine("text_to_video.generate_video")
NEEDED = {
    "indexed": {"task_id", "index", "status", "created_at", "completed_at"},
    "flashvsr": {
        "id", "created_at", "updated_at", "started_at", "finished_at", "status", "input_file_name",
        "output_file_name", "video_info", "parameters", "progress", "total_frames", "processed_frames",
        "estimated_time_remaining", "error_message",
    },
    "creation": {"task_id", "status", "prompt", "result", "created_at", "error"},
}  # fmt: skip


@pytest.fixture
async def server(tmp_path, monkeypatch):
    shutil.copy(VIDEO, tmp_path / "clip.mp4")
    jobs = "jobs: {1: {task: flashvsr.upscale_video, inputs: {video_path: clip.mp4, scale: 3}}}"
    (tmp_path / "jobs.yaml").write_text(jobs)
    monkeypatch.setenv("MEDIARAY_CATALOG", str(tmp_path / "jobs.yaml"))
    async with serving(tmp_path / "data", MODELS) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def idle(tmp_path_factory):
    """A server for requests that must leave nothing behind."""
    async with serving(tmp_path_factory.mktemp("idle"), MODELS) as started:
        yield started
        assert await started.remains() == (0, [], 0)


on_idle = pytest.mark.asyncio(loop_scope="module")


async def make_creation(server, path="/api/tasks/"):
    return await server.http.post(path, json={"prompt": "a river"})


async def make_flashvsr(server, path="/api/tasks/", **form):
    return await server.http.post(path, files={"file": ("a.mp4", VIDEO.read_bytes())}, data=form)


async def make_indexed(server, path="/api/inference?index=1"):
    return await server.http.post(path)


async def one_of_each(server):
    """The ids, oldest first, by dialect."""
    ids = {}
    for name, make in (("creation", make_creation), ("indexed", make_indexed), ("flashvsr", make_flashvsr)):
        body = (await make(server)).json()
        ids[name] = body.get("task_id") or body["id"]
        server.clock.advance(1.0)
    return ids


async def get(server, path):
    answer = await server.http.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("slash", ["", "/"])
async def test_create_by_content_type(server, slash):
    form = await make_flashvsr(server, f"/api/tasks{slash}")
    assert (form.status_code, form.json()["input_file_name"]) == (201, "a.mp4")
    json = await make_creation(server, f"/api/tasks{slash}")
    assert (json.status_code, json.json()["prompt"]) == (200, "a river")


async def test_create_by_content_type_as_clients_write_it(server):
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    answer = await server.http.post("/api/tasks", content='{"prompt": "x"}', headers=headers)
    assert answer.status_code == 200


@on_idle
@pytest.mark.parametrize("media_type", ["", "text/plain", "application/x-www-form-urlencoded"])
async def test_create_by_another_content_type_is_422(idle, media_type):
    headers = {"content-type": media_type} if media_type else {}
    answer = await idle.http.post("/api/tasks/", content=b'{"prompt": "x"}', headers=headers)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["header", "content-type"]


async def test_list_by_pages_newest_first(server):
    ids = await one_of_each(server)
    for path, page_size in (("/api/tasks", 10), ("/api/tasks/", 20), ("/api/tasks?page=1&page_size=7", 7)):
        body = await get(server, path)
        assert set(body) == {"total", "page", "page_size", "tasks"}
        assert (body["total"], body["page"], body["page_size"]) == (3, 1, page_size)
        shown = [task["task_id"] for task in body["tasks"]]
        assert shown == [ids["flashvsr"], ids["indexed"], ids["creation"]]
    second = await get(server, "/api/tasks?page=2&page_size=2")
    assert [task["id"] for task in second["tasks"]] == [ids["creation"]]


@pytest.mark.parametrize("query", ["skip=0", "limit=10", "skip=0&limit=100"])
@pytest.mark.parametrize("slash", ["", "/"])
async def test_list_by_skip_or_limit_oldest_first(server, query, slash):
    ids = await one_of_each(server)
    body = await get(server, f"/api/tasks{slash}?{query}")
    assert set(body) == {"tasks", "total"}
    assert [task["task_id"] for task in body["tasks"]] == [ids["creation"], ids["indexed"], ids["flashvsr"]]
    assert body["total"] == 3
    one = await get(server, "/api/tasks?skip=1&limit=1")
    assert ([task["task_id"] for task in one["tasks"]], one["total"]) == ([ids["indexed"]], 3)


async def test_list_items_have_the_fields_of_all_three(server):
    ids = await one_of_each(server)
    items = {item["task_id"]: item for item in (await get(server, "/api/tasks"))["tasks"]}
    for item in items.values():
        assert set().union(*NEEDED.values()) <= item.keys()
        assert (item["id"], item["status"]) == (item["task_id"], "pending")
    assert {name: items[ids[name]]["index"] for name in ids} == {
        "indexed": 1, "flashvsr": None, "creation": None,
    }  # fmt: skip
    assert items[ids["creation"]]["prompt"] == "a river"
    assert items[ids["flashvsr"]]["input_file_name"] == "a.mp4"
    for name, path in (("flashvsr", "flashvsr/api/tasks"), ("creation", "creation/api/tasks")):
        own = await get(server, f"/{path}/{ids[name]}")
        assert own.items() <= items[ids[name]].items()
    (listed,) = (await get(server, "/indexed/api/tasks"))["tasks"]
    assert listed.items() <= items[ids["indexed"]].items()


async def test_list_filters_by_status(server):
    ids = await one_of_each(server)
    await server.fail(await server.start("text_to_video"), "no")
    failed = (await get(server, "/api/tasks?status=failed"))["tasks"]
    assert [(task["task_id"], task["error"], task["error_message"]) for task in failed] == [
        (ids["creation"], "no", "no"),
    ]  # fmt: skip


@on_idle
@pytest.mark.parametrize(
    "query", ["page=0", "page_size=101", "status=odd", "skip=-1", "limit=0", "skip=1&limit=x"]
)
async def test_list_queries_that_are_wrong_are_422(idle, query):
    assert (await idle.http.get(f"/api/tasks?{query}")).status_code == 422


async def test_the_list_shows_no_tasks_of_v1(server):
    await server.submit()
    assert (await get(server, "/api/tasks"))["total"] == 0


async def test_tasks_of_another_tenant_are_unknown(tmp_path):
    keys = ",".join(key_entry(tenant, f"key of {tenant}") for tenant in ("ann", "bob"))
    ann, bob = [{"authorization": f"Bearer key of {tenant}"} for tenant in ("ann", "bob")]
    async with serving(tmp_path, MODELS, api_keys=keys) as server:
        body = {"prompt": "a river"}
        task_id = (await server.http.post("/api/tasks", json=body, headers=ann)).json()["task_id"]
        for headers, total, status in ((ann, 1, 200), (bob, 0, 404)):
            for query in ("", "?skip=0"):
                answer = await server.http.get(f"/api/tasks{query}", headers=headers)
                assert answer.json()["total"] == total
            assert (await server.http.get(f"/api/tasks/{task_id}", headers=headers)).status_code == status
        assert (await server.http.delete(f"/api/tasks/{task_id}", headers=bob)).status_code == 404
        assert (await server.http.delete(f"/api/tasks/{task_id}", headers=ann)).status_code == 200


async def test_get_by_the_dialect_that_created_it(server):
    ids = await one_of_each(server)
    for slash in ("", "/"):
        assert "prompt" in await get(server, f"/api/tasks/{ids['creation']}{slash}")
        assert "video_info" in await get(server, f"/api/tasks/{ids['flashvsr']}{slash}")
    assert (await server.http.get(f"/api/task/{ids['indexed']}/status")).status_code == 200


async def test_delete_by_the_dialect_that_created_it(server):
    ids = await one_of_each(server)
    creation = await server.http.delete(f"/api/tasks/{ids['creation']}")
    assert (creation.status_code, creation.json()) == (200, {"message": "任务已删除"})
    flashvsr = await server.http.delete(f"/api/tasks/{ids['flashvsr']}/")
    assert (flashvsr.status_code, flashvsr.content) == (204, b"")
    assert (await get(server, "/api/tasks"))["total"] == 1


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_ids_that_neither_dialect_made_are_404(server, method):
    ids = await one_of_each(server)
    other = (await server.submit()).json()["task_id"]
    for task_id in (str(uuid.uuid4()), "x" * 200, "%2e%2e", other, ids["indexed"]):
        answer = await server.http.request(method, f"/api/tasks/{task_id}")
        assert (answer.status_code, answer.json()) == (404, {"detail": "任务不存在"})
    assert (await server.http.get(f"/v1/tasks/{other}/status")).status_code == 200


@on_idle
async def test_the_schema_of_parameters_is_no_task(idle):
    assert "presets" in await get(idle, "/api/tasks/parameter_schema")


@on_idle
async def test_system_status_is_the_union(idle):
    both = await get(idle, "/api/system/status")
    indexed, flashvsr = [await get(idle, f"/{name}/api/system/status") for name in ("indexed", "flashvsr")]
    assert not indexed.keys() & flashvsr.keys()
    assert both == indexed | flashvsr


@on_idle
async def test_health(idle):
    assert await get(idle, "/health") == {
        "status": "healthy", "gpu_available": False, "gpu_count": 0, "gpu_name": None,
        "message": "服务运行正常",
    }  # fmt: skip
    assert await get(idle, "/creation/health/") == {"status": "ok", "message": "服务运行正常"}


async def test_each_prefix_serves_its_dialect_alone(server):
    assert (await make_creation(server, "/flashvsr/api/tasks/")).status_code == 422
    assert (await make_flashvsr(server, "/creation/api/tasks/")).status_code == 422
    ids = await one_of_each(server)
    assert [task["task_id"] for task in (await get(server, "/creation/api/tasks"))["tasks"]] == [
        ids["creation"]
    ]
    assert [task["id"] for task in (await get(server, "/flashvsr/api/tasks"))["tasks"]] == [ids["flashvsr"]]
    for name, other in itertools.permutations(("flashvsr", "creation")):
        assert (await server.http.get(f"/{name}/api/tasks/{ids[other]}")).status_code == 404
        assert (await server.http.delete(f"/{name}/api/tasks/{ids[other]}")).status_code == 404
    for path in ("/creation/api/inference", "/indexed/api/tasks/x", "/flashvsr/videos/x", "/tasks/api/tasks"):
        assert (await server.http.get(path)).status_code in {404, 405}


async def test_both_slash_forms_answer_directly(server):
    """Never a redirect: it loses the body of a POST in some clients."""
    paths = {
        (method, re.sub(r"{[^}]*}", "x", path))
        for path, methods in server.app.openapi()["paths"].items()
        for method in methods
    }
    assert len(paths) > 30
    for method, path in sorted(paths):
        forms = (path.rstrip("/") or "/", f"{path.rstrip('/')}/")
        plain, slashed = [await server.http.request(method.upper(), form) for form in forms]
        assert plain.status_code == slashed.status_code, path
        assert not 300 <= slashed.status_code < 400, path


async def test_a_finished_video_is_served_on_the_root(server, tmp_path):
    task_id = (await make_creation(server)).json()["task_id"]
    await work(server, "text_to_video", MODELS, tmp_path / "work")
    item = (await get(server, "/api/tasks?limit=1"))["tasks"][0]
    assert item["result"] == f"videos/{task_id}_final.mp4"
    assert (await server.http.get(f"/{item['result']}")).headers["content-type"] == "video/mp4"
