"""Group commit: changes that arrive together reach the disk in one transaction.

A change says within what time it must be written: one that somebody waits for at once, one that only
has to be there some day soon with whatever comes next.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from cluster.changes import Changes
from cluster.errors import RegistryUnavailable, Superseded
from cluster.store import TaskStore
from cluster.task import Task

logger = logging.getLogger(__name__)


class Batch(Changes):
    """One transaction in the making; `done` resolves when it is durable. `due_at` is of the loop's clock.

    `revealed` is what followers were told of its tasks then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.due_at = math.inf
        self.revealed: dict[str, Task] = {}
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done.add_done_callback(_retrieve)


class GroupCommit:
    """Writes batches one after another from a thread of its own; the event loop never waits for a disk.

    `on_commit` runs on the loop after a batch is durable. When one could not be written, its callers and
    those of the batch built on it hear of it at once, `recover` makes memory equal to the disk again, and
    until it has, no change is taken.
    """

    def __init__(
        self,
        store: TaskStore,
        on_commit: Callable[[Batch], None],
        recover: Callable[[Sequence[Batch]], Awaitable[None]],
    ) -> None:
        self._on_commit = on_commit
        self._recover = recover
        self._thread = _CommitThread(store)
        self._open: Batch | None = None
        self._writing: Batch | None = None
        self._writer: asyncio.Task[None] | None = None
        self._is_due = asyncio.Event()
        self._refusal: RegistryUnavailable | None = None

    @property
    def is_recovering(self) -> bool:
        """True while memory may differ from the disk."""
        return self._refusal is not None

    def check(self) -> None:
        """Raise RegistryUnavailable while recovering."""
        if self._refusal is not None:
            raise self._refusal

    def batch(self, within_s: float = 0.0) -> Batch:
        """The batch that the next transaction writes, `within_s` from now or earlier.

        Raises RegistryUnavailable while recovering.
        """
        self.check()
        if self._open is None:
            self._open = Batch()
        self._hasten(self._open, within_s)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write_all())
        return self._open

    async def settled(self, task_id: str) -> None:
        """Return when no change of the task waits for the disk."""
        while (batch := self._unsettled(task_id)) is not None:
            self._hasten(batch, 0.0)
            await asyncio.shield(batch.done)

    async def all_settled(self) -> None:
        """Return when every change so far is on disk."""
        newest = self._open or self._writing
        if newest is not None and not newest.done.done():
            self._hasten(newest, 0.0)
            await asyncio.shield(newest.done)

    def is_unsettled(self, task_id: str) -> bool:
        """Whether a change of the task waits for the disk."""
        return self._unsettled(task_id) is not None

    async def close(self) -> None:
        if self._writer is not None:
            if self.is_recovering:
                self._writer.cancel()
            elif self._open is not None:
                self._hasten(self._open, 0.0)
            await asyncio.wait([self._writer])
        await asyncio.to_thread(self._thread.stop)

    def _hasten(self, batch: Batch, within_s: float) -> None:
        due_at = asyncio.get_running_loop().time() + within_s
        if due_at < batch.due_at:
            batch.due_at = due_at
            self._is_due.set()

    def _unsettled(self, task_id: str) -> Batch | None:
        for batch in (self._open, self._writing):
            if batch is not None and task_id in batch.tasks and not batch.done.done():
                return batch
        return None

    async def _write_all(self) -> None:
        # The callers of this turn of the loop add to the batch before it closes.
        await asyncio.sleep(0)
        while (batch := self._open) is not None:
            await self._due(batch)
            self._open, self._writing = None, batch
            failure = await self._write(batch)
            self._writing = None
            if failure is not None:
                await self._fail(batch, failure)

    async def _due(self, batch: Batch) -> None:
        """Return when the batch must be written; a hasty change may come while it waits."""
        loop = asyncio.get_running_loop()
        while (left_s := batch.due_at - loop.time()) > 0:
            self._is_due.clear()
            alarm = loop.call_later(left_s, self._is_due.set)
            await self._is_due.wait()
            alarm.cancel()

    async def _write(self, batch: Batch) -> RegistryUnavailable | None:
        try:
            await self._thread.apply(batch)
            self._on_commit(batch)
        except RegistryUnavailable as error:
            return error
        except Exception as error:  # the loop edge: callers must hear of it, and the writer must go on
            logger.exception("a batch of task changes was lost")
            return RegistryUnavailable(f"the task database failed: {type(error).__name__}")
        batch.done.set_result(None)
        return None

    async def _fail(self, batch: Batch, failure: RegistryUnavailable) -> None:
        self._refusal = failure
        built_on_it, self._open = self._open, None
        lost = [batch] if built_on_it is None else [batch, built_on_it]
        for each in lost:
            each.done.set_exception(failure)
        if isinstance(failure, Superseded):
            logger.error("%s; this one takes no more changes", failure)
            return
        await self._recover(lost)
        self._refusal = None


_Job = tuple[Changes, "asyncio.Future[None]"]


class _CommitThread:
    """Applies changes one after another. An executor's chained futures would cost a third of a commit."""

    def __init__(self, store: TaskStore) -> None:
        self._store = store
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="task-commits", daemon=True)
        self._thread.start()

    def apply(self, changes: Changes) -> asyncio.Future[None]:
        """Resolves when they are on disk, or with what `TaskStore.apply` raised."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._jobs.put((changes, done))
        return done

    def stop(self) -> None:
        """Return when what was asked for is done."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            changes, done = job
            failure = self._failure(changes)
            with suppress(RuntimeError):  # the loop is closed: nobody asks any more
                done.get_loop().call_soon_threadsafe(_settle, done, failure)

    def _failure(self, changes: Changes) -> Exception | None:
        try:
            self._store.apply(changes)
        except Exception as error:  # noqa: BLE001 - the loop edge: told to the caller, who awaits it
            return error
        return None


def _settle(future: asyncio.Future[None], failure: Exception | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)


def _retrieve(future: asyncio.Future[None]) -> None:
    """Mark a failure as seen: a batch without waiters must not warn at garbage collection."""
    if not future.cancelled():
        future.exception()
