"""The line into the registry: overlapping calls, a server that goes, callers without the proof."""

from __future__ import annotations

import asyncio
import pickle
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from cluster import channel
from cluster.channel import CallMany, ChannelAddress, ChannelBroken, ChannelClient, ChannelServer

HOST = "127.0.0.1"

Serve = Callable[[CallMany], Awaitable[ChannelAddress]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    servers = []

    async def serve_one(call_many: CallMany) -> ChannelAddress:
        servers.append(ChannelServer(call_many))
        return await servers[-1].start(HOST)

    yield serve_one
    for server in servers:
        server.close()


async def test_overlapping_calls_get_their_own_answers(serve: Serve) -> None:
    gate = asyncio.Event()

    async def call_many(calls: Any) -> Any:
        if calls == "slow":
            await gate.wait()
        return [calls]

    line = await ChannelClient.connect(await serve(call_many))
    slow = asyncio.create_task(line.call_many("slow"))
    assert await line.call_many("quick") == ["quick"]
    gate.set()
    assert await slow == ["slow"]
    line.close()


async def test_a_caller_without_the_proof_is_hung_up_on_before_anything_is_opened(serve: Serve) -> None:
    opened = []

    async def call_many(calls: Any) -> Any:
        opened.append(calls)

    address = await serve(call_many)
    line = await ChannelClient.connect(replace(address, proof=bytes(32)))
    with pytest.raises(ChannelBroken):
        await line.call_many("x")
    assert not opened


async def test_an_ended_line_breaks_waiting_and_later_calls(serve: Serve) -> None:
    async def call_many(calls: Any) -> Any:
        await asyncio.Event().wait()

    line = await ChannelClient.connect(await serve(call_many))
    waiting = asyncio.create_task(line.call_many("x"))
    await asyncio.sleep(0)
    line.close()
    with pytest.raises(ChannelBroken):
        await waiting
    with pytest.raises(ChannelBroken):
        await line.call_many("y")


async def test_a_failing_call_ends_the_line_and_is_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def call_many(calls: Any) -> Any:
        if calls == "bad":
            raise ValueError("a bug")
        return calls

    line = await ChannelClient.connect(await serve(call_many))
    with pytest.raises(ChannelBroken):
        await line.call_many("bad")
    assert "a bug" in caplog.text
    with pytest.raises(ChannelBroken):
        await line.call_many("good")


async def test_an_answer_that_cannot_be_pickled_hangs_nobody(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def call_many(calls: Any) -> Any:
        return lambda: calls

    line = await ChannelClient.connect(await serve(call_many))
    with pytest.raises(ChannelBroken):
        await line.call_many("x")
    assert "pickle" in caplog.text


async def test_a_call_that_cannot_be_pickled_is_the_callers_error(serve: Serve) -> None:
    async def call_many(calls: Any) -> Any:
        return calls

    line = await ChannelClient.connect(await serve(call_many))
    with pytest.raises((AttributeError, pickle.PicklingError)):
        await line.call_many(lambda: None)
    assert await line.call_many("good") == "good"
    line.close()


async def test_nobody_listening(serve: Serve) -> None:
    async def call_many(calls: Any) -> Any:
        return calls

    address = await serve(call_many)
    with pytest.raises(ChannelBroken):
        await ChannelClient.connect(replace(address, port=1))


async def test_what_a_caller_asked_for_ends_with_its_connection(serve: Serve) -> None:
    asked, ended = asyncio.Event(), asyncio.Event()

    async def call_many(calls: Any) -> Any:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    line = await ChannelClient.connect(await serve(call_many))
    waiting = asyncio.create_task(line.call_many("x"))
    await asked.wait()
    line.close()
    await ended.wait()
    with pytest.raises(ChannelBroken):
        await waiting


async def test_a_server_that_closes_hangs_up_on_its_callers() -> None:
    asked = asyncio.Event()

    async def call_many(calls: Any) -> Any:
        asked.set()
        await asyncio.Event().wait()

    server = ChannelServer(call_many)
    line = await ChannelClient.connect(await server.start(HOST))
    waiting = asyncio.create_task(line.call_many("x"))
    await asked.wait()
    server.close()
    with pytest.raises(ChannelBroken):
        await waiting


async def test_a_registry_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose machine has vanished: its backlog is full, so the kernel drops what asks to connect."""
    monkeypatch.setattr(channel, "_CONNECT_TIMEOUT_S", 0.1)
    with socket.create_server((HOST, 0), backlog=0) as deaf, socket.socket() as first:
        first.connect(deaf.getsockname())
        with pytest.raises(ChannelBroken):
            await ChannelClient.connect(ChannelAddress(*deaf.getsockname(), proof=bytes(32)))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's settings have other names elsewhere")
async def test_a_line_whose_other_end_vanished_ends_within_half_a_minute(serve: Serve) -> None:
    async def call_many(calls: Any) -> Any:
        return calls

    line = await ChannelClient.connect(await serve(call_many))
    assert line._transport is not None
    kernel = line._transport.get_extra_info("socket")

    def setting(name: int) -> int:
        return int(kernel.getsockopt(socket.IPPROTO_TCP, name))

    assert kernel.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    silence_s = setting(socket.TCP_KEEPIDLE) + setting(socket.TCP_KEEPCNT) * setting(socket.TCP_KEEPINTVL)
    assert silence_s <= 30
    assert setting(socket.TCP_USER_TIMEOUT) <= 30_000
    line.close()
