"""One task through every dialect, alone and on the root: submitted, watched, read back in its own words."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from api.dialects import BY_NAME, DIALECTS
from cluster.task import Status
from models.media import probe
from tests.api_client import SAMPLES, serving
from tests.tiny_models import FRAMES, HEIGHT_PX, WIDTH_PX, with_tiny_engine, work

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODELS = with_tiny_engine("text_to_video.generate_video", "flashvsr.upscale_video", "hallo2.animate_portrait")
VIDEO = (SAMPLES / "carphone_distorted.mp4").read_bytes()
PORTRAIT = (SAMPLES / "portrait.png").read_bytes()
SOUND = (SAMPLES / "conversation.wav").read_bytes()[:100_000]
PROMPT = "a river"
JOBS = f"jobs: {{1: {{task: text_to_video.generate_video, inputs: {{prompt: {PROMPT}}}}}}}"
_seeds = itertools.count()

Json = dict[str, Any]


@dataclass(frozen=True)
class Client:
    """How a client of one dialect does its work; paths are below the dialect's base, `{id}` is the task's."""

    words: dict[Status, str]
    service: str
    submit: tuple[str, Callable[[], Json]]
    status: str
    error: Callable[[Json], str | None]
    result: str
    files: Callable[[Json], str]
    id_field: str = "task_id"
    cancelled_text: str = "任务已取消"


def row(*spelled: str) -> dict[Status, str]:
    return dict(zip(Status, spelled, strict=True))


COMMON = row("pending", "processing", "completed", "failed", "failed")
CLIENTS = {
    "indexed": Client(
        words=COMMON,
        service="text_to_video",
        submit=("/api/inference?index=1", dict),
        status="/api/task/{id}/status",
        error=lambda body: body["error_message"],
        result="/api/task/{id}/result",
        files=lambda body: body["files"][0]["url"],
    ),
    "flashvsr": Client(
        words=COMMON,
        service="flashvsr",
        submit=("/api/tasks/", lambda: {"files": {"file": ("a.mp4", VIDEO)}, "data": {"seed": next(_seeds)}}),
        status="/api/tasks/{id}/progress",
        error=lambda body: body["error_message"],
        result="/api/tasks/{id}",
        files=lambda body: f"/api/files/{body['id']}/result",
        id_field="id",
    ),
    "hallo2": Client(
        words=row("queued", "processing", "completed", "failed", "failed"),
        service="hallo2",
        submit=(
            "/api/v1/inference/hallo2",
            lambda: {"files": {"image_file": ("a.png", PORTRAIT), "audio_file": ("a.wav", SOUND)}},
        ),
        status="/api/v1/tasks/{id}",
        error=lambda body: body["error"],
        result="/api/v1/tasks/{id}",
        files=lambda body: f"/api/v1/tasks/{body['task_id']}/video",
        cancelled_text="cancelled",
    ),
    "creation": Client(
        words=COMMON,
        service="text_to_video",
        submit=("/api/tasks/", lambda: {"json": {"prompt": PROMPT}}),
        status="/api/tasks/{id}",
        error=lambda body: body["error"],
        result="/api/tasks/{id}",
        files=lambda body: f"/{body['result']}",
    ),
    "tasks": Client(
        words=row("pending", "running", "completed", "failed", "cancelled"),
        service="text_to_video",
        submit=(
            "/v1/tasks",
            lambda: {"json": {"task_name": "text_to_video.generate_video", "input_data": {"prompt": PROMPT}}},
        ),
        status="/v1/tasks/{id}/status",
        error=lambda body: (body.get("result") or {}).get("error"),
        result="/v1/tasks/{id}/result",
        files=lambda body: body["minio_files"][0]["url"],
    ),
}
CASES = [
    pytest.param(name, base, id=f"{name}{' alone' * bool(base)}")
    for name in CLIENTS
    for base in ("", f"/{name}")
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dialects")
    (folder / "jobs.yaml").write_text(JOBS)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MEDIARAY_CATALOG", str(folder / "jobs.yaml"))
        async with serving(folder / "data", MODELS) as started:
            yield started


@dataclass(frozen=True)
class Submitted:
    server: Any
    client: Client
    base: str
    id: str

    async def read(self, path: str) -> Json:
        answer = await self.server.http.get(self.base + path.format(id=self.id))
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def shows(self, status: Status) -> Json:
        """The status answer, which must have this dialect's word for `status`."""
        body = await self.read(self.client.status)
        assert body["status"] == self.client.words[status]
        return body


async def submit(server, name, base):
    client = CLIENTS[name]
    path, arguments = client.submit
    answer = await server.http.post(base + path, **arguments())
    assert answer.status_code in {200, 201}, answer.text
    body = answer.json()
    assert body.get("status", client.words[Status.QUEUED]) == client.words[Status.QUEUED]
    return Submitted(server, client, base, body[client.id_field])


async def test_every_dialect_is_here_with_the_words_of_the_contract():
    assert list(CLIENTS) == [dialect.name for dialect in DIALECTS]
    assert {name: dict(BY_NAME[name].words) for name in CLIENTS} == {
        name: client.words for name, client in CLIENTS.items()
    }


@pytest.mark.parametrize(("name", "base"), CASES)
async def test_a_task_is_done_and_its_video_comes_back(server, tmp_path, name, base):
    task = await submit(server, name, base)
    assert task.client.error(await task.shows(Status.QUEUED)) is None
    done = await work(server, task.client.service, MODELS, tmp_path)
    assert (done.id, done.dialect, done.status) == (task.id, name, Status.SUCCEEDED), done.failure
    assert task.client.error(await task.shows(Status.SUCCEEDED)) is None
    url = task.client.files(await task.read(task.client.result))
    answer = await server.http.get(url if url.startswith("http") else base + url)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
    video = probe(io.BytesIO(answer.content)).video
    assert (video.width_px, video.height_px, video.num_frames) == (WIDTH_PX, HEIGHT_PX, FRAMES)


@pytest.mark.parametrize(("name", "base"), CASES)
async def test_a_running_task_fails_and_says_why(server, name, base):
    task = await submit(server, name, base)
    started = await server.start(task.client.service)
    await task.shows(Status.RUNNING)
    await server.fail(started, "the GPU is gone")
    assert task.client.error(await task.shows(Status.FAILED)) == "the GPU is gone"


@pytest.mark.parametrize("is_running", [False, True], ids=["waiting", "running"])
@pytest.mark.parametrize(("name", "base"), CASES)
async def test_a_cancelled_task_ends_for_clients_that_know_no_such_word(server, name, base, is_running):
    task = await submit(server, name, base)
    started = await server.start(task.client.service) if is_running else None
    await server.registry.cancel(task.id)
    if started is not None:
        await task.shows(Status.RUNNING)  # until the work has really stopped
        await server.stopped(started)
    assert task.client.error(await task.shows(Status.CANCELLED)) == task.client.cancelled_text


@pytest.mark.parametrize(("name", "base"), CASES)
async def test_v1_sees_every_dialects_task(server, name, base):
    task = await submit(server, name, base)
    shown = (await server.http.get(f"/v1/tasks/{task.id}/status")).json()
    assert (shown["status"], shown["task_name"].partition(".")[0]) == ("pending", task.client.service)
    assert (await server.http.delete(f"/v1/tasks/{task.id}")).status_code == 200
    assert task.client.error(await task.shows(Status.CANCELLED)) == task.client.cancelled_text
