"""Reads from memory: own writes at once, others' by the feed, and never after the feed broke off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.book import RegistryLimits
from cluster.errors import RegistryUnavailable, TaskNotFound
from cluster.follower import TaskFollower
from cluster.registry import TaskRegistry
from cluster.store import TaskStore
from cluster.task import Feed, OutcomeKind, Status, Task
from tests.manual_clock import ManualClock
from tests.tasks import lease_request, new_task, outcome


class CountingRegistry(TaskRegistry):
    """The real registry; counts reads and can be cut off."""

    reads = 0
    is_away = False

    async def get(self, task_id: str) -> Task:
        self.reads += 1
        return await super().get(task_id)

    async def watch(self, epoch: int, since: int, wait_s: float) -> Feed:
        if self.is_away:
            raise RegistryUnavailable("away")
        return await super().watch(epoch, since, wait_s)


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[CountingRegistry]:
    limits = RegistryLimits(coalesce_s=0, gather_s=0)
    registry = CountingRegistry(TaskStore(f"sqlite:///{tmp_path}/tasks.sqlite"), ManualClock(), limits)
    await registry.open()
    yield registry
    await registry.close()


@pytest.fixture
async def follower(registry: CountingRegistry) -> AsyncIterator[TaskFollower]:
    follower = TaskFollower(registry)
    follower.start()
    await turns()
    yield follower
    await follower.stop()


async def turns() -> None:
    """Let everything that is ready on the loop run."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_what_this_process_submitted_is_read_from_memory(
    registry: CountingRegistry, follower: TaskFollower
) -> None:
    await follower.submit(new_task(id="t"))
    asked = registry.reads
    assert (await follower.get("t")).status is Status.QUEUED
    assert registry.reads == asked


async def test_changes_by_others_arrive_with_the_feed(
    registry: CountingRegistry, follower: TaskFollower
) -> None:
    await follower.submit(new_task(id="t"))
    (task,) = await registry.lease(lease_request())
    await registry.finish([outcome(task, result={"n": 1})])
    await turns()
    asked = registry.reads
    done = await follower.get("t")
    assert (done.status, done.result, registry.reads) == (Status.SUCCEEDED, {"n": 1}, asked)


async def test_a_deleted_task_is_gone_here_too(registry: CountingRegistry, follower: TaskFollower) -> None:
    await follower.submit(new_task(id="t"))
    await registry.delete("t")
    await turns()
    with pytest.raises(TaskNotFound):
        await follower.get("t")


async def test_a_broken_feed_sends_reads_to_the_registry(
    registry: CountingRegistry, follower: TaskFollower
) -> None:
    await follower.submit(new_task(id="t"))
    registry.is_away = True
    await registry.submit(new_task(id="other"))  # wakes the follower, whose next call fails
    await turns()
    asked = registry.reads
    await follower.get("t")
    assert registry.reads > asked


async def test_why_a_task_waits_is_asked_once_in_a_while(
    registry: CountingRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(registry, "waiting", lambda task_id: _told(asked, task_id))
    follower = TaskFollower(registry)
    await follower.submit(new_task(id="t"))
    for _ in range(20):
        await follower.waiting("t")
    await follower.waiting("other")
    assert asked == ["t", "other"]
    (task,) = await registry.lease(lease_request())
    follower._learn(await registry.get("t"))
    await registry.finish([outcome(task, OutcomeKind.HANDED_BACK)])
    follower._learn(await registry.get("t"))
    await follower.waiting("t")
    assert asked == ["t", "other", "t"]
    follower._forget_waiting(float("inf"))
    await follower.waiting("other")
    assert asked == ["t", "other", "t", "other"]


async def _told(asked: list[str], task_id: str) -> None:
    asked.append(task_id)


async def test_more_than_an_answer_holds_comes_in_slices(
    registry: CountingRegistry, follower: TaskFollower
) -> None:
    registry._book.feed._max_answer_chars = 20_000
    registry.is_away = True
    await registry.submit(new_task(id="first"))  # wakes the follower, whose next call fails
    await turns()
    sizes = [5_000] * 6 + [50_000] + [5_000] * 6
    for number, size in enumerate(sizes):
        await registry.submit(new_task(id=f"t{number}", inputs={"payload": "x" * size}))
    registry.is_away = False
    while follower._seq < registry._book.feed.seq:
        await turns()
    asked = registry.reads
    found = [len((await follower.get(f"t{number}")).inputs["payload"]) for number in range(len(sizes))]
    assert (found, registry.reads) == (sizes, asked)


async def test_an_answer_tells_where_it_breaks_off(registry: CountingRegistry) -> None:
    registry._book.feed._max_answer_chars = 1
    for task_id in ("t", "u"):
        await registry.submit(new_task(id=task_id))
    feed = await registry.watch(registry.epoch, 0, 0)
    assert ([task.id for task in feed.tasks], feed.has_more) == (["t"], True)
    feed = await registry.watch(registry.epoch, feed.seq, 0)
    assert ([task.id for task in feed.tasks], feed.has_more) == (["u"], False)


async def test_large_tasks_that_ended_are_on_disk_alone(
    registry: CountingRegistry, follower: TaskFollower
) -> None:
    feed = registry._book.feed
    feed._max_remembered_chars = follower._remembered_bytes = 50_000
    news = [
        new_task(id=f"t{number}", inputs={"payload": "x" * 10_000}, idempotency_key=f"key-{number}")
        for number in range(9)
    ]
    for new in news:
        await registry.submit(new)
        (task,) = await registry.lease(lease_request())
        await registry.finish([outcome(task, result={"payload": "y" * 10_000})])
        await turns()
    remembered = [
        list(known) for known in (feed._changed, feed._chars, registry._book._ended, follower._known)
    ]
    assert remembered == [["t7", "t8"]] * 4
    assert len(registry._book._keys) == 2
    assert (feed._total_chars, follower._total_bytes) < (50_000, 50_000)
    first = await follower.get("t0")
    assert (first.status, first.result) == (Status.SUCCEEDED, {"payload": "y" * 10_000})
    assert not (await registry.submit(news[0])).created


async def test_a_waiting_task_is_known_however_large(registry: CountingRegistry) -> None:
    registry._book.feed._max_remembered_chars = 1
    for number in range(3):
        await registry.submit(new_task(id=f"t{number}"))
    assert [task.id for task in await registry.lease(lease_request(slots=3))] == ["t0", "t1", "t2"]
