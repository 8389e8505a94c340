"""The `tasks` dialect, row by row of contracts §6 (callbacks apart), over HTTP in process."""

from __future__ import annotations

import re
import threading

import pytest

from api.health import KEPT_S
from cluster.errors import RegistryFault
from cluster.task import Status
from tests.api_client import BASE_URL, SAMPLES, serving

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@pytest.fixture
async def server(tmp_path):
    async with serving(tmp_path) as started:
        yield started


async def status_of(server, task_id):
    answer = await server.http.get(f"/v1/tasks/{task_id}/status")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_create_answers_with_the_recorded_id(server):
    answer = await server.submit(task_id="extract-001")
    assert answer.status_code == 200
    assert answer.json() == {"task_id": "extract-001", "status": "pending", "message": "任务已创建并开始执行"}
    task = await server.registry.get("extract-001")
    assert (task.name, task.inputs, task.dialect) == ("diagnostics.echo", {"payload": 1}, "tasks")


async def test_the_server_makes_uuid4_ids(server):
    assert UUID4.fullmatch((await server.submit()).json()["task_id"])


async def test_status_through_a_task_s_life(server):
    await server.submit(task_id="t")
    pending = await status_of(server, "t")
    assert (pending["status"], pending["message"]) == ("pending", "任务已创建，等待执行")
    assert pending["callback_status"] is None
    assert TIME.fullmatch(pending["created_at"])
    assert TIME.fullmatch(pending["updated_at"])
    task = await server.start()
    await server.report(task, done=3, total=12, unit="s", stage="sleep", eta_s=9.0)
    running = await status_of(server, "t")
    assert (running["status"], running["message"]) == ("running", "任务正在执行中")
    assert running["progress"] == {
        "stage": "sleep", "done": 3, "total": 12, "unit": "s", "fraction": 0.25, "eta_s": 9.0,
    }  # fmt: skip
    assert "result" not in running
    await server.succeed(task, {"payload": 1})
    completed = await status_of(server, "t")
    assert (completed["status"], completed["message"]) == ("completed", "任务执行成功")
    assert completed["result"] == {"payload": 1}
    assert completed["minio_files"] == []


async def test_failure_shows_the_error_text_and_code(server):
    await server.submit(task_id="t")
    await server.fail(await server.start(), "GPU内存不足，无法加载模型", "GPU_OUT_OF_MEMORY")
    failed = await status_of(server, "t")
    assert (failed["status"], failed["message"]) == ("failed", "GPU内存不足，无法加载模型")
    assert failed["result"] == {"error": "GPU内存不足，无法加载模型", "error_code": "GPU_OUT_OF_MEMORY"}


async def test_outputs_are_listed_with_urls_that_serve_them(server):
    await server.submit(task_id="t")
    task = await server.start()
    artifact = server.publish(task, "input_audio.wav", (SAMPLES / "conversation.wav").read_bytes()[:2000])
    await server.succeed(
        task, {"audio_path": artifact.key, "audio_url": {"$download": artifact.key}}, note__txt=b"hi"
    )
    view = await status_of(server, "t")
    (note,) = view["minio_files"]
    assert set(note) == {"file_path", "download_url", "size", "content_type", "name", "url", "type"}
    assert (note["file_path"], note["name"], note["size"]) == (
        f"tasks/t/{task.fence}/note.txt",
        "note.txt",
        2,
    )
    assert note["url"] == note["download_url"]
    assert (await server.http.get(note["url"])).content == b"hi"
    assert view["result"]["audio_path"] == artifact.key
    assert view["result"]["audio_url"].startswith(f"{BASE_URL}/v1/files/download/")
    assert (await server.http.get(view["result"]["audio_url"])).headers["content-type"] == "audio/wav"


async def test_the_urls_of_many_files_are_signed_beside_the_event_loop(server, monkeypatch):
    """Of S3's, each takes half a millisecond, and a task may have thousands of files."""
    await server.submit(task_id="t")
    task = await server.start()
    await server.succeed(task, {}, **{f"frame{number}__txt": b"x" for number in range(9)})
    signed_by = []
    download_url = server.storage.download_url

    def watched(key, **how):
        signed_by.append(threading.current_thread())
        return download_url(key, **how)

    monkeypatch.setattr(server.storage, "download_url", watched)
    for path in ("t/status", "t/result", "t", "t/events", ""):
        body = (await server.http.get(f"/v1/tasks/{path}")).raise_for_status().text
        assert body.count("download_url") == 9
    assert len(signed_by) == 5 * 9
    assert threading.current_thread() not in signed_by


