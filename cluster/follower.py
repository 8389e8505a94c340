"""Tasks followed from memory: an ingress replica answers status reads without asking the registry.

Wraps a registry (client) and follows its watch feed. What this process submitted or asked for is
known at once; what others changed arrives with the feed. A miss, or a feed that broke off, asks. Who waits
for a change of a task waits here, too: any number of waiters cost the registry nothing beyond the feed.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from typing import Protocol

from cluster.errors import ClusterError, TaskNotFound
from cluster.log_lines import LogTail
from cluster.task import (
    Depth,
    Feed,
    Json,
    LogLines,
    NewTask,
    Status,
    Submission,
    Task,
    TaskEvent,
    TaskPage,
    TaskQuery,
)
from cluster.waiting import Waiting

_WAIT_S = 10.0
_PAUSE_S = 0.2
_REMEMBERED = 20_000
_REMEMBERED_BYTES = 64 * 1024**2
_WAITING_KEPT_S = 1.0

logger = logging.getLogger(__name__)


class FollowedRegistry(Protocol):
    """What the follower needs of the registry behind it."""

    async def submit(self, new: NewTask) -> Submission: ...
    async def get(self, task_id: str) -> Task: ...
    async def keyed(self, tenant: str, idempotency_key: str) -> Task | None: ...
    async def counts(self, tenant: str | None = None, dialect: str | None = None) -> dict[Status, int]: ...
    async def events(self, task_id: str) -> Sequence[TaskEvent]: ...
    async def depths(self) -> dict[str, Depth]: ...
    async def cancel(self, task_id: str) -> Task: ...
    async def delete(self, task_id: str) -> None: ...
    async def annotate(self, task_id: str, facts: Json) -> Task: ...
    async def redirect_callback(self, task_id: str, url: str, request_id: str) -> Task: ...
    async def replay_callback(self, task_id: str, number: int, request_id: str) -> Task: ...
    async def watch(self, epoch: int, since: int, wait_s: float) -> Feed: ...
    async def log_tail(self, task_id: str) -> LogLines: ...
    async def waiting(self, task_id: str) -> Waiting | None: ...
    async def list(self, query: TaskQuery) -> TaskPage: ...


class TaskFollower:
    """A registry whose `get` answers from memory while the watch feed is alive. One event loop.

    Why a task waits is asked at most once in `waiting_kept_s`. Of the tasks it knows, those are forgotten
    first that it heard of longest ago, once there are many or their inputs and results are large.
    """

    def __init__(
        self,
        registry: FollowedRegistry,
        waiting_kept_s: float = _WAITING_KEPT_S,
        remembered_bytes: int = _REMEMBERED_BYTES,
    ) -> None:
        self._registry = registry
        self._remembered_bytes = remembered_bytes
        self._waiting_kept_s = waiting_kept_s
        self._waiting: OrderedDict[str, tuple[float, Waiting | None]] = OrderedDict()
        self._known: OrderedDict[str, Task] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._total_bytes = 0
        self._tails: dict[str, LogTail] = {}
        self._waiters: defaultdict[str, set[asyncio.Future[Task]]] = defaultdict(set)
        self._epoch = -1
        self._seq = 0
        self._is_live = False
        self._following: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow; call on the running event loop."""
        self._following = asyncio.get_running_loop().create_task(self._follow())

    async def stop(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])

    async def submit(self, new: NewTask) -> Submission:
        submission = await self._registry.submit(new)
        self._learn(submission.task)
        return submission

    async def get(self, task_id: str) -> Task:
        task = self._known.get(task_id) if self._is_live else None
        if task is not None and not task.is_deleted:
            return task
        task = await self._registry.get(task_id)
        self._learn(task)
        return task

    async def keyed(self, tenant: str, idempotency_key: str) -> Task | None:
        task = await self._registry.keyed(tenant, idempotency_key)
        if task is not None:
            self._learn(task)
        return task

    async def changed(self, task: Task, wait_s: float) -> Task:
        """The task once it differs from `task`, or as it stands after `wait_s`. Raises TaskNotFound."""
        known = self._known.get(task.id) or await self.get(task.id)
        if known == task:
            known = await self._change(task.id, wait_s) or await self.get(task.id)
        if known.is_deleted:
            raise TaskNotFound(task.id)
        return known

    async def log_tail(self, task_id: str) -> LogLines:
        """The newest log lines of a running task; asks only for one that ran before this process followed."""
        if task_id not in self._tails:
            lines = await self._registry.log_tail(task_id)
            if not self._is_running(task_id):
                return lines
            self._tails.setdefault(task_id, LogTail(lines))
        return self._tails[task_id].since()

    async def waiting(self, task_id: str) -> Waiting | None:
        """Why a task waits, as of a moment ago."""
        now_s = asyncio.get_running_loop().time()
        self._forget_waiting(now_s)
        if task_id not in self._waiting:
            waiting = await self._registry.waiting(task_id)
            self._waiting[task_id] = now_s + self._waiting_kept_s, waiting
            self._waiting.move_to_end(task_id)
            return waiting
        return self._waiting[task_id][1]

    async def cancel(self, task_id: str) -> Task:
        task = await self._registry.cancel(task_id)
        self._learn(task)
        return task

    async def delete(self, task_id: str) -> None:
        await self._registry.delete(task_id)
        self._forget(task_id)

    async def annotate(self, task_id: str, facts: Json) -> Task:
        task = await self._registry.annotate(task_id, facts)
        self._learn(task)
        return task

    async def redirect_callback(self, task_id: str, url: str, request_id: str) -> Task:
        task = await self._registry.redirect_callback(task_id, url, request_id)
        self._learn(task)
        return task

    async def replay_callback(self, task_id: str, number: int, request_id: str) -> Task:
        task = await self._registry.replay_callback(task_id, number, request_id)
        self._learn(task)
        return task

    async def counts(self, tenant: str | None = None, dialect: str | None = None) -> dict[Status, int]:
        return await self._registry.counts(tenant, dialect)

    async def events(self, task_id: str) -> Sequence[TaskEvent]:
        return await self._registry.events(task_id)

    async def depths(self) -> dict[str, Depth]:
        return await self._registry.depths()

    async def list(self, query: TaskQuery) -> TaskPage:
        return await self._registry.list(query)

    def _learn(self, task: Task) -> None:
        """Keep the newer of two states; a read and the feed may arrive in either order."""
        known = self._known.get(task.id)
        if known is not None and known.version > task.version:
            return
        self._keep(task)
        if known is None or known.status is not task.status:
            self._waiting.pop(task.id, None)
        if task.status is not Status.RUNNING:
            self._tails.pop(task.id, None)
        for waiter in self._waiters.get(task.id, ()):
            if not waiter.done():
                waiter.set_result(task)
        while len(self._known) > 1 and (
            len(self._known) > _REMEMBERED or self._total_bytes > self._remembered_bytes
        ):
            self._forget(next(iter(self._known)))

    def _keep(self, task: Task) -> None:
        self._forget(task.id)
        self._known[task.id] = task
        # What can be large, measured as it travels; as objects it takes about five times as many bytes.
        size_bytes = len(pickle.dumps((task.inputs, task.result)))
        self._sizes[task.id] = size_bytes
        self._total_bytes += size_bytes

    def _forget(self, task_id: str) -> None:
        self._known.pop(task_id, None)
        self._total_bytes -= self._sizes.pop(task_id, 0)

    def _forget_waiting(self, now_s: float) -> None:
        """They lie in the order in which they were learned, and so in which they get old."""
        while self._waiting and next(iter(self._waiting.values()))[0] <= now_s:
            self._waiting.popitem(last=False)

    async def _follow(self) -> None:
        while True:
            try:
                await self._follow_once()
            except ClusterError:
                self._is_live = False
                await asyncio.sleep(_PAUSE_S)
            except Exception:  # the loop edge: without it reads would ask for ever
                logger.exception("watch feed: starting over")
                self._is_live = False
                await asyncio.sleep(_PAUSE_S)

    async def _follow_once(self) -> None:
        feed = await self._registry.watch(self._epoch, self._seq, _WAIT_S)
        if feed.is_reset:
            await self._start_over()
        self._epoch, self._seq = feed.epoch, feed.seq
        for task_id, lines in feed.logs.items():
            self._learn_lines(task_id, lines)
        for task in feed.tasks:
            self._learn(task)
        self._is_live = not feed.has_more

    async def _start_over(self) -> None:
        """Changes may have been missed: forget all, and ask how the tasks stand that somebody waits for."""
        self._is_live = False
        for task_id in list(self._known):
            self._forget(task_id)
        self._tails.clear()
        await asyncio.gather(*(self._ask_again(task_id) for task_id in list(self._waiters)))

    def _learn_lines(self, task_id: str, news: LogLines) -> None:
        """Extend what is known; where lines are missing, the next reader asks for the whole tail."""
        tail = self._tails.get(task_id)
        if tail is not None and tail.joins(news):
            tail.add(news)
        elif news.first == 0:
            self._tails[task_id] = LogTail(news)
        else:
            self._tails.pop(task_id, None)

    def _is_running(self, task_id: str) -> bool:
        known = self._known.get(task_id)
        return known is not None and known.status is Status.RUNNING

    async def _ask_again(self, task_id: str) -> None:
        """Tell those who wait for a task how it stands."""
        try:
            self._learn(await self._registry.get(task_id))
        except TaskNotFound as error:
            for waiter in self._waiters.get(task_id, ()):
                if not waiter.done():
                    waiter.set_exception(error)

    async def _change(self, task_id: str, wait_s: float) -> Task | None:
        """The next state that is learned of the task; None when none was within `wait_s`."""
        waiter: asyncio.Future[Task] = asyncio.get_running_loop().create_future()
        self._waiters[task_id].add(waiter)
        try:
            return await asyncio.wait_for(waiter, wait_s)
        except TimeoutError:
            return None
        finally:
            self._waiters[task_id].discard(waiter)
            if not self._waiters[task_id]:
                del self._waiters[task_id]
