"""Both clients against the real application, served by a real HTTP server that dies in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI

from api.app import create_app
from api.context import ApiContext
from mediaray import AsyncClient, Client, ProgressChange, StatusChange, TaskEnd, TaskFailed, calls
from models.catalog import CATALOG
from tests.api_client import Server, serving
from tests.listening import listening


@pytest.fixture
async def server(tmp_path) -> AsyncIterator[Server]:
    async with serving(tmp_path) as one:
        yield one


def restarted(server: Server) -> FastAPI:
    """The application as a new process has it: the same records, nothing remembered."""
    context = ApiContext(
        server.settings, server.registry, server.storage, CATALOG, server.system, server.clock
    )
    return create_app(context)


async def submitted(client: AsyncClient, **options: Any) -> str:
    return (await client.submit("diagnostics.echo", {"payload": 1}, **options)).id


async def test_a_life_in_events_with_the_server_dying_in_the_middle(server):
    async with listening(server.app) as url:
        client = AsyncClient(url)
        task_id = await submitted(client)
        events = client.events(task_id)
        waiting = await anext(events)
        task = await server.start()
        running = await anext(events)
    async with listening(restarted(server), int(url.rpartition(":")[2])):
        await server.report(task, done=5, total=10, unit="frames", eta_s=10, eta_low_s=8, eta_high_s=12)
        further = await anext(events)
        await server.succeed(task, {"n": 1})
        rest = [event async for event in events]
        await client.aclose()
    assert isinstance(waiting, StatusChange)
    assert (waiting.status, waiting.waiting["reason"]) == ("pending", "no_replica")
    assert (running.status, running.attempt) == ("running", 1)
    assert isinstance(further, ProgressChange)
    assert (further.progress.done, further.progress.eta_low_s, further.progress.eta_high_s) == (5, 8, 12)
    assert [getattr(event, "status", "") for event in rest if isinstance(event, StatusChange)] == [
        "completed"
    ]
    assert isinstance(rest[-1], TaskEnd)
    assert rest[-1].view.result == {"n": 1}


async def test_both_clients_wait_by_events(server):
    async with listening(server.app) as url, AsyncClient(url) as client:
        task_id = await submitted(client)
        with Client(url) as blocking:
            waiters = asyncio.gather(client.wait(task_id), asyncio.to_thread(blocking.wait, task_id))
            await server.succeed(await server.start(), {"n": 1})
            views = await waiters
    assert [view.result for view in views] == [{"n": 1}] * 2


async def test_a_failure_is_raised(server):
    async with listening(server.app) as url, AsyncClient(url) as client:
        task_id = await submitted(client)
        waiter = asyncio.create_task(client.wait(task_id))
        await server.fail(await server.start(), "坏了")
        with pytest.raises(TaskFailed, match="坏了"):
            await waiter


async def test_a_list_over_pages_and_by_filters(server, monkeypatch):
    monkeypatch.setattr(calls, "PAGE_TASKS", 2)
    async with listening(server.app) as url, AsyncClient(url) as client:
        ids = [await submitted(client, task_id=f"t-{number}") for number in range(5)]
        assert sorted([view.id async for view in client.list()]) == ids
        await server.start()
        (running,) = [view async for view in client.list(status="running", task_name="diagnostics.echo")]
    assert (running.name, running.status) == ("diagnostics.echo", "running")