async def test_download_urls_start_with_the_public_url(tmp_path):
    async with serving(tmp_path, public_url="https://media.example/") as server:
        await server.submit(task_id="t")
        await server.succeed(await server.start(), {"n": [{"$download": "tasks/t/1/a"}]}, a=b"x")
        view = await status_of(server, "t")
    assert view["result"]["n"][0].startswith("https://media.example/v1/files/download/tasks/t/1/a?")
    assert view["minio_files"][0]["url"].startswith("https://media.example/v1/files/")


@pytest.mark.parametrize("is_started", [False, True], ids=["pending", "running"])
async def test_result_too_early_is_the_status_so_far(server, is_started):
    await server.submit(task_id="t", inputs={"payload": 1})
    if is_started:
        await server.start()
    answer = await server.http.get("/v1/tasks/t/result")
    assert answer.status_code == 200
    body = answer.json()
    assert body["status"] == ("running" if is_started else "pending")
    assert "result" not in body
    assert body["input_params"]["input_data"] == {"payload": 1}
    assert (body["execution_info"]["end_time"], body["execution_info"]["duration"]) == (None, None)


async def test_result_adds_inputs_and_execution(server):
    await server.submit(task_id="t", inputs={"payload": {"deep": [1]}})
    server.clock.advance(5)
    task = await server.start()
    server.clock.advance(2.5)
    await server.succeed(task, {"payload": 1})
    result = (await server.http.get("/v1/tasks/t/result")).json()
    assert result["input_params"] == {
        "task_name": "diagnostics.echo", "task_id": "t", "input_data": {"payload": {"deep": [1]}},
    }  # fmt: skip
    execution = result["execution_info"]
    assert (execution["duration"], execution["worker_id"], execution["queue"]) == (2.5, "w1", "diagnostics")
    assert TIME.fullmatch(execution["start_time"])
    assert execution["end_time"] > execution["start_time"]
    assert result["status"] == "completed"


@pytest.mark.parametrize("path", ["status", "result"])
async def test_unknown_id(server, path):
    answer = await server.http.get(f"/v1/tasks/extract-001/{path}")
    assert answer.status_code == 404
    body = answer.json()
    assert body["detail"] == "任务不存在: extract-001"
    assert body["error"]["code"] == "TASK_NOT_FOUND"
    assert body["error"]["message"] == body["detail"]
    assert set(body["error"]) == {"code", "message", "timestamp", "details"}


@pytest.mark.parametrize(
    "body", [{"input_data": {}}, {"task_name": "", "input_data": {}}], ids=["missing", "empty"]
)
async def test_task_name_must_not_be_empty(server, body):
    answer = await server.http.post("/v1/tasks", json=body)
    assert (answer.status_code, answer.json()["detail"]) == (400, "task_name不能为空")


@pytest.mark.parametrize("name", ["ffmpeg.extract_audioo", "x" * 1000], ids=["typo", "long"])
async def test_unknown_task_name_names_the_supported_ones(server, name):
    answer = await server.submit(name)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(f"不支持的任务: {name[:200]}。")
    assert "ffmpeg.extract_audio," in answer.json()["detail"]


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "ftp://a/b",
        "http://",
        "http://a b/",
        "http://a/b c",
        "http://[1",
        "",
        "javascript:1",
        "http://user:word@example.com/",
        "http://example.com:0/",
        "http://example.com/" + "a" * 2000,
    ],
)
async def test_malformed_callback(server, url):
    answer = await server.submit(callback=url)
    assert (answer.status_code, answer.json()["detail"]) == (400, "无效的callback URL格式")


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({}, "缺少必需参数: video_path"),
        ({"video_path": 5}, "参数无效: video_path: "),
        ({"video_path": "a.mp4", "audio_format": "mp9"}, "参数无效: audio_format: "),
        ({"video_path": "a.mp4", "sample_rte": 1}, "参数无效: sample_rte: "),
    ],
    ids=["missing", "mistyped", "not a choice", "typo"],
)
async def test_input_data_is_checked_at_submit(server, inputs, text):
    answer = await server.submit("ffmpeg.extract_audio", inputs)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(text)
    assert answer.json()["error"]["code"] == "INVALID_PARAMS"


