"""The watch feed: which tasks changed since a follower last looked. In memory, per registry epoch."""

from __future__ import annotations

import asyncio
import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from cluster.log_lines import LogTail
from cluster.task import Feed, LogLines, Status, Task
from cluster.waiters import Waiters

MAX_REMEMBERED = 20_000
MAX_REMEMBERED_CHARS = 64 * 1024**2
"""Of requests and states as JSON; as objects they take about five times as many bytes."""
MAX_ANSWER_CHARS = 16 * 1024**2


class ChangeFeed:
    """The latest state of every recently changed task, ordered by change, and log lines of those that run.

    Of the tasks, those are forgotten first whose last change is the oldest: a few thousand long transcripts
    would fill the memory. An answer holds at most `max_answer_chars` of tasks, or one that is larger: the
    line takes no frame of any size. One event loop only.
    """

    def __init__(
        self,
        epoch: int,
        *,
        max_remembered: int = MAX_REMEMBERED,
        max_remembered_chars: int = MAX_REMEMBERED_CHARS,
        max_answer_chars: int = MAX_ANSWER_CHARS,
    ) -> None:
        self._epoch = epoch
        self._seq = 0
        self._forgotten_seq = 0
        self._changed: OrderedDict[str, Task] = OrderedDict()
        self._chars: dict[str, tuple[int, int]] = {}
        self._total_chars = 0
        self._max_remembered = max_remembered
        self._max_remembered_chars = max_remembered_chars
        self._max_answer_chars = max_answer_chars
        self._tails: dict[str, LogTail] = {}
        self._followers = Waiters()

    @property
    def seq(self) -> int:
        return self._seq

    def publish(self, task: Task, written: Mapping[str, Any] | None = None) -> list[str]:
        """`task` must carry the version given by `next_version`; `written` is what the disk took of it.

        Returns the ids of tasks that are forgotten for it.
        """
        self._measure(task, written)
        self._changed.pop(task.id, None)
        self._changed[task.id] = task
        if task.status is not Status.RUNNING:
            self._tails.pop(task.id, None)
        self._followers.wake_all()
        return list(self._forget_oldest())

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
        tasks = self._since(since)
        now = self._within_bounds(tasks)
        if now < len(tasks):
            return Feed(self._epoch, tasks[now - 1].version, tasks[:now], logs=logs, has_more=True)
        return Feed(self._epoch, self._seq, tasks, logs=logs)

    def _forget_oldest(self) -> Iterator[str]:
        while len(self._changed) > 1 and (
            len(self._changed) > self._max_remembered or self._total_chars > self._max_remembered_chars
        ):
            task_id, oldest = self._changed.popitem(last=False)
            self._total_chars -= sum(self._chars.pop(task_id))
            self._forgotten_seq = oldest.version
            yield task_id

    def _since(self, since: int) -> list[Task]:
        found = []
        for task in reversed(self._changed.values()):
            if task.version <= since:
                break
            found.append(task)
        return found[::-1]

    def _within_bounds(self, tasks: list[Task]) -> int:
        """How many of the tasks one answer may hold."""
        left_chars = self._max_answer_chars
        for number, task in enumerate(tasks):
            left_chars -= sum(self._chars[task.id])
            if left_chars < 0 and number:
                return number
        return len(tasks)

    def _measure(self, task: Task, written: Mapping[str, Any] | None) -> None:
        """Note how long the task's request and state are; most of them were written out a moment ago."""
        known = self._chars.get(task.id)
        self._total_chars -= sum(known or ())
        if written is not None and "request" in written:
            self._chars[task.id] = len(written["request"]), len(written["state"])
        elif known is None:
            self._chars[task.id] = len(pickle.dumps(task.inputs)), len(pickle.dumps(task.result))
        elif written is not None:
            self._chars[task.id] = known[0], len(written["state"])
        self._total_chars += sum(self._chars[task.id])

    async def change_within(self, wait_s: float) -> bool:
        """Wait for the next change of any task; False when none came."""
        return await self._followers.woken_within(wait_s)
