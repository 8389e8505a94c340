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
    tasks, then the one served longest ago. The registry keeps `running` up to date.
    """

    def __init__(self) -> None:
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

    def pop(self) -> str | None:
        """The next task id, or None when nothing waits."""
        heads = {tenant: head for tenant in list(self._heaps) if (head := self._head(tenant))}
        if not heads:
            return None
        tenant = min(heads, key=lambda t: (heads[t].rank, self.running[t], self._served.get(t, -1)))
        self._served[tenant] = next(self._serials)
        entry = heapq.heappop(self._heaps[tenant])
        del self._waiting[entry.task_id]
        return entry.task_id

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
