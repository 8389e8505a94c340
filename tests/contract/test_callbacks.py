"""What the registry owes to callback URLs: plain, and over the line that replicas use.

A virtual clock over a real SQLite database; a restart is a second registry on the same file.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cluster.book import RegistryLimits, first_state
from cluster.channel import ChannelAddress, ChannelServer
from cluster.client import RegistryClient
from cluster.delivery import CallbackReport, Delivery, DeliveryStatus, DeliveryTry
from cluster.errors import ClusterError, DeliveryNotFound, DeliveryPending, TaskNotFound
from cluster.outbox import (
    CALLBACK_LEASE_S,
    MAX_LEASED_PER_HOST,
    MAX_LEASED_PER_TENANT,
    MAX_PENDING,
    REMEMBERED_DELIVERIES,
    DueCallback,
    Outbox,
)
from cluster.registry import TaskRegistry
from cluster.store import TaskStore
from cluster.task import Failure, FailureCode, NewTask, OutcomeKind, Task
from cluster.webhooks import message_id
from tests.manual_clock import ManualClock
from tests.tasks import lease_request, new_task, outcome

URL, NEWER_URL = "https://example.com/hook", "https://example.com/newer"
LIMITS = RegistryLimits(retention_s=100, coalesce_s=0, gather_s=0)
FAILURE = Failure(FailureCode.INVALID_PARAMS, "wrong")
SENT, FAILED, PENDING = DeliveryStatus.SENT, DeliveryStatus.FAILED, DeliveryStatus.PENDING


@dataclass
class Bench:
    """A registry, and `calls`: the same registry as its callers have it."""

    path: Path
    over_line: bool
    clock: ManualClock = field(default_factory=ManualClock)
    loses_next_answer: bool = False

    async def open(self) -> None:
        """Open the database; a registry that had it open is gone, as after kill -9."""
        await self.close()
        store = TaskStore(f"sqlite:///{self.path}/tasks.sqlite")
        self.registry = TaskRegistry(store, self.clock, LIMITS, self.clock)
        await self.registry.open()
        self.server = ChannelServer(self._call_many)
        self.address = await self.server.start("127.0.0.1")
        self.client = RegistryClient(self._find)
        self.calls: Any = self.client if self.over_line else self.registry

    async def close(self) -> None:
        if not hasattr(self, "registry"):
            return
        if self.client._line is not None:
            self.client._line.close()
        self.server.close()
        await self.registry.close()

    async def end(self, task_id: str = "t", kind: OutcomeKind = OutcomeKind.SUCCEEDED, **fields: Any) -> Task:
        (task,) = await self.registry.lease(lease_request())
        assert task.id == task_id
        await self.registry.finish([outcome(task, kind, **fields)])
        return await self.registry.get(task_id)

    async def due(self, limit: int = 10) -> list[DueCallback]:
        return list(await self.calls.lease_callbacks(limit, 0.0))

    async def report(self, due: DueCallback, status_code: int | None) -> None:
        tried = DeliveryTry(self.clock(), 0.1, status_code)
        delivery = due.delivery
        await self.calls.report_callback(
            CallbackReport(due.task.id, delivery.number, delivery.num_tries, tried)
        )

    async def statuses(self, task_id: str = "t") -> list[tuple[str, DeliveryStatus]]:
        return [(each.url, each.status) for each in (await self.calls.get(task_id)).deliveries]

    async def _find(self) -> ChannelAddress:
        return self.address

    async def _call_many(self, calls: Any) -> list[Any]:
        answers = [await self._call(method, args) for method, args in calls]
        if self.loses_next_answer:
            self.loses_next_answer = False
            raise RuntimeError("the line breaks after the call was made")
        return answers

    async def _call(self, method: str, args: tuple[Any, ...]) -> Any:
        try:
            return await getattr(self.registry, method)(*args)
        except ClusterError as error:
            return error


@pytest.fixture(params=[False, True], ids=["plain", "line"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path, request.param)
    await bench.open()
    yield bench
    await bench.close()


def asked(url: str | None = URL, request_id: str = "first", **fields: Any) -> NewTask:
    return new_task(id="t", callback_url=url, callback_request_id=request_id, **fields)


@pytest.mark.parametrize("ending", ["succeeded", "failed", "cancelled"])
async def test_a_task_that_ends_owes_one_callback(bench: Bench, ending: str) -> None:
    await bench.calls.submit(asked())
    assert (await bench.statuses(), await bench.due()) == ([], [])
    if ending == "cancelled":
        await bench.calls.cancel("t")
    else:
        await bench.end(kind=OutcomeKind(ending), failure=FAILURE if ending == "failed" else None)
    (due,) = await bench.due()
    assert (due.task.status, due.delivery.number, due.delivery.url) == (ending, 1, URL)
    await bench.report(due, 200)
    assert await bench.statuses() == [(URL, SENT)]
    bench.clock.advance(10 * CALLBACK_LEASE_S)
    assert await bench.due() == []
    assert [event.event for event in await bench.calls.events("t")][-1] == "callback_sent"


async def test_without_a_callback_url_nothing_is_owed(bench: Bench) -> None:
    await bench.calls.submit(asked(url=None))
    await bench.end()
    assert (await bench.statuses(), await bench.due()) == ([], [])


async def test_a_wait_for_callbacks_ends_when_one_becomes_due(bench: Bench) -> None:
    await bench.calls.submit(asked())
    waiting = asyncio.create_task(bench.calls.lease_callbacks(10, 600.0))
    await asyncio.sleep(0)
    await bench.end()
    (due,) = await waiting
    await bench.report(due, 500)
    waiting = asyncio.create_task(bench.calls.lease_callbacks(10, 600.0))
    bench.clock.advance(6)
    while not waiting.done():
        await bench.registry.tick()
        await asyncio.sleep(0)
    assert [each.delivery.num_tries for each in await waiting] == [1]


async def test_a_failed_try_is_due_again_later_and_a_repeated_report_counts_once(bench: Bench) -> None:
    await bench.calls.submit(asked())
    await bench.end()
    (due,) = await bench.due()
    await bench.report(due, 500)
    await bench.report(due, 500)
    assert await bench.due() == []
    bench.clock.advance(6)
    (again,) = await bench.due()
    assert (again.delivery.num_tries, len(again.delivery.tries)) == (1, 1)
    assert message_id(again.task, 1) == message_id(due.task, 1)
    await bench.report(again, 410)
    await bench.report(again, 200)
    assert await bench.statuses() == [(URL, FAILED)]


async def test_what_a_sender_does_not_report_is_leased_again(bench: Bench) -> None:
    await bench.calls.submit(asked())
    await bench.end()
    (silent,) = await bench.due()
    bench.clock.advance(CALLBACK_LEASE_S - 1)
    assert await bench.due() == []
    bench.clock.advance(1)
    (again,) = await bench.due()
    await bench.report(again, 500)
    await bench.report(silent, 200)  # too late: that try is on record
    assert await bench.statuses() == [(URL, PENDING)]


async def test_leases_are_bounded_and_oldest_first(bench: Bench) -> None:
    for name in ("a", "b", "c"):
        await bench.calls.submit(new_task(id=name, callback_url=URL, callback_request_id=name))
        await bench.end(name)
        bench.clock.advance(1)
    assert [due.task.id for due in await bench.due(2)] == ["a", "b"]
    assert [due.task.id for due in await bench.due(2)] == ["c"]


async def test_one_host_does_not_take_all_senders(bench: Bench) -> None:
    names = [f"slow{number}" for number in range(MAX_LEASED_PER_HOST + 2)]
    for name in [*names, "quick"]:
        url = "https://quick.example/" if name == "quick" else URL
        await bench.calls.submit(new_task(id=name, callback_url=url, callback_request_id=name))
        await bench.end(name)
        bench.clock.advance(0.01)
    leased = await bench.due(100)
    assert [due.task.id for due in leased] == [*names[:MAX_LEASED_PER_HOST], "quick"]
    assert await bench.due(100) == []
    await bench.report(leased[0], 500)
    assert [due.task.id for due in await bench.due(100)] == [names[-2]]
    bench.clock.advance(CALLBACK_LEASE_S)
    again = {due.task.id for due in await bench.due(100)}
    assert len(again) == MAX_LEASED_PER_HOST + 1
    for _ in range(3):
        for due in [*leased, *await bench.due(100)]:
            await bench.report(due, 200)
        bench.clock.advance(CALLBACK_LEASE_S)
    for due in await bench.due(100):
        await bench.report(due, 200)
    assert {each[1] for name in names for each in await bench.statuses(name)} == {SENT}
    assert not bench.registry._book.outbox._busy
    assert not bench.registry._book.outbox._held


async def test_a_restart_loses_no_callback(bench: Bench) -> None:
    await bench.calls.submit(asked())
    await bench.end()
    (leased,) = await bench.due()
    await bench.open()
    (again,) = await bench.due()
    assert message_id(again.task, 1) == message_id(leased.task, 1)
    await bench.report(leased, 200)  # the sender outlived the registry that leased it
    assert await bench.statuses() == [(URL, SENT)]
    await bench.open()
    bench.clock.advance(CALLBACK_LEASE_S)
    assert await bench.due() == []


async def test_a_deleted_task_sends_nothing(bench: Bench) -> None:
    await bench.calls.submit(asked())
    await bench.end()
    (leased,) = await bench.due()
    await bench.calls.delete("t")
    await bench.report(leased, 500)
    await bench.calls.submit(new_task(id="running", callback_url=URL, callback_request_id="x"))
    (running,) = await bench.registry.lease(lease_request())
    await bench.calls.delete("running")
    await bench.registry.finish([outcome(running, OutcomeKind.CANCELLED)])
    bench.clock.advance(CALLBACK_LEASE_S)
    assert await bench.due() == []
    assert {task.id for task in await bench.registry.removable()} == {"t", "running"}


async def test_retention_waits_for_a_pending_callback(bench: Bench) -> None:
    await bench.calls.submit(asked())
    await bench.end()
    bench.clock.advance(LIMITS.retention_s + 1)
    assert list(await bench.registry.removable()) == []
    (due,) = await bench.due()
    await bench.report(due, 404)
    (gone,) = await bench.registry.removable()
    await bench.registry.forget([gone])
    assert await bench.due() == []


async def test_submitted_again_while_it_runs_calls_the_newest_url(bench: Bench) -> None:
    await bench.calls.submit(asked())
    again = await bench.calls.submit(asked(NEWER_URL, "second"))
    assert (again.created, again.task.deliveries) == (False, ())
    await bench.end()
    assert await bench.statuses() == [(NEWER_URL, PENDING)]


async def test_submitted_again_without_a_url_keeps_the_old_one(bench: Bench) -> None:
    await bench.calls.submit(asked())
    await bench.calls.submit(asked(None, ""))
    await bench.end()
    assert await bench.statuses() == [(URL, PENDING)]


async def test_submitted_again_after_success_calls_the_newest_url(bench: Bench) -> None:
    await bench.calls.submit(asked())
    await bench.end()
    (first,) = await bench.due()
    await bench.report(first, 200)
    for _ in range(2):  # the second call is a repetition of the first
        await bench.calls.submit(asked(NEWER_URL, "second"))
    assert await bench.statuses() == [(URL, SENT), (NEWER_URL, PENDING)]
    (second,) = await bench.due()
    assert message_id(second.task, 2) != message_id(first.task, 1)
    await bench.open()
    assert await bench.statuses() == [(URL, SENT), (NEWER_URL, PENDING)]


async def test_a_repeated_submit_owes_nothing_more_when_its_task_has_ended_meanwhile(bench: Bench) -> None:
    """The answer to the first call was lost: the second one is a repetition, not a new wish."""
    await bench.calls.submit(asked())
    await bench.end()
    (due,) = await bench.due()
    await bench.report(due, 200)
    await bench.calls.submit(asked())
    assert await bench.statuses() == [(URL, SENT)]


async def test_submitted_again_while_the_callback_is_still_tried_tries_at_once(bench: Bench) -> None:
    await bench.calls.submit(asked())
    await bench.end()
    (due,) = await bench.due()
    await bench.report(due, 500)
    bench.clock.advance(1)
    await bench.calls.submit(asked(request_id="second"))
    (again,) = await bench.due()
    assert (again.delivery.number, again.delivery.num_tries) == (1, 1)


async def test_submitted_again_after_failure_owes_nothing(bench: Bench) -> None:
    await bench.calls.submit(asked())
    await bench.end(kind=OutcomeKind.FAILED, failure=FAILURE)
    await bench.calls.submit(asked(NEWER_URL, "second"))
    assert await bench.statuses() == [(URL, PENDING)]


async def test_deliveries_of_one_task_are_bounded(bench: Bench) -> None:
    await bench.calls.submit(asked())
    await bench.end()
    for number in range(REMEMBERED_DELIVERIES + 5):
        await bench.calls.submit(asked(f"https://host{number}.example/", f"r{number}"))
    deliveries = (await bench.calls.get("t")).deliveries
    assert [each.number for each in deliveries] == list(range(7, 27))
    assert [each.status for each in deliveries] == [FAILED, *[PENDING] * MAX_PENDING]
    assert "19 newer callbacks" in deliveries[0].tries[-1].error
    assert {due.delivery.number for due in await bench.due(100)} == set(range(8, 27))


async def test_ended_deliveries_are_cut_before_a_pending_one_is_given_up(bench: Bench) -> None:
    await bench.calls.submit(asked())
    await bench.end()
    for number in range(2, REMEMBERED_DELIVERIES + 5):
        await bench.calls.submit(asked(f"https://host{number}.example/", f"r{number}"))
        for due in await bench.due():
            if due.delivery.number != 1:
                await bench.report(due, 200)
    deliveries = (await bench.calls.get("t")).deliveries
    assert [each.number for each in deliveries] == [1, *range(6, REMEMBERED_DELIVERIES + 5)]
    assert [each.status for each in deliveries] == [PENDING, *[SENT] * (REMEMBERED_DELIVERIES - 1)]


async def owe(bench: Bench, tenant: str, num_hosts: int) -> None:
    for number in range(num_hosts):
        name = f"{tenant}{number}"
        url = f"https://{name}.example/"
        await bench.calls.submit(new_task(id=name, tenant=tenant, callback_url=url, callback_request_id="r"))
        await bench.end(name)
        bench.clock.advance(0.01)


async def test_one_tenant_with_many_hosts_does_not_take_all_senders(bench: Bench) -> None:
    most = MAX_LEASED_PER_TENANT
    await owe(bench, "many", 2 * most)
    await owe(bench, "few", 2)
    leased = await bench.due(32)
    assert [due.task.id for due in leased] == [*(f"many{number}" for number in range(most)), "few0", "few1"]
    assert await bench.due(32) == []
    await bench.report(leased[0], 200)
    assert [due.task.id for due in await bench.due(32)] == [f"many{most}"]
    for _ in range(4):
        bench.clock.advance(CALLBACK_LEASE_S)
        for due in await bench.due(100):
            await bench.report(due, 200)
    outbox = bench.registry._book.outbox
    assert not any((outbox._busy, outbox._held, outbox._owing))


async def test_the_only_tenant_has_all_senders(bench: Bench) -> None:
    await owe(bench, "only", MAX_LEASED_PER_TENANT + 5)
    assert len(await bench.due(32)) == MAX_LEASED_PER_TENANT + 5


def test_whatever_order_leases_end_in_nothing_stays_held_back() -> None:
    dice = random.Random(3)
    outbox = Outbox()
    tasks = [
        replace(
            first_state(new_task(id=f"t{number}", tenant=dice.choice("ab")), 0.0),
            deliveries=(Delivery(1, f"http://h{dice.randrange(4)}/", "r", 0.0, due_at=0.0),),
        )
        for number in range(200)
    ]
    outbox.load(tasks)
    leased: list[tuple[str, int]] = []
    ended: set[str] = set()
    while len(ended) < len(tasks):
        leased += outbox.take(32, 1.0)
        assert leased
        task_id, _ = leased.pop(dice.randrange(len(leased)))
        outbox.forget(task_id)
        ended.add(task_id)
    assert not any((outbox._busy, outbox._held, outbox._owing, outbox._gates))


async def test_a_replay_sends_an_ended_delivery_again_under_the_same_id(bench: Bench) -> None:
    await bench.calls.submit(asked())
    await bench.end()
    with pytest.raises(DeliveryPending):
        await bench.calls.replay_callback("t", 1, "replay")
    (due,) = await bench.due()
    await bench.report(due, 404)
    bench.clock.advance(1)
    for _ in range(2):  # the second call is a repetition of the first
        task = await bench.calls.replay_callback("t", 1, "replay")
        assert [each.status for each in task.deliveries] == [PENDING]
    (again,) = await bench.due()
    assert (again.delivery.num_tries, message_id(again.task, 1)) == (1, message_id(due.task, 1))
    await bench.report(again, 200)
    assert await bench.statuses() == [(URL, SENT)]
    for missing, error in ((("t", 2), DeliveryNotFound), (("u", 1), TaskNotFound)):
        with pytest.raises(error):
            await bench.calls.replay_callback(*missing, "other")


async def test_an_id_used_again_after_its_task_is_gone_gives_another_message(bench: Bench) -> None:
    ids = []
    for name in ("first", "second"):
        await bench.calls.submit(asked(request_id=name))
        await bench.end()
        (due,) = await bench.due()
        ids.append(message_id(due.task, due.delivery.number))
        await bench.report(due, 200)
        bench.clock.advance(LIMITS.retention_s + 1)
        await bench.registry.forget(await bench.registry.removable())
    assert len(set(ids)) == 2


async def test_calls_whose_answer_is_lost_are_repeated_without_a_second_callback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    bench = Bench(tmp_path, over_line=True)
    await bench.open()
    await bench.calls.submit(asked())
    await bench.end()
    (due,) = await bench.due()
    for lost in (bench.report(due, 200), bench.calls.submit(asked(NEWER_URL, "second"))):
        bench.loses_next_answer = True
        await lost
    assert await bench.statuses() == [(URL, SENT), (NEWER_URL, PENDING)]
    (second,) = await bench.due()
    await bench.report(second, 200)
    bench.loses_next_answer = True
    await bench.calls.replay_callback("t", 2, "replay")
    assert await bench.statuses() == [(URL, SENT), (NEWER_URL, PENDING)]
    await bench.close()


async def test_a_database_of_the_first_version_is_brought_up(tmp_path: Path) -> None:
    bench = Bench(tmp_path, over_line=False)
    await bench.open()
    await bench.calls.submit(asked(url=None))
    await bench.close()
    with closing(sqlite3.connect(tmp_path / "tasks.sqlite")) as connection:
        state = connection.execute("SELECT state FROM tasks").fetchone()[0]
        assert '"deliveries":[]' in state
        old = state.replace(',"deliveries":[]', "").replace(',"callback_url":null', "")
        connection.executescript("DROP INDEX tasks_by_callback; DROP INDEX tasks_by_tenant")
        connection.execute("ALTER TABLE tasks DROP callback_due_at")
        connection.execute("UPDATE tasks SET state = ?", [old])
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
        connection.commit()
    del bench.registry
    await bench.open()
    await bench.calls.submit(asked(URL, "second"))
    await bench.end()
    assert await bench.statuses() == [(URL, PENDING)]
    await bench.close()
