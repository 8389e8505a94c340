"""Live feedback: one follower per listened-to task in this process, whatever the number of listeners.

A listener is a cursor over what its follower knows, and reads at its own speed: it gets every status
change, the log lines that are still kept, and of the progress only the newest. Nothing is queued for it.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from sse_starlette import ServerSentEvent

from api.answers import json_bytes
from api.callers import parse_keys
from api.context import ApiContext
from api.errors import TooManyListeners
from api.results import UrlOf, signed
from api.task_logs import log_lines
from api.views.live import (
    Step,
    follows,
    log_view,
    progress_event,
    step_of,
    step_view,
    steps_of,
    waits,
)
from api.views.tasks import status_view
from cluster.errors import ClusterError, RegistryUnavailable, TaskNotFound
from cluster.log_lines import bounded
from cluster.task import LogLines, Progress, Status, Task

_WAIT_S = 60.0
_PAUSE_S = 1.0
_NOTHING_YET = Progress()
_NAME = re.compile(r"s(\d{1,9})\.l(\d{1,9})")


@dataclass(slots=True)
class Cursor:
    """What a listener has been told: the number of its last step, its next log line, its last progress."""

    step: int
    line: int = 0
    progress: Progress | None = None

    @property
    def name(self) -> str:
        """The id of an event, by which a listener goes on later."""
        return f"s{self.step}.l{self.line}"


class LiveTask:
    """One task that is listened to, followed until it has ended or nobody listens."""

    def __init__(self, task: Task, context: ApiContext) -> None:
        self.task = task
        self.num_listeners = 0
        self._context = context
        self._steps: list[Step] = []
        self._log = LogLines()
        self._is_over = False
        self._is_deleted = False
        self._turn = asyncio.Event()
        self._following = asyncio.get_running_loop().create_task(self._follow())

    def stop(self) -> None:
        self._following.cancel()

    @property
    def is_over(self) -> bool:
        return self._is_over

    async def events(self, last_event_id: str, url_of: UrlOf) -> AsyncIterator[ServerSentEvent]:
        """Everything after `last_event_id`, or from now on, until the task has ended."""
        if self._steps:
            await self._ask_why_again()
        while not self._steps and not self._is_over:
            await self._turn.wait()
        cursor = await self._cursor(last_event_id)
        while True:
            turn = self._turn
            for event in list(self._news(cursor)):
                yield event
            if turn.is_set():
                continue
            if self._is_over:
                break
            await turn.wait()
        if self._is_deleted or self.task.status.is_final:
            yield await signed([self.task], self._end, cursor, url_of)

    async def _cursor(self, last_event_id: str) -> Cursor:
        """Where a listener begins: behind the event it names, else at the present step."""
        if not self._steps:
            return Cursor(0)
        present = self._steps[-1]
        named = _NAME.fullmatch(last_event_id)
        if named is not None and 0 < int(named.group(1)) <= present.number:
            cursor = Cursor(int(named.group(1)), int(named.group(2)))
            if cursor.step < self._steps[0].number:
                await self._complete()
            return cursor
        return Cursor(present.number - 1, self._log.next if present.status.is_final else 0)

    def _news(self, cursor: Cursor) -> Iterator[ServerSentEvent]:
        """What the listener has not been told; moves its cursor."""
        for step in [step for step in self._steps if step.number > cursor.step]:
            if step.status.is_final:
                yield from self._lines(cursor)
            if step.status is Status.RUNNING:
                cursor.line = 0  # each attempt has a log of its own
            cursor.step = step.number
            yield _event("status", step_view(self.task.id, step), cursor)
        yield from self._lines(cursor)
        progress = self.task.progress
        if self.task.status is Status.RUNNING and progress not in (cursor.progress, _NOTHING_YET):
            cursor.progress = progress
            yield _event("progress", progress_event(progress), cursor)

    def _lines(self, cursor: Cursor) -> Iterator[ServerSentEvent]:
        news = self._log.since(cursor.line)
        if news.lines:
            cursor.line = news.next
            yield _event("log", log_view(news), cursor)

    def _end(self, cursor: Cursor, url_of: UrlOf) -> ServerSentEvent:
        if self._is_deleted:
            return _event("end", {"task_id": self.task.id, "status": "deleted"}, cursor)
        return _event("end", status_view(self.task, url_of), cursor)

    async def _follow(self) -> None:
        task = self.task
        try:
            while not self._is_over:
                task = await self._turned(task)
        finally:
            self._is_over = True
            self._tell()

    async def _turned(self, task: Task) -> Task:
        """Learn one state of the task and wait for the next."""
        try:
            await self._learn(task)
            if task.status.is_final:
                self._is_over = True
                return task
            return await self._context.registry.changed(task, _WAIT_S)
        except TaskNotFound:
            self._is_over = self._is_deleted = True
        except RegistryUnavailable:
            await asyncio.sleep(_PAUSE_S)
        return task

    async def _learn(self, task: Task) -> None:
        log = await self._log_of(task)
        steps = await self._new_steps(task)
        self.task, self._log = task, log
        self._steps += steps
        self._tell()

    async def _new_steps(self, task: Task) -> list[Step]:
        """The steps up to the task's present one; the history fills in what went by unseen."""
        step = step_of(task)
        last = self._steps[-1] if self._steps else None
        if last is not None and step.number <= last.number:
            return []
        registry = self._context.registry
        step = waits(step, await registry.waiting(task.id) if task.status is Status.QUEUED else None)
        if last is None or follows(last, step):
            return [step]
        missed = steps_of(list(await registry.events(task.id)))
        return [one for one in missed if last.number < one.number < step.number] + [step]

    async def _ask_why_again(self) -> None:
        """For a listener that begins while the task waits: the reason may be another than at first."""
        step = self._steps[-1]
        if step.status is not Status.QUEUED:
            return
        with suppress(RegistryUnavailable):
            waiting = await self._context.registry.waiting(self.task.id)
            if waiting is not None and self._steps[-1] is step:
                self._steps[-1] = waits(step, waiting)

    async def _complete(self) -> None:
        """Put the history before the first step, for a listener that goes on from there."""
        missed = steps_of(list(await self._context.registry.events(self.task.id)))
        first = self._steps[0].number
        self._steps[:0] = [step for step in missed if step.number < first]

    async def _log_of(self, task: Task) -> LogLines:
        """The newest lines of the attempt; those of a lost or earlier one are not its own."""
        if task.status is Status.QUEUED:
            return LogLines()
        try:
            log = await log_lines(self._context, task)
        except RegistryUnavailable:
            raise
        except ClusterError:
            return self._log  # the store does not answer: the lines so far must do
        return bounded(log) if log.lines else LogLines(task.fence)

    def _tell(self) -> None:
        turn, self._turn = self._turn, asyncio.Event()
        turn.set()


