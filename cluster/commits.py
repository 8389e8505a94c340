"""Group commit: changes that arrive together reach the disk in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cluster.errors import RegistryUnavailable
from cluster.store import Changes, TaskStore


class Batch(Changes):
    """One transaction in the making; `done` resolves when it is durable."""

    def __init__(self) -> None:
        super().__init__()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done.add_done_callback(_retrieve)


class GroupCommit:
    """Writes batches one after another from a thread of its own; the event loop never waits for a disk.

    `on_commit` runs on the loop after a batch is durable, `on_failure` after one could not be written:
    every batch that was built on the lost one fails with it.
    """

    def __init__(
        self, store: TaskStore, on_commit: Callable[[Batch], None], on_failure: Callable[[], None]
    ) -> None:
        self._store = store
        self._on_commit = on_commit
        self._on_failure = on_failure
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="task-commits")
        self._open: Batch | None = None
        self._writing: Batch | None = None
        self._writer: asyncio.Task[None] | None = None

    @property
    def batch(self) -> Batch:
        """The batch that the next transaction will write."""
        if self._open is None:
            self._open = Batch()
            if self._writer is None or self._writer.done():
                self._writer = asyncio.get_running_loop().create_task(self._write_all())
        return self._open

    async def settled(self, task_id: str) -> None:
        """Return when no change of the task waits for the disk."""
        for batch in (self._open, self._writing):
            if batch is not None and (task_id in batch.created or task_id in batch.updated):
                await asyncio.shield(batch.done)

    async def close(self) -> None:
        if self._writer is not None:
            await self._writer
        self._thread.shutdown(wait=True)

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        # The callers of this turn of the loop add to the batch before it closes.
        await asyncio.sleep(0)
        while (batch := self._open) is not None:
            self._open, self._writing = None, batch
            try:
                await loop.run_in_executor(self._thread, self._store.apply, batch)
            except RegistryUnavailable as error:
                self._fail(batch, error)
            else:
                self._on_commit(batch)
                batch.done.set_result(None)
            self._writing = None

    def _fail(self, batch: Batch, error: RegistryUnavailable) -> None:
        built_on_it, self._open = self._open, None
        self._on_failure()
        for lost in (batch, built_on_it):
            if lost is not None:
                lost.done.set_exception(error)


def _retrieve(future: asyncio.Future[None]) -> None:
    """Mark a failure as seen: a batch without waiters must not warn at garbage collection."""
    if not future.cancelled():
        future.exception()
