"""Callbacks: the loop of an ingress replica that sends what ended tasks owe to their callback URLs.

The registry keeps what is owed and leases it out, so any number of loops share the work, and one that dies
loses nothing: what it did not report is sent again, under the same `webhook-id`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from api.answers import json_bytes
from api.dialects import TASKS
from api.results import UrlOf, signed
from api.views.tasks import callback_view
from cluster.delivery import CallbackReport, Delivery, DeliveryTry
from cluster.errors import ClusterError, RegistryUnavailable, UnsafeUrl
from cluster.outbox import DueCallback
from cluster.task import Task
from cluster.urls import Answer
from cluster.webhooks import Signer, message_id, retry_after_s

TIMEOUT_S = 20.0
SLOTS = 32
_LEASE_WAIT_S = 3.0
_PAUSE_S = 0.5

logger = logging.getLogger(__name__)


class CallbackRegistry(Protocol):
    """What the sender needs of the registry."""

    async def lease_callbacks(self, limit: int, wait_s: float) -> Sequence[DueCallback]: ...
    async def report_callback(self, report: CallbackReport) -> None: ...


class Poster(Protocol):
    """What opens callers' URLs (`cluster.urls.UrlGuard`)."""

    async def post(self, url: str, content: bytes, headers: Mapping[str, str], timeout_s: float) -> Answer:
        """Raises UnsafeUrl and UrlUnreachable; follows no redirects."""


class CallbackSender:
    """Sends up to SLOTS callbacks at a time. One event loop."""

    def __init__(
        self,
        registry: CallbackRegistry,
        poster: Poster,
        signer: Signer,
        url_of: UrlOf,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._poster = poster
        self._signer = signer
        self._url_of = url_of
        self._now = now
        self._free_slots = SLOTS
        self._slot_freed = asyncio.Event()
        self._deliveries: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send; call on the running event loop."""
        self._running = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Break off; what is under way will be sent again by another sender."""
        if self._running is not None:
            tasks = {self._running, *self._deliveries}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def turn(self, wait_s: float) -> Sequence[asyncio.Task[None]]:
        """Lease what is due, waiting up to `wait_s`, and begin to send it."""
        due = await self._registry.lease_callbacks(self._free_slots, wait_s)
        return [self._begin(callback) for callback in due]

    async def _run(self) -> None:
        while True:
            try:
                await self._wait_for_slot()
                await self.turn(_LEASE_WAIT_S)
            except RegistryUnavailable:
                await asyncio.sleep(_PAUSE_S)
            except Exception:  # the loop edge: one bad turn must not end all callbacks of this process
                logger.exception("callbacks: this turn failed, the next one follows")
                await asyncio.sleep(_PAUSE_S)

    async def _wait_for_slot(self) -> None:
        while self._free_slots == 0:
            self._slot_freed.clear()
            await self._slot_freed.wait()

    def _begin(self, callback: DueCallback) -> asyncio.Task[None]:
        self._free_slots -= 1
        running = asyncio.get_running_loop().create_task(self._deliver(callback))
        self._deliveries.add(running)
        running.add_done_callback(self._ended)
        return running

    def _ended(self, running: asyncio.Task[None]) -> None:
        self._deliveries.discard(running)
        self._free_slots += 1
        self._slot_freed.set()
        if not running.cancelled() and (error := running.exception()) is not None:
            logger.error("a callback was not seen through; it is tried again", exc_info=error)

    async def _deliver(self, callback: DueCallback) -> None:
        task, delivery = callback.task, callback.delivery
        tried = await self._try(task, delivery)
        report = CallbackReport(task.id, delivery.number, delivery.num_tries, tried)
        while True:
            try:
                return await self._registry.report_callback(report)
            except RegistryUnavailable:
                await asyncio.sleep(_PAUSE_S)

    async def _try(self, task: Task, delivery: Delivery) -> DeliveryTry:
        """One POST, with download URLs and a signature of this moment."""
        at, begun_s = self._now(), time.monotonic()
        try:
            body = json_bytes(await signed([task], callback_view, task, self._url_of))
            headers = {
                "Content-Type": "application/json",
                "X-Task-Status": TASKS.word(task),
                **self._signer.headers(message_id(task, delivery.number), at, body),
            }
            answer = await self._poster.post(delivery.url, body, headers, TIMEOUT_S)
        except ClusterError as error:
            is_refused = isinstance(error, UnsafeUrl)
            return DeliveryTry(at, time.monotonic() - begun_s, error=str(error), is_refused=is_refused)
        except Exception as error:  # the loop edge: uncounted, the same failure would come back for ever
            logger.exception("task %s: delivery %s could not be tried", task.id, delivery.number)
            return DeliveryTry(at, time.monotonic() - begun_s, error=f"server error: {type(error).__name__}")
        wait_s = retry_after_s(answer.headers.get("retry-after"), at)
        return DeliveryTry(at, time.monotonic() - begun_s, answer.status, retry_after_s=wait_s)
