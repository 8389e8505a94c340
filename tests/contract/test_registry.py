"""What the registry promises, with a virtual clock, over real databases: SQLite and PostgreSQL.

Restarts are real: a second registry opens the same database, nothing else survives.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from cluster.book import RegistryLimits
from cluster.changes import Changes
from cluster.errors import (
    DuplicateTask,
    IllegalStep,
    QueueFull,
    RegistryFault,
    RegistryUnavailable,
    Superseded,
    TaskConflict,
    TaskNotFound,
)
from cluster.registry import TaskRegistry
from cluster.retry import MAX_DELAY_S
from cluster.store import TaskStore
from cluster.task import (
    Artifact,
    Beat,
    Failure,
    FailureCode,
    OutcomeKind,
    Progress,
    Status,
    Task,
    TaskQuery,
    Verdict,
)
from tests import postgres
from tests.manual_clock import ManualClock
from tests.tasks import lease_request, new_task, outcome

LIMITS = RegistryLimits(lease_s=15, max_queued_tasks=5, retention_s=100, coalesce_s=0)
TRANSIENT = Failure(FailureCode.INTERNAL_ERROR, "passing", is_transient=True)
ARTIFACT = Artifact("out.txt", "tasks/x/1/out.txt", "text/plain", 3, "0" * 64)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(scope="module")
def new_postgres_database() -> Iterator[Callable[[], str]]:
    folder = postgres.programs()
    if folder is None:
        pytest.skip("PostgreSQL's programs are not installed")
    with postgres.server(folder) as new_database:
        yield new_database


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/tasks.sqlite"
    return request.getfixturevalue("new_postgres_database")()


@pytest.fixture
async def open_registry(database_url: str, clock: ManualClock) -> AsyncIterator[Callable[[], object]]:
    opened: list[TaskRegistry] = []

    async def open_one() -> TaskRegistry:
        """A registry on the same database; the one before is gone, as after kill -9."""
        for registry in opened:
            await registry.close()
        opened[:] = [TaskRegistry(TaskStore(database_url), clock, LIMITS, clock)]
        await opened[0].open()
        return opened[0]

    yield open_one
    for registry in opened:
        await registry.close()


@pytest.fixture
async def registry(open_registry) -> TaskRegistry:
    return await open_registry()


async def recovered(registry: TaskRegistry) -> None:
    """The writer ends when memory equals the disk again and nothing waits to be written."""
    await asyncio.wait([registry._book.commits._writer])


async def leased(registry: TaskRegistry, **fields) -> Task:
    tasks = await registry.lease(lease_request(**fields))
    assert len(tasks) == 1
    return tasks[0]


async def test_a_task_runs_and_succeeds(registry: TaskRegistry, clock: ManualClock) -> None:
    submitted = (await registry.submit(new_task(id="t"))).task
    assert submitted.status is Status.QUEUED
    clock.advance(1)
    running = await leased(registry)
    assert (running.status, running.attempts, running.started_at) == (Status.RUNNING, 1, clock.now)
    clock.advance(2)
    assert await registry.finish([outcome(running, result={"a": 1}, artifacts=(ARTIFACT,))]) == [True]
    done = await registry.get("t")
    assert (done.status, done.result, done.artifacts, done.run_s) == ("succeeded", {"a": 1}, (ARTIFACT,), 2)
    assert [event.event for event in await registry.events("t")] == ["create", "lease", "succeed"]


async def test_every_state_survives_a_restart(open_registry, clock: ManualClock) -> None:
    registry = await open_registry()
    for name in ("queued", "running", "succeeded", "failed", "cancelled"):
        await registry.submit(new_task(id=name, service=name))
    for name in ("running", "succeeded", "failed"):
        task = await leased(registry, service=name)
        if name == "succeeded":
            await registry.finish([outcome(task, result={"ok": True}, artifacts=(ARTIFACT,))])
        if name == "failed":
            failure = Failure(FailureCode.INVALID_PARAMS, "wrong")
            await registry.finish([outcome(task, OutcomeKind.FAILED, failure=failure)])
    await registry.cancel("cancelled")
    before = {
        name: await registry.get(name) for name in ("queued", "running", "succeeded", "failed", "cancelled")
    }
    first_epoch = registry.epoch

    registry = await open_registry()

    assert registry.epoch == first_epoch + 1
    for name, task in before.items():
        again = await registry.get(name)
        assert again.status == name
        assert (again.result, again.failure, again.artifacts, again.attempt) == (
            task.result,
            task.failure,
            task.artifacts,
            task.attempt,
        )
    assert (await leased(registry, service="queued")).id == "queued"
    assert await registry.finish([outcome(before["running"])]) == [True]


async def test_a_lapsed_lease_goes_to_the_next_replica_and_the_first_cannot_publish(
    registry: TaskRegistry, clock: ManualClock
) -> None:
    await registry.submit(new_task(id="t"))
    lost = await leased(registry, worker="stopped")
    clock.advance(6)
    await registry.tick()
    second = await leased(registry, worker="w2")
    assert second.attempts == 2
    assert await registry.beat("stopped", [Beat("t", lost.fence, Progress())]) == [Verdict.LOST]
    assert await registry.finish([outcome(lost, result={"by": "stopped"})]) == [False]
    assert await registry.finish([outcome(second, result={"by": "w2"})]) == [True]
    assert await registry.finish([outcome(lost, result={"by": "stopped"})]) == [False]
    assert (await registry.get("t")).result == {"by": "w2"}


async def test_beats_keep_a_lease_and_carry_progress(registry: TaskRegistry, clock: ManualClock) -> None:
    await registry.submit(new_task(id="t"))
    task = await leased(registry)
    for second in range(10):
        clock.advance(14)
        progress = Progress(done=second, total=10, unit="frames", stage="run")
        assert await registry.beat("w1", [Beat("t", task.fence, progress)]) == [Verdict.OK]
        await registry.tick()
    shown = await registry.get("t")
    assert (shown.status, shown.progress.fraction) == (Status.RUNNING, 0.9)
    assert await registry.finish([outcome(task)]) == [True]
    assert (await registry.get("t")).progress == Progress(done=10, total=10, unit="frames", stage="run")


async def test_a_failed_task_shows_how_far_it_came(registry: TaskRegistry) -> None:
    await registry.submit(new_task(id="t"))
    task = await leased(registry)
    await registry.beat("w1", [Beat("t", task.fence, Progress(done=3, total=10, unit="frames", eta_s=7.0))])
    failure = Failure(FailureCode.INVALID_PARAMS, "no")
    assert await registry.finish([outcome(task, OutcomeKind.FAILED, failure=failure)]) == [True]
    assert (await registry.get("t")).progress == Progress(done=3, total=10, unit="frames")


async def test_attempts_run_out(registry: TaskRegistry, clock: ManualClock) -> None:
    await registry.submit(new_task(id="t", max_attempts=2))
    for _ in range(2):
        task = await leased(registry)
        await registry.beat("w1", [Beat("t", task.fence, Progress())])
        clock.advance(20)
        await registry.tick()
        clock.advance(20)
        await registry.tick()
    task = await registry.get("t")
    assert (task.status, task.attempts) == (Status.FAILED, 2)
    assert task.failure is not None
    assert "stopped answering" in task.failure.message


async def test_work_that_no_replica_began_costs_no_attempt_within_reason(
    registry: TaskRegistry, clock: ManualClock
) -> None:
    await registry.submit(new_task(id="t", max_attempts=1))
    for worker in ("dead1", "dead2"):
        await leased(registry, worker=worker)
        clock.advance(6)
        await registry.tick()
        assert (await registry.get("t")).failed_attempts == 0
    await leased(registry, worker="dead3")
    clock.advance(6)
    await registry.tick()
    assert (await registry.get("t")).status is Status.FAILED


async def test_a_transient_failure_waits_its_delay(registry: TaskRegistry, clock: ManualClock) -> None:
    await registry.submit(new_task(id="t"))
    await registry.finish([outcome(await leased(registry), OutcomeKind.FAILED, failure=TRANSIENT)])
    assert await registry.lease(lease_request()) == []
    assert (await registry.depths())["diagnostics"].waiting == 1
    clock.advance(1.1)
    await registry.tick()
    assert (await leased(registry)).attempts == 2


async def test_a_handed_back_task_costs_no_attempt(registry: TaskRegistry) -> None:
    await registry.submit(new_task(id="t", max_attempts=1))
    for number in (1, 2, 3):
        task = await leased(registry)
        assert task.attempts == number
        assert await registry.finish([outcome(task, OutcomeKind.HANDED_BACK)]) == [True]
    assert (await registry.get("t")).failed_attempts == 0


async def test_cancel_of_a_queued_task_is_at_once(registry: TaskRegistry) -> None:
    await registry.submit(new_task(id="t"))
    assert (await registry.cancel("t")).status is Status.CANCELLED
    assert await registry.lease(lease_request()) == []
    with pytest.raises(IllegalStep):
        await registry.cancel("t")


@pytest.mark.parametrize("kind", list(OutcomeKind), ids=lambda kind: kind.value)
async def test_a_cancelled_running_task_ends_cancelled_however_its_attempt_ends(
    registry: TaskRegistry, kind: OutcomeKind
) -> None:
    await registry.submit(new_task(id="t"))
    task = await leased(registry)
    assert (await registry.cancel("t")).status is Status.RUNNING
    assert await registry.beat("w1", [Beat("t", task.fence, Progress())]) == [Verdict.CANCEL]
    await registry.finish([outcome(task, kind, result={"late": True}, failure=TRANSIENT)])
    ended = await registry.get("t")
    assert (ended.status, ended.result) == (Status.CANCELLED, None)


async def test_a_cancelled_task_whose_replica_died_ends_cancelled(
    registry: TaskRegistry, clock: ManualClock
) -> None:
    await registry.submit(new_task(id="t"))
    await leased(registry)
    await registry.cancel("t")
    clock.advance(20)
    await registry.tick()
    assert (await registry.get("t")).status is Status.CANCELLED


async def test_a_clock_that_is_set_neither_ends_leases_nor_stretches_pauses(tmp_path: Path) -> None:
    now, steady = ManualClock(), ManualClock()
    registry = TaskRegistry(TaskStore(f"sqlite:///{tmp_path}/tasks.sqlite"), now, LIMITS, steady)
    await registry.open()
    await registry.submit(new_task(id="t"))
    task = await leased(registry)
    now.advance(3600)
    await registry.tick()
    assert await registry.beat("w1", [Beat("t", task.fence, Progress())]) == [Verdict.OK]
    await registry.finish([outcome(task, OutcomeKind.FAILED, failure=TRANSIENT)])
    now.advance(-3600)
    for clock in (now, steady):
        clock.advance(1)
    await registry.tick()
    task = await leased(registry)
    now.advance(-3600)
    steady.advance(LIMITS.lease_s)
    await registry.tick()
    assert (await registry.get("t")).status is Status.QUEUED
    await registry.close()


async def test_a_pause_from_before_the_clock_was_set_back_ends_all_the_same(
    open_registry, clock: ManualClock
) -> None:
    registry = await open_registry()
    await registry.submit(new_task(id="t"))
    await registry.finish([outcome(await leased(registry), OutcomeKind.FAILED, failure=TRANSIENT)])
    clock.advance(-3600)
    registry = await open_registry()
    clock.advance(MAX_DELAY_S)
    await registry.tick()
    assert (await leased(registry)).attempts == 2


def test_registries_that_open_at_the_same_time_never_share_an_epoch(database_url: str) -> None:
    stores = [TaskStore(database_url) for _ in range(2)]
    first = stores[0].open()
    with ThreadPoolExecutor(2) as pool:
        epochs = list(pool.map(lambda number: stores[number % 2]._next_epoch(), range(60)))
    assert sorted(epochs) == list(range(first + 1, first + 61))
    for store in stores:
        store.close()


async def test_the_start_deadline(registry: TaskRegistry, clock: ManualClock) -> None:
    await registry.submit(new_task(id="t", start_timeout_s=10))
    clock.advance(9)
    await registry.tick()
    assert (await registry.get("t")).status is Status.QUEUED
    clock.advance(1)
    await registry.tick()
    task = await registry.get("t")
    assert task.failure is not None
    assert (task.status, task.failure.code) == (Status.FAILED, "TIMEOUT")


async def test_the_same_id_with_the_same_request_is_the_same_task(open_registry) -> None:
    registry = await open_registry()
    new = new_task(id="t")
    assert (await registry.submit(new)).created
    assert not (await registry.submit(new)).created
    registry = await open_registry()
    assert not (await registry.submit(new)).created
    with pytest.raises(TaskConflict):
        await registry.submit(new_task(id="t", inputs={"payload": 2}))
    with pytest.raises(TaskConflict):
        await registry.submit(new_task(id="t", tenant="other"))


async def test_two_submits_of_one_id_at_the_same_time_make_one_task(registry: TaskRegistry) -> None:
    new = new_task(id="t")
    submissions = await asyncio.gather(*(registry.submit(new) for _ in range(8)))
    assert sum(submission.created for submission in submissions) == 1


async def test_an_idempotency_key_finds_its_task(open_registry) -> None:
    registry = await open_registry()
    first = (await registry.submit(new_task(idempotency_key="k"))).task
    for _ in range(2):
        again = await registry.submit(new_task(idempotency_key="k"))
        assert (again.task.id, again.created) == (first.id, False)
        registry = await open_registry()
    with pytest.raises(TaskConflict):
        await registry.submit(new_task(idempotency_key="k", inputs={"payload": 2}))


async def test_the_task_of_an_idempotency_key(open_registry) -> None:
    registry = await open_registry()
    made = (await registry.submit(new_task(idempotency_key="k"))).task
    for _ in range(2):
        assert (await registry.keyed("local", "k")) == await registry.get(made.id)
        assert await registry.keyed("other", "k") is None
        assert await registry.keyed("local", "l") is None
        registry = await open_registry()
    await registry.delete(made.id)
    assert await registry.keyed("local", "k") is None


async def test_a_twin_is_refused_while_active_or_done_but_not_after_a_failure(open_registry) -> None:
    registry = await open_registry()
    await registry.submit(new_task(dedupe_key="d"))
    with pytest.raises(DuplicateTask):
        await registry.submit(new_task(dedupe_key="d"))
    failure = Failure(FailureCode.INTERNAL_ERROR, "no")
    await registry.finish([outcome(await leased(registry), OutcomeKind.FAILED, failure=failure)])
    await registry.submit(new_task(dedupe_key="d"))
    await registry.finish([outcome(await leased(registry))])
    with pytest.raises(DuplicateTask):
        await registry.submit(new_task(dedupe_key="d"))
    registry = await open_registry()
    with pytest.raises(DuplicateTask):
        await registry.submit(new_task(dedupe_key="d"))


async def test_a_deleted_twin_does_not_block(registry: TaskRegistry) -> None:
    first = (await registry.submit(new_task(dedupe_key="d"))).task
    await registry.delete(first.id)
    assert (await registry.submit(new_task(dedupe_key="d"))).created


async def test_the_queue_bound_counts_waiting_tasks_of_one_service(registry: TaskRegistry) -> None:
    for _ in range(LIMITS.max_queued_tasks):
        await registry.submit(new_task())
    with pytest.raises(QueueFull) as refused:
        await registry.submit(new_task(id="one-too-many"))
    assert refused.value.retry_after_s > 0
    with pytest.raises(TaskNotFound):
        await registry.get("one-too-many")
    await registry.submit(new_task(service="ffmpeg"))
    await leased(registry)
    await registry.submit(new_task())


async def test_a_repeated_lease_call_gets_the_same_tasks(registry: TaskRegistry) -> None:
    await registry.submit(new_task(id="t"))
    request = lease_request()
    assert [task.id for task in await registry.lease(request)] == ["t"]
    assert [task.id for task in await registry.lease(request)] == ["t"]


async def test_a_lease_call_repeated_while_it_waits_gets_the_same_tasks(registry: TaskRegistry) -> None:
    request = lease_request(wait_s=60)
    calls = [asyncio.create_task(registry.lease(request)) for _ in range(2)]
    await asyncio.sleep(0)
    for task_id in ("t", "u"):
        await registry.submit(new_task(id=task_id))
    assert [[task.id for task in tasks] for tasks in await asyncio.gather(*calls)] == [["t"], ["t"]]
    assert (await leased(registry)).id == "u"


async def test_a_repeated_report_is_accepted_once_more_and_changes_nothing(registry: TaskRegistry) -> None:
    await registry.submit(new_task(id="t"))
    report = outcome(await leased(registry), result={"n": 1})
    assert await registry.finish([report]) == [True]
    assert await registry.finish([report]) == [True]
    assert [event.event for event in await registry.events("t")].count("succeed") == 1


async def test_a_waiting_lease_wakes_when_work_arrives(registry: TaskRegistry) -> None:
    waiting = asyncio.create_task(registry.lease(lease_request(wait_s=60)))
    await asyncio.sleep(0)
    await registry.submit(new_task(id="t"))
    assert [task.id for task in await waiting] == ["t"]


async def test_each_of_several_waiting_replicas_gets_its_task(registry: TaskRegistry) -> None:
    waiting = [asyncio.create_task(registry.lease(lease_request(f"w{n}", wait_s=60))) for n in range(3)]
    await asyncio.sleep(0)
    await asyncio.gather(*(registry.submit(new_task()) for _ in range(3)))
    assert [len(tasks) for tasks in await asyncio.gather(*waiting)] == [1, 1, 1]


async def test_delete_hides_at_once_and_leaves_the_record_to_the_sweep(
    registry: TaskRegistry, clock: ManualClock
) -> None:
    await registry.submit(new_task(id="t"))
    task = await leased(registry)
    await registry.delete("t")
    with pytest.raises(TaskNotFound):
        await registry.get("t")
    assert await registry.removable() == []
    assert await registry.beat("w1", [Beat("t", task.fence, Progress())]) == [Verdict.CANCEL]
    await registry.finish([outcome(task, OutcomeKind.CANCELLED)])
    removable = await registry.removable()
    assert [task.id for task in removable] == ["t"]
    await registry.forget(removable)
    assert await registry.removable() == []
    assert await registry.events("t") == []


async def test_records_are_kept_for_the_retention_time(registry: TaskRegistry, clock: ManualClock) -> None:
    await registry.submit(new_task(id="t"))
    await registry.finish([outcome(await leased(registry))])
    clock.advance(LIMITS.retention_s - 1)
    assert await registry.removable() == []
    clock.advance(1)
    assert [task.id for task in await registry.removable()] == ["t"]


async def test_lists_filter_and_page(registry: TaskRegistry, clock: ManualClock) -> None:
    for number in range(4):
        await registry.submit(new_task(id=f"t{number}", dialect="flashvsr" if number % 2 else "tasks"))
        clock.advance(1)
    await registry.cancel("t0")
    page = await registry.list(TaskQuery(limit=3))
    assert ([task.id for task in page.tasks], page.total) == (["t3", "t2", "t1"], 4)
    page = await registry.list(TaskQuery(newest_first=False, offset=1, limit=2))
    assert [task.id for task in page.tasks] == ["t1", "t2"]
    page = await registry.list(TaskQuery(dialect="tasks", statuses=(Status.QUEUED,)))
    assert [task.id for task in page.tasks] == ["t2"]
    counts = await registry.counts(dialect="tasks")
    assert (counts[Status.QUEUED], counts[Status.CANCELLED]) == (1, 1)


async def test_the_feed_tells_each_change_once(registry: TaskRegistry) -> None:
    start = await registry.watch(-1, 0, 0)
    assert start.is_reset
    await registry.submit(new_task(id="t"))
    feed = await registry.watch(registry.epoch, start.seq, 0)
    assert [(task.id, task.status) for task in feed.tasks] == [("t", "queued")]
    waiting = asyncio.create_task(registry.watch(registry.epoch, feed.seq, 60))
    await asyncio.sleep(0)
    await leased(registry)
    assert [task.status for task in (await waiting).tasks] == ["running"]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_database_that_hangs_up_is_found_again(registry: TaskRegistry, database_url: str) -> None:
    await registry.submit(new_task(id="before"))
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    with pytest.raises(RegistryUnavailable, match="the task database refused"):
        await registry.submit(new_task(id="refused"))
    await recovered(registry)
    assert (await registry.submit(new_task(id="after"))).created
    assert [task.id for task in await registry.lease(lease_request(slots=5))] == ["before", "after"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_full_disk_refuses_and_recovers(registry: TaskRegistry) -> None:
    """The database refuses one batch: its callers hear of it, nothing half-done stays."""
    await registry.submit(new_task(id="before"))
    store = registry._store
    limit = _pages_in_use(store)
    _set_max_pages(store, limit)
    with pytest.raises(RegistryUnavailable):
        await registry.submit(new_task(id="refused", inputs={"payload": "x" * 2**20}))
    _set_max_pages(store, 2**30)
    with pytest.raises(TaskNotFound):
        await registry.get("refused")
    assert (await registry.get("before")).status is Status.QUEUED
    await recovered(registry)
    assert (await registry.submit(new_task(id="after"))).created
    assert [task.id for task in await registry.lease(lease_request(slots=5))] == ["before", "after"]


async def test_a_database_that_is_away_hangs_nobody_and_loses_nothing(registry: TaskRegistry) -> None:
    await registry.submit(new_task(id="waiting"))
    await registry.submit(new_task(id="running", service="ffmpeg"))
    running = await leased(registry, service="ffmpeg")
    await registry.get("running")  # its lease is on disk
    real_live, real_apply = registry._store.live, registry._store.apply

    def away(*_: object) -> None:
        raise RegistryUnavailable("away")

    registry._store.live = registry._store.apply = away
    with pytest.raises(RegistryUnavailable):
        await registry.submit(new_task())
    with pytest.raises(RegistryUnavailable):
        await registry.finish([outcome(running)])
    assert await registry.beat("w1", [Beat("running", running.fence, Progress())]) == [Verdict.OK]
    registry._store.live, registry._store.apply = real_live, real_apply
    await recovered(registry)
    assert await registry.finish([outcome(running)]) == [True]
    assert (await leased(registry)).id == "waiting"


async def test_a_submit_waits_for_no_later_change_of_its_task(registry: TaskRegistry) -> None:
    real_apply, begun, leased_meanwhile, may_write = (
        registry._store.apply,
        *(threading.Event() for _ in "123"),
    )

    def apply(changes: Changes) -> None:
        begun.set()
        assert (leased_meanwhile if changes.created else may_write).wait(30)
        real_apply(changes)

    registry._store.apply = apply
    submit = asyncio.create_task(registry.submit(new_task(id="t")))
    await asyncio.to_thread(begun.wait, 30)
    assert (await leased(registry)).status is Status.RUNNING
    leased_meanwhile.set()
    submission = await asyncio.wait_for(submit, 30)
    assert (submission.task.status, submission.created) == (Status.QUEUED, True)
    assert submission.task.version > 0
    may_write.set()
    assert (await registry.get("t")).status is Status.RUNNING


async def test_a_report_repeated_to_a_restarted_registry_is_known(open_registry) -> None:
    registry = await open_registry()
    await registry.submit(new_task(id="t"))
    report = outcome(await leased(registry), result={"n": 1}, artifacts=(ARTIFACT,))
    await registry.finish([report])
    registry = await open_registry()
    assert await registry.finish([report]) == [True]
    failure = outcome(await registry.get("t"), OutcomeKind.SUCCEEDED)
    assert await registry.finish([replace(failure, fence="2-r")]) == [False]


async def test_a_value_that_json_cannot_carry_fails_its_own_call_alone(registry: TaskRegistry) -> None:
    good, bad = await asyncio.gather(
        registry.submit(new_task(id="good")),
        registry.submit(new_task(id="bad", inputs={"payload": {1, 2}})),
        return_exceptions=True,
    )
    assert (good.created, type(bad)) == (True, RegistryFault)
    task = await leased(registry)
    with pytest.raises(RegistryFault):
        await registry.finish([outcome(task, result={"n": Decimal(1)})])
    assert await registry.finish([outcome(task, result={"n": "\ud800"})]) == [True]
    assert (await registry.get("good")).result == {"n": "\ud800"}


async def test_a_cancelled_result_is_not_taken(registry: TaskRegistry) -> None:
    """So that the replica removes the files that it had stored already."""
    await registry.submit(new_task(id="t"))
    task = await leased(registry)
    await registry.cancel("t")
    assert await registry.finish([outcome(task, result={})]) == [False]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_second_registry_cannot_open_the_database(registry: TaskRegistry, tmp_path: Path) -> None:
    store = TaskStore(f"sqlite:///{tmp_path}/tasks.sqlite")
    with pytest.raises(RegistryUnavailable, match="another server"):
        store.open()
    store.close()


async def test_a_superseded_registry_writes_nothing_more(registry: TaskRegistry) -> None:
    registry._store._next_epoch()  # as another host does, which the file lock does not reach
    for _ in range(2):
        with pytest.raises(Superseded):
            await registry.submit(new_task())


async def test_followers_forget_what_has_expired(registry: TaskRegistry, clock: ManualClock) -> None:
    await registry.submit(new_task(id="t"))
    await registry.cancel("t")
    seq = (await registry.watch(-1, 0, 0)).seq
    clock.advance(LIMITS.retention_s)
    await registry.forget(await registry.removable())
    feed = await registry.watch(registry.epoch, seq, 0)
    assert [(task.id, task.is_deleted) for task in feed.tasks] == [("t", True)]


def _pages_in_use(store: TaskStore) -> int:
    with store._engine.connect() as connection:
        return connection.exec_driver_sql("PRAGMA page_count").scalar_one()


def _set_max_pages(store: TaskStore, pages: int) -> None:
    """SQLite's own disk-full error, on every connection of the pool."""
    import sqlalchemy as sa

    store._writer.close()
    store._engine.dispose()

    def set_pages(connection, _record) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}")

    sa.event.listen(store._engine, "connect", set_pages)
