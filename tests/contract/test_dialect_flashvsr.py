"""The `flashvsr` dialect, row by row of contracts §3, over HTTP in process."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from fractions import Fraction
from unittest.mock import AsyncMock

import numpy as np
import pytest
from PIL import Image

from api.context import GpuInfo
from cluster.errors import RegistryFault, RegistryUnavailable
from cluster.task import Status
from models.catalog import CATALOG
from models.flashvsr.files import V1_1_FOLDER
from models.media import probe
from models.video_streams import ChunkWriter, VideoForm
from models.zoo.flashvsr import UpscaleInputs, predicted_size, video_info
from tests.api_client import SAMPLES, serving

VIDEO = SAMPLES / "carphone_pristine.mp4"
TASK_FIELDS = {
    "id", "created_at", "updated_at", "started_at", "finished_at", "status", "input_file_name",
    "output_file_name", "video_info", "parameters", "progress", "total_frames", "processed_frames",
    "estimated_time_remaining", "error_message",
}  # fmt: skip
PROGRESS_FIELDS = {
    "task_id", "status", "progress", "started_at", "finished_at", "processed_frames", "total_frames",
    "estimated_time_remaining", "error_message",
}  # fmt: skip


@pytest.fixture
async def server(tmp_path):
    async with serving(tmp_path) as started:
        yield started


async def create(server, content=None, *, name="clip one.mp4", base="/flashvsr", **form):
    content = VIDEO.read_bytes() if content is None else content
    return await server.http.post(f"{base}/api/tasks/", files={"file": (name, content)}, data=form)


async def created(server, **form):
    answer = await create(server, **form)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def view(server, task_id):
    return (await server.http.get(f"/flashvsr/api/tasks/{task_id}")).json()


async def test_create_with_defaults(server):
    body = await created(server)
    assert set(body) == TASK_FIELDS
    assert body["status"] == "pending"
    assert body["input_file_name"] == "clip one.mp4"
    assert body["output_file_name"] == f"clip one_flashvsr_{body['id'][:8]}.mp4"
    assert body["parameters"] == {
        "scale": 2.0, "sparse_ratio": 2.0, "local_range": 11, "seed": 0, "preprocess_width": 640,
        "preserve_aspect_ratio": False, "model_variant": "tiny_long",
    }  # fmt: skip
    shown = {name: value for name, value in body["video_info"].items() if value is not None}
    assert shown == {"preprocess_width": 640}
    assert (body["progress"], body["processed_frames"], body["error_message"]) == (0.0, 0, None)
    task = await server.registry.get(body["id"])
    assert task.files == {"video_path": f"tasks/{body['id']}/input/clip one.mp4"}
    assert task.dialect == "flashvsr"


async def test_create_with_parameters(server):
    body = await created(
        server, scale="4", sparse_ratio="1.5", local_range="9", seed="7", preprocess_width="1280",
        preserve_aspect_ratio="true",
    )  # fmt: skip
    assert body["parameters"] == {
        "scale": 4.0, "sparse_ratio": 1.5, "local_range": 9, "seed": 7, "preprocess_width": 1280,
        "preserve_aspect_ratio": True, "model_variant": "tiny_long",
    }  # fmt: skip


async def test_fields_may_follow_the_file(server):
    parts = [
        ("file", ("a.mp4", VIDEO.read_bytes())),
        ("scale", (None, "3")),
    ]
    body = (await server.http.post("/flashvsr/api/tasks", files=parts)).json()
    assert body["parameters"]["scale"] == 3.0
    refused = await server.http.post("/flashvsr/api/tasks", files=[parts[0], ("scale", (None, "9"))])
    assert refused.status_code == 400
    assert await server.remains() == (1, [f"tasks/{body['id']}/input/a.mp4"], 0)


@pytest.mark.parametrize(
    ("form", "status", "kind"),
    [
        ({"scale": "8.1"}, 400, "less_than_equal"),
        ({"scale": "0.9"}, 400, "greater_than_equal"),
        ({"scale": "nan"}, 400, "less_than_equal"),
        ({"sparse_ratio": "4.5"}, 400, "less_than_equal"),
        ({"local_range": "6"}, 400, "greater_than_equal"),
        ({"local_range": "16"}, 400, "less_than_equal"),
        ({"seed": "-1"}, 400, "greater_than_equal"),
        ({"preprocess_width": "127"}, 400, "greater_than_equal"),
        ({"preprocess_width": "8193"}, 400, "less_than_equal"),
        ({"preprocess_width": "9" * 5000}, 400, "int_parsing_size"),
        ({"scale": "big"}, 422, "float_parsing"),
        ({"local_range": "9.5"}, 422, "int_parsing"),
        ({"preserve_aspect_ratio": "maybe"}, 422, "bool_parsing"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_parameters_out_of_range_and_of_the_wrong_type(server, form, status, kind):
    answer = await create(server, **form)
    assert answer.status_code == status, answer.text
    (error,) = answer.json()["detail"]
    assert (error["type"], error["loc"]) == (kind, ["body", *form])
    assert await server.remains() == (0, [], 0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "文件名不能为空"),
        ("notes.txt", "不支持的文件类型。支持的格式: .mp4, .mov, .avi, .mkv, .ts"),
        ("video", "不支持的文件类型。支持的格式: "),
        ("evil.mp4/", "文件名不能为空"),
    ],
    ids=["empty", "txt", "no suffix", "only a folder"],
)
async def test_file_names_that_are_refused(server, name, text):
    body = (
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\nabc\r\n--B--\r\n'
        % name.encode()
    )
    headers = {"content-type": "multipart/form-data; boundary=B"}
    answer = await server.http.post("/flashvsr/api/tasks/", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(text)
    assert await server.remains() == (0, [], 0)


@pytest.mark.parametrize("suffix", ["mp4", "MOV", "mkv", "ts", "webm"])
async def test_accepted_extensions(server, suffix):
    assert (await create(server, name=f"a.{suffix}")).status_code == 201


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../etc/passwd.mp4", "passwd.mp4"),
        ("C:\\videos\\clip.mp4", "clip.mp4"),
        ("a\x01b\x7f.mp4", "ab.mp4"),
        ("视频 🎬.mp4", "视频 🎬.mp4"),
        ("..mp4", "..mp4"),
        ("x" * 400 + ".mp4", "x" * 196 + ".mp4"),
        ("%2e%2e%2fx.mp4", "%2e%2e%2fx.mp4"),
    ],
    ids=["dots", "windows", "control", "unicode", "dot dot suffix", "long", "percent"],
)
async def test_hostile_file_names_stay_inside_the_task(server, name, kept):
    boundary = b'--B\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n' % name.encode()
    content = boundary + VIDEO.read_bytes() + b"\r\n--B--\r\n"
    answer = await server.http.post(
        "/api/tasks/", content=content, headers={"content-type": "multipart/form-data; boundary=B"}
    )
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert body["input_file_name"] == kept
    assert (await server.remains())[1] == [f"tasks/{body['id']}/input/{kept}"]
    served = await server.http.get(f"/api/files/{body['id']}/input")
    assert served.content == VIDEO.read_bytes()


async def test_duplicate_work_is_refused_until_it_fails(server):
    first = await created(server)
    again = await create(server, name="other name.mp4")
    assert again.status_code == 409
    assert again.json() == {"detail": "已存在使用相同输入文件与参数配置的任务，请勿重复提交。"}
    assert (await server.remains())[1] == [f"tasks/{first['id']}/input/clip one.mp4"]
    other = await created(server, scale="3")
    await server.http.delete(f"/flashvsr/api/tasks/{other['id']}")
    await server.fail(await server.start("flashvsr"))
    assert (await create(server)).status_code == 201


async def test_a_completed_twin_blocks(server):
    await created(server)
    await server.succeed(await server.start("flashvsr"))
    assert (await create(server)).status_code == 409


async def test_missing_file(server):
    answer = await server.http.post("/flashvsr/api/tasks/", files={"scale": (None, "2")})
    assert answer.status_code == 422
    assert answer.json()["detail"] == [{"type": "missing", "loc": ["body", "file"], "msg": "Field required"}]
    assert (await server.http.post("/flashvsr/api/tasks/", json={})).status_code == 422


async def test_too_large_by_content_length_and_while_streaming(tmp_path):
    async with serving(tmp_path, max_upload_bytes=2 * 1024**2) as server:
        text = "文件太大。最大支持 0.0GB"
        announced = await create(server, b"x" * 4 * 1024**2)
        assert (announced.status_code, announced.json()["detail"]) == (413, text)
        streamed = await server.http.post(
            "/flashvsr/api/tasks/",
            content=chunks_of_a_form(3 * 1024**2),
            headers={"content-type": "multipart/form-data; boundary=B"},
        )
        assert (streamed.status_code, streamed.json()["detail"]) == (413, text)
        assert await server.remains() == (0, [], 0)


async def chunks_of_a_form(size_bytes):
    yield b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
    for _ in range(size_bytes // 65536):
        yield b"x" * 65536
    yield b"\r\n--B--\r\n"


async def test_the_default_limit_is_told_as_4_gb(server):
    headers = {"content-type": "multipart/form-data; boundary=B", "content-length": str(5 * 1024**3)}
    answer = await server.http.post("/api/tasks/", content=b"", headers=headers)
    assert (answer.status_code, answer.json()["detail"]) == (413, "文件太大。最大支持 4.0GB")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"just text", "not a media file"), (b"", "0"), (VIDEO.read_bytes()[:3000], "truncated")],
    ids=["text", "zero bytes", "truncated"],
)
async def test_bad_videos_are_refused_at_submit(server, content, words):
    answer = await create(server, content)
    assert answer.status_code == 400
    assert words in answer.json()["detail"]
    assert await server.remains() == (0, [], 0)


async def test_sound_without_pictures_is_refused(server):
    answer = await create(server, (SAMPLES / "conversation.wav").read_bytes())
    assert answer.status_code == 400
    assert "no video stream" in answer.json()["detail"]


async def test_a_broken_body_leaves_nothing(server):
    headers = {"content-type": "multipart/form-data; boundary=B"}
    head = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
    answer = await server.http.post("/api/tasks/", content=head + VIDEO.read_bytes(), headers=headers)
    assert answer.status_code == 400
    assert await server.remains() == (0, [], 0)


async def test_progress_while_it_runs(server):
    body = await created(server)
    task = await server.start("flashvsr")
    await server.report(task, done=24, total=96, unit="frames", stage="upscale", eta_s=12.4)
    progress = (await server.http.get(f"/flashvsr/api/tasks/{body['id']}/progress")).json()
    assert set(progress) == PROGRESS_FIELDS
    assert progress["status"] == "processing"
    assert (progress["progress"], progress["processed_frames"], progress["total_frames"]) == (25.0, 24, 96)
    assert progress["estimated_time_remaining"] == 12
    assert progress["started_at"] is not None
    info = (await view(server, body["id"]))["video_info"]
    assert (info["width"], info["height"], info["fps"]) == (176, 144, 30)
    assert (info["predicted_output_width"], info["predicted_output_height"]) == (352, 288)
    assert (info["preprocess_applied"], info["preprocess_result_width"]) == (False, 176)
    assert re.fullmatch(r"\d+/\d+", info["avg_frame_rate"])


async def test_completed_task_and_its_files(server):
    body = await created(server)
    task = await server.start("flashvsr")
    server.clock.advance(3)
    result = (SAMPLES / "bigbuckbunny.mp4").read_bytes()
    told = {"total_frames": 96, "video_info": {"total_frames": 96, "predicted_output_width": 354}}
    await server.succeed(task, told, output__mp4=result)
    done = await view(server, body["id"])
    assert (done["status"], done["progress"], done["estimated_time_remaining"]) == ("completed", 100.0, None)
    assert done["processed_frames"] == done["total_frames"] == 96
    assert done["video_info"]["processing_time"] == done["video_info"]["inference_time"] == 3.0
    assert done["video_info"]["predicted_output_width"] == 354
    answer = await server.http.get(
        f"/flashvsr/api/files/{body['id']}/result", headers={"range": "bytes=0-99"}
    )
    assert (answer.status_code, answer.content) == (206, result[:100])
    assert done["output_file_name"] in answer.headers["content-disposition"]
    assert answer.headers["content-type"] == "video/mp4"
    head = await server.http.head(f"/flashvsr/api/files/{body['id']}/result")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(result)), b"")


async def test_the_video_info_of_a_completed_task_is_that_of_its_input(server):
    body = await created(server, scale="4", preprocess_width="128")
    task = await server.start("flashvsr")
    info = probe(VIDEO)
    inputs = UpscaleInputs(video_path="clip one.mp4", scale=4, preprocess_width=128)
    sizes = predicted_size(176, 144, inputs)
    result = {
        "video_path": f"tasks/{body['id']}/1/out.mp4", "width": 512, "height": 420, "total_frames": 95,
        "fps": 29.97, "duration": 3.17, "scale": 4.0, "has_audio": False, "notes": [],
        "video_info": video_info(inputs, info, sizes, 95),
    }  # fmt: skip
    assert sizes.output == (result["width"], result["height"])
    await server.succeed(task, result, out__mp4=VIDEO.read_bytes())
    shown = (await view(server, body["id"]))["video_info"]
    assert (shown["width"], shown["height"], shown["fps"]) == (176, 144, 30)
    assert (shown["total_frames"], shown["processed_frames"]) == (95, 95)
    assert shown["duration"] == info.duration_s != result["duration"]
    assert (shown["preprocess_applied"], shown["preprocess_width"]) == (True, 128)
    assert (shown["preprocess_result_width"], shown["preprocess_result_height"]) == (128, 105)
    assert (shown["predicted_output_width"], shown["predicted_output_height"]) == (512, 420)


async def test_preview_is_made_once(server):
    body = await created(server)
    path = f"/flashvsr/api/files/{body['id']}/preview"
    answer = await server.http.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert Image.open(io.BytesIO(answer.content)).size == (176, 144)
    key = f"tasks/{body['id']}/derived/input.jpg"
    made_at = server.storage.stat(key).modified_at
    await server.http.get(path)
    assert server.storage.stat(key).modified_at == made_at
    await server.succeed(await server.start("flashvsr"), out__mp4=(SAMPLES / "bigbuckbunny.mp4").read_bytes())
    assert Image.open(io.BytesIO((await server.http.get(path)).content)).size != (176, 144)


async def test_result_before_there_is_one(server):
    body = await created(server)
    answer = await server.http.get(f"/flashvsr/api/files/{body['id']}/result")
    assert (answer.status_code, answer.json()) == (400, {"detail": "任务尚未完成或没有可用的部分结果"})
    task = await server.start("flashvsr")
    await server.succeed(task, out__mp4=VIDEO.read_bytes())
    server.storage.delete(f"tasks/{body['id']}/{task.fence}/out.mp4")
    gone = await server.http.get(f"/flashvsr/api/files/{body['id']}/result")
    assert (gone.status_code, gone.json()) == (404, {"detail": "结果文件不存在"})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "tasks/{id}"),
        ("GET", "tasks/{id}/progress"),
        ("DELETE", "tasks/{id}"),
        ("POST", "tasks/{id}/export_from_chunks"),
        ("GET", "files/{id}/result"),
        ("GET", "files/{id}/preview"),
        ("GET", "files/{id}/input"),
    ],
)
async def test_unknown_and_foreign_tasks_are_404(server, method, path):
    await server.submit(task_id="of-another-dialect")
    for task_id in ("00000000-0000-4000-8000-000000000000", "of-another-dialect", "a%00b", "%2e%2e"):
        answer = await server.http.request(method, f"/flashvsr/api/{path.format(id=task_id)}")
        assert (answer.status_code, answer.json()) == (404, {"detail": "任务不存在"})


@pytest.mark.parametrize("state", ["pending", "processing", "completed", "failed"])
async def test_delete_in_any_state(server, state):
    body = await created(server)
    if state != "pending":
        task = await server.start("flashvsr")
    if state == "completed":
        await server.succeed(task)
    if state == "failed":
        await server.fail(task)
    assert (await view(server, body["id"]))["status"] == state
    answer = await server.http.delete(f"/flashvsr/api/tasks/{body['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await server.http.get(f"/flashvsr/api/tasks/{body['id']}")).status_code == 404
    assert (await server.http.delete(f"/flashvsr/api/tasks/{body['id']}/")).status_code == 404
    if state == "processing":
        await server.stopped(task)
    assert [task.id for task in await server.registry.removable()] == [body["id"]]


async def test_cancelled_is_shown_as_failed(server):
    body = await created(server)
    await server.registry.cancel(body["id"])
    shown = await view(server, body["id"])
    assert (shown["status"], shown["error_message"]) == ("failed", "任务已取消")
    page = (await server.http.get("/flashvsr/api/tasks/", params={"status": "failed"})).json()
    assert page["total"] == 1


async def test_failure_shows_its_text(server):
    body = await created(server)
    await server.fail(await server.start("flashvsr"), "the decoder gave up")
    assert (await view(server, body["id"]))["error_message"] == "the decoder gave up"


async def test_list_pages(server):
    ids = []
    for scale in ("1", "2", "3"):
        server.clock.advance(1)
        ids.append((await created(server, scale=scale))["id"])
    await server.submit(task_id="of-another-dialect")
    page = (await server.http.get("/flashvsr/api/tasks/", params={"page": 2, "page_size": 2})).json()
    assert {key: page[key] for key in ("total", "page", "page_size")} == {
        "total": 3,
        "page": 2,
        "page_size": 2,
    }
    assert [task["id"] for task in page["tasks"]] == ids[:1]
    for path, size in (("/flashvsr/api/tasks", 20), ("/api/tasks/", 20), ("/api/tasks", 10)):
        shown = (await server.http.get(path)).json()
        assert (shown["page_size"], [task["id"] for task in shown["tasks"]]) == (size, ids[::-1])


@pytest.mark.parametrize("query", ["page=0", "page_size=0", "page_size=101", "status=running", "page=x"])
async def test_list_refuses_bad_queries(server, query):
    for path in ("/flashvsr/api/tasks/", "/api/tasks"):
        answer = await server.http.get(f"{path}?{query}")
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["query", query.partition("=")[0]]


async def test_parameter_schema(server):
    body = (await server.http.get("/flashvsr/api/tasks/parameter_schema")).json()
    fields = {field["name"]: field for field in body["fields"]}
    assert set(fields) == {
        "scale", "sparse_ratio", "local_range", "seed", "preprocess_width", "preserve_aspect_ratio",
    }  # fmt: skip
    keys = {
        "name",
        "label",
        "description",
        "field_type",
        "min",
        "max",
        "step",
        "required",
        "default",
        "recommended",
        "ui_group",
    }
    assert all(set(field) == keys for field in fields.values())
    assert (fields["scale"]["min"], fields["scale"]["max"], fields["scale"]["default"]) == (1.0, 8.0, 2.0)
    assert fields["preserve_aspect_ratio"]["field_type"] == "boolean"
    widths = [choice["value"] for choice in fields["preprocess_width"]["recommended"]]
    assert widths == [640, 768, 896, 960, 1024, 1152, 1280]
    assert {field["ui_group"] for field in fields.values()} == {"preprocess", "advanced", "other"}
    presets = {preset["key"]: (preset["preprocess_width"], preset["scale"]) for preset in body["presets"]}
    assert presets == {"1080p": (960, 2.0), "2k": (1152, 2.0), "fast": (768, 2.0)}


def write_chunks(server, task_id, folder):
    form = VideoForm(64, 48, Fraction(25), Fraction(1, 25))

    def keep(path):
        server.storage.put_file(f"tasks/{task_id}/partial/{path.name}", path)

    with ChunkWriter(folder, form, chunk_frames=5, on_chunk=keep) as writer:
        for number in range(15):
            writer.write(np.full((48, 64, 3), number * 16, np.uint8), Fraction(number, 25))


async def test_export_delivers_what_was_finished(server, tmp_path):
    body = await created(server)
    task = await server.start("flashvsr")
    write_chunks(server, body["id"], tmp_path)
    running = await server.http.post(f"/flashvsr/api/tasks/{body['id']}/export_from_chunks")
    assert running.status_code == 400
    assert running.json()["detail"].startswith("任务仍在处理中")
    await server.fail(task, "the GPU is gone")
    for _ in range(2):
        answer = await server.http.post(f"/flashvsr/api/tasks/{body['id']}/export_from_chunks")
        assert answer.status_code == 200, answer.text
        assert set(answer.json()) == PROGRESS_FIELDS
        assert answer.json()["status"] == "failed"
        assert answer.json()["error_message"] == "the GPU is gone\n已导出部分结果: clip one_partial.mp4"
    shown = await view(server, body["id"])
    assert (shown["status"], shown["output_file_name"]) == ("failed", "clip one_partial.mp4")
    result = await server.http.get(f"/flashvsr/api/files/{body['id']}/result")
    assert "clip one_partial.mp4" in result.headers["content-disposition"]
    info = probe(io.BytesIO(result.content))
    assert (info.video.width_px, info.video.num_frames) == (64, 15)


async def test_export_without_parts_and_of_a_completed_task(server):
    body = await created(server)
    path = f"/flashvsr/api/tasks/{body['id']}/export_from_chunks"
    await server.fail(await server.start("flashvsr"), "no")
    answer = await server.http.post(path)
    assert answer.status_code == 200
    assert answer.json()["error_message"] == "未找到可用于恢复的分片文件，无法导出当前进度。"
    assert (await view(server, body["id"]))["error_message"] == "no"
    done = await created(server, scale="3")
    await server.succeed(await server.start("flashvsr"))
    before = await server.registry.get(done["id"])
    answer = await server.http.post(f"/flashvsr/api/tasks/{done['id']}/export_from_chunks/")
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert await server.registry.get(done["id"]) == before


@pytest.mark.parametrize("error", [RegistryUnavailable("away"), RegistryFault("TypeError: a bug")], ids=repr)
async def test_a_registry_that_cannot_record_it(server, monkeypatch, error):
    monkeypatch.setattr(server.registry, "submit", AsyncMock(side_effect=error))
    answer = await create(server)
    assert (answer.status_code, answer.json()) == (500, {"detail": "创建任务失败"})


async def test_system_status_without_a_gpu(server):
    await created(server)
    await server.registry.cancel((await created(server, scale="3"))["id"])
    body = (await server.http.get("/flashvsr/api/system/status")).json()
    assert (body["gpu_available"], body["gpu_info"]) == (False, None)
    assert body["tasks"] == {"total": 2, "pending": 1, "processing": 0, "completed": 0, "failed": 1}
    assert set(body["flashvsr"]) >= {
        "version", "default_variant", "available_variants", "ready_variants", "missing_files", "model_path",
        "weights_ready", "auto_download_used", "model_source",
    }  # fmt: skip
    assert (body["flashvsr"]["version"], body["flashvsr"]["ready_variants"]) == ("v1.1", {"tiny_long": True})
    assert body["flashvsr"]["missing_files"] == [f"{V1_1_FOLDER.path}/{name}" for name in V1_1_FOLDER.files]
    assert body["flashvsr"]["weights_ready"] is False


async def test_system_status_with_some_and_with_all_weights(tmp_path):
    folder = tmp_path / "models" / V1_1_FOLDER.path
    folder.mkdir(parents=True)
    *there, last = V1_1_FOLDER.files
    for name in there:
        (folder / name).touch()
    async with serving(tmp_path, models_dir=tmp_path / "models") as server:
        body = (await server.http.get("/flashvsr/api/system/status")).json()["flashvsr"]
        assert (body["missing_files"], body["weights_ready"]) == ([f"{V1_1_FOLDER.path}/{last}"], False)
        assets = (await server.http.get("/flashvsr/api/system/assets")).json()
        assert assets["missing_files"] == body["missing_files"]
        assert [a["name"] for a in assets["assets"] if not a["ready"]] == [last]
        (folder / last).touch()
        body = (await server.http.get("/flashvsr/api/system/status")).json()["flashvsr"]
        assert (body["missing_files"], body["weights_ready"]) == ([], True)


async def test_system_status_with_a_gpu(tmp_path):
    async with serving(tmp_path, gpu=GpuInfo("H100", 2, 1.5, 2.0, 80.0)) as server:
        body = (await server.http.get("/api/system/status/")).json()
    assert body["gpu_info"] == {
        "name": "H100", "count": 2, "memory_allocated": 1.5, "memory_reserved": 2.0, "memory_total": 80.0,
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/flashvsr", "/flashvsr/", "/"])
async def test_about(server, path):
    body = (await server.http.get(path)).json()
    assert {"name", "version", "status"} <= set(body)


async def test_health_and_assets(server):
    assert (await server.http.get("/flashvsr/health")).json() == {"status": "healthy"}
    body = (await server.http.get("/flashvsr/api/system/assets")).json()
    weights = CATALOG["flashvsr.upscale_video"].engines[-1].weights
    of = {name: [a for a in body["assets"] if a["engine"] == name] for name in ("flashvsr", "span")}
    assert [asset["sha256"] for asset in of["span"]] == [weight.sha256 for weight in weights]
    assert [asset["name"] for asset in of["flashvsr"]] == list(V1_1_FOLDER.files)
    assert [{asset["ready"] for asset in assets} for assets in of.values()] == [{False}, {True}]
    assert body["missing_files"] == [f"{V1_1_FOLDER.path}/{name}" for name in V1_1_FOLDER.files]


async def test_a_server_that_cannot_run_it_says_so_before_the_upload(tmp_path):
    known = CATALOG["flashvsr.upscale_video"]
    model = replace(known, engines=(replace(known.engines[-1], needs_gpu=True, weights=()),))
    async with serving(tmp_path, CATALOG | {model.name: model}) as server:
        answer = await create(server)
        assert answer.status_code == 503
        assert "needs a GPU" in answer.json()["detail"]
        assert await server.remains() == (0, [], 0)
        status = (await server.http.get("/api/system/status")).json()
        assert status["flashvsr"]["ready_variants"] == {"tiny_long": False}


async def test_tasks_are_seen_through_v1_too(server):
    body = await created(server)
    shown = (await server.http.get(f"/v1/tasks/{body['id']}/status")).json()
    assert (shown["task_name"], shown["status"]) == ("flashvsr.upscale_video", "pending")
    assert (await server.registry.get(body["id"])).status is Status.QUEUED
