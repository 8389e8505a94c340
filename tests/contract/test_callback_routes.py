"""Callbacks over HTTP: judged at submit, shown in the status, listed, replayed, kept by a retry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.callbacks import CallbackSender
from cluster.urls import UrlGuard
from cluster.webhooks import Signer
from tests.api_client import Server, serving
from tests.callback_receiver import Receiver

LOOPBACK = "127.0.0.0/8"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(tmp_path, callback_allow_cidrs=LOOPBACK) as started:
        yield started


async def send_due(server: Server) -> None:
    guard = UrlGuard(server.settings.callback_networks)
    sender = CallbackSender(server.registry, guard, Signer(""), lambda key: f"http://x/{key}", server.clock)
    await asyncio.gather(*await sender.turn(0.0))


async def callback_status(server: Server, task_id: str = "t") -> str | None:
    answer = await server.http.get(f"/v1/tasks/{task_id}/status")
    status: str | None = answer.json()["callback_status"]
    return status


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/hook", "http://localhost/hook", "http://10.0.0.1/", "http://169.254.169.254/latest",
        "http://[::1]/", "http://2130706433/",
    ],
    ids=["loopback", "localhost", "private", "metadata", "loopback v6", "loopback as a number"],
)  # fmt: skip
async def test_addresses_that_callbacks_must_not_reach_are_refused_at_submit(
    tmp_path: Path, url: str
) -> None:
    async with serving(tmp_path) as server:
        answer = await server.submit(callback=url)
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith("callback: ")
        assert answer.json()["error"]["details"]["field"] == "callback"
        assert (await server.remains())[0] == 0


async def test_callback_status_from_null_to_sent(server: Server) -> None:
    with Receiver() as receiver:
        await server.submit(task_id="t", callback=receiver.url)
        assert await callback_status(server) is None
        task = await server.start()
        assert await callback_status(server) is None
        await server.succeed(task, {"payload": 1})
        assert await callback_status(server) == "pending"
        await send_due(server)
        assert await callback_status(server) == "sent"
        (request,) = receiver.all()
    assert "webhook-signature" not in request.headers
    assert {"task_id", "status", "result", "minio_files", "timestamp"} == request.json.keys()


async def test_a_refused_callback_is_listed_and_replayed(server: Server) -> None:
    with Receiver() as receiver:
        receiver.answers = [410]
        await server.submit(task_id="t", callback=receiver.url)
        assert (await server.http.get("/v1/tasks/t/deliveries")).json() == {"task_id": "t", "deliveries": []}
        await server.succeed(await server.start())
        path = "/v1/tasks/t/deliveries/1/replay"
        assert (await server.http.post(path)).status_code == 409
        await send_due(server)
        assert await callback_status(server) == "failed"
        (listed,) = (await server.http.get("/v1/tasks/t/deliveries")).json()["deliveries"]
        assert (listed["number"], listed["url"], listed["status"]) == (1, receiver.url, "failed")
        assert (listed["num_tries"], listed["next_try_at"]) == (1, None)
        assert (listed["tries"][0]["status_code"], listed["tries"][0]["error"]) == (410, None)
        replayed = await server.http.post(path)
        assert (replayed.status_code, replayed.json()["status"]) == (200, "pending")
        await send_due(server)
        first, second = receiver.all()
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == listed["webhook_id"]
    assert await callback_status(server) == "sent"


@pytest.mark.parametrize("path", ["t/deliveries/2", "t/deliveries/x", "unknown/deliveries/1"])
async def test_what_is_not_there_cannot_be_replayed(server: Server, path: str) -> None:
    await server.submit(task_id="t")
    assert (await server.http.post(f"/v1/tasks/{path}/replay")).status_code == 404
    assert (await server.http.get("/v1/tasks/unknown/deliveries")).status_code == 404


@pytest.mark.parametrize("name", ["diagnostics.echo", "ffmpeg.extract_audio"], ids=["no files", "files"])
async def test_submitted_again_after_success_calls_the_newest_url(server: Server, name: str) -> None:
    inputs = {"payload": 1}
    if name != "diagnostics.echo":
        samples = Path(__file__).parents[2] / "samples"
        video = await server.put("in.mp4", (samples / "bigbuckbunny.mp4").read_bytes())
        inputs = {"video_path": video}
    with Receiver() as receiver:
        await server.submit(name, inputs, task_id="t", callback=receiver.url)
        await server.succeed(await server.start(name.partition(".")[0]))
        await send_due(server)
        again = await server.submit(name, inputs, task_id="t", callback=f"{receiver.url}/newest")
        assert again.json()["message"] == "任务已命中缓存并完成回调"
        assert await callback_status(server) == "pending"
        await send_due(server)
        assert [request.path for request in receiver.all()] == ["/hook", "/hook/newest"]
    assert await callback_status(server) == "sent"


async def test_a_retry_keeps_the_callback(server: Server) -> None:
    with Receiver() as receiver:
        await server.submit(task_id="t", callback=receiver.url)
        await server.fail(await server.start())
        await send_due(server)
        new_id = (await server.http.post("/v1/tasks/t/retry")).json()["task_id"]
        await server.succeed(await server.start())
        await send_due(server)
        told = [(request.json["task_id"], request.json["status"]) for request in receiver.all()]
    assert told == [("t", "failed"), (new_id, "completed")]


async def test_a_deleted_task_calls_nobody(server: Server) -> None:
    with Receiver() as receiver:
        await server.submit(task_id="t", callback=receiver.url)
        await server.succeed(await server.start())
        await server.registry.delete("t")
        await send_due(server)
        assert receiver.all() == []