async def test_input_data_is_required(server):
    answer = await server.http.post("/v1/tasks", json={"task_name": "diagnostics.echo"})
    assert (answer.status_code, answer.json()["detail"]) == (400, "缺少必需参数: input_data")


@pytest.mark.parametrize(
    "task_id", ["", ".", "..", "a/b", "a b", "é", "x" * 129, "health", "supported-tasks", "a\x00"]
)
async def test_task_ids_that_are_no_names(server, task_id):
    answer = await server.submit(task_id=task_id)
    assert answer.status_code == 400
    assert "task_id" in answer.json()["detail"]
    assert (await server.remains())[0] == 0


async def test_extra_top_level_fields_are_ignored(server):
    assert (await server.submit(workflow_id="w", tags=[1])).status_code == 200


async def test_a_registry_that_cannot_record_it(server, monkeypatch):
    async def fault(new):
        raise RegistryFault("TypeError: a bug")

    monkeypatch.setattr(server.registry, "submit", fault)
    answer = await server.submit()
    text = "创建单任务失败: the registry failed on this request; its log says why"
    assert (answer.status_code, answer.json()["detail"]) == (500, text)
    assert answer.json()["error"]["code"] == "INTERNAL_ERROR"


@pytest.mark.parametrize("priority", [11, -11, "high", 1.5, True])
async def test_priority_out_of_range(server, priority):
    assert (await server.submit(priority=priority)).status_code == 422


async def test_higher_priority_runs_first(server):
    await server.submit(task_id="low")
    await server.submit(task_id="high", priority=10)
    assert (await server.start()).id == "high"


async def test_the_same_id_again_is_the_same_task(server):
    first = await server.submit(task_id="t")
    again = await server.submit(task_id="t")
    assert (again.status_code, again.json()["status"]) == (200, "pending")
    assert again.json()["message"] == "任务已存在执行中，等待完成后回调"
    await server.start()
    assert (await server.submit(task_id="t")).json()["status"] == "running"
    assert first.json()["task_id"] == again.json()["task_id"]
    assert (await server.remains())[0] == 1


async def test_the_same_id_after_success_is_reused(server):
    await server.submit(task_id="t")
    await server.succeed(await server.start(), {"payload": 1})
    again = await server.submit(task_id="t")
    assert again.status_code == 200
    body = again.json()
    assert (body["status"], body["message"], body["result"]) == (
        "completed",
        "任务已命中缓存并完成回调",
        {"payload": 1},
    )
    assert body["reuse_info"]["reuse_hit"] is True
    assert body["reuse_info"]["task_name"] == "diagnostics.echo"
    assert set(body["reuse_info"]) == {"reuse_hit", "task_name", "source", "cached_at"}
    assert TIME.fullmatch(body["reuse_info"]["cached_at"])


async def test_the_same_id_after_failure_tells_the_failure(server):
    await server.submit(task_id="t")
    await server.fail(await server.start(), "no")
    body = (await server.submit(task_id="t")).json()
    assert (body["status"], body["message"], body["result"]["error"]) == ("failed", "no", "no")


async def test_an_input_left_out_is_the_same_as_its_default(server):
    """Seed 4 posts extract-001 twice: with sample_rate 16000, and without."""
    await server.submit(inputs={"payload": 1, "sleep_s": 0.0}, task_id="mine")
    again = await server.submit(inputs={"payload": 1}, task_id="mine")
    assert (again.status_code, again.json()["message"]) == (200, "任务已存在执行中，等待完成后回调")


async def test_the_same_id_with_other_inputs_conflicts(server):
    await server.submit(task_id="t")
    answer = await server.submit(task_id="t", inputs={"payload": 2})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "TASK_CONFLICT")


