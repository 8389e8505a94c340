"""Hallo2Client against the real application on a real socket, with an engine that writes videos."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from emo_hallo.client import Hallo2Client
from mediaray import ApiError, ServerUnavailable, TaskCancelled, TaskFailed, WaitTimeout
from models.media import probe
from tests.api_client import Server, key_entry, serving
from tests.listening import listening
from tests.portraits import no_portraits, picture, sound, still_portraits
from tests.tasks import lease_request
from tests.tiny_models import run_task

SEED = Path(__file__).parents[1] / "seeds" / "2-hallo2.md"
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


class Site:
    """A server with a worker, and a folder with a portrait and a recording."""

    def __init__(self, server: Server, url: str, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.client = Hallo2Client(base_url=url)
        self.url = url
        self.image, self.audio = folder / "person.jpg", folder / "speech.wav"
        self.image.write_bytes(picture("jpeg"))
        self.audio.write_bytes(sound())

    async def call(self, name, *arguments, **named):
        """A blocking call of the client, beside the server's event loop."""
        return await asyncio.to_thread(getattr(self.client, name), *arguments, **named)

    async def submitted(self, **options) -> str:
        return await self.call("inference", self.image, self.audio, **options)

    async def work(self) -> None:
        """A replica without an end."""
        while True:
            for task in await self.server.registry.lease(lease_request(service="hallo2", wait_s=60)):
                await run_task(self.server, task, still_portraits(), self.folder / "work")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    async with serving(folder, still_portraits()) as server, listening(server.app) as url:
        started = Site(server, url, folder)
        yield started
        started.client.close()


@pytest_asyncio.fixture(loop_scope="module")
async def worker(site) -> AsyncIterator[None]:
    working = asyncio.create_task(site.work())
    yield
    working.cancel()
    await asyncio.wait([working])


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_documented_example_runs_unmodified(site, worker, monkeypatch):
    (example,) = (code for code in PYTHON.findall(SEED.read_text()) if "Hallo2Client" in code)
    monkeypatch.chdir(site.folder)
    names: dict[str, object] = {}
    await asyncio.to_thread(exec, example.replace("http://localhost:8001", site.url), names)
    names["client"].close()
    info = probe(site.folder / "output.mp4")
    assert (info.video.width_px, info.video.height_px) == (64, 64)
    assert info.audio is not None
    assert (await site.server.registry.get(names["task_id"])).inputs["use_cache"] is True


@pytest.mark.parametrize("base", ["", "/hallo2", "/hallo2/"])
async def test_at_the_root_and_at_the_prefix(site, base):
    client = Hallo2Client(site.url + base)
    assert client.base_url == (site.url + base).rstrip("/")
    task_id = await asyncio.to_thread(client.inference, str(site.image), str(site.audio))
    task = await site.server.registry.get(task_id)
    assert task.files.keys() == {"image_path", "audio_path"}
    assert "use_cache" not in task.inputs
    stored = b"".join(site.server.storage.read(task.files["audio_path"]))
    assert stored == site.audio.read_bytes()
    await asyncio.to_thread(client.cancel, task_id)
    client.close()


async def test_what_wait_tells_on_the_way(site, worker):
    seen = []
    task_id = await site.submitted()
    done = await site.call("wait", task_id, on_status=seen.append, poll_s=0.05)
    assert done == seen[-1] == await site.call("status", task_id)
    assert (done["status"], done["progress"]) == ("completed", 100)
    target = site.folder / "new folder" / "video.mp4"
    assert await site.call("download", task_id, target) == target
    stored = (await site.server.registry.get(task_id)).artifacts[0]
    assert target.stat().st_size == stored.size_bytes
    assert sorted(path.name for path in target.parent.iterdir()) == ["video.mp4"]
    assert isinstance(await site.call("logs", task_id), str)


async def test_configured_defaults_and_a_failed_task(site, worker):
    await site.call("configure", inference_steps=199)
    task_id = await site.submitted()
    with pytest.raises(TaskFailed, match=r"no face was found$") as caught:
        await site.call("wait_and_download", task_id, site.folder / "never.mp4")
    assert caught.value.task_id == task_id
    await site.call("configure", inference_steps=10)
    assert not (site.folder / "never.mp4").exists()
    with pytest.raises(ApiError, match=r"Task not completed\. Status: failed"):
        await site.call("download", task_id, site.folder / "never.mp4")


async def test_a_cancelled_task(site):
    task_id = await site.submitted()
    await site.call("cancel", task_id)
    with pytest.raises(TaskCancelled):
        await site.call("wait", task_id)
    with pytest.raises(ApiError, match="Task not found in queue or already running") as caught:
        await site.call("cancel", task_id)
    assert (caught.value.status, caught.value.code) == (400, "INVALID_STATUS")


async def test_a_time_limit(site):
    task_id = await site.submitted()
    with pytest.raises(WaitTimeout):
        await site.call("wait", task_id, timeout_s=0.05)
    await site.call("cancel", task_id)


async def test_refusals(site):
    (site.folder / "talk.txt").write_text("no sound")
    with pytest.raises(ApiError, match="Invalid audio file format") as caught:
        await site.call("inference", site.image, site.folder / "talk.txt")
    assert (caught.value.status, caught.value.code) == (400, "INVALID_PARAMS")
    with pytest.raises(FileNotFoundError):
        await site.call("inference", site.folder / "nobody.png", site.audio)
    with pytest.raises(ApiError, match="Task nobody not found"):
        await site.call("status", "nobody")
    with pytest.raises(ApiError, match="guidance_scale"):
        await site.call("configure", guidance_scale=-1)
    with pytest.raises(ValueError, match="not the URL of a server"):
        Hallo2Client("localhost:8001")


async def test_a_model_that_is_not_ready_is_told_at_once(tmp_path):
    async with serving(tmp_path, no_portraits()) as server, listening(server.app) as url:
        site = Site(server, url, tmp_path)
        with pytest.raises(ApiError, match="no engine") as caught:
            await site.submitted()
        site.client.close()
        assert (caught.value.status, caught.value.code) == (503, "MODEL_NOT_READY")


async def test_no_server_and_the_key(tmp_path):
    keys = key_entry("acme", "key-of-acme")
    async with serving(tmp_path, still_portraits(), api_keys=keys) as server, listening(server.app) as url:
        site = Site(server, url, tmp_path)
        with pytest.raises(ApiError) as caught:
            await site.submitted()
        assert caught.value.status == 401
        site.client.close()
        with Hallo2Client(url, api_key="key-of-acme", retry_s=0.0) as site.client:
            task_id = await site.submitted()
            assert (await server.registry.get(task_id)).tenant == "acme"
    with Hallo2Client(url, retry_s=0.0) as site.client:
        with pytest.raises(ServerUnavailable) as gone:
            await site.submitted()
        assert not gone.value.may_have_arrived
