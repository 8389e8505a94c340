"""The registry's memory: live tasks, queues and leases, and how a task moves between them.

Every method is synchronous and runs on the registry's event loop, so no two of them interleave.
Each change enters the open batch of the group commit and is revealed once that is durable.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.changes import Changes, Row
from cluster.commits import Batch, GroupCommit
from cluster.errors import RegistryUnavailable
from cluster.fair_queue import FairQueue
from cluster.feed import ChangeFeed
from cluster.leases import Leases
from cluster.outbox import Outbox, with_callback
from cluster.presence import Presence
from cluster.records import with_final_progress
from cluster.retry import MAX_DELAY_S, retry_delay_s
from cluster.store import TaskStore
from cluster.task import (
    Attempt,
    Beat,
    Depth,
    Event,
    Failure,
    LeaseRequest,
    NewTask,
    Progress,
    Status,
    Task,
    TaskEvent,
    step,
)
from cluster.waiters import Waiters

_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.1, 2.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RegistryLimits:
    """The registry's numbers.

    `coalesce_s`, `gather_s`: in a steady flow, the least time between two answers of the watch feed, and
    between two leases for several slots. `lease_write_s`, `outcome_write_s`: how long a lease and an
    outcome may wait for the transaction of a submit, which nobody should wait for.
    """

    lease_s: float = 15.0
    max_queued_tasks: int = 10_000
    retention_s: float = 7 * 86400.0
    max_running_per_tenant: int = 0
    coalesce_s: float = 0.02
    gather_s: float = 0.02
    lease_write_s: float = 0.05
    outcome_write_s: float = 0.005


class TaskBook:
    """All live tasks, and those that ended of which the feed still tells."""

    def __init__(
        self,
        store: TaskStore,
        now: Callable[[], float],
        limits: RegistryLimits,
        monotonic: Callable[[], float],
    ) -> None:
        self._store = store
        self._now = now
        self._monotonic = monotonic
        self._limits = limits
        self.commits = GroupCommit(store, self._reveal, self._recover)
        self.leases = Leases(limits.lease_s)
        self.presence = Presence()
        self.outbox = Outbox()
        self.feed = ChangeFeed(0)
        self.live: dict[str, Task] = {}
        self._ended: dict[str, Task] = {}
        self._queues: dict[str, FairQueue] = {}
        self._delayed: dict[str, float] = {}
        self._keys: dict[tuple[str, str | None], str] = {}
        self._idle: defaultdict[str, Waiters] = defaultdict(Waiters)
        self.tally: Counter[tuple[str, str]] = Counter()

    def load(self, tasks: Iterable[Task], owing: Iterable[Task]) -> None:
        """Forget everything and begin with these live tasks, and those that owe callbacks.

        At start, and after a batch was lost.
        """
        self.outbox.load(owing)
        for state in (self.live, self._ended, self._queues, self._delayed, self._keys):
            state.clear()
        self.leases.clear()
        now_s = self._monotonic()
        for task in tasks:
            self.live[task.id] = task
            self._remember_keys(task)
            if task.attempt is not None and task.status is Status.RUNNING:
                self.leases.restore(task.id, task.attempt, now_s)
                self.queue(task.service).running[task.tenant] += 1
            else:
                self.enqueue(task)

    async def _recover(self, lost: Sequence[Changes]) -> None:
        """Forget what was lost, then read the store again, for as long as that takes."""
        for task_id in [task_id for changes in lost for task_id in changes.tasks]:
            self.live.pop(task_id, None)
            self._ended.pop(task_id, None)
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                tasks = await loop.run_in_executor(None, self._store.live)
                owing = await loop.run_in_executor(None, self._store.owing)
            except RegistryUnavailable as error:
                logger.warning("the task database does not answer (%s): next try in %s s", error, pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(_MAX_PAUSE_S, 2 * pause_s)
            else:
                self.load(tasks, owing)
                return

    def known(self, task_id: str) -> Task | None:
        return self.live.get(task_id) or self._ended.get(task_id)

    def twins(self, new: NewTask) -> list[Task]:
        """Tasks in memory that share the new one's id or keys."""
        ids = {
            new.id,
            self._keys.get((new.tenant, new.idempotency_key)),
            self._keys.get((new.tenant, new.dedupe_key)),
        }
        return [task for task_id in ids if task_id and (task := self.known(task_id))]

    def id_of_key(self, tenant: str, key: str) -> str | None:
        """The task in memory that was made under this idempotency key."""
        return self._keys.get((tenant, key))

    def queue(self, service: str) -> FairQueue:
        queue = self._queues.get(service)
        if queue is None:
            queue = self._queues[service] = FairQueue(self._limits.max_running_per_tenant)
        return queue

    def depths(self) -> dict[str, Depth]:
        now = self._now()
        delayed: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for task in map(self.live.__getitem__, self._delayed):
            delayed[task.service][task.tenant] += 1
        depths = {}
        for service, queue in self._queues.items():
            oldest = queue.oldest_created_at()
            depths[service] = Depth(
                waiting=len(queue) + delayed[service].total(),
                running=queue.running.total(),
                runnable=queue.num_runnable(delayed[service]),
                oldest_wait_s=0.0 if oldest is None else now - oldest,
            )
        return depths

    def add(self, new: NewTask) -> Batch:
        """Record a new task and queue it."""
        task = first_state(new, self._now())
        batch = self.change(task, "create", is_new=True)
        self._remember_keys(task)
        self.enqueue(task)
        return batch

    def change(
        self, task: Task, event: str | None, detail: str = "", *, is_new: bool = False, within_s: float = 0.0
    ) -> Batch:
        """Put a task's new state in memory, and into a transaction that is written `within_s`."""
        now = task.updated_at if is_new else self._now()
        if not is_new:
            task = replace(task, updated_at=now)
        batch = self.commits.batch(within_s)
        batch.put(task, is_new=is_new)
        if event is not None:
            batch.events.append(TaskEvent(task.id, now, event, task.attempts, detail))
        if task.status.is_final:
            self.live.pop(task.id, None)
            self._ended[task.id] = task
        else:
            self.live[task.id] = task
        return batch

    def finalize(self, task: Task, event: Event, *, within_s: float = 0.0, **state: Any) -> Batch:
        """Take the last step of a task."""
        now = self._now()
        ended = replace(
            task,
            status=step(task.status, event),
            finished_at=now,
            expires_at=now if task.is_deleted else now + self._limits.retention_s,
            **state,
        )
        ended = with_callback(with_final_progress(ended), now)
        detail = ended.failure.message if ended.failure else ""
        batch = self.change(ended, event.value, detail, within_s=within_s)
        self._release(task)
        self.tally[task.service, ended.status.value] += 1
        return batch

    def end_attempt(self, task: Task, failure: Failure) -> Batch:
        """An attempt failed: cancelled, again later, or the end."""
        if task.cancel_requested_at is not None:
            return self.finalize(task, Event.CANCEL)
        failed = task.failed_attempts + 1
        delay_s = retry_delay_s(failure, failed, task.max_attempts)
        task = replace(task, failed_attempts=failed)
        if delay_s is None:
            return self.finalize(task, Event.FAIL, failure=failure)
        return self.requeue(replace(task, not_before=self._now() + delay_s), failure.message)

    def requeue(self, task: Task, detail: str) -> Batch:
        """Back to the queue, at its old place."""
        task = replace(task, status=step(task.status, Event.REQUEUE), progress=Progress())
        batch = self.change(task, Event.REQUEUE.value, detail)
        self._release(task)
        self.enqueue(task)
        return batch

    def request_cancel(self, task: Task) -> Batch:
        """Queued: the end. Running: a flag that the next beat carries to the replica."""
        task = replace(task, cancel_requested_at=task.cancel_requested_at or self._now())
        if task.status is Status.QUEUED:
            return self.finalize(task, Event.CANCEL)
        return self.change(task, "cancel_requested")

    def take(self, request: LeaseRequest) -> list[Task]:
        """Lease up to `slots` waiting tasks to the asking worker.

        Nobody waits for the disk here. A registry that dies before it wrote the lease finds the task
        queued and leases it again, under another fence: as if the replica had died at that moment.
        """
        self.commits.check()
        queue = self.queue(request.service)
        taken: list[Task] = []
        while len(taken) < request.slots and (task_id := queue.pop()) is not None:
            taken.append(self._lease(self.live[task_id], request))
        return taken

    def enqueue(self, task: Task) -> None:
        """Let the task wait for a replica, or for its `not_before` first."""
        delay_s = min(task.not_before - self._now(), MAX_DELAY_S)  # more: the clock was set back since
        if delay_s > 0:
            self._delayed[task.id] = self._monotonic() + delay_s
            return
        self.queue(task.service).push(task)
        self._idle[task.service].wake_one()

    def wake_delayed(self) -> None:
        """Queue the tasks whose retry delay is over."""
        now_s = self._monotonic()
        for task_id in [task_id for task_id, at_s in self._delayed.items() if at_s <= now_s]:
            del self._delayed[task_id]
            self.live[task_id] = replace(self.live[task_id], not_before=0.0)
            self.enqueue(self.live[task_id])

    async def work_within(self, service: str, wait_s: float) -> bool:
        """Wait until a task may be there for one of the service's replicas."""
        return await self._idle[service].woken_within(wait_s)

    async def gathered(self, service: str, gather_s: float) -> None:
        """Let more work come; who gives up meanwhile leaves what there was to another replica."""
        try:
            await asyncio.sleep(gather_s)
        except asyncio.CancelledError:
            self._idle[service].wake_one()
            raise

    def report(self, task: Task, beat: Beat) -> None:
        """Show progress and log lines to followers; neither is worth a commit."""
        if beat.log is not None:
            self.feed.add_lines(task.id, beat.log)
        elif beat.progress == task.progress:
            return
        task = self.live[task.id] = replace(task, progress=beat.progress, updated_at=self._now())
        if not self.commits.is_unsettled(task.id):
            self._publish(task, task)

    def forget(self, tasks: Iterable[Task]) -> Batch:
        """Remove records of ended tasks; followers forget them too."""
        batch = self.commits.batch()
        for task in tasks:
            known = self._ended.pop(task.id, task)
            self._drop_keys(known)
            self.outbox.forget(task.id)
            self._show(replace(known, is_deleted=True, version=self.feed.next_version()))
            batch.removed.append(task.id)
        return batch

    def hide(self, task: Task) -> Batch:
        """A caller deleted the task: gone from sight at once, from the store when its work has stopped."""
        self._drop_keys(task)
        hidden = replace(task, is_deleted=True, dedupe_key=None)
        if hidden.status.is_final:
            return self.change(replace(hidden, expires_at=self._now()), "delete")
        return self.request_cancel(hidden)

    def _lease(self, task: Task, request: LeaseRequest) -> Task:
        now = self._now()
        attempt = Attempt(task.attempts + 1, request.worker, request.request_id, now)
        task = replace(
            task,
            status=step(task.status, Event.LEASE),
            attempts=attempt.number,
            attempt=attempt,
            started_at=now,
            progress=Progress(),
        )
        self.change(task, Event.LEASE.value, request.worker, within_s=self._limits.lease_write_s)
        self.leases.grant(task.id, attempt, self._monotonic())
        self.queue(task.service).running[task.tenant] += 1
        self.tally[task.service, "attempts"] += 1
        return self.live[task.id]

    def _release(self, task: Task) -> None:
        """Take the task out of the queue and out of its lease."""
        queue = self.queue(task.service)
        queue.discard(task.id)
        self._delayed.pop(task.id, None)
        if self.leases.release(task.id):
            was_capped = queue.is_capped(task.tenant)
            queue.running[task.tenant] -= 1
            if was_capped and queue.has_next:
                self._idle[task.service].wake_one()

    def _remember_keys(self, task: Task) -> None:
        for key in (task.idempotency_key, task.dedupe_key):
            if key is not None:
                self._keys[task.tenant, key] = task.id

    def _drop_keys(self, task: Task) -> None:
        for key in (task.idempotency_key, task.dedupe_key):
            if self._keys.get((task.tenant, key)) == task.id:
                del self._keys[task.tenant, key]

    def _reveal(self, batch: Batch) -> None:
        """After a commit: followers learn what is on disk, not what memory holds by now."""
        for committed in batch.tasks.values():
            known = self.known(committed.id)
            written = batch.created.get(committed.id) or batch.updated.get(committed.id)
            if known is not None and known is not committed:
                shown = self._publish(replace(committed, progress=known.progress), known, written)
            else:
                shown = self._publish(committed, known, written)
            batch.revealed[committed.id] = shown
            if committed.deliveries:
                self.outbox.follow(committed)
        self.outbox.wake(self._now())

    def _publish(self, task: Task, known: Task | None, written: Row | None = None) -> Task:
        """Tell followers, and return what they see; memory, maybe a change ahead, takes the version alone."""
        shown = replace(task, version=self.feed.next_version())
        self._show(shown, written)
        if known is not None:
            memory = self.live if known.id in self.live else self._ended
            memory[known.id] = shown if known is task else replace(known, version=shown.version)
        return shown

    def _show(self, task: Task, written: Row | None = None) -> None:
        """Followers see the task. Ended ones that the feed forgets for it are only on disk from now on."""
        for task_id in self.feed.publish(task, written):
            if task_id in self._ended and not self.commits.is_unsettled(task_id):
                self._drop_keys(self._ended.pop(task_id))


def first_state(new: NewTask, now: float) -> Task:
    """The record of a task that has just been submitted."""
    return Task(
        id=new.id,
        name=new.name,
        service=new.service,
        inputs=new.inputs,
        files=new.files,
        facts=new.facts,
        tenant=new.tenant,
        dialect=new.dialect,
        priority=new.priority,
        max_attempts=new.max_attempts,
        run_timeout_s=new.run_timeout_s,
        fingerprint=new.fingerprint,
        created_at=now,
        updated_at=now,
        start_deadline_at=None if new.start_timeout_s is None else now + new.start_timeout_s,
        idempotency_key=new.idempotency_key,
        dedupe_key=new.dedupe_key,
        callback_url=new.callback_url,
        callback_request_id=new.callback_request_id,
    )
