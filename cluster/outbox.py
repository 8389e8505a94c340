"""The outbox: which callbacks tasks owe. It lies in the tasks' own records, so it survives with them.

First the steps of a record, pure; then `Outbox`, the registry's memory of what is due when.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
from urllib.parse import urlsplit

from cluster.delivery import CallbackReport, Delivery, DeliveryStatus, DeliveryTry
from cluster.errors import DeliveryNotFound, DeliveryPending
from cluster.task import Status, Task
from cluster.waiters import Waiters
from cluster.webhooks import after_try, message_id

CALLBACK_LEASE_S = 60.0
"""How long a sender may take over one try, before another one makes it again."""
REMEMBERED_DELIVERIES = 20
MAX_PENDING = REMEMBERED_DELIVERIES - 1
MAX_LEASED_PER_HOST = 8
MAX_LEASED_PER_TENANT = 16
"""Half of what one sender takes at a time (`api.callbacks.SLOTS`)."""
TOO_MANY = f"given up: {MAX_PENDING} newer callbacks of this task are pending"
_HELD = math.inf

Key = tuple[str, int]
"""A delivery: task id and number."""


class Gate(NamedTuple):
    """What at most `most` leased deliveries go through at a time: a host, or a tenant."""

    name: str
    most: int


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
    return replace(task, deliveries=(*_with_room(task, now), new))


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


def _with_room(task: Task, now: float) -> tuple[Delivery, ...]:
    """The task's deliveries with a place for one more: ended ones go, the oldest first.

    Of too many pending ones the oldest fail, and stay on record for a while like any that ended.
    """
    pending = [each for each in task.deliveries if each.status is DeliveryStatus.PENDING]
    for each in pending[: max(0, len(pending) + 1 - MAX_PENDING)]:
        tried = DeliveryTry(now, 0.0, error=TOO_MANY, is_refused=True)
        task = _put(task, after_try(each, tried, message_id(task, each.number), now))
    ended = [each for each in task.deliveries if each.status is not DeliveryStatus.PENDING]
    surplus = ended[: max(0, len(task.deliveries) + 1 - REMEMBERED_DELIVERIES)]
    return tuple(each for each in task.deliveries if each not in surplus)


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

    A leased delivery is one that is due later: when its sender stays silent, the next one gets it. One host
    has at most MAX_LEASED_PER_HOST at a time, and one tenant of several that owe callbacks at most
    MAX_LEASED_PER_TENANT. What is due beyond that is held back until one of them ends, so that neither a host
    that hangs nor a tenant with many of them takes all senders.
    """

    def __init__(self) -> None:
        self._due_at: dict[Key, float] = {}
        self._next_at: dict[Key, float] = {}
        self._agenda: list[tuple[float, Key]] = []
        self._numbers: dict[str, tuple[int, ...]] = {}
        self._leased: dict[Key, tuple[Gate, Gate]] = {}
        self._gates: dict[Key, tuple[Gate, Gate]] = {}
        self._owing: Counter[Gate] = Counter()  # deliveries of each tenant
        self._busy: Counter[Gate] = Counter()
        self._held: dict[Gate, deque[Key]] = {}
        self._idle = Waiters()

    def load(self, tasks: Iterable[Task]) -> None:
        """Forget everything and begin with what these tasks owe."""
        for state in (self._due_at, self._next_at, self._agenda, self._numbers, self._leased, self._gates):
            state.clear()
        self._owing.clear()
        self._busy.clear()
        self._held.clear()
        for task in tasks:
            self.follow(task)

    def follow(self, task: Task) -> None:
        """Take over what a task owes, as it is on disk now."""
        pending = [] if task.is_deleted else [each for each in task.deliveries if each.due_at is not None]
        owed = {each.number for each in pending}
        for number in self._numbers.pop(task.id, ()):
            if number not in owed:
                self._drop((task.id, number))
        for each in pending:
            key = (task.id, each.number)
            if each.due_at is not None and self._due_at.get(key) != each.due_at:
                self._drop(key)
                self._due_at[key] = each.due_at
                self._gates[key] = _gates(task, each)
                self._owing[self._gates[key][1]] += 1
                self._plan(key, each.due_at)
        if pending:
            self._numbers[task.id] = tuple(owed)

    def forget(self, task_id: str) -> None:
        """The task's record is gone."""
        for number in self._numbers.pop(task_id, ()):
            self._drop((task_id, number))

    def take(self, limit: int, now: float) -> Sequence[Key]:
        """Lease up to `limit` deliveries that are due, the longest overdue first."""
        taken: list[Key] = []
        while len(taken) < limit and self._agenda and self._agenda[0][0] <= now:
            at, key = heapq.heappop(self._agenda)
            if self._next_at.get(key) != at:
                continue  # planned anew since
            self._end_lease(key)
            if self._lease(key):
                taken.append(key)
        for key in taken:
            self._plan(key, now + CALLBACK_LEASE_S)
        return taken

    def wake(self, now: float) -> None:
        """Call the senders that wait when something has become due."""
        if self._agenda and self._agenda[0][0] <= now:
            self._idle.wake_one()

    async def due_within(self, wait_s: float) -> bool:
        """Wait until something may be due."""
        return await self._idle.woken_within(wait_s)

    def _lease(self, key: Key) -> bool:
        """False, and the delivery is held back, when its host or its tenant has enough of them."""
        gates = self._gates[key]
        closed = next((gate for gate in gates if not self._is_open(gate)), None)
        if closed is not None:
            self._next_at[key] = _HELD
            self._held.setdefault(closed, deque()).append(key)
            for gate in gates:
                self._let_in(gate)  # it may have been this one's turn there
            return False
        self._busy.update(gates)
        self._leased[key] = gates
        return True

    def _end_lease(self, key: Key) -> None:
        """Host and tenant may have one more each: the next that was held back."""
        for gate in self._leased.pop(key, ()):
            self._busy[gate] -= 1
            if not self._busy[gate]:
                del self._busy[gate]
            self._let_in(gate)

    def _is_open(self, gate: Gate) -> bool:
        is_only_tenant = gate in self._owing and len(self._owing) == 1
        return is_only_tenant or self._busy[gate] < gate.most

    def _let_in(self, gate: Gate) -> None:
        held = self._held.get(gate)
        while held and self._is_open(gate):
            key = held.popleft()
            if self._next_at.get(key) == _HELD:
                return self._plan(key, self._due_at[key])
        if not held:
            self._held.pop(gate, None)

    def _drop(self, key: Key) -> None:
        self._end_lease(key)
        for state in (self._due_at, self._next_at):
            state.pop(key, None)
        for gate in self._gates.pop(key, ())[1:]:
            self._owing[gate] -= 1
            if not self._owing[gate]:
                del self._owing[gate]

    def _plan(self, key: Key, at: float) -> None:
        self._next_at[key] = at
        heapq.heappush(self._agenda, (at, key))


def _gates(task: Task, delivery: Delivery) -> tuple[Gate, Gate]:
    host = Gate(f"host {urlsplit(delivery.url).netloc}", MAX_LEASED_PER_HOST)
    return host, Gate(f"tenant {task.tenant}", MAX_LEASED_PER_TENANT)
