"""The waiting tasks of one service: priority first, then fair between tenants, then age. Pure."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TypeAlias

from cluster.places import Places
from cluster.task import Task

ALWAYS_FRESH = 200
"""Up to so many waiting tasks, places are worked out for every question."""
REMEMBERED_S_PER_TASK = 1e-4
"""Places of longer queues are good for a second for 10,000 tasks, about a hundred times what they cost."""


@dataclass(order=True, frozen=True, slots=True)
class _Entry:
    """Sorts by falling priority, then age; a task that is queued again keeps its age."""

    rank: int
    created_at: float
    serial: int
    task_id: str = field(compare=False)
    tenant: str = field(compare=False)


_Turn: TypeAlias = tuple[int, int, int, _Entry]
"""Rank, running tasks of the tenant, when it was last served, and its head."""


_AGE = attrgetter("rank", "created_at", "serial")


class FairQueue:
    """Waiting task ids.

    `pop` serves the highest priority; among tenants with equal heads the one with the fewest running
    tasks, then the one served longest ago, then the one whose head is the oldest. A tenant that runs
    `max_running_per_tenant` tasks (0: no bound) waits. The registry keeps `running` up to date.
    """

    def __init__(self, max_running_per_tenant: int = 0) -> None:
        self._max_running = max_running_per_tenant
        self._heaps: dict[str, list[_Entry]] = {}
        self._waiting: dict[str, _Entry] = {}
        self._served: dict[str, int] = {}
        self._serials = itertools.count()
        self._places: Places | None = None
        self._places_until_s = 0.0
        self.running: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, task: Task) -> None:
        entry = _Entry(-task.priority, task.created_at, next(self._serials), task.id, task.tenant)
        self._waiting[task.id] = entry
        heapq.heappush(self._heaps.setdefault(task.tenant, []), entry)

    def discard(self, task_id: str) -> None:
        """Forget a waiting task; its heap entry is dropped when it comes up."""
        self._waiting.pop(task_id, None)

    @property
    def has_next(self) -> bool:
        """Whether `pop` would serve a task: one waits whose tenant may run another."""
        if not self._max_running:
            return bool(self._waiting)
        return any(self._head(tenant) and not self.is_capped(tenant) for tenant in list(self._heaps))

    def is_capped(self, tenant: str) -> bool:
        """Whether the tenant runs as many tasks as it may."""
        return 0 < self._max_running <= self.running[tenant]

    def pop(self) -> str | None:
        """The next task id, or None when nothing waits that may run.

        The caller counts it in `running` before it pops the next.
        """
        heads = [
            head
            for tenant in list(self._heaps)
            if not self.is_capped(tenant) and (head := self._head(tenant))
        ]
        if not heads:
            return None
        tenant = min(heads, key=self._turn).tenant
        self._served[tenant] = next(self._serials)
        entry = heapq.heappop(self._heaps[tenant])
        del self._waiting[entry.task_id]
        return entry.task_id

    def num_runnable(self, delayed: Mapping[str, int]) -> int:
        """How many tasks may run, each tenant's up to its bound. `delayed`: more to come, by tenant."""
        if not self._max_running:
            return len(self._waiting) + sum(delayed.values())
        return sum(self._num_runnable(tenant, delayed) for tenant in self._heaps.keys() | delayed.keys())

    def _num_runnable(self, tenant: str, delayed: Mapping[str, int]) -> int:
        room = max(0, self._max_running - self.running[tenant])
        waiting = itertools.islice(self._waiting_of(tenant), room)
        return min(room, sum(1 for _ in waiting) + delayed.get(tenant, 0))

    def ahead_of(self, task_id: str, now_s: float) -> int | None:
        """How many waiting tasks would be served first if none ended meanwhile; None where it does not wait.

        Exact among tasks of equal priority; caps of tenants are not looked at. Of long queues the answer is
        that of a moment ago: all places are worked out together, and not again for
        REMEMBERED_S_PER_TASK times their number.
        """
        entry = self._waiting.get(task_id)
        if entry is None:
            return None
        if self._places is None or now_s >= self._places_until_s:
            self._places = self._places_now()
            num_tasks = len(self._waiting)
            self._places_until_s = now_s + (num_tasks > ALWAYS_FRESH) * num_tasks * REMEMBERED_S_PER_TASK
        return self._places.ahead_of(task_id, entry.rank, entry.tenant, self.running[entry.tenant])

    def _places_now(self) -> Places:
        lines = {
            tenant: line for tenant in self._heaps if (line := sorted(self._waiting_of(tenant), key=_AGE))
        }
        # At the same level who has caught up was served last, and so comes second.
        tenants = sorted(
            lines, key=lambda name: (-self.running[name], self._served.get(name, -1), lines[name][0])
        )
        places = [
            (entry.rank, level, order, entry.task_id)
            for order, tenant in enumerate(tenants)
            for level, entry in enumerate(lines[tenant], self.running[tenant])
        ]
        return Places(places, {tenant: self.running[tenant] + len(line) for tenant, line in lines.items()})

    def _turn(self, head: _Entry) -> _Turn:
        """Whose turn it is: the least of these."""
        tenant = head.tenant
        return head.rank, self.running[tenant], self._served.get(tenant, -1), head

    def _waiting_of(self, tenant: str) -> Iterator[_Entry]:
        heap = self._heaps.get(tenant, ())
        return (entry for entry in heap if self._waiting.get(entry.task_id) is entry)

    def oldest_created_at(self) -> float | None:
        """When the longest-waiting task was created."""
        return min((entry.created_at for entry in self._waiting.values()), default=None)

    def _head(self, tenant: str) -> _Entry | None:
        heap = self._heaps[tenant]
        while heap and self._waiting.get(heap[0].task_id) is not heap[0]:
            heapq.heappop(heap)
        if not heap:
            del self._heaps[tenant]
            return None
        return heap[0]
