"""The registry's operations on callbacks: what callers ask for, and what senders lease and report."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from cluster.book import TaskBook
from cluster.delivery import CallbackReport, DeliveryStatus
from cluster.errors import DeliveryNotFound, TaskNotFound
from cluster.outbox import DueCallback, delivery_of, redirected, replayed, reported
from cluster.task import Task


class CallbackDesk:
    """Part of one `TaskRegistry`. `get` is its read: what it returns is in memory or on disk, and newest."""

    def __init__(
        self, book: TaskBook, get: Callable[[str], Awaitable[Task]], now: Callable[[], float]
    ) -> None:
        self._book = book
        self._get = get
        self._now = now

    async def redirect(self, task_id: str, url: str, request_id: str) -> Task:
        """Raises TaskNotFound."""
        task = await self._get(task_id)
        return await self._change(task, redirected(task, url, request_id, self._now()))

    async def replay(self, task_id: str, number: int, request_id: str) -> Task:
        """Raises TaskNotFound, DeliveryNotFound, DeliveryPending."""
        task = await self._get(task_id)
        return await self._change(task, replayed(task, number, request_id, self._now()))

    async def lease(self, limit: int, wait_s: float) -> Sequence[DueCallback]:
        """Up to `limit` deliveries that are due, waiting up to `wait_s` for the first."""
        loop, outbox = asyncio.get_running_loop(), self._book.outbox
        begun = loop.time()
        while not (due := outbox.take(limit, self._now())):
            if not await outbox.due_within(begun + wait_s - loop.time()):
                return []
        outbox.wake(self._now())
        found = [await self._due_callback(task_id, number) for task_id, number in due]
        return [callback for callback in found if callback is not None]

    async def report(self, report: CallbackReport) -> None:
        """Record how one try went; nothing where the task or its delivery is gone."""
        try:
            task = await self._get(report.task_id)
            after = reported(task, report, self._now())
        except (TaskNotFound, DeliveryNotFound):
            return
        status = delivery_of(after, report.number).status
        event = None if status is DeliveryStatus.PENDING else f"callback_{status}"
        await self._change(task, after, event)

    async def _due_callback(self, task_id: str, number: int) -> DueCallback | None:
        try:
            task = await self._get(task_id)
            delivery = delivery_of(task, number)
        except (TaskNotFound, DeliveryNotFound):
            self._book.outbox.forget(task_id)
            return None
        return DueCallback(task, delivery) if delivery.status is DeliveryStatus.PENDING else None

    async def _change(self, task: Task, changed: Task, event: str | None = None) -> Task:
        """Record `changed`, which was made of `task` in this very turn of the loop."""
        if changed is not task:
            await asyncio.shield(self._book.change(changed, event).done)
        return await self._get(task.id)