async def test_an_existing_id_is_found_although_its_input_file_is_gone(server):
    path = await server.put("v/in.mp4", (SAMPLES / "carphone_pristine.mp4").read_bytes())
    first = await server.submit("ffmpeg.extract_keyframes", {"video_path": path}, task_id="t")
    assert first.status_code == 200, first.text
    assert (await server.http.delete(f"/v1/files/{path}")).status_code == 200
    again = await server.submit("ffmpeg.extract_keyframes", {"video_path": path}, task_id="t")
    assert again.json()["message"] == "任务已存在执行中，等待完成后回调"
    other = await server.submit("ffmpeg.extract_keyframes", {"video_path": "v/b.mp4"}, task_id="t")
    assert other.status_code == 409


async def test_idempotency_key(server):
    body = {"task_name": "diagnostics.echo", "input_data": {"payload": 1}}
    headers = {"Idempotency-Key": "k-1"}
    first = await server.http.post("/v1/tasks", json=body, headers=headers)
    again = await server.http.post("/v1/tasks", json=body, headers=headers)
    other = await server.http.post("/v1/tasks", json=body | {"input_data": {"payload": 2}}, headers=headers)
    assert first.json()["task_id"] == again.json()["task_id"]
    assert other.status_code == 409
    assert (await server.remains())[0] == 1


async def test_an_idempotency_key_whose_input_is_gone(server):
    path = await server.put("v/key.mp4", (SAMPLES / "carphone_pristine.mp4").read_bytes())
    headers = {"Idempotency-Key": "k-2"}
    body = {"task_name": "ffmpeg.extract_keyframes", "input_data": {"video_path": path}}
    first = await server.http.post("/v1/tasks", json=body, headers=headers)
    assert (await server.http.delete(f"/v1/files/{path}")).status_code == 200
    again = await server.http.post("/v1/tasks", json=body, headers=headers)
    assert (again.status_code, again.json()["task_id"]) == (200, first.json()["task_id"])
    body["input_data"]["video_path"] = "v/other.mp4"
    assert (await server.http.post("/v1/tasks", json=body, headers=headers)).status_code == 409


@pytest.mark.parametrize("key", ["", "x" * 256], ids=["empty", "too long"])
async def test_bad_idempotency_key(server, key):
    body = {"task_name": "diagnostics.echo", "input_data": {}}
    answer = await server.http.post("/v1/tasks", json=body, headers={"Idempotency-Key": key})
    assert answer.status_code == 400


async def test_cancel_while_pending(server):
    await server.submit(task_id="t")
    answer = await server.http.delete("/v1/tasks/t")
    assert answer.status_code == 200
    assert answer.json() == {"task_id": "t", "status": "cancelled", "message": "任务已成功取消"}
    view = await status_of(server, "t")
    assert (view["status"], view["message"]) == ("cancelled", "任务已取消")
    assert view["result"]["error_code"] == "CANCELLED"


async def test_cancel_while_running_stops_the_work(server):
    await server.submit(task_id="t")
    task = await server.start()
    assert (await server.http.delete("/v1/tasks/t")).json()["status"] == "cancelled"
    assert (await server.http.delete("/v1/tasks/t")).status_code == 200  # still stopping
    await server.stopped(task)
    assert (await server.registry.get("t")).status is Status.CANCELLED
    again = await server.http.delete("/v1/tasks/t")
    assert (again.status_code, again.json()["detail"]) == (400, "任务状态不允许取消: cancelled")


async def test_cancel_after_the_end(server):
    await server.submit(task_id="t")
    await server.succeed(await server.start())
    answer = await server.http.delete("/v1/tasks/t")
    assert (answer.status_code, answer.json()["detail"]) == (400, "任务状态不允许取消: completed")
    assert (await server.http.delete("/v1/tasks/nope")).json()["detail"] == "任务不存在: nope"


async def test_retry_makes_a_new_task_with_the_old_inputs(server):
    await server.submit(task_id="t", inputs={"payload": 7})
    await server.fail(await server.start())
    answer = await server.http.post("/v1/tasks/t/retry")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert re.fullmatch(r"t-retry-[0-9a-f]{8}", body["task_id"])
    assert (body["status"], body["message"]) == ("pending", "任务重试已开始，原任务ID: t")
    assert (await server.registry.get(body["task_id"])).inputs == {"payload": 7}


