"""What the registry knows of running and waiting tasks beyond their records: log lines, replicas, caps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.book import RegistryLimits
from cluster.follower import TaskFollower
from cluster.registry import TaskRegistry
from cluster.store import TaskStore
from cluster.task import Beat, Failure, FailureCode, LogLines, OutcomeKind, Progress, Task
from cluster.waiting import WaitReason
from tests.manual_clock import ManualClock
from tests.tasks import lease_request, new_task, outcome

LIMITS = RegistryLimits(
    coalesce_s=0, gather_s=0, lease_write_s=0, outcome_write_s=0, max_running_per_tenant=1
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def registry(tmp_path: Path, clock: ManualClock) -> AsyncIterator[TaskRegistry]:
    registry = TaskRegistry(TaskStore(f"sqlite:///{tmp_path}/tasks.sqlite"), clock, LIMITS, clock)
    await registry.open()
    yield registry
    await registry.close()


@pytest.fixture
async def follower(registry: TaskRegistry) -> AsyncIterator[TaskFollower]:
    follower = TaskFollower(registry)
    follower.start()
    yield follower
    await follower.stop()


async def running(registry: TaskRegistry, task_id: str = "t") -> Task:
    await registry.submit(new_task(id=task_id))
    (task,) = await registry.lease(lease_request())
    return await registry.get(task.id)


async def beat(registry: TaskRegistry, task: Task, *lines: str, first: int = 0, done: float = 0.0) -> None:
    log = LogLines(task.fence, first, lines) if lines else None
    await registry.beat("w1", [Beat(task.id, task.fence, Progress(done), log)])


async def test_log_lines_travel_with_the_feed_once_and_never_into_the_row(registry: TaskRegistry) -> None:
    task = await running(registry)
    seen = await registry.watch(registry.epoch, 0, 0)
    await beat(registry, task, "one")
    first = await registry.watch(registry.epoch, seen.seq, 0)
    await beat(registry, task, "two", first=1)
    second = await registry.watch(registry.epoch, first.seq, 0)
    assert (first.logs["t"].lines, second.logs["t"].lines, second.logs["t"].first) == (("one",), ("two",), 1)
    assert [changed.id for changed in second.tasks] == ["t"]
    assert (await registry.log_tail("t")).lines == ("one", "two")
    await registry.annotate("t", {"n": 1})
    (stored,) = registry._store.live()
    assert stored.facts == {"n": 1}
    assert "two" not in repr(stored)
    await registry.finish([outcome(task, result={})])
    assert await registry.log_tail("t") == LogLines()


async def test_a_beat_without_lines_and_progress_changes_nothing(registry: TaskRegistry) -> None:
    task = await running(registry)
    seen = await registry.watch(registry.epoch, 0, 0)
    await beat(registry, task)
    assert (await registry.watch(registry.epoch, seen.seq, 0)).seq == seen.seq


async def test_lines_of_a_lost_attempt_are_not_taken(registry: TaskRegistry) -> None:
    task = await running(registry)
    await registry.beat("somebody", [Beat("t", task.fence, Progress(), LogLines(task.fence, 0, ("x",)))])
    assert await registry.log_tail("t") == LogLines()


async def test_a_follower_that_missed_the_beginning_asks_for_the_whole_tail(registry: TaskRegistry) -> None:
    task = await running(registry)
    await beat(registry, task, "one")
    late = TaskFollower(registry)
    late.start()
    known = await late.get("t")
    assert (await late.log_tail("t")).lines == ("one",)
    await beat(registry, task, "two", first=1, done=1)
    while known.progress.done == 0:
        known = await late.changed(known, 60)
    assert (await late.log_tail("t")).lines == ("one", "two")
    await beat(registry, task, "nine", first=8, done=2)  # what lies between never came here
    while known.progress.done == 1:
        known = await late.changed(known, 60)
    assert await late.log_tail("t") == LogLines(task.fence, 8, ("nine",))
    await late.stop()


async def test_waiting_for_a_change_ends_with_the_wait(follower: TaskFollower) -> None:
    await follower.submit(new_task(id="t"))
    task = await follower.get("t")
    assert await follower.changed(task, 0.01) == task
    assert follower._waiters == {}


async def test_a_capped_tenant_waits_until_one_of_its_tasks_ends(registry: TaskRegistry) -> None:
    first = await running(registry, "first")
    await registry.submit(new_task(id="second"))
    await registry.submit(new_task(id="other", tenant="b"))
    waiting = await registry.waiting("second")
    assert waiting is not None
    assert (waiting.reason, waiting.ahead) == (WaitReason.TENANT_CAP, 1)
    depth = (await registry.depths())["diagnostics"]
    assert (depth.waiting, depth.running, depth.runnable) == (2, 1, 1)
    assert [task.id for task in await registry.lease(lease_request(slots=3))] == ["other"]
    assert await registry.lease(lease_request()) == []
    asking = asyncio.create_task(registry.lease(lease_request(wait_s=60.0)))
    await asyncio.sleep(0)
    assert not asking.done()
    await registry.finish([outcome(first, result={})])
    assert [task.id for task in await asking] == ["second"]
    assert await registry.waiting("second") is None


async def test_replicas_are_remembered_for_as_long_as_they_ask_or_beat(
    registry: TaskRegistry, clock: ManualClock
) -> None:
    async def reason() -> WaitReason:
        waiting = await registry.waiting("next")
        assert waiting is not None
        return waiting.reason

    task = await running(registry)
    await registry.submit(new_task(id="next", tenant="b"))
    assert await reason() is WaitReason.QUEUE
    clock.advance(9)
    await beat(registry, task, done=1)
    clock.advance(9)
    assert await reason() is WaitReason.QUEUE
    clock.advance(2)
    assert await reason() is WaitReason.NO_REPLICA
    await registry.expect("diagnostics", 1)
    assert await reason() is WaitReason.REPLICA_STARTING
    await registry.expect("diagnostics", 0)
    assert await reason() is WaitReason.NO_REPLICA


async def test_a_retry_delay_is_told_with_its_end(registry: TaskRegistry, clock: ManualClock) -> None:
    task = await running(registry)
    clock.advance(3)
    failure = Failure(FailureCode.INTERNAL_ERROR, "passing", is_transient=True)
    await registry.finish([outcome(task, OutcomeKind.FAILED, failure=failure)])
    waiting = await registry.waiting("t")
    assert waiting is not None
    assert (waiting.reason, waiting.ahead, waiting.since) == (WaitReason.RETRY_DELAY, None, clock.now)
    assert "the next one begins in" in waiting.text
    clock.advance(60)
    await registry.tick()
    waiting = await registry.waiting("t")
    assert waiting is not None
    assert waiting.ahead == 0


async def test_nobody_waits_without_being_queued(registry: TaskRegistry) -> None:
    assert await registry.waiting("nope") is None
