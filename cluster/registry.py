"""TaskRegistry: every operation on tasks, for callers, for replicas and for the clock.

A plain class on one event loop, over a `TaskStore`. A change is durable before its caller hears of it;
progress alone lives in memory. It must not know Ray, HTTP or engines.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

from cluster.book import RegistryLimits, TaskBook
from cluster.callback_desk import CallbackDesk
from cluster.commits import Batch
from cluster.delivery import CallbackReport
from cluster.errors import QueueFull, TaskNotFound
from cluster.feed import ChangeFeed
from cluster.leases import Lease
from cluster.outbox import DueCallback
from cluster.retention import PagePlace, hide_expired
from cluster.retry import LEASE_LOST
from cluster.store import TaskStore
from cluster.task import (
    Beat,
    Depth,
    Event,
    Failure,
    FailureCode,
    Feed,
    Json,
    LeaseRequest,
    LogLines,
    NewTask,
    Outcome,
    OutcomeKind,
    Status,
    Submission,
    Task,
    TaskEvent,
    TaskPage,
    TaskQuery,
    Verdict,
    step,
)
from cluster.twins import same_request
from cluster.waiting import Waiting, is_overdue, why_waiting

START_DEADLINE = Failure(FailureCode.TIMEOUT, "the task waited longer than its start deadline")
UNEXPLAINED = Failure(FailureCode.INTERNAL_ERROR, "the replica gave no reason")
_SWEEP_BATCH = 100
_RETRY_AFTER_S = 5
_MAX_LEASES_PER_ATTEMPT = 3


class TaskRegistry:
    """All task operations. Call `open` first, and `tick` about twice a second.

    `now` is the time of day, which may be set at any time: leases and pauses go by `monotonic`.
    """

    def __init__(
        self,
        store: TaskStore,
        now: Callable[[], float],
        limits: RegistryLimits,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._now = now
        self._monotonic = monotonic
        self._limits = limits
        self._reads = ThreadPoolExecutor(2, thread_name_prefix="task-reads")
        self._book = TaskBook(store, now, limits, self._monotonic)
        self._callbacks = CallbackDesk(self._book, self.get, now)
        self.epoch = 0
        self.began_at = 0.0

    async def open(self) -> None:
        """Take over the store: a new epoch, every waiting task queued, every lease honoured anew."""
        self.epoch = await self._read(self._store.open)
        self.began_at = await self._read(self._store.began_at, self._now())
        self._book.feed = ChangeFeed(self.epoch)
        self._book.load(await self._read(self._store.live), await self._read(self._store.owing))

    async def close(self) -> None:
        await self._book.commits.close()
        self._reads.shutdown(wait=True)
        self._store.close()

    # For callers

    async def submit(self, new: NewTask) -> Submission:
        """Record a task; durable when this returns.

        The same id or idempotency key with the same request returns the existing task, whose callback goes
        to the newest URL. Raises TaskConflict, DuplicateTask, QueueFull, RegistryUnavailable.
        """
        existing = await self._existing(new)
        if existing is not None and new.callback_url is not None:
            task = await self.redirect_callback(existing.id, new.callback_url, new.callback_request_id)
            return Submission(task, created=False)
        if existing is not None:
            return Submission(await self.get(existing.id), created=False)
        if len(self._book.queue(new.service)) >= self._limits.max_queued_tasks:
            raise QueueFull(_RETRY_AFTER_S)
        batch = self._book.add(new)
        await _durable(batch)
        return Submission(batch.revealed[new.id], created=True)

    async def get(self, task_id: str) -> Task:
        """Raises TaskNotFound, also for a deleted task."""
        task = self._book.known(task_id) or await self._stored(task_id)
        if task is not None:
            await self._book.commits.settled(task_id)
            task = self._book.known(task_id) or task
        if task is None or task.is_deleted:
            raise TaskNotFound(task_id)
        return task

    async def keyed(self, tenant: str, idempotency_key: str) -> Task | None:
        """The tenant's task that was made under this key; None where none is there (any more)."""
        if (task_id := self._book.id_of_key(tenant, idempotency_key)) is None:
            stored = await self._read(self._store.find_keyed, tenant, idempotency_key)
            task_id = stored[0].id if stored else None
        try:
            return None if task_id is None else await self.get(task_id)
        except TaskNotFound:
            return None

    async def counts(self, tenant: str | None = None, dialect: str | None = None) -> dict[Status, int]:
        await self._book.commits.all_settled()
        counts: dict[Status, int] = await self._read(self._store.counts, tenant, dialect)
        return counts

    async def events(self, task_id: str) -> Sequence[TaskEvent]:
        await self._book.commits.settled(task_id)
        events: Sequence[TaskEvent] = await self._read(self._store.events, task_id)
        return events

    async def depths(self) -> dict[str, Depth]:
        """What waits and runs, by service."""
        return self._book.depths()

    async def changed(self, task: Task, wait_s: float) -> Task:
        """The task once it differs from `task`, or as it stands after `wait_s`. Raises TaskNotFound.

        For callers in this process; those in others follow the feed (`cluster.follower`).
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        while (now := await self.get(task.id)) == task and (left_s := until - loop.time()) > 0:
            await self._book.feed.change_within(left_s)
        return now

    async def log_tail(self, task_id: str) -> LogLines:
        """The newest log lines of a running task; none for any other."""
        return self._book.feed.log_tail(task_id)

    async def waiting(self, task_id: str) -> Waiting | None:
        """Why a task waits; None when it is not queued (any more)."""
        task = self._book.live.get(task_id)
        if task is None or task.status is not Status.QUEUED:
            return None
        queue, presence = self._book.queue(task.service), self._book.presence
        return why_waiting(task, queue, presence, self._now(), self._monotonic())

    async def cancel(self, task_id: str, is_repeated: bool = False) -> Task:
        """Queued: ended at once; running: flagged. Raises TaskNotFound, IllegalStep when it has ended.

        `is_repeated`: the same call may have been made and its answer lost, so that it has been cancelled.
        """
        task = await self.get(task_id)
        if is_repeated and task.status is Status.CANCELLED:
            return task
        step(task.status, Event.CANCEL)
        if task.cancel_requested_at is None:
            await _durable(self._book.request_cancel(task))
        return await self.get(task_id)

    async def delete(self, task_id: str, is_repeated: bool = False) -> None:
        """Hide the task at once; it and its files go when its work has stopped. Raises TaskNotFound.

        `is_repeated`: the same call may have been made and its answer lost, so that there is no such task.
        """
        with suppress(*([TaskNotFound] if is_repeated else [])):
            await _durable(self._book.hide(await self.get(task_id)))

    async def annotate(self, task_id: str, facts: Json) -> Task:
        """Merge `facts` into the task's facts. Raises TaskNotFound."""
        task = await self.get(task_id)
        await _durable(self._book.change(replace(task, facts=task.facts | facts), None))
        return await self.get(task_id)

    async def redirect_callback(self, task_id: str, url: str, request_id: str) -> Task:
        """The task was submitted again with this callback URL. Repeatable by `request_id`.

        It calls there when it ends, or now if it has succeeded. Raises TaskNotFound.
        """
        return await self._callbacks.redirect(task_id, url, request_id)

    async def replay_callback(self, task_id: str, number: int, request_id: str) -> Task:
        """Try an ended delivery again. Repeatable by `request_id`.

        Raises TaskNotFound, DeliveryNotFound, DeliveryPending.
        """
        return await self._callbacks.replay(task_id, number, request_id)

    async def watch(self, epoch: int, since: int, wait_s: float) -> Feed:
        """Tasks changed after `since`; waits up to `wait_s` for the first change."""
        return await self._book.feed.watch(epoch, since, wait_s, self._limits.coalesce_s)

    # For replicas

    async def lease(self, request: LeaseRequest) -> Sequence[Task]:
        """Up to `slots` tasks to run, waiting up to `wait_s` for the first; [] when none came.

        A repeated call (same request_id) returns what the first one leased.
        """
        self._book.presence.saw(request.service, request.worker, self._monotonic())
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while not (taken := self._repeated(request) or self._book.take(request)):
            if not await self._book.work_within(request.service, begun + request.wait_s - loop.time()):
                return self._repeated(request)
            if request.slots > 1:
                # In a steady flow, what arrives together is leased together; after a pause, at once.
                await self._book.gathered(request.service, begun + self._limits.gather_s - loop.time())
        return taken

    async def beat(self, worker: str, beats: Sequence[Beat]) -> Sequence[Verdict]:
        """Extend the leases of `worker`'s attempts and take their progress; one verdict per beat."""
        return [self._beat(worker, beat) for beat in beats]

    async def expect(self, service: str, num_replicas: int) -> None:
        """Serve keeps, or is starting, this many replicas of a service."""
        self._book.presence.expect(service, num_replicas, self._monotonic())

    async def finish(self, outcomes: Sequence[Outcome]) -> Sequence[bool]:
        """Record how attempts ended. Repeatable.

        False where the outcome was not taken, so that its files are of no use: the fence is stale, or the
        task was cancelled before its result came.
        """
        judged = [self._finish(outcome) for outcome in outcomes]
        answers = []
        for outcome, batch in zip(outcomes, judged, strict=True):
            if batch is not None:
                await _durable(batch)
            known = self._book.known(outcome.task_id) or await self._stored(outcome.task_id)
            answers.append(_was_taken(known, outcome))
        return answers

    # For callback senders

    async def lease_callbacks(self, limit: int, wait_s: float) -> Sequence[DueCallback]:
        """Up to `limit` callbacks to send, waiting up to `wait_s` for the first; [] when none came.

        What is not reported within CALLBACK_LEASE_S is leased again.
        """
        return await self._callbacks.lease(limit, wait_s)

    async def report_callback(self, report: CallbackReport) -> None:
        """Record how one try went: sent, failed, or due again. Repeatable."""
        await self._callbacks.report(report)

    # For the clock

    async def tick(self) -> None:
        """Lapse leases, queue delayed retries, end what waited too long."""
        if self._book.commits.is_recovering:
            return
        now = self._now()
        for lease in self._book.leases.lapsed(self._monotonic()):
            self._lapse(lease)
        self._book.wake_delayed()
        self._book.presence.prune(self._monotonic())
        self._book.outbox.wake(now)
        for task in [task for task in self._book.live.values() if is_overdue(task, now)]:
            self._book.finalize(task, Event.FAIL, failure=START_DEADLINE)

    async def removable(self, after: PagePlace | None = None) -> Sequence[Task]:
        """Ended tasks whose retention is over or that were deleted: remove their files, then `forget`.

        They are hidden, durably: nobody is told of a file that is about to go. A page of them, the longest
        over first; `after` is the (expires_at, id) of the last one of the page before.
        """
        return await hide_expired(self._book, self._expired, after)

    async def unrecorded(self, task_ids: Sequence[str]) -> set[str]:
        """Those of the ids that no task has."""
        recorded: set[str] = await self._read(self._store.recorded, task_ids)
        return {task_id for task_id in task_ids if task_id not in recorded and not self._book.known(task_id)}

    async def forget(self, tasks: Sequence[Task]) -> None:
        """Remove the records of tasks whose files are gone."""
        await _durable(self._book.forget(tasks))

    def tally(self) -> dict[tuple[str, str], int]:
        """Counters since this registry started, by (service, what)."""
        return dict(self._book.tally)

    def _repeated(self, request: LeaseRequest) -> list[Task]:
        """What this very call has leased before, or beside this one while its line was breaking."""
        leased = self._book.leases.of_request(request.request_id)
        return [self._book.live[task_id] for task_id in leased if task_id in self._book.live]

    def _lapse(self, lease: Lease) -> None:
        """A replica fell silent. Work that it never began costs the task no attempt, within reason."""
        task = self._book.live[lease.task_id]
        self._book.tally[task.service, "leases_lost"] += 1
        never_began = not lease.has_beaten and task.cancel_requested_at is None
        if never_began and task.attempts < _MAX_LEASES_PER_ATTEMPT * task.max_attempts:
            self._book.requeue(task, "the replica did not begin it")
        else:
            self._book.end_attempt(task, LEASE_LOST)

    def _beat(self, worker: str, beat: Beat) -> Verdict:
        if not self._book.leases.renew(beat.task_id, worker, beat.fence, self._monotonic()):
            return Verdict.LOST
        task = self._book.live.get(beat.task_id)
        if task is None:  # memory is being read again after a lost commit
            return Verdict.OK
        self._book.presence.saw(task.service, worker, self._monotonic())
        self._book.report(task, beat)
        return Verdict.OK if task.cancel_requested_at is None else Verdict.CANCEL

    def _finish(self, outcome: Outcome) -> Batch | None:
        """The batch that records the outcome; None where the lease is not the reporter's (any more)."""
        self._book.commits.check()
        if not self._book.leases.holds(outcome.task_id, outcome.worker, outcome.fence):
            return None
        task = self._book.live[outcome.task_id]
        if outcome.kind is OutcomeKind.HANDED_BACK and task.cancel_requested_at is None:
            return self._book.requeue(task, "handed back by a draining replica")
        if outcome.kind is OutcomeKind.FAILED:
            return self._book.end_attempt(task, outcome.failure or UNEXPLAINED)
        # The caller was told that it is cancelled: a result that came too late stays unpublished.
        if outcome.kind is not OutcomeKind.SUCCEEDED or task.cancel_requested_at is not None:
            return self._book.finalize(task, Event.CANCEL)
        return self._book.finalize(
            task,
            Event.SUCCEED,
            within_s=self._limits.outcome_write_s,
            result=outcome.result,
            artifacts=outcome.artifacts,
            failure=None,
        )

    async def _existing(self, new: NewTask) -> Task | None:
        """The task that this request already made; raises when the id or key is another request's."""
        if new.is_fresh_id and not new.idempotency_key and not new.dedupe_key:
            return None
        stored = await self._read(self._recorded_twins, new)
        # Memory is newer than the database, and may have gained a twin while that was read.
        tasks = {task.id: task for task in stored} | {task.id: task for task in self._book.twins(new)}
        return same_request(new, [self._book.known(task_id) or task for task_id, task in tasks.items()])

    def _recorded_twins(self, new: NewTask) -> list[Task]:
        """Tasks on disk that share the new one's id or keys."""
        keyed = self._store.find_keyed(new.tenant, new.idempotency_key, new.dedupe_key)
        return keyed if new.is_fresh_id else [*self._store.find([new.id]), *keyed]

    async def _stored(self, task_id: str) -> Task | None:
        found = await self._read(self._store.find, [task_id])
        return found[0] if found else None

    async def _expired(self, after: PagePlace | None) -> Sequence[Task]:
        return list(await self._read(self._store.expired, self._now(), _SWEEP_BATCH, after))

    async def _read(self, call: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._reads, call, *args)

    async def list(self, query: TaskQuery) -> TaskPage:
        await self._book.commits.all_settled()
        page: TaskPage = await self._read(self._store.page, query)
        return replace(page, tasks=[self._with_progress(task) for task in page.tasks])

    def _with_progress(self, task: Task) -> Task:
        """A task of the database with the progress that only memory has."""
        live = self._book.live.get(task.id)
        return task if live is None else replace(task, progress=live.progress)


async def _durable(batch: Batch) -> None:
    await asyncio.shield(batch.done)


def _was_taken(task: Task | None, outcome: Outcome) -> bool:
    """Whether the task stands as this outcome left it, also when its report comes a second time."""
    if task is None or task.attempt is None:
        return False
    is_its_attempt = (task.attempt.fence, task.attempt.worker) == (outcome.fence, outcome.worker)
    if outcome.kind is OutcomeKind.SUCCEEDED:
        return is_its_attempt and task.status is Status.SUCCEEDED
    return is_its_attempt and task.status is not Status.RUNNING
