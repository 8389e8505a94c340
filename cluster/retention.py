"""What goes when its time is over: ended tasks with their files, and files that nobody answers for.

The registry's side hides a task before its files go; the sweep removes the files, then the record. Files
without a record are what a killed server or an outage left behind: their folders are told by the record
that the database lacks, and by their age.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Protocol

from cluster import keys
from cluster.book import TaskBook
from cluster.commits import Batch
from cluster.errors import ClusterError
from cluster.storage import ArtifactStore
from cluster.task import Task

LEFTOVERS_EVERY_S = 600.0
LEFTOVER_AGE_S = 3600.0
_IDS_PER_ASK = 500

logger = logging.getLogger(__name__)


PagePlace = tuple[float, str]
"""The expires_at and the id of a task, by which expired tasks are paged."""


async def hide_expired(
    book: TaskBook, expired: Callable[[PagePlace | None], Awaitable[Sequence[Task]]], after: PagePlace | None
) -> Sequence[Task]:
    """Hide the first page of expired tasks behind `after` that has any to hide; durable when this returns."""
    while due := await expired(after):
        going, batches = _hide(book, due)
        for batch in batches:
            await asyncio.shield(batch.done)
        if going:
            return going
        after = due[-1].expires_at or 0.0, due[-1].id
    return []


def _hide(book: TaskBook, due: Sequence[Task]) -> tuple[list[Task], list[Batch]]:
    """Hide expired tasks, unless they owe a callback since they were read, or a live task takes their files.

    One that its caller deleted goes whoever takes its files.
    """
    current = [book.known(task.id) or task for task in due]
    used = (key for task in book.live.values() for key in task.files.values() if key.startswith(keys.TASKS))
    taken = {key.split("/")[1] for key in used}
    going = [
        task for task in current if task.callback_due_at is None and (task.is_deleted or task.id not in taken)
    ]
    batches = [book.hide(task) for task in going if not task.is_deleted]
    return going, batches


class ExpiringRecords(Protocol):
    """What the sweep needs of the registry (`TaskRegistry`)."""

    @property
    def began_at(self) -> float: ...
    async def removable(self, after: PagePlace | None = None) -> Sequence[Task]: ...
    async def forget(self, tasks: Sequence[Task]) -> None: ...
    async def unrecorded(self, task_ids: Sequence[str]) -> set[str]: ...


class Sweep:
    """Removes files, then records, of tasks whose time is over; now and then what was left behind.

    A leftover is removed when the sweep before met it too: S3 dates an object at the beginning of its
    upload, so that one which was published a moment ago may look old. Nothing from before the database
    began is touched: a server that was started with another database by mistake must not empty the store.
    """

    def __init__(self, records: ExpiringRecords, store: ArtifactStore, now: Callable[[], float]) -> None:
        self._records = records
        self._store = store
        self._now = now
        self._next_leftovers_at = 0.0
        self._met: set[str] = set()

    async def run(self) -> None:
        """One turn; never two at a time. What fails stays until the next."""
        await self._remove_expired()
        if self._now() < self._next_leftovers_at:
            return
        self._next_leftovers_at = self._now() + LEFTOVERS_EVERY_S
        try:
            await self._remove_leftovers()
        except ClusterError as error:
            logger.warning("leftover files stay until the next sweep: %s", error)

    async def _remove_expired(self) -> None:
        """All of them, page by page; those that fail are passed over."""
        after: PagePlace | None = None
        failed: set[str] = set()
        try:
            while page := await self._records.removable(after):
                after = page[-1].expires_at or 0.0, page[-1].id
                # Hiding a task dates it anew: one that failed comes a second time.
                failed |= await self._remove([task for task in page if task.id not in failed])
        except ClusterError as error:
            logger.warning("expired tasks stay until the next sweep: %s", error)

    async def _remove(self, tasks: Sequence[Task]) -> set[str]:
        """Files, then records; the ids of those whose files could not be removed."""
        failures = {task.id: await self._failure(task) for task in tasks}
        failed = {task_id for task_id, failure in failures.items() if failure is not None}
        for task_id in sorted(failed)[:1]:
            logger.warning(
                "the files of %s tasks stay until the next sweep, those of %s: %s",
                len(failed), task_id, failures[task_id],
            )  # fmt: skip
        await self._records.forget([task for task in tasks if task.id not in failed])
        return failed

    async def _failure(self, task: Task) -> ClusterError | None:
        """Remove the task's files; what kept them."""
        try:
            await asyncio.to_thread(self._store.delete_prefix, keys.task_prefix(task.id))
        except ClusterError as error:
            return error
        return None

    async def _remove_leftovers(self) -> None:
        folders = await self._folders_without_record()
        folders |= set(await asyncio.to_thread(_incoming_folders, self._store))
        met, self._met = self._met, folders
        for folder in folders & met:
            if await asyncio.to_thread(self._is_left, folder):
                count = await asyncio.to_thread(self._store.delete_prefix, folder)
                logger.info("removed %s files that nobody answers for: %s", count, folder)

    async def _folders_without_record(self) -> set[str]:
        names = await asyncio.to_thread(lambda: list(self._store.folders(keys.TASKS)))
        task_ids = [name for name in names if keys.is_task_id(name)]
        found: set[str] = set()
        for some in _slices(task_ids):
            found |= await self._records.unrecorded(some)
        return {keys.task_prefix(task_id) for task_id in found}

    def _is_left(self, folder: str) -> bool:
        newest_at = self._store.newest_at(folder)
        if newest_at is None:
            return False
        return self._records.began_at <= newest_at < self._now() - LEFTOVER_AGE_S


def _incoming_folders(store: ArtifactStore) -> Iterator[str]:
    """Uploads whose path was not known yet: each has a folder of its own, below its tenant's."""
    for tenant in store.folders(keys.FILES):
        incoming = keys.incoming_prefix(tenant)
        for upload in store.folders(incoming):
            yield f"{incoming}{upload}/"


def _slices(values: Sequence[str]) -> Iterable[Sequence[str]]:
    for start in range(0, len(values), _IDS_PER_ASK):
        yield values[start : start + _IDS_PER_ASK]