async def test_retry_with_other_inputs(server):
    await server.submit(task_id="t", inputs={"payload": 7, "sleep_s": 1})
    await server.succeed(await server.start())
    body = (await server.http.post("/v1/tasks/t/retry", json={"input_data": {"payload": 8}})).json()
    assert (await server.registry.get(body["task_id"])).inputs == {"payload": 8, "sleep_s": 1}
    bad = await server.http.post("/v1/tasks/t/retry", json={"input_data": {"payloadd": 8}})
    assert bad.status_code == 400
    assert bad.json()["detail"].startswith("参数无效: payloadd: ")


async def test_retry_of_a_task_with_a_file_and_a_long_id(server):
    path = await server.put("in.mp4", (SAMPLES / "carphone_pristine.mp4").read_bytes())
    task_id = "x" * 128
    await server.submit("ffmpeg.extract_keyframes", {"video_path": path}, task_id=task_id)
    await server.http.delete(f"/v1/tasks/{task_id}")
    answer = await server.http.post(f"/v1/tasks/{task_id}/retry")
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["task_id"]) == 128
    assert (await server.registry.get(answer.json()["task_id"])).files == {"video_path": "files/local/in.mp4"}


async def uploaded_with_its_task(server):
    """A failed task whose file came in the same request."""
    video = (SAMPLES / "carphone_pristine.mp4").read_bytes()
    answer = await server.http.post("/flashvsr/api/tasks/", files={"file": ("a.mp4", video)})
    await server.fail(await server.start("flashvsr"))
    return answer.json()["id"], video


async def test_a_retry_keeps_its_files_when_the_first_task_is_deleted(server):
    old_id, video = await uploaded_with_its_task(server)
    new_id = (await server.http.post(f"/v1/tasks/{old_id}/retry")).json()["task_id"]
    key = f"tasks/{new_id}/input/a.mp4"
    new = await server.registry.get(new_id)
    assert (new.files, new.inputs["video_path"]) == ({"video_path": key}, key)
    server.storage.delete_prefix(f"tasks/{old_id}/")
    assert b"".join(server.storage.read(key)) == video
    gone = await server.http.post(f"/v1/tasks/{old_id}/retry")
    assert (gone.status_code, gone.json()["error"]["code"]) == (400, "FILE_NOT_FOUND")


async def test_a_retry_that_is_refused_leaves_no_file(server):
    old_id, _ = await uploaded_with_its_task(server)
    before = await server.remains()
    refused = await server.http.post(f"/v1/tasks/{old_id}/retry", json={"input_data": {"scale": "x"}})
    assert refused.status_code == 400
    assert await server.remains() == before


@pytest.mark.parametrize("started", [False, True], ids=["pending", "running"])
async def test_retry_before_the_end(server, started):
    await server.submit(task_id="t")
    if started:
        await server.start()
    answer = await server.http.post("/v1/tasks/t/retry")
    word = "running" if started else "pending"
    assert (answer.status_code, answer.json()["detail"]) == (400, f"任务状态不允许重试: {word}")
    assert (await server.http.post("/v1/tasks/nope/retry")).status_code == 404


async def test_outputs_of_a_task_are_inputs_of_the_next(server):
    await server.submit(task_id="first")
    video = (SAMPLES / "carphone_pristine.mp4").read_bytes()
    await server.succeed(await server.start(), out__mp4=video)
    key = (await status_of(server, "first"))["minio_files"][0]["file_path"]
    answer = await server.submit("ffmpeg.extract_keyframes", {"video_path": key}, task_id="second")
    assert answer.status_code == 200, answer.text
    assert (await server.registry.get("second")).files == {"video_path": key}
    await server.registry.delete("first")
    gone = await server.submit("ffmpeg.extract_keyframes", {"video_path": key})
    assert (gone.status_code, gone.json()["error"]["code"]) == (400, "FILE_NOT_FOUND")


@pytest.mark.parametrize("scheme", ["s3", "minio", "S3"])
async def test_bucket_urls_name_the_same_objects(server, scheme):
    path = await server.put("a/in.mp4", (SAMPLES / "carphone_pristine.mp4").read_bytes())
    url = f"{scheme}://mediaray/{path}"
    answer = await server.submit("ffmpeg.extract_keyframes", {"video_path": url}, task_id="t")
    assert answer.status_code == 200, answer.text
    assert (await server.registry.get("t")).files == {"video_path": "files/local/a/in.mp4"}
    other = await server.submit("ffmpeg.extract_keyframes", {"video_path": f"{scheme}://other/{path}"})
    assert other.status_code == 400
    assert "video_path" in other.json()["detail"]


