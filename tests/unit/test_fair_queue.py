"""Order of waiting tasks: priority, then fairness between tenants, then age."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from cluster.book import first_state
from cluster.fair_queue import ALWAYS_FRESH, REMEMBERED_S_PER_TASK, FairQueue
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


def test_a_tenant_at_its_cap_waits_and_others_go_on() -> None:
    queue = FairQueue(max_running_per_tenant=1)
    for number, tenant in enumerate("aab"):
        queue.push(waiting(f"{tenant}{number}", tenant=tenant, created_at=number))
    assert queue.pop() == "a0"
    queue.running["a"] += 1
    assert (queue.is_capped("a"), queue.is_capped("b"), queue.has_next) == (True, False, True)
    assert queue.pop() == "b2"
    queue.running["b"] += 1
    assert (queue.has_next, queue.pop(), len(queue)) == (False, None, 1)
    queue.running["a"] -= 1
    assert queue.has_next
    assert queue.pop() == "a1"


def served_in_turn(queue: FairQueue, tenants: dict[str, str]) -> list[str]:
    """The order in which tasks are leased while none ends."""
    order = []
    while (task_id := queue.pop()) is not None:
        queue.running[tenants[task_id]] += 1
        order.append(task_id)
    return order


@pytest.mark.parametrize("seed", range(30))
def test_how_many_are_ahead_is_how_many_are_served_first(seed: int) -> None:
    dice = random.Random(seed)
    queue = FairQueue()
    tenants = {f"t{number}": dice.choice("abc") for number in range(14)}
    for tenant in "abc":  # each was served before, in this order
        queue.push(waiting(f"old-{tenant}", tenant=tenant, priority=9))
        queue.pop()
        queue.running[tenant] = dice.randrange(5)
    for number, (task_id, tenant) in enumerate(tenants.items()):
        queue.push(waiting(task_id, tenant=tenant, created_at=number))
    queue.discard("t3")
    told = {task_id: queue.ahead_of(task_id, 0.0) for task_id in tenants}
    assert told.pop("t3") is None
    order = served_in_turn(queue, tenants)
    assert told == {task_id: place for place, task_id in enumerate(order)}


def test_higher_priorities_are_ahead_and_lower_ones_are_not() -> None:
    queue = FairQueue()
    queue.push(waiting("low", tenant="b", priority=-1))
    queue.push(waiting("urgent", tenant="b", priority=1, created_at=5))
    queue.push(waiting("task", created_at=9))
    assert [queue.ahead_of(task_id, 0.0) for task_id in ("urgent", "task", "low")] == [0, 1, 2]


def test_of_tenants_that_were_never_served_the_oldest_task_goes_first() -> None:
    queue = FairQueue()
    tenants = {f"t{number}": f"n{number}" for number in range(20)}
    for number, (task_id, tenant) in reversed([*enumerate(tenants.items())]):
        queue.push(waiting(task_id, tenant=tenant, created_at=number))
    told = [queue.ahead_of(task_id, 0.0) for task_id in tenants]
    assert told == list(range(20))
    assert served_in_turn(queue, tenants) == list(tenants)


def test_places_of_a_long_queue_are_those_of_a_moment_ago() -> None:
    queue = FairQueue()
    num_tasks = 2 * ALWAYS_FRESH
    for number in range(num_tasks):
        queue.push(waiting(f"t{number}", created_at=number))
    assert queue.ahead_of("t99", 0.0) == 99
    queue.running["a"] += 1
    assert queue.pop() == "t0"
    queue.push(waiting("new", created_at=num_tasks))
    queue.push(waiting("of-another", tenant="b", created_at=num_tasks))
    queue.push(waiting("urgent", priority=1, created_at=num_tasks))
    good_s = num_tasks * REMEMBERED_S_PER_TASK
    just_before = [
        queue.ahead_of(name, good_s * 0.99) for name in ("t0", "t99", "new", "of-another", "urgent")
    ]
    assert just_before == [None, 99, num_tasks, 1, 0]
    then = [queue.ahead_of(name, good_s) for name in ("urgent", "of-another", "t99", "new")]
    assert then == [0, 1, 100, num_tasks + 1]


@pytest.mark.parametrize(
    ("cap", "delayed", "runnable"),
    [(0, {}, 7), (0, {"c": 2}, 9), (3, {}, 4), (3, {"a": 9, "b": 1, "c": 9}, 8), (1, {"b": 1}, 2)],
    ids=["no cap", "no cap, some later", "a cap", "a cap, some later", "both at the cap or alone"],
)
def test_what_could_run_at_once_is_bounded_for_each_tenant(
    cap: int, delayed: dict[str, int], runnable: int
) -> None:
    queue = FairQueue(cap)
    for number in range(6):
        queue.push(waiting(f"a{number}", tenant="a"))
    queue.push(waiting("gone", tenant="b"))
    queue.push(waiting("b0", tenant="b"))
    queue.discard("gone")
    queue.running["d"] = 3
    assert queue.num_runnable(delayed) == runnable