class LiveTasks:
    """The listened-to tasks of one process, and how many listeners it takes."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._live: dict[str, LiveTask] = {}
        self._num_listeners: Counter[str] = Counter()  # of each tenant
        settings = context.settings
        self._most = settings.max_listeners
        has_several = len({key.tenant for key in parse_keys(settings.api_keys)}) > 1
        self._most_of_one = max(1, self._most // 2) if has_several else self._most

    def check_room(self, tenant: str) -> None:
        """Raise TooManyListeners where one more listener of the tenant is too many."""
        if self._num_listeners.total() >= self._most:
            text = "too many event streams and long polls are open at this server: try again soon, or poll"
            raise TooManyListeners(text)
        if self._num_listeners[tenant] >= self._most_of_one:
            raise TooManyListeners(
                f"your {self._most_of_one} event streams and long polls at this server are open: close some,"
                " or poll"
            )

    @contextmanager
    def listener(self, tenant: str) -> Iterator[None]:
        """One listener's place. Raises TooManyListeners."""
        self.check_room(tenant)
        self._num_listeners[tenant] += 1
        try:
            yield
        finally:
            self._num_listeners[tenant] -= 1

    async def events(self, task: Task, last_event_id: str, url_of: UrlOf) -> AsyncIterator[ServerSentEvent]:
        """The stream of one listener, which holds its place meanwhile (`listener`)."""
        with self._followed(task) as live:
            async for event in live.events(last_event_id, url_of):
                yield event

    @contextmanager
    def _followed(self, task: Task) -> Iterator[LiveTask]:
        live = self._live.get(task.id)
        if live is None or live.is_over:
            live = self._live[task.id] = LiveTask(task, self._context)
        live.num_listeners += 1
        try:
            yield live
        finally:
            live.num_listeners -= 1
            if live.num_listeners == 0:
                live.stop()
                if self._live.get(task.id) is live:
                    del self._live[task.id]


def _event(kind: str, data: object, cursor: Cursor) -> ServerSentEvent:
    return ServerSentEvent(json_bytes(data).decode(), event=kind, id=cursor.name, sep="\n")
