"""The waiting tasks of one service: priority first, then fair between tenants, then age. Pure."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from dataclasses import dataclass, field

from cluster.task import Task


@dataclass(order=True, frozen=True, slots=True)
class _Entry:
    """Sorts by falling priority, then age; a task that is queued again keeps its age."""

    rank: int
    created_at: float
    serial: int
    task_id: str = field(compare=False)


class FairQueue:
    """Waiting task ids.

    `pop` serves the highest priority; among tenants with equal heads the one with the fewest running
    tasks, then the one served longest ago. A tenant that runs `max_running_per_tenant` tasks (0: no bound)
    waits. The registry keeps `running` up to date.
    """

    def __init__(self, max_running_per_tenant: int = 0) -> None:
        self._max_running = max_running_per_tenant
        self._heaps: dict[str, list[_Entry]] = {}
        self._waiting: dict[str, _Entry] = {}
        self._served: dict[str, int] = {}
        self._serials = itertools.count()
        self.running: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, task: Task) -> None:
        entry = _Entry(-task.priority, task.created_at, next(self._serials), task.id)
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
        heads = {
            tenant: head
            for tenant in list(self._heaps)
            if not self.is_capped(tenant) and (head := self._head(tenant))
        }
        if not heads:
            return None
        tenant = min(heads, key=lambda t: (heads[t].rank, self.running[t], self._served.get(t, -1)))
        self._served[tenant] = next(self._serials)
        entry = heapq.heappop(self._heaps[tenant])
        del self._waiting[entry.task_id]
        return entry.task_id

    def ahead_of(self, task_id: str) -> int | None:
        """How many waiting tasks would be served first if none ended meanwhile; None where it does not wait.

        Exact among tasks of equal priority; caps of other tenants are not looked at. Takes O(waiting tasks).
        """
        entry = self._waiting.get(task_id)
        if entry is None:
            return None
        waiting = {tenant: self._waiting_of(tenant) for tenant in self._heaps}
        own = next(tenant for tenant, entries in waiting.items() if entry in entries)
        num_earlier = sum(other < entry for other in waiting.pop(own))
        # What the tenant will be running when this task's turn comes.
        level = self.running[own] + num_earlier
        others = (self._first_of(tenant, entries, entry, own, level) for tenant, entries in waiting.items())
        return num_earlier + sum(others)

    def _first_of(self, tenant: str, entries: list[_Entry], entry: _Entry, own: str, level: int) -> int:
        """How many of another tenant's tasks are served before `entry`."""
        num_higher = sum(other.rank < entry.rank for other in entries)
        num_equal = sum(other.rank == entry.rank for other in entries)
        # At the same level who has caught up was served last, and so comes second.
        goes_first = self._tie(tenant) < self._tie(own)
        places = level + goes_first - self.running[tenant] - num_higher
        return num_higher + min(num_equal, max(0, places))

    def _tie(self, tenant: str) -> tuple[int, int]:
        return -self.running[tenant], self._served.get(tenant, -1)

    def _waiting_of(self, tenant: str) -> list[_Entry]:
        return [entry for entry in self._heaps[tenant] if self._waiting.get(entry.task_id) is entry]

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
