"""Order of waiting tasks: priority, then fairness between tenants, then age."""

from __future__ import annotations

from dataclasses import replace

from cluster.book import first_state
from cluster.fair_queue import FairQueue
from cluster.task import Task
from tests.tasks import new_task


def waiting(task_id: str, *, tenant: str = "a", priority: int = 0, created_at: float = 0.0) -> Task:
    return first_state(new_task(id=task_id, tenant=tenant, priority=priority), created_at)


def drained(queue: FairQueue) -> list[str]:
    return list(iter(queue.pop, None))


def test_oldest_first() -> None:
    queue = FairQueue()
    for age in (3, 1, 2):
        queue.push(waiting(f"t{age}", created_at=age))
    assert drained(queue) == ["t1", "t2", "t3"]


def test_priority_beats_age_and_tenant() -> None:
    queue = FairQueue()
    queue.push(waiting("old"))
    queue.push(waiting("urgent", tenant="b", priority=5, created_at=9))
    queue.running["b"] = 100
    assert drained(queue) == ["urgent", "old"]


def test_tenants_take_turns_whatever_they_have_queued() -> None:
    queue = FairQueue()
    for number in range(4):
        queue.push(waiting(f"a{number}", tenant="a", created_at=number))
    queue.push(waiting("b0", tenant="b", created_at=10))
    queue.push(waiting("b1", tenant="b", created_at=11))
    assert drained(queue) == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_the_tenant_with_fewer_running_tasks_is_served_first() -> None:
    queue = FairQueue()
    queue.running["a"] = 2
    queue.push(waiting("a0", tenant="a"))
    queue.push(waiting("b0", tenant="b", created_at=5))
    assert drained(queue) == ["b0", "a0"]


def test_a_requeued_task_keeps_its_place() -> None:
    queue = FairQueue()
    first = waiting("first", created_at=1)
    queue.push(first)
    queue.push(waiting("second", created_at=2))
    assert queue.pop() == "first"
    queue.push(replace(first, attempts=1))
    assert drained(queue) == ["first", "second"]


def test_a_discarded_task_is_never_served() -> None:
    queue = FairQueue()
    queue.push(waiting("gone"))
    queue.push(waiting("stays", created_at=1))
    queue.discard("gone")
    assert len(queue) == 1
    assert queue.oldest_created_at() == 1
    assert drained(queue) == ["stays"]
