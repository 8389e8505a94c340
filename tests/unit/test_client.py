"""The client against a real HTTP server that restarts, refuses, and breaks connections."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mediaray import (
    ApiError,
    ChecksumMismatch,
    Client,
    Progress,
    ServerUnavailable,
    TaskCancelled,
    TaskFailed,
    TaskView,
    Transfer,
    WaitTimeout,
)
from tests.client_kinds import CLIENTS, Connect
from tests.client_server import World, serving

MIB = 1024**2
CREATED = {"task_id": "t-1", "status": "pending", "message": "任务已创建并开始执行"}
DONE = {
    "status": "completed",
    "message": "任务执行成功",
    "result": {"duration": 1.5},
    "minio_files": [
        {
            "file_path": "tasks/t-1/1/声音.wav",
            "download_url": "/v1/files/download/tasks/t-1/1/声音.wav",
            "size": 3 * MIB,
            "content_type": "audio/wav",
        }
    ],
}


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def url(world: World) -> Iterator[str]:
    with serving(world) as base_url:
        yield base_url


@pytest.fixture(params=CLIENTS)
def connect(request: pytest.FixtureRequest) -> Connect:
    return request.param


@pytest.fixture
def client(connect: Connect, url: str) -> Iterator[Client]:
    with connect(url, retry_s=5) as one:
        yield one


@pytest.fixture
def content(world: World) -> bytes:
    """Three MiB that repeat nowhere, stored as the output of task t-1."""
    blocks = [hashlib.sha256(str(number).encode()).digest() for number in range(3 * MIB // 32)]
    world.files["tasks/t-1/1/声音.wav"] = b"".join(blocks)
    return world.files["tasks/t-1/1/声音.wav"]


def test_submit_sends_the_documented_body_and_a_key_that_makes_repeating_safe(client, world):
    world.script("POST", "/v1/tasks", CREATED)
    view = client.submit("ffmpeg.extract_audio", {"video_path": "a.mp4"}, priority=3)
    assert (view.id, view.status, view.is_final) == ("t-1", "pending", False)
    (seen,) = world.seen
    assert seen.json == {
        "task_name": "ffmpeg.extract_audio",
        "input_data": {"video_path": "a.mp4"},
        "priority": 3,
    }
    assert len(seen.headers["idempotency-key"]) == 32


def test_a_submit_that_is_repeated_carries_the_same_key(client, world):
    world.refusals.append((502, {}))
    world.script("POST", "/v1/tasks", CREATED)
    client.submit("diagnostics.echo", {})
    first, second = (seen.headers["idempotency-key"] for seen in world.seen)
    assert first == second


def test_two_submits_carry_different_keys(client, world):
    world.script("POST", "/v1/tasks", CREATED)
    client.submit("diagnostics.echo", {})
    client.submit("diagnostics.echo", {})
    assert len({seen.headers["idempotency-key"] for seen in world.seen}) == 2


def test_a_chosen_id_is_its_own_key(client, world):
    world.script("POST", "/v1/tasks", CREATED)
    client.submit("diagnostics.echo", {}, task_id="t-1")
    (seen,) = world.seen
    assert seen.json["task_id"] == "t-1"
    assert "idempotency-key" not in seen.headers


def test_path_inputs_are_uploaded_and_replaced_strings_never(client, world, tmp_path):
    world.script("POST", "/v1/tasks", CREATED)
    clip = tmp_path / "片段 1%.mp4"
    clip.write_bytes(b"clip")
    client.submit("x.y", {"video_path": clip, "also": [clip], "text": str(clip)})
    inputs = world.seen[-1].json["input_data"]
    assert inputs["video_path"].endswith("/片段 1%.mp4")
    assert inputs["also"][0] != inputs["video_path"]
    assert inputs["text"] == str(clip)
    assert world.files[inputs["video_path"]] == b"clip"


def test_the_key_goes_along_as_a_bearer_token(connect, url, world):
    world.script("GET", "/v1/models", {"models": []})
    with connect(url, api_key="secret") as client:
        client.models()
    assert world.seen[0].headers["authorization"] == "Bearer secret"


def test_the_key_never_goes_to_another_server(connect, url, world, content, tmp_path):
    with serving(world) as store_url, connect(url, api_key="secret") as client:
        client.download(f"{store_url}/v1/files/download/tasks/t-1/1/声音.wav", tmp_path)
        client.download("tasks/t-1/1/声音.wav", tmp_path)
    assert ["authorization" in seen.headers for seen in world.seen] == [False, True]


def test_status_and_result_tell_what_the_server_tells(client, world):
    progress = {"done": 30, "total": 120, "unit": "frames", "stage": "encode", "fraction": 0.25, "eta_s": 9.5}
    world.status("t-1", {"status": "running", "progress": progress, "created_at": "2026-01-02T03:04:05"})
    timing = {"created_at": 1.0, "started_at": 2.0, "finished_at": 4.0}
    params = {"input_params": {"input_data": {"a": 1}}, "execution_info": {"duration": 2}, "timing": timing}
    world.script("GET", "/v1/tasks/t-1/result", {"task_id": "t-1", **DONE, **params})
    assert client.status("t-1").progress == Progress("running", "encode", 30, 120, "frames", 0.25, 9.5)
    result = client.result("t-1")
    assert (result.inputs, result.execution, result.timing) == ({"a": 1}, {"duration": 2}, timing)
    assert result.files[0].name == "声音.wav"


def test_an_unknown_task_is_an_error_with_code_text_and_request_id(client):
    with pytest.raises(ApiError) as caught:
        client.status("nobody")
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (404, "TASK_NOT_FOUND", "r-1")
    assert caught.value.detail == "任务不存在: x"


def test_validation_lists_become_one_readable_line(client, world):
    problems = [{"loc": ["body", "input_data"], "msg": "Field required"}, {"loc": ["body"], "msg": "bad"}]
    world.script("POST", "/v1/tasks", {"detail": problems}, status=422)
    with pytest.raises(ApiError, match=r"^body.input_data: Field required; body: bad \(HTTP 422\)$"):
        client.submit("x.y", {})


def test_a_server_that_is_no_mediaray_is_named_as_such(client, world):
    world.refusals.append((200, {}))  # answers JSON without any of the documented fields
    with pytest.raises(ApiError, match="does not answer like a mediaray server"):
        client.status("t-1")


def test_wait_reports_progress_and_returns_the_completed_task(client, world):
    world.status("t-1", {"status": "pending"}, {"status": "running", "progress": {"fraction": 0.5}}, DONE)
    told: list[Progress] = []
    view = client.wait("t-1", on_progress=told.append, poll_s=0.01)
    assert view.result == {"duration": 1.5}
    assert [(one.status, one.fraction) for one in told] == [
        ("pending", None),
        ("running", 0.5),
        ("completed", None),
    ]


def test_wait_raises_what_went_wrong(client, world):
    failed = {"error": "GPU内存不足", "error_code": "GPU_OUT_OF_MEMORY"}
    world.status("bad", {"status": "failed", "result": failed})
    world.status("gone", {"status": "cancelled"})
    with pytest.raises(TaskFailed, match="GPU内存不足") as caught:
        client.wait("bad")
    assert caught.value.code == "GPU_OUT_OF_MEMORY"
    with pytest.raises(TaskCancelled):
        client.wait("gone")


def test_wait_gives_up_at_its_time_limit(client, world):
    world.status("t-1", {"status": "running"})
    with pytest.raises(WaitTimeout):
        client.wait("t-1", timeout_s=0.05, poll_s=0.01)


def test_wait_survives_a_restart_of_the_server(connect, world):
    world.status("t-1", {"status": "running"})
    polled = threading.Event()
    with serving(world) as url:
        port = int(url.rpartition(":")[2])
        client = connect(url, retry_s=0)
        results: list[TaskView] = []

        def wait() -> None:
            view = client.wait("t-1", on_progress=lambda _: polled.set(), poll_s=0.05, timeout_s=30)
            results.append(view)

        waiter = threading.Thread(target=wait)
        waiter.start()
        polled.wait()
    with pytest.raises(ServerUnavailable), connect(url, retry_s=0) as other:
        other.status("t-1")  # it is really down
    world.answers.clear()
    world.status("t-1", DONE)
    world.refusals.extend([(503, {}), (502, {}), (504, {})])  # as a proxy answers while replicas start
    with serving(world, port):
        waiter.join()
    client.close()
    assert results[0].status == "completed"


def test_wait_ends_when_the_server_stays_away(connect, world):
    with serving(world) as url:
        pass
    with connect(url) as client, pytest.raises(ServerUnavailable, match=url):
        client.wait("t-1", timeout_s=0.2)


def test_a_busy_server_is_asked_again_only_after_the_time_it_names(client, world):
    world.refusals.append((429, {"retry-after": "3600"}))
    with pytest.raises(ApiError) as caught:
        client.status("t-1")
    assert caught.value.retry_after_s == 3600
    assert len(world.seen) == 1


def test_cancel_is_idempotent(client, world):
    world.script("DELETE", "/v1/tasks/t-1", {"detail": "任务状态不允许取消: cancelled"}, status=400)
    world.status("t-1", {"status": "cancelled"})
    assert client.cancel("t-1").status == "cancelled"


def test_cancelling_a_completed_task_is_refused(client, world):
    world.script("DELETE", "/v1/tasks/t-1", {"detail": "任务状态不允许取消: completed"}, status=400)
    world.status("t-1", DONE)
    with pytest.raises(ApiError, match="不允许取消"):
        client.cancel("t-1")


def test_retry_is_not_repeated_where_it_may_have_arrived(client, world):
    world.refusals.append((502, {}))
    with pytest.raises(ApiError):
        client.retry("t-1")
    assert len(world.seen) == 1


def test_retry_is_repeated_where_it_was_refused_and_lays_inputs_over(client, world):
    world.refusals.append((503, {}))
    world.script("POST", "/v1/tasks/t-1/retry", {**CREATED, "task_id": "t-1-retry-a1b2c3d4"})
    assert client.retry("t-1", {"channels": 2}).id == "t-1-retry-a1b2c3d4"
    assert world.seen[-1].json == {"input_data": {"channels": 2}}


def test_outputs_land_under_their_names_and_leave_no_part_behind(client, world, content, tmp_path):
    world.status("t-1", DONE)
    told: list[Transfer] = []
    (path,) = client.download(client.wait("t-1"), tmp_path, on_progress=told.append)
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["声音.wav"]
    assert told[-1] == Transfer("声音.wav", len(content), len(content))


def test_a_submit_answer_downloads_the_files_that_its_status_names(client, world, content, tmp_path):
    world.script("POST", "/v1/tasks", {**CREATED, "status": "completed"})
    world.status("t-1", DONE)
    (path,) = client.download(client.submit("x.y", {}), tmp_path / "one.wav")
    assert path == tmp_path / "one.wav"
    assert path.read_bytes() == content


def test_a_broken_download_goes_on_where_it_stopped(client, world, content, tmp_path):
    world.break_downloads_after.extend([MIB, MIB // 2])
    (path,) = client.download("tasks/t-1/1/声音.wav", tmp_path)
    assert path.read_bytes() == content
    ranges = [seen.headers.get("range") for seen in world.seen]
    assert ranges[0] is None
    assert len(ranges) == 3
    assert all(
        seen.headers["if-range"].strip('"') == hashlib.sha256(content).hexdigest() for seen in world.seen[1:]
    )


def test_a_file_that_changed_in_between_is_fetched_anew(client, world, content, tmp_path):
    world.break_downloads_after.append(MIB)
    key = "tasks/t-1/1/声音.wav"
    new = content[::-1]

    def change(_: Transfer) -> None:
        world.files[key] = new

    (path,) = client.download(key, tmp_path, on_progress=change)
    assert path.read_bytes() == new


@pytest.mark.parametrize(
    ("leftover", "first_range"),
    [
        pytest.param(lambda content: content[:MIB], f"bytes={MIB}-", id="a good beginning"),
        pytest.param(lambda content: b"x" * MIB, f"bytes={MIB}-", id="bytes of another file"),
        pytest.param(lambda content: content, f"bytes={3 * MIB}-", id="all of it"),
        pytest.param(lambda content: content + b"more", f"bytes={3 * MIB + 4}-", id="more than all"),
    ],
)
def test_what_an_earlier_process_left_ends_in_the_right_file(
    client, world, content, tmp_path, leftover, first_range
):
    (tmp_path / "声音.wav.part").write_bytes(leftover(content))
    (path,) = client.download("tasks/t-1/1/声音.wav", tmp_path)
    assert path.read_bytes() == content
    assert world.seen[0].headers["range"] == first_range


def test_a_leftover_that_cannot_be_checked_is_not_used(client, world, content, tmp_path):
    world.etag = '"an-md5-for-example"'
    (tmp_path / "声音.wav.part").write_bytes(b"x" * MIB)
    (path,) = client.download("tasks/t-1/1/声音.wav", tmp_path)
    assert path.read_bytes() == content


def test_a_wrong_checksum_keeps_nothing(client, world, content, tmp_path):
    world.etag = f'"{"0" * 64}"'
    with pytest.raises(ChecksumMismatch):
        client.download("tasks/t-1/1/声音.wav", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_from_the_server_cannot_leave_the_folder(client, world, content, tmp_path):
    evil = [{**DONE["minio_files"][0], "name": name} for name in ("../../evil.wav", "/etc/x.wav", "a/b.wav")]
    world.status("t-1", {**DONE, "minio_files": evil})
    paths = client.download(client.status("t-1"), tmp_path / "out")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in paths] == [
        "evil.wav",
        "etc/x.wav",
        "a/b.wav",
    ]


def test_upload_streams_with_its_length_and_asks_serve_for_back_pressure(client, world, content, tmp_path):
    source = tmp_path / "in.bin"
    source.write_bytes(content)
    told: list[Transfer] = []
    stored = client.upload(source, "视频/in.bin", on_progress=told.append)
    assert stored.path == "视频/in.bin"
    assert world.files["视频/in.bin"] == content
    (seen,) = world.seen
    assert seen.headers["x-request-disconnect-disabled"] == "?1"
    assert "transfer-encoding" not in seen.headers
    assert [one.done_bytes for one in told] == [MIB, 2 * MIB, 3 * MIB]


def test_an_upload_is_sent_again_from_the_start(client, world, content, tmp_path):
    world.refusals.append((503, {}))
    source = tmp_path / "in.bin"
    source.write_bytes(content)
    assert world.files[client.upload(source).path] == content


def test_files_and_folders_can_be_deleted(client, world):
    client.delete_file("视频/a b.mp4")
    client.delete_directory("视频/")
    assert [seen.path for seen in world.seen] == ["/v1/files/视频/a b.mp4", "/v1/files/directories"]
    assert world.seen[1].query == "directory_path=%E8%A7%86%E9%A2%91%2F"


def test_models_and_health(client, world):
    models = [{"name": "flashvsr.upscale_video", "engine": "embedded", "ready": True, "missing": "weights"}]
    world.script("GET", "/v1/models", {"models": models})
    world.script("GET", "/v1/tasks/health", {"status": "healthy"})
    (model,) = client.models()
    assert (model.service, model.engine, model.is_ready, model.missing) == (
        "flashvsr",
        "embedded",
        True,
        ("weights",),
    )
    assert client.health() == {"status": "healthy"}


@pytest.mark.parametrize("bad", ["127.0.0.1:8000", "ftp://host", "http://"])
def test_a_base_url_that_names_no_server_is_refused(connect, bad):
    with pytest.raises(ValueError, match="not the URL of a server"):
        connect(bad)


def test_a_proxy_of_the_environment_is_not_asked_for_loopback(
    connect, monkeypatch, url, world, tmp_path: Path
):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    world.script("GET", "/v1/models", {"models": []})
    with connect(url, retry_s=0) as client:
        assert client.models() == []