async def test_list_shows_newest_first_and_filters(server):
    for number in range(3):
        server.clock.advance(1)
        await server.submit(task_id=f"t{number}")
    await server.start()
    everything = (await server.http.get("/v1/tasks")).json()
    assert [task["task_id"] for task in everything["tasks"]] == ["t2", "t1", "t0"]
    assert (everything["total"], everything["limit"], everything["offset"]) == (3, 20, 0)
    running = (await server.http.get("/v1/tasks", params={"status": "running"})).json()
    assert [task["task_id"] for task in running["tasks"]] == ["t0"]
    page = (await server.http.get("/v1/tasks", params={"limit": 1, "offset": 1})).json()
    assert ([task["task_id"] for task in page["tasks"]], page["total"]) == (["t1"], 3)


@pytest.mark.parametrize("query", ["limit=101", "limit=0", "offset=-1", "status=done", "limit=x"])
async def test_list_refuses_bad_queries(server, query):
    answer = await server.http.get(f"/v1/tasks?{query}")
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][0] == "query"


async def test_health(server):
    answer = await server.http.get("/v1/tasks/health")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "healthy",
        "service": "single_task_api",
        "celery_broker": "sqlite:///tasks.sqlite",
        "minio_service": "available",
    }


async def test_health_tells_a_store_that_fails(server):
    incoming = server.settings.data_path / "artifacts" / ".incoming"
    incoming.rmdir()
    incoming.write_bytes(b"in the way")
    answer = await server.http.get("/v1/tasks/health")
    assert answer.status_code == 503
    assert answer.json()["status"] == "unhealthy"
    assert answer.json()["error"].startswith("storage: ")
    ready = await server.http.get("/readyz")
    assert (ready.status_code, list(ready.json()["failing"])) == (503, ["storage"])
    incoming.unlink()
    incoming.mkdir()
    server.clock.advance(KEPT_S)
    assert (await server.http.get("/readyz")).status_code == 200


async def test_supported_tasks_are_grouped_and_counted(server):
    body = (await server.http.get("/v1/tasks/supported-tasks")).json()
    documented = {
        "ffmpeg": ["extract_keyframes", "extract_audio", "crop_subtitle_images", "split_audio_segments"],
        "faster_whisper": ["transcribe_audio"],
        "audio_separator": ["separate_vocals"],
        "pyannote_audio": ["diarize_speakers"],
        "paddleocr": ["detect_subtitle_area", "perform_ocr"],
        "indextts": ["generate_speech"],
        "wservice": ["generate_subtitle_files", "correct_subtitles", "ai_optimize_subtitles"],
    }
    assert list(body["supported_tasks"].items())[:7] == [
        (service, [f"{service}.{name}" for name in names]) for service, names in documented.items()
    ]
    assert body["total_count"] == sum(len(names) for names in body["supported_tasks"].values())
    assert body["description"] == "所有支持的单个工作流节点任务"
    assert "diagnostics" not in body["supported_tasks"]


async def test_diagnostics_are_listed_where_the_operator_wants_it(tmp_path):
    async with serving(tmp_path, show_diagnostics=True) as server:
        body = (await server.http.get("/v1/tasks/supported-tasks")).json()
    assert body["supported_tasks"]["diagnostics"] == ["diagnostics.echo"]


async def test_a_full_queue_answers_503_and_records_nothing(tmp_path):
    async with serving(tmp_path, max_queued_tasks=1) as server:
        await server.submit()
        answer = await server.submit()
        assert (answer.status_code, answer.json()["detail"]) == (503, "服务繁忙，请稍后重试")
        assert int(answer.headers["retry-after"]) > 0
        assert (await server.remains())[0] == 1


async def test_the_own_prefix_serves_the_same(server):
    answer = await server.http.post(
        "/tasks/v1/tasks/", json={"task_name": "diagnostics.echo", "input_data": {}, "task_id": "t"}
    )
    assert answer.status_code == 200
    assert (await server.http.get("/tasks/v1/tasks/t/status")).json()["status"] == "pending"
