"""Requests that are cancelled as Ray does it, at the worst moment: nothing is left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from api.flashvsr_files import ensure_preview
from api.routes import flashvsr
from cluster.errors import RegistryUnavailable, TaskNotFound
from cluster.local_storage import LocalArtifactStore, LocalWriter
from tests.api_client import SAMPLES, Server, serving

VIDEO = (SAMPLES / "carphone_pristine.mp4").read_bytes()
PATH_LAST: Any = [("file", ("x.bin", b"hello")), ("file_path", (None, "v/x.bin"))]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(tmp_path) as server:
        yield server


class Pause:
    """Holds a blocking call at its end (or at its beginning) until the test lets it go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        self._call: Callable[..., Any] = getattr(owner, name)
        self.reached = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._go_on = threading.Event()
        monkeypatch.setattr(owner, name, lambda *args: self._run(*args))  # noqa: PLW0108 - the owner must bind it

    def _run(self, *args: Any) -> Any:
        result = self._call(*args)
        self._loop.call_soon_threadsafe(self.reached.set)
        self._go_on.wait()
        return result

    async def cancel(self, request: asyncio.Task[Any]) -> None:
        """Cancel the request (twice: Ray may) while the call is held; return when it has ended."""
        await self.reached.wait()
        for _ in range(2):
            request.cancel()
            await asyncio.sleep(0)
        self._go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await request


@pytest.mark.parametrize(
    ("owner", "call"),
    [
        (LocalArtifactStore, "writer"),
        (LocalWriter, "write"),
        (LocalWriter, "commit"),
        (LocalWriter, "__exit__"),
    ],
    ids=["opening", "writing", "committing", "closing"],
)
@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/flashvsr/api/tasks/", [("file", ("a.mp4", VIDEO))]),
        ("/v1/files/upload", PATH_LAST),
    ],
    ids=["task", "file"],
)
async def test_nothing_is_left(
    server: Server, monkeypatch: pytest.MonkeyPatch, owner: type, call: str, path: str, form: Any
) -> None:
    pause = Pause(monkeypatch, owner, call)
    await pause.cancel(asyncio.create_task(server.http.post(path, files=form)))
    assert await server.remains() == (0, [], 0)


async def test_an_upload_that_is_cancelled_while_it_gets_its_path(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = Pause(monkeypatch, LocalArtifactStore, "read")
    await pause.cancel(asyncio.create_task(server.http.post("/v1/files/upload", files=PATH_LAST)))
    assert await server.remains() == (0, ["files/local/v/x.bin"], 0)  # whole, or not at all


@pytest.mark.parametrize("path", ["/flashvsr/api/tasks/", "/api/v1/inference/hallo2"])
async def test_while_the_registry_is_away_no_body_is_read(
    server: Server, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async def away(_task_id: str) -> None:
        raise RegistryUnavailable("restarting")

    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    monkeypatch.setattr(server.registry, "get", away)
    kind = {"content-type": "multipart/form-data; boundary=B"}
    answer = await server.http.post(path, content=body(), headers=kind)
    assert answer.status_code == 503


async def test_a_preview_of_a_task_that_is_deleted_meanwhile(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = await server.http.post("/flashvsr/api/tasks/", files={"file": ("a.mp4", VIDEO)})
    task_id = created.json()["id"]
    make_preview, loop = ensure_preview, asyncio.get_running_loop()

    async def delete_and_sweep() -> None:
        await server.registry.delete(task_id)
        server.storage.delete_prefix(f"tasks/{task_id}/")
        await server.registry.forget(await server.registry.removable())

    def make_late(storage: LocalArtifactStore, source_key: str, preview_key: str) -> None:
        make_preview(storage, source_key, preview_key)
        content = b"".join(storage.read(preview_key))
        asyncio.run_coroutine_threadsafe(delete_and_sweep(), loop).result()
        server.store(preview_key, content)

    monkeypatch.setattr(flashvsr, "ensure_preview", make_late)
    answer = await server.http.get(f"/flashvsr/api/files/{task_id}/preview")
    assert answer.status_code == 404
    assert await server.remains() == (0, [], 0)
    with pytest.raises(TaskNotFound):
        await server.registry.get(task_id)


async def test_previews_leave_the_other_requests_their_threads(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = await server.http.post("/flashvsr/api/tasks/", files={"file": ("a.mp4", VIDEO)})
    decoders = server.app.state.edge.submitter.decoders
    busy = []
    make_preview = ensure_preview

    def counted(*args: Any) -> None:
        busy.append(decoders.borrowed_tokens)
        make_preview(*args)

    monkeypatch.setattr(flashvsr, "ensure_preview", counted)
    answer = await server.http.get(f"/flashvsr/api/files/{created.json()['id']}/preview")
    assert (answer.status_code, busy) == (200, [1])
