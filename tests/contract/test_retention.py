"""What goes when its time is over, over the real registry and on both stores."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.book import RegistryLimits
from cluster.errors import StorageFailure, TaskNotFound
from cluster.follower import TaskFollower
from cluster.registry import TaskRegistry
from cluster.retention import LEFTOVER_AGE_S, LEFTOVERS_EVERY_S, Sweep
from cluster.storage import ArtifactStore
from cluster.store import TaskStore
from tests.manual_clock import ManualClock
from tests.stores import keys_below, put
from tests.tasks import lease_request, new_task, outcome

RETENTION_S = 30 * 86400.0
INCOMING = "files/alice/.incoming/0a1b/file"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(time.time())  # beside the stores' own: they date what is written


def registry_of(folder: Path, clock: ManualClock) -> TaskRegistry:
    limits = RegistryLimits(retention_s=RETENTION_S, coalesce_s=0)
    return TaskRegistry(TaskStore(f"sqlite:///{folder}/tasks.sqlite"), clock, limits, clock)


@pytest.fixture
async def registry(tmp_path: Path, clock: ManualClock) -> AsyncIterator[TaskRegistry]:
    registry = registry_of(tmp_path, clock)
    await registry.open()
    yield registry
    await registry.close()


@pytest.fixture
def sweep(registry: TaskRegistry, store: ArtifactStore, clock: ManualClock) -> Sweep:
    return Sweep(registry, store, clock)


async def swept_twice(sweep: Sweep, clock: ManualClock) -> None:
    await sweep.run()
    clock.advance(LEFTOVERS_EVERY_S)
    await sweep.run()


async def succeeded(registry: TaskRegistry, task_id: str) -> None:
    await registry.submit(new_task(id=task_id))
    (task,) = await registry.lease(lease_request())
    await registry.finish([outcome(task)])


async def test_files_without_a_record_go_when_they_are_an_hour_old(
    registry: TaskRegistry, store: ArtifactStore, sweep: Sweep, clock: ManualClock
) -> None:
    await registry.submit(new_task(id="recorded"))
    put(store, "tasks/recorded/input/a.mp4", b"a")
    put(store, "tasks/lost/input/a.mp4", b"a")
    put(store, "tasks/lost/derived/input.jpg", b"a")
    put(store, INCOMING, b"a")
    kept = ["files/alice/a.mp4", "tasks/recorded/input/a.mp4"]
    put(store, kept[0], b"a")
    clock.advance(LEFTOVER_AGE_S + 60)
    await swept_twice(sweep, clock)
    assert keys_below(store, "files/") + keys_below(store, "tasks/") == kept


async def test_what_is_younger_stays(store: ArtifactStore, sweep: Sweep, clock: ManualClock) -> None:
    put(store, "tasks/coming/input/a.mp4", b"a")
    put(store, INCOMING, b"a")
    clock.advance(LEFTOVER_AGE_S - LEFTOVERS_EVERY_S - 60)
    await swept_twice(sweep, clock)
    assert keys_below(store, "tasks/") == ["tasks/coming/input/a.mp4"]
    assert keys_below(store, "files/") == [INCOMING]


async def test_what_looks_old_may_have_been_published_just_now(
    registry: TaskRegistry, store: ArtifactStore, sweep: Sweep, clock: ManualClock
) -> None:
    put(store, "tasks/slow/input/a.mp4", b"a")
    clock.advance(LEFTOVER_AGE_S + 60)
    await sweep.run()
    await registry.submit(new_task(id="slow"))
    clock.advance(LEFTOVERS_EVERY_S)
    await sweep.run()
    assert keys_below(store, "tasks/") == ["tasks/slow/input/a.mp4"]


async def test_another_database_by_mistake_empties_no_store(
    store: ArtifactStore, clock: ManualClock, tmp_path: Path
) -> None:
    put(store, "tasks/of-the-other/1/out.mp4", b"a")
    clock.advance(10 * LEFTOVER_AGE_S)
    registry = registry_of(tmp_path, clock)
    await registry.open()
    try:
        await swept_twice(Sweep(registry, store, clock), clock)
    finally:
        await registry.close()
    assert keys_below(store, "tasks/") == ["tasks/of-the-other/1/out.mp4"]


async def test_what_a_waiting_task_takes_outlives_its_own_task(
    registry: TaskRegistry, local_store: ArtifactStore, clock: ManualClock
) -> None:
    sweep = Sweep(registry, local_store, clock)
    names = [f"first-{number:03}" for number in range(150)]  # more than a page of them
    for name in names:
        await succeeded(registry, name)
        put(local_store, f"tasks/{name}/1/out.mp4", b"a")
    files = {name: f"tasks/{name}/1/out.mp4" for name in names[:-1]}
    await registry.submit(new_task(id="second", files=files))
    clock.advance(RETENTION_S)
    await sweep.run()
    assert keys_below(local_store, "tasks/") == list(files.values())
    await registry.get(names[0])
    await registry.delete(names[0])
    await sweep.run()
    assert keys_below(local_store, "tasks/") == list(files.values())[1:]
    await registry.cancel("second")
    await sweep.run()
    assert keys_below(local_store, "tasks/") == []


async def test_a_database_remembers_when_it_began(tmp_path: Path, clock: ManualClock) -> None:
    began = []
    for _ in range(2):
        registry = registry_of(tmp_path, clock)
        await registry.open()
        began.append(registry.began_at)
        await registry.close()
        clock.advance(86400)
    assert began[0] == began[1] > 0


async def test_an_expired_task_is_hidden_before_its_files_go(
    registry: TaskRegistry,
    local_store: ArtifactStore,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    await succeeded(registry, "t")
    put(local_store, "tasks/t/1/out.mp4", b"a")
    seq = (await registry.watch(-1, 0, 0)).seq
    clock.advance(RETENTION_S)

    def failing(prefix: str) -> int:
        raise StorageFailure(f"{prefix} cannot be deleted")

    with monkeypatch.context() as broken:
        broken.setattr(local_store, "delete_prefix", failing)
        await Sweep(registry, local_store, clock).run()
    with pytest.raises(TaskNotFound):
        await registry.get("t")
    feed = await registry.watch(registry.epoch, seq, 0)
    assert [(task.id, task.is_deleted) for task in feed.tasks] == [("t", True)]
    reader = TaskStore(f"sqlite:///{tmp_path}/tasks.sqlite")
    assert [task.is_deleted for task in reader.find(["t"])] == [True]
    reader.close()
    await Sweep(registry, local_store, clock).run()
    assert keys_below(local_store, "tasks/") == []
    assert await registry.unrecorded(["t"]) == {"t"}
    assert (await registry.submit(new_task(id="t"))).created


async def test_tasks_that_cannot_be_removed_keep_no_other_from_it(
    registry: TaskRegistry, local_store: ArtifactStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, others = [f"stuck{number}" for number in range(120)], [f"t{number}" for number in range(120)]
    await asyncio.gather(*(registry.submit(new_task(id=task_id)) for task_id in stuck + others))
    await registry.finish([outcome(task) for task in await registry.lease(lease_request(slots=240))])
    tried = Counter[str]()

    def failing(prefix: str) -> int:
        tried[prefix] += 1
        if "stuck" in prefix:
            raise StorageFailure(f"{prefix} cannot be deleted")
        return 0

    monkeypatch.setattr(local_store, "delete_prefix", failing)
    clock.advance(RETENTION_S)
    await Sweep(registry, local_store, clock).run()
    assert await registry.unrecorded(stuck + others) == set(others)
    assert set(tried.values()) == {1}


async def test_a_follower_tells_nobody_of_an_expired_task(registry: TaskRegistry, clock: ManualClock) -> None:
    await succeeded(registry, "t")
    follower = TaskFollower(registry)
    await follower.get("t")
    follower.start()
    feed = (await registry.watch(-1, 0, 0)).seq
    clock.advance(RETENTION_S)
    await registry.removable()
    assert (await registry.watch(registry.epoch, feed, 0)).tasks
    with pytest.raises(TaskNotFound):
        await follower.get("t")
    await follower.stop()


def test_folders_and_their_age(store: ArtifactStore) -> None:
    begun = time.time()
    for key in ("tasks/a/1/x", "tasks/a/input/y", "tasks/b/input/z", "tasks/file"):
        put(store, key, b"a")
    assert sorted(store.folders("tasks/")) == ["a", "b"]
    assert list(store.folders("tasks/none/")) == []
    newest_at = store.newest_at("tasks/a/")
    assert newest_at is not None
    assert newest_at >= begun - 2
    assert store.newest_at("tasks/none/") is None
