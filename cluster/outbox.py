"""The outbox: which callbacks tasks owe. It lies in the tasks' own records, so it survives with them.

First the steps of a record, pure; then `Outbox`, the registry's memory of what is due when.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cluster.delivery import CallbackReport, Delivery, DeliveryStatus
from cluster.errors import DeliveryNotFound, DeliveryPending
from cluster.task import Status, Task
from cluster.webhooks import after_try, message_id

CALLBACK_LEASE_S = 60.0
"""How long a sender may take over one try, before another one makes it again."""
REMEMBERED_DELIVERIES = 20

Key = tuple[str, int]
"""A delivery: task id and number."""


@dataclass(frozen=True, slots=True)
class DueCallback:
    """A delivery that is due, leased to the sender that asked, and the task it tells of."""

    task: Task
    delivery: Delivery


def delivery_of(task: Task, number: int) -> Delivery:
    """Raises DeliveryNotFound."""
    for delivery in task.deliveries:
        if delivery.number == number:
            return delivery
    raise DeliveryNotFound(task.id, number)


def with_callback(task: Task, now: float) -> Task:
    """The task, owing a callback to its URL where it has one. A delivery under way there starts again."""
    if task.callback_url is None or task.is_deleted:
        return task
    for delivery in task.deliveries:
        if delivery.status is DeliveryStatus.PENDING and delivery.url == task.callback_url:
            return _put(task, _begun_again(delivery, task.callback_request_id, now))
    number = task.deliveries[-1].number + 1 if task.deliveries else 1
    new = Delivery(number, task.callback_url, task.callback_request_id, created_at=now, due_at=now)
    return replace(task, deliveries=(*task.deliveries, new)[-REMEMBERED_DELIVERIES:])


def redirected(task: Task, url: str, request_id: str, now: float) -> Task:
    """Somebody submitted the task again and wants its callback at `url`.

    A task that runs will call there when it ends; one that succeeded owes a callback now.
    """
    if task.callback_request_id == request_id:
        return task
    task = replace(task, callback_url=url, callback_request_id=request_id)
    return with_callback(task, now) if task.status is Status.SUCCEEDED else task


def replayed(task: Task, number: int, request_id: str, now: float) -> Task:
    """Try an ended delivery again, from the start of the schedule; raises DeliveryPending."""
    delivery = delivery_of(task, number)
    if delivery.request_id == request_id:
        return task
    if delivery.status is DeliveryStatus.PENDING:
        raise DeliveryPending(task.id, number)
    return _put(task, _begun_again(delivery, request_id, now))


def reported(task: Task, report: CallbackReport, now: float) -> Task:
    """The task after one try; unchanged where that try is on record, or its delivery has ended."""
    delivery = delivery_of(task, report.number)
    if delivery.status is not DeliveryStatus.PENDING or delivery.num_tries != report.fence:
        return task
    return _put(task, after_try(delivery, report.tried, message_id(task, delivery.number), now))


def _begun_again(delivery: Delivery, request_id: str, now: float) -> Delivery:
    return replace(
        delivery,
        status=DeliveryStatus.PENDING,
        request_id=request_id,
        due_at=now,
        round_start=delivery.num_tries,
    )


def _put(task: Task, changed: Delivery) -> Task:
    deliveries = tuple(changed if each.number == changed.number else each for each in task.deliveries)
    return replace(task, deliveries=deliveries)


class Outbox:
    """When each delivery that is on disk is due, and who waits for one. One event loop.

    A leased delivery is one that is due later: when its sender stays silent, the next one gets it.
    """

    def __init__(self) -> None:
        self._due_at: dict[Key, float] = {}
        self._next_at: dict[Key, float] = {}
        self._agenda: list[tuple[float, Key]] = []
        self._numbers: dict[str, tuple[int, ...]] = {}
        self._idle: set[asyncio.Future[None]] = set()

    def load(self, tasks: Iterable[Task]) -> None:
        """Forget everything and begin with what these tasks owe."""
        for state in (self._due_at, self._next_at, self._agenda, self._numbers):
            state.clear()
        for task in tasks:
            self.follow(task)

    def follow(self, task: Task) -> None:
        """Take over what a task owes, as it is on disk now."""
        owed = {} if task.is_deleted else {each.number: each.due_at for each in task.deliveries}
        for number in self._numbers.pop(task.id, ()):
            if owed.get(number) is None:
                self._due_at.pop((task.id, number), None)
                self._next_at.pop((task.id, number), None)
        pending = {number: due_at for number, due_at in owed.items() if due_at is not None}
        for number, due_at in pending.items():
            if self._due_at.get((task.id, number)) != due_at:
                self._due_at[task.id, number] = due_at
                self._plan((task.id, number), due_at)
        if pending:
            self._numbers[task.id] = tuple(pending)

    def forget(self, task_id: str) -> None:
        """The task's record is gone."""
        for number in self._numbers.pop(task_id, ()):
            self._due_at.pop((task_id, number), None)
            self._next_at.pop((task_id, number), None)

    def take(self, limit: int, now: float) -> Sequence[Key]:
        """Lease up to `limit` deliveries that are due, the longest overdue first."""
        taken: list[Key] = []
        while len(taken) < limit and self._agenda and self._agenda[0][0] <= now:
            at, key = heapq.heappop(self._agenda)
            if self._next_at.get(key) == at:
                taken.append(key)
        for key in taken:
            self._plan(key, now + CALLBACK_LEASE_S)
        return taken

    def wake(self, now: float) -> None:
        """Call the senders that wait when something has become due."""
        if self._agenda and self._agenda[0][0] <= now:
            self._wake_one()

    async def due_within(self, wait_s: float) -> bool:
        """Wait until something may be due."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.add(waiter)
        try:
            await asyncio.wait_for(waiter, max(0.0, wait_s))
        except TimeoutError:
            return False
        finally:
            self._idle.discard(waiter)
        return True

    def _plan(self, key: Key, at: float) -> None:
        self._next_at[key] = at
        heapq.heappush(self._agenda, (at, key))

    def _wake_one(self) -> None:
        for waiter in self._idle:
            if not waiter.done():
                waiter.set_result(None)
                return
