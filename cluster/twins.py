"""Which recorded task a new request is the same as, or must not stand beside. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.errors import DuplicateTask, TaskConflict
from cluster.task import NewTask, Status, Task


def same_request(new: NewTask, tasks: Sequence[Task]) -> Task | None:
    """The one of `tasks` that this very request made. Raises TaskConflict, DuplicateTask."""
    for task in tasks:
        if new.dedupe_key and task.dedupe_key == new.dedupe_key and _blocks_twin(new, task):
            raise DuplicateTask(task.id)
    for task in tasks:
        if task.id == new.id or (new.idempotency_key and task.idempotency_key == new.idempotency_key):
            if task.tenant != new.tenant or task.fingerprint != new.fingerprint or task.is_deleted:
                raise TaskConflict(task.id)
            return task
    return None


def _blocks_twin(new: NewTask, task: Task) -> bool:
    is_active_or_done = task.status not in {Status.FAILED, Status.CANCELLED}
    return task.id != new.id and task.tenant == new.tenant and is_active_or_done and not task.is_deleted
