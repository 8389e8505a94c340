"""The log of a task's last attempt: from the watch feed while it runs, from its stored file afterwards."""

from __future__ import annotations

from anyio import to_thread

from api.context import ApiContext
from cluster import keys
from cluster.errors import ArtifactNotFound
from cluster.log_lines import from_file
from cluster.storage import ArtifactStore
from cluster.task import LogLines, Status, Task


async def log_lines(context: ApiContext, task: Task) -> LogLines:
    """The lines there are: none while the task waits, or where its attempt logged nothing.

    Raises StorageFailure.
    """
    if task.status is Status.RUNNING:
        lines = await context.registry.log_tail(task.id)
        return lines if lines.fence == task.fence else LogLines(task.fence)
    if not task.fence:
        return LogLines()
    return await to_thread.run_sync(_stored, context.storage, task)


def _stored(storage: ArtifactStore, task: Task) -> LogLines:
    try:
        return from_file(task.fence, storage.read(keys.log_key(task.id, task.fence)))
    except ArtifactNotFound:
        return LogLines(task.fence)
