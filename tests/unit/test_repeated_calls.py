"""Calls whose answer was lost, over a real line: the repetition tells what the first call would have told."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cluster.actors import RegistryOperations
from cluster.book import RegistryLimits
from cluster.channel import ChannelAddress, ChannelServer
from cluster.client import RegistryClient, RegistryFacts
from cluster.errors import IllegalStep, TaskNotFound
from cluster.registry import TaskRegistry
from cluster.store import TaskStore
from cluster.task import Status
from tests.manual_clock import ManualClock
from tests.tasks import lease_request, new_task, outcome


class Line:
    """A registry behind a line that can lose the next answer."""

    def __init__(self, registry: TaskRegistry) -> None:
        self.registry = registry
        self.loses_next_answer = False
        self._operations = RegistryOperations(registry, _no_facts)
        self._server = ChannelServer(self._run)
        self._address: ChannelAddress | None = None

    async def client(self) -> RegistryClient:
        self._address = await self._server.start("127.0.0.1")
        return RegistryClient(self._find)

    def close(self) -> None:
        self._server.close()

    async def _find(self) -> ChannelAddress:
        assert self._address is not None
        return self._address

    async def _run(self, calls: Any) -> list[Any]:
        answers = await self._operations.run(calls)
        if self.loses_next_answer:
            self.loses_next_answer = False
            raise ConnectionError("the answer is lost")
        return answers


def _no_facts() -> RegistryFacts:
    raise AssertionError("nobody asks for them here")


@pytest.fixture
async def line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Line]:
    caplog.set_level(logging.CRITICAL)
    store = TaskStore(f"sqlite:///{tmp_path}/tasks.sqlite")
    clock = ManualClock()
    registry = TaskRegistry(store, clock, RegistryLimits(coalesce_s=0, gather_s=0), clock)
    await registry.open()
    line = Line(registry)
    yield line
    line.close()
    await registry.close()


async def test_a_cancel_whose_answer_is_lost(line: Line) -> None:
    client = await line.client()
    await client.submit(new_task(id="t"))
    line.loses_next_answer = True
    assert (await client.cancel("t")).status is Status.CANCELLED
    with pytest.raises(IllegalStep):
        await client.cancel("t")


async def test_a_repeated_cancel_does_not_hide_that_the_task_succeeded(line: Line) -> None:
    client = await line.client()
    await client.submit(new_task(id="t"))
    (task,) = await client.lease(lease_request())
    await client.finish([outcome(task)])
    line.loses_next_answer = True
    with pytest.raises(IllegalStep):
        await client.cancel("t")


async def test_a_delete_whose_answer_is_lost(line: Line) -> None:
    client = await line.client()
    await client.submit(new_task(id="t"))
    line.loses_next_answer = True
    await client.delete("t")
    with pytest.raises(TaskNotFound):
        await client.delete("t")
