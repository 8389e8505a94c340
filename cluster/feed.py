"""The watch feed: which tasks changed since a follower last looked. In memory, per registry epoch."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from cluster.log_lines import LogTail
from cluster.task import Feed, LogLines, Status, Task
from cluster.waiters import Waiters

MAX_REMEMBERED = 20_000


class ChangeFeed:
    """The latest state of every recently changed task, ordered by change, and log lines of those that run.

    One event loop only.
    """

    def __init__(self, epoch: int, *, max_remembered: int = MAX_REMEMBERED) -> None:
        self._epoch = epoch
        self._seq = 0
        self._forgotten_seq = 0
        self._changed: OrderedDict[str, Task] = OrderedDict()
        self._max_remembered = max_remembered
        self._tails: dict[str, LogTail] = {}
        self._followers = Waiters()

    @property
    def seq(self) -> int:
        return self._seq

    def publish(self, task: Task) -> None:
        """`task` must carry the version given by `next_version`."""
        self._changed.pop(task.id, None)
        self._changed[task.id] = task
        if len(self._changed) > self._max_remembered:
            _, oldest = self._changed.popitem(last=False)
            self._forgotten_seq = oldest.version
        if task.status is not Status.RUNNING:
            self._tails.pop(task.id, None)
        self._followers.wake_all()

    def add_lines(self, task_id: str, news: LogLines) -> None:
        """More of the log of a running task."""
        self._tails.setdefault(task_id, LogTail()).add(news, self.next_version())
        self._followers.wake_all()

    def log_tail(self, task_id: str) -> LogLines:
        """The newest log lines of a running task; none for any other."""
        tail = self._tails.get(task_id)
        return LogLines() if tail is None else tail.since()

    def next_version(self) -> int:
        self._seq += 1
        return self._seq

    async def watch(self, epoch: int, since: int, wait_s: float, coalesce_s: float) -> Feed:
        """Changes after `since`; waits up to `wait_s` for the first.

        In a steady flow an answer gathers `coalesce_s` of changes; after a pause the first goes at once.
        """
        if epoch != self._epoch or since < self._forgotten_seq:
            return Feed(self._epoch, self._seq, [], is_reset=True)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        if since >= self._seq and not await self.change_within(wait_s):
            return Feed(self._epoch, self._seq, [])
        await asyncio.sleep(begun + coalesce_s - loop.time())
        logs = {task_id: tail.since(since) for task_id, tail in self._tails.items() if tail.version > since}
        return Feed(self._epoch, self._seq, self._since(since), logs=logs)

    def _since(self, since: int) -> list[Task]:
        found = []
        for task in reversed(self._changed.values()):
            if task.version <= since:
                break
            found.append(task)
        return found[::-1]

    async def change_within(self, wait_s: float) -> bool:
        """Wait for the next change of any task; False when none came."""
        return await self._followers.woken_within(wait_s)
