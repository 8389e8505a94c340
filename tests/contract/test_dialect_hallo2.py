"""The `hallo2` dialect, row by row of contracts §4, over HTTP in process."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from unittest.mock import AsyncMock

import pytest
import pytest_asyncio

from api import hallo2_defaults
from api.context import GpuInfo
from cluster.errors import RegistryFault, RegistryUnavailable, StorageFailure
from cluster.task import Beat, LogLines, Progress, Status
from deployments.attempt_logs import ATTEMPT_LOGS
from models.media import probe
from tests.api_client import SAMPLES, key_entry, serving
from tests.portraits import no_portraits, picture, sound, still_portraits
from tests.tasks import new_task
from tests.tiny_models import work

CREATE = "/api/v1/inference/hallo2"
CONFIG = f"{CREATE}/config"
TASKS = "/api/v1/tasks"
UNKNOWN = "00000000-0000-4000-8000-000000000000"
STATUS_FIELDS = {
    "task_id", "status", "progress", "status_message", "result", "error", "created_at", "updated_at",
}  # fmt: skip
BAD_IMAGE = {"detail": "Invalid image file format", "error_code": "INVALID_PARAMS"}
BAD_SOUND = {"detail": "Invalid audio file format", "error_code": "INVALID_PARAMS"}


@pytest.fixture
async def server(tmp_path):
    async with serving(tmp_path, still_portraits()) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def refusing(tmp_path_factory):
    """A server for requests that it refuses: nothing of them stays."""
    async with serving(tmp_path_factory.mktemp("refusing"), still_portraits()) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engineless(tmp_path_factory):
    """A server that has no engine for portraits; nothing can be recorded there."""
    async with serving(tmp_path_factory.mktemp("engineless"), no_portraits()) as started:
        yield started


shared_loop = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def attempt_logs():
    """Log records reach the attempts, as `ATTEMPT_LOGS.install` makes them in a replica."""
    logging.getLogger("mediaray.attempt").setLevel(logging.INFO)
    logging.getLogger().addHandler(ATTEMPT_LOGS)
    yield
    logging.getLogger().removeHandler(ATTEMPT_LOGS)


async def create(server, *, base="", image=("me.png", None), audio=("talk.wav", None), headers=None, **form):
    files = {
        "image_file": (image[0], picture() if image[1] is None else image[1]),
        "audio_file": (audio[0], sound() if audio[1] is None else audio[1]),
    }
    return await server.http.post(f"{base}{CREATE}", files=files, data=form, headers=headers)


async def created(server, **form):
    answer = await create(server, **form)
    assert answer.status_code == 200, answer.text
    return answer.json()["task_id"]


async def status(server, task_id):
    return (await server.http.get(f"{TASKS}/{task_id}")).json()


@pytest.mark.parametrize("base", ["", "/hallo2"], ids=["root", "prefix"])
@pytest.mark.parametrize("slash", ["", "/"], ids=["without slash", "with slash"])
async def test_create(server, base, slash):
    files = {"image_file": ("me.jpg", picture("jpeg")), "audio_file": ("a.wav", sound())}
    answer = await server.http.post(f"{base}{CREATE}{slash}", files=files)
    body = answer.json()
    assert answer.status_code == 200
    assert body == {
        "task_id": body["task_id"], "status": "queued", "message": "Inference task queued successfully",
    }  # fmt: skip
    task = await server.registry.get(body["task_id"])
    prefix = f"tasks/{task.id}/input"
    assert (task.name, task.dialect) == ("hallo2.animate_portrait", "hallo2")
    assert task.files == {"image_path": f"{prefix}/me.jpg", "audio_path": f"{prefix}/a.wav"}
    assert await server.remains() == (1, [f"{prefix}/a.wav", f"{prefix}/me.jpg"], 0)
    for path in (
        f"{TASKS}/{task.id}",
        TASKS,
        "/api/v1/health",
        "/api/v1/models",
        f"{TASKS}/recent",
        "/health",
    ):
        assert (await server.http.get(f"{base}{path}{slash}")).status_code == 200, path


@pytest.mark.parametrize(
    ("word", "recorded"),
    [("True", True), ("true", True), ("1", True), ("False", False), ("0", False), ("", True)],
)
async def test_use_cache(server, word, recorded):
    task = await server.registry.get(await created(server, use_cache=word))
    assert task.inputs.get("use_cache", True) is recorded


@shared_loop
async def test_a_field_of_a_wrong_type(refusing):
    answer = await create(refusing, use_cache="perhaps")
    assert (answer.status_code, answer.json()["error_code"]) == (422, "INVALID_PARAMS")
    assert answer.json()["detail"][0]["loc"] == ["body", "use_cache"]
    assert await refusing.remains() == (0, [], 0)


@pytest.mark.parametrize(
    ("name", "kind"), [("a.jpg", "jpeg"), ("a.JPEG", "jpeg"), ("a.png", "png"), ("脸 🎬.PNG", "png")]
)
async def test_accepted_pictures(server, name, kind):
    task = await server.registry.get(await created(server, image=(name, picture(kind))))
    assert task.files["image_path"].endswith(f"/input/{name}")


@pytest.mark.parametrize("suffix", ["wav", "MP3", "ogg", "m4a"])
async def test_accepted_sounds(server, suffix):
    await created(server, audio=(f"a.{suffix}", None))


@pytest.mark.parametrize("name", ["a.gif", "png", "a.png.txt", "a.png/", ".png"])
@shared_loop
async def test_refused_names_of_pictures(refusing, name):
    answer = await create(refusing, image=(name, None))
    assert (answer.status_code, answer.json()) == (400, BAD_IMAGE)
    assert await refusing.remains() == (0, [], 0)


@pytest.mark.parametrize("name", ["a.flac", "wav", "a.wav.png"])
@shared_loop
async def test_refused_names_of_sounds(refusing, name):
    answer = await create(refusing, audio=(name, None))
    assert (answer.status_code, answer.json()) == (400, BAD_SOUND)
    assert await refusing.remains() == (0, [], 0)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"image": ("a.png", b"just text")}, BAD_IMAGE),
        ({"image": ("a.png", b"")}, BAD_IMAGE),
        ({"image": ("a.png", picture()[:60])}, BAD_IMAGE),
        ({"image": ("a.png", sound())}, BAD_IMAGE),
        ({"image": ("a.png", (SAMPLES / "carphone_pristine.mp4").read_bytes())}, BAD_IMAGE),
        ({"audio": ("a.wav", b"just text")}, BAD_SOUND),
        ({"audio": ("a.wav", b"")}, BAD_SOUND),
        ({"audio": ("a.mp3", picture())}, BAD_SOUND),
        ({"audio": ("a.m4a", (SAMPLES / "carphone_pristine.mp4").read_bytes())}, BAD_SOUND),
    ],
    ids=[
        "picture: text", "picture: empty", "picture: cut", "picture: a sound", "picture: a film",
        "sound: text", "sound: empty", "sound: a picture", "sound: a silent film",
    ],
)  # fmt: skip
@shared_loop
async def test_content_that_is_no_picture_or_sound(refusing, content, problem):
    answer = await create(refusing, **content)
    assert (answer.status_code, answer.json()) == (400, problem)
    assert await refusing.remains() == (0, [], 0)


@pytest.mark.parametrize("missing", ["image_file", "audio_file"])
@shared_loop
async def test_a_missing_file(refusing, missing):
    files = {"image_file": ("a.png", picture()), "audio_file": ("a.wav", sound())}
    del files[missing]
    answer = await refusing.http.post(CREATE, files=files)
    assert answer.status_code == 422
    assert answer.json() == {
        "detail": [{"type": "missing", "loc": ["body", missing], "msg": "Field required"}],
        "error_code": "INVALID_PARAMS",
    }
    assert await refusing.remains() == (0, [], 0)


async def test_hostile_names_stay_inside_the_task(server):
    task_id = await created(server, image=("../../etc/me.png", None), audio=("C:\\talk\\a.wav", None))
    keys = (await server.remains())[1]
    assert keys == [f"tasks/{task_id}/input/a.wav", f"tasks/{task_id}/input/me.png"]


async def test_too_large(tmp_path):
    async with serving(tmp_path, still_portraits(), max_upload_bytes=100_000) as server:
        answer = await create(server, audio=("a.wav", sound(60)))
        assert (answer.status_code, answer.json()["error_code"]) == (413, "BODY_TOO_LARGE")
        assert await server.remains() == (0, [], 0)


async def test_a_disk_or_registry_that_fails(server, monkeypatch):
    def full(key):
        raise StorageFailure("no space left")

    for error, text in (
        (RegistryUnavailable("the registry is away"), "the registry is away"),
        (RegistryFault("TypeError: a bug"), "the registry failed on this request; its log says why"),
    ):
        with monkeypatch.context() as failing:
            failing.setattr(server.registry, "submit", AsyncMock(side_effect=error))
            answer = await create(server)
        told = {"detail": f"Failed to submit task: {text}", "error_code": "INTERNAL_ERROR"}
        assert (answer.status_code, answer.json()) == (500, told)
    monkeypatch.setattr(server.storage, "writer", full)
    answer = await create(server)
    assert answer.json()["detail"] == "Failed to submit task: no space left"
    answer = await server.http.post(CONFIG, json={"inference_steps": 9})
    assert (answer.status_code, answer.json()["error_code"]) == (500, "INTERNAL_ERROR")


async def test_the_second_file_that_cannot_be_published_takes_the_first_with_it(server, monkeypatch):
    open_writer = server.storage.writer

    def full():
        raise StorageFailure("no space left")

    def writer(key):
        opened = open_writer(key)
        if key.endswith(".wav"):
            opened.commit = full
        return opened

    monkeypatch.setattr(server.storage, "writer", writer)
    assert (await create(server)).status_code == 500
    assert await server.remains() == (0, [], 0)


class TestConfig:
    async def test_defaults_of_later_tasks(self, server):
        before = await created(server)
        asked = {"guidance_scale": 2.5, "inference_steps": 25, "enable_cache": False}
        answer = await server.http.post(CONFIG, json=asked)
        assert (answer.status_code, answer.json()) == (
            200,
            {"status": "success", "message": "Configuration updated successfully"},
        )
        after = await created(server)
        own = await created(server, use_cache="true")
        inputs = [(await server.registry.get(task_id)).inputs for task_id in (before, after, own)]
        shown = [
            tuple(given.get(name) for name in ("guidance_scale", "inference_steps", "use_cache"))
            for given in inputs
        ]
        assert shown == [(None, None, None), (2.5, 25, False), (2.5, 25, True)]

    async def test_what_is_left_out_stays(self, server):
        for change in ({"inference_steps": 12}, {"guidance_scale": 4}, {}, {"inference_steps": None}):
            assert (await server.http.post(f"/hallo2{CONFIG}/", json=change)).status_code == 200
        inputs = (await server.registry.get(await created(server))).inputs
        assert (inputs["inference_steps"], inputs["guidance_scale"]) == (12, 4.0)

    async def test_they_outlive_the_server(self, tmp_path):
        async with serving(tmp_path, still_portraits()) as server:
            await server.http.post(CONFIG, json={"inference_steps": 7})
        async with serving(tmp_path, still_portraits()) as server:
            assert (await server.registry.get(await created(server))).inputs["inference_steps"] == 7

    async def test_each_tenant_has_its_own(self, tmp_path):
        keys = f"{key_entry('acme', 'key-a')},{key_entry('other', 'key-o')}"
        async with serving(tmp_path, still_portraits(), api_keys=keys) as server:
            acme, other = {"x-api-key": "key-a"}, {"x-api-key": "key-o"}
            await server.http.post(CONFIG, json={"inference_steps": 7}, headers=acme)
            mine = await server.registry.get(await created(server, headers=acme))
            theirs = await server.registry.get(await created(server, headers=other))
            assert mine.inputs["inference_steps"] == 7
            assert "inference_steps" not in theirs.inputs

    async def test_two_changes_at_the_same_moment_both_count(self, server, monkeypatch):
        read, reads, second = hallo2_defaults._read, [], threading.Event()

        def slow_read(*given):
            config = read(*given)
            reads.append(config)
            if len(reads) == 2:
                second.set()
            second.wait(0.2)  # in turn, the second read comes only after the first change
            return config

        monkeypatch.setattr(hallo2_defaults, "_read", slow_read)
        changes = ({"inference_steps": 7}, {"guidance_scale": 4.0})
        await asyncio.gather(*(server.http.post(CONFIG, json=change) for change in changes))
        changed = await hallo2_defaults.defaults_of(server.storage, "local")
        assert changed == {"inference_steps": 7, "guidance_scale": 4.0}

    @pytest.mark.parametrize(
        ("body", "status", "word"),
        [
            ({"guidance_scale": 0}, 400, "guidance_scale: "),
            ({"guidance_scale": 1e6}, 400, "guidance_scale: "),
            ({"inference_steps": 0}, 400, "inference_steps: "),
            ({"inference_steps": -3, "guidance_scale": 99}, 400, "guidance_scale: "),
            ({"inference_steps": "9" * 5000}, 400, "inference_steps: "),
            ({"inference_steps": "many"}, 422, "int_parsing"),
            ({"inference_steps": 2.5}, 422, "int_from_float"),
            ({"inference_steps": True}, 422, "number_type"),
            ({"guidance_scale": True}, 422, "number_type"),
            ({"enable_cache": "perhaps"}, 422, "bool_parsing"),
            ([1], 422, "model_type"),
        ],
        ids=str,
    )
    @shared_loop
    async def test_refusals_change_nothing(self, refusing, body, status, word):
        answer = await refusing.http.post(CONFIG, json=body)
        assert (answer.status_code, answer.json()["error_code"]) == (status, "INVALID_PARAMS")
        assert word in json.dumps(answer.json()["detail"])
        assert isinstance(answer.json()["detail"], str) == (status == 400)
        assert await refusing.remains() == (0, [], 0)

    @shared_loop
    async def test_no_json(self, refusing):
        assert (await refusing.http.post(CONFIG, content=b"{")).status_code == 422


class TestStatus:
    async def test_queued(self, server):
        task_id = await created(server)
        body = await status(server, task_id)
        assert set(body) == STATUS_FIELDS
        assert body["status"] == "queued"
        assert (body["progress"], body["result"], body["error"]) == (0, None, None)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body["created_at"])

    async def test_processing(self, server):
        task_id = await created(server)
        task = await server.start("hallo2")
        assert (await status(server, task_id))["status_message"] == "Running inference..."
        await server.report(task, done=45.9, total=100, stage="denoising", unit="clips")
        body = await status(server, task_id)
        assert (body["status"], body["progress"]) == ("processing", 45)
        assert body["status_message"] == "Running denoising..."
        await server.report(task, done=100, total=100, stage="mux")
        assert (await status(server, task_id))["progress"] == 99

    async def test_completed(self, server, tmp_path, attempt_logs):
        task_id = await created(server)
        assert (await work(server, "hallo2", still_portraits(), tmp_path / "w")).status is Status.SUCCEEDED
        body = await status(server, task_id)
        assert (body["status"], body["progress"], body["error"]) == ("completed", 100, None)
        assert body["status_message"] == "Task completed"
        assert body["result"]["task_id"] == task_id
        assert body["result"]["video_path"].endswith("/talking.mp4")
        assert body["result"]["engine"] == {"name": "still", "kind": "embedded", "version": "1"}
        await self.video_of(server, task_id, tmp_path)
        logs = (await server.http.post(f"{TASKS}/{task_id}/logs/")).json()
        assert set(logs) == {"task_id", "logs"}
        assert logs["logs"].splitlines()[0] == "[INFO] Starting inference..."

    async def video_of(self, server, task_id, folder):
        url = f"/hallo2{TASKS}/{task_id}/video"
        answer = await server.http.get(url)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
        assert f"hallo2_{task_id}.mp4" in answer.headers["content-disposition"]
        (folder / "got.mp4").write_bytes(answer.content)
        info = probe(folder / "got.mp4")
        assert (info.video.width_px, info.video.height_px) == (64, 64)
        assert info.audio is not None
        part = await server.http.get(url, headers={"range": "bytes=4-9"})
        assert (part.status_code, part.content) == (206, answer.content[4:10])
        head = await server.http.head(url)
        assert (head.headers["content-length"], head.content) == (str(len(answer.content)), b"")

    async def test_failed(self, server, tmp_path, attempt_logs):
        await server.http.post(CONFIG, json={"inference_steps": 199})
        task_id = await created(server)
        await work(server, "hallo2", still_portraits(), tmp_path / "w")
        body = await status(server, task_id)
        assert (body["status"], body["error"], body["result"]) == ("failed", "no face was found", None)
        assert body["status_message"] == "Task failed"
        logs = (await server.http.post(f"{TASKS}/{task_id}/logs")).json()["logs"]
        assert logs.splitlines() == ["[INFO] Starting inference...", "[ERROR] failed: no face was found"]

    @pytest.mark.parametrize("path", ["", "/video", "/logs"])
    async def test_unknown(self, server, path):
        for task_id in (UNKNOWN, "x y"):
            method = "POST" if path == "/logs" else "GET"
            answer = await server.http.request(method, f"{TASKS}/{task_id}{path}")
            assert answer.status_code == 404
            assert answer.json() == {
                "detail": f"Task {task_id} not found", "error_code": "TASK_NOT_FOUND",
            }  # fmt: skip

    async def test_tasks_of_other_dialects_are_unknown(self, server):
        await server.registry.submit(new_task(id="other"))
        assert (await server.http.get(f"{TASKS}/other")).status_code == 404


class TestVideo:
    async def test_not_completed(self, server):
        task_id = await created(server)
        answer = await server.http.get(f"{TASKS}/{task_id}/video")
        assert (answer.status_code, answer.json()) == (
            400, {"detail": "Task not completed. Status: queued", "error_code": "TASK_NOT_COMPLETED"},
        )  # fmt: skip
        await server.fail(await server.start("hallo2"))
        answer = await server.http.get(f"{TASKS}/{task_id}/video")
        assert answer.json()["detail"] == "Task not completed. Status: failed"

    @pytest.mark.parametrize("files", [{}, {"notes__txt": b"text"}], ids=["no file", "no video"])
    async def test_without_a_video(self, server, files):
        task_id = await created(server)
        await server.succeed(await server.start("hallo2"), **files)
        answer = await server.http.get(f"{TASKS}/{task_id}/video")
        assert (answer.status_code, answer.json()) == (
            404, {"detail": "Video file not found", "error_code": "FILE_NOT_FOUND"},
        )  # fmt: skip

    async def test_a_video_that_was_lost(self, server):
        task_id = await created(server)
        task = await server.start("hallo2")
        await server.succeed(task, out__mp4=(SAMPLES / "carphone_pristine.mp4").read_bytes())
        server.storage.delete_prefix(f"tasks/{task_id}/")
        answer = await server.http.get(f"{TASKS}/{task_id}/video")
        assert (answer.status_code, answer.json()["detail"]) == (404, "Video file not found")


class TestLogs:
    async def test_none_yet(self, server):
        task_id = await created(server)
        answer = await server.http.post(f"{TASKS}/{task_id}/logs")
        assert (answer.status_code, answer.json()) == (200, {"task_id": task_id, "logs": ""})

    async def test_while_it_runs(self, server):
        task_id = await created(server)
        task = await server.start("hallo2")
        line = "2026-11-22 05:00:00,123 [INFO] Preprocessing image..."
        beat = Beat(task.id, task.fence, Progress(), LogLines(task.fence, 0, (line, "  more of it")))
        await server.registry.beat("w1", [beat])
        answer = await server.http.post(f"{TASKS}/{task_id}/logs")
        assert answer.json()["logs"] == "[INFO] Preprocessing image...\n  more of it"


class TestCancel:
    async def cancel(self, server, task_id):
        answer = await server.http.delete(f"{TASKS}/{task_id}")
        return answer.status_code, answer.json()

    def said(self, task_id):
        return {"status": "cancelled", "task_id": task_id, "message": "Task cancelled successfully"}

    async def test_queued(self, server):
        task_id = await created(server)
        assert await self.cancel(server, task_id) == (200, self.said(task_id))
        body = await status(server, task_id)
        assert (body["status"], body["error"]) == ("failed", "cancelled")
        assert body["status_message"] == "Task cancelled"

    async def test_running(self, server):
        task_id = await created(server)
        task = await server.start("hallo2")
        assert await self.cancel(server, task_id) == (200, self.said(task_id))
        body = await status(server, task_id)
        assert (body["status"], body["status_message"]) == ("processing", "Cancelling...")
        await server.stopped(task)
        assert (await status(server, task_id))["error"] == "cancelled"

    async def test_nothing_to_cancel(self, server):
        error = {"status": "error", "detail": "Task not found in queue or already running"}
        assert await self.cancel(server, UNKNOWN) == (400, error | {"error_code": "TASK_NOT_FOUND"})
        task_id = await created(server)
        await server.succeed(await server.start("hallo2"))
        assert await self.cancel(server, task_id) == (400, error | {"error_code": "INVALID_STATUS"})
        assert (await status(server, task_id))["status"] == "completed"


class TestLists:
    async def test_all_and_recent(self, server):
        assert (await server.http.get(TASKS)).json() == {"tasks": {}, "count": 0}
        await server.registry.submit(new_task(id="other"))
        ids = []
        for _ in range(3):
            ids.append(await created(server))
            server.clock.advance(1)
        body = (await server.http.get(TASKS)).json()
        assert (list(body["tasks"]), body["count"]) == (ids[::-1], 3)
        assert body["tasks"][ids[0]] == await status(server, ids[0])
        recent = (await server.http.get(f"{TASKS}/recent", params={"limit": 2})).json()
        assert ([task["task_id"] for task in recent["tasks"]], recent["count"]) == (ids[:0:-1], 2)
        assert (await server.http.get(f"{TASKS}/recent")).json()["count"] == 3

    async def test_more_than_a_page(self, server):
        tasks = [new_task(dialect="hallo2", service="hallo2") for _ in range(501)]
        await asyncio.gather(*(server.registry.submit(task) for task in tasks))
        body = (await server.http.get(TASKS)).json()
        assert (len(body["tasks"]), body["count"]) == (501, 501)

    @pytest.mark.parametrize("limit", ["0", "101", "x"])
    @shared_loop
    async def test_limits(self, refusing, limit):
        answer = await refusing.http.get(f"{TASKS}/recent", params={"limit": limit})
        assert (answer.status_code, answer.json()["error_code"]) == (422, "INVALID_PARAMS")


class TestHealthAndModels:
    async def test_without_a_gpu(self, server):
        server.clock.advance(3600.5)
        await created(server)
        await created(server)
        await server.start("hallo2")
        assert (await server.http.get("/hallo2/health")).json() == {
            "status": "healthy", "gpu_available": False, "gpu_count": 0, "gpu_name": None,
        }  # fmt: skip
        assert (await server.http.get("/api/v1/health")).json() == {
            "status": "healthy",
            "timestamp": "2027-01-15T09:00:00Z",
            "uptime": 3600.5,
            "models_loaded": ["hallo2"],
            "gpu": {"available": False, "count": 0, "devices": []},
            "tasks": {"queued": 1, "running": 1, "completed": 0, "failed": 0},
            "gpu_available": False,
            "gpu_name": None,
            "loaded_models": ["hallo2"],
        }

    async def test_with_a_gpu(self, tmp_path):
        async with serving(tmp_path, gpu=GpuInfo("H100", 2, 2.54, 2.54, 80.0)) as server:
            assert (await server.http.get("/hallo2/health")).json() == {
                "status": "healthy", "gpu_available": True, "gpu_count": 2, "gpu_name": "H100",
            }  # fmt: skip
            body = (await server.http.get("/api/v1/health")).json()
            device = {"index": 0, "name": "H100", "memory_allocated": "2.5 GB", "memory_total": "80 GB"}
            assert body["gpu"] == {"available": True, "count": 2, "devices": [device]}

    async def test_models(self, server):
        model = (await server.http.get("/api/v1/models/hallo2")).json()
        assert model == {
            "name": "hallo2", "initialized": True, "version": "1", "engine": "still", "missing": "",
        }  # fmt: skip
        body = (await server.http.get("/api/v1/models")).json()
        assert body == {"models": {"hallo2": model}, "loaded_models": ["hallo2"]}
        answer = await server.http.get("/api/v1/models/hallo3")
        assert (answer.status_code, answer.json()) == (
            404, {"detail": "Model hallo3 not registered", "error_code": "MODEL_NOT_FOUND"},
        )  # fmt: skip


class TestWithoutEngine:
    @shared_loop
    async def test_create_is_refused_and_leaves_nothing(self, engineless):
        answer = await create(engineless)
        assert (answer.status_code, answer.json()["error_code"]) == (503, "MODEL_NOT_READY")
        assert "hallo2.animate_portrait" in answer.json()["detail"]
        assert "no engine" in answer.json()["detail"]
        assert await engineless.remains() == (0, [], 0)

    @pytest.mark.parametrize(
        ("form", "status"),
        [
            ({"image": ("a.gif", None)}, 400),
            ({"audio": ("a.flac", None)}, 400),
            ({"use_cache": "perhaps"}, 422),
        ],
        ids=str,
    )
    @shared_loop
    async def test_what_is_wrong_anyhow_is_told_first(self, engineless, form, status):
        assert (await create(engineless, **form)).status_code == status
        assert await engineless.remains() == (0, [], 0)

    @shared_loop
    async def test_it_is_told_before_the_content_is_read(self, engineless):
        async def form():
            for name, file in (("image_file", "a.png"), ("audio_file", "a.wav")):
                head = f'--B\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n\r\n'
                yield head.encode()
                yield b"x\r\n" if name == "image_file" else b""
            raise AssertionError("the sound was read")

        headers = {"content-type": "multipart/form-data; boundary=B"}
        answer = await engineless.http.post(CREATE, content=form(), headers=headers)
        assert answer.json()["error_code"] == "MODEL_NOT_READY"

    @shared_loop
    async def test_as_a_task_of_the_general_api(self, engineless):
        await engineless.put("me.png", picture())
        await engineless.put("a.wav", sound())
        inputs = {"image_path": "me.png", "audio_path": "a.wav"}
        answer = await engineless.submit("hallo2.animate_portrait", inputs)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "MODEL_NOT_READY")
        assert (await engineless.remains())[0] == 0

    @shared_loop
    async def test_it_is_shown_as_not_ready(self, engineless):
        models = (await engineless.http.get("/v1/models")).json()["models"]
        (model,) = (model for model in models if model["name"] == "hallo2.animate_portrait")
        assert (model["ready"], model["engine"], model["engines"]) == (False, None, [])
        assert "no engine" in model["missing"][0]
        own = (await engineless.http.get("/api/v1/models")).json()
        assert (own["loaded_models"], own["models"]["hallo2"]["initialized"]) == ([], False)
        assert own["models"]["hallo2"]["missing"] == model["missing"][0]
        assert (await engineless.http.get("/api/v1/health")).json()["models_loaded"] == []

    @shared_loop
    async def test_it_is_not_claimed_as_supported(self, engineless):
        body = (await engineless.http.get("/v1/tasks/supported-tasks")).json()
        assert "hallo2" not in body["supported_tasks"]
        answer = await engineless.submit("no.such", {})
        assert "hallo2" not in answer.json()["detail"]

    @shared_loop
    async def test_defaults_can_be_set_all_the_same(self, engineless):
        assert (await engineless.http.post(CONFIG, json={"inference_steps": 5})).status_code == 200


async def test_the_list_is_the_newest_thousand_and_counts_as_a_read(tmp_path):
    async with serving(tmp_path, still_portraits(), rate_limit_status=1) as server:
        for group in range(2):
            ids = [f"t{group}-{number}" for number in range(501)]
            news = [new_task(id=task_id, dialect="hallo2", is_fresh_id=True) for task_id in ids]
            await asyncio.gather(*(server.registry.submit(new) for new in news))
            server.clock.advance(1)
        shown = (await server.http.get(TASKS)).json()
        assert (shown["count"], len(shown["tasks"])) == (1000, 1000)
        assert sum(task_id.startswith("t1-") for task_id in shown["tasks"]) == 501
        assert (await server.http.get(TASKS)).status_code == 429
