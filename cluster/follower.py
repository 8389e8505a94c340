"""Tasks followed from memory: an ingress replica answers status reads without asking the registry.

Wraps a registry (client) and follows its watch feed. What this process submitted or asked for is
known at once; what others changed arrives with the feed. A miss, or a feed that broke off, asks.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from cluster.errors import ClusterError
from cluster.task import Depth, Feed, Json, NewTask, Status, Submission, Task, TaskEvent, TaskPage, TaskQuery

_WAIT_S = 10.0
_PAUSE_S = 0.2
_REMEMBERED = 20_000

logger = logging.getLogger(__name__)


class FollowedRegistry(Protocol):
    """What the follower needs of the registry behind it."""

    async def submit(self, new: NewTask) -> Submission: ...
    async def get(self, task_id: str) -> Task: ...
    async def counts(self, tenant: str | None = None, dialect: str | None = None) -> dict[Status, int]: ...
    async def events(self, task_id: str) -> Sequence[TaskEvent]: ...
    async def depths(self) -> dict[str, Depth]: ...
    async def cancel(self, task_id: str) -> Task: ...
    async def delete(self, task_id: str) -> None: ...
    async def annotate(self, task_id: str, facts: Json) -> Task: ...
    async def redirect_callback(self, task_id: str, url: str, request_id: str) -> Task: ...
    async def replay_callback(self, task_id: str, number: int, request_id: str) -> Task: ...
    async def watch(self, epoch: int, since: int, wait_s: float) -> Feed: ...
    async def list(self, query: TaskQuery) -> TaskPage: ...


class TaskFollower:
    """A registry whose `get` answers from memory while the watch feed is alive. One event loop."""

    def __init__(self, registry: FollowedRegistry) -> None:
        self._registry = registry
        self._known: OrderedDict[str, Task] = OrderedDict()
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

    async def cancel(self, task_id: str) -> Task:
        task = await self._registry.cancel(task_id)
        self._learn(task)
        return task

    async def delete(self, task_id: str) -> None:
        await self._registry.delete(task_id)
        self._known.pop(task_id, None)

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
        self._known[task.id] = task
        self._known.move_to_end(task.id)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

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
            self._known.clear()
        self._epoch, self._seq = feed.epoch, feed.seq
        for task in feed.tasks:
            self._learn(task)
        self._is_live = True
