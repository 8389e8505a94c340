"""The control thread of a replica: leases tasks, beats for its attempts, reports how they ended.

It runs an event loop of its own and never anything long, so that a busy engine cannot miss a beat.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from cluster.client import RegistryClient
from cluster.errors import ClusterError, RegistryFault, RegistryUnavailable
from cluster.task import Beat, LeaseRequest, Outcome, OutcomeKind, Task, Verdict
from deployments.attempt import RunningAttempt
from deployments.niceness import yield_cores

logger = logging.getLogger("ray.serve")

_LEASE_WAIT_S = 3.0
_BEAT_S = 0.4
_PAUSE_S = 0.5
_HEALTH_BOUND_S = 60.0
# How long an engine may ignore a cancel or its deadline before the whole process goes.
_STOP_BOUND_S = 10.0
# How long the log of such an attempt may take to be stored before its process goes.
_LOG_BOUND_S = 2.0


class Worker(Protocol):
    """What runs attempts for a lease loop."""

    async def prepare(self) -> None:
        """Load what the first attempt needs, on a worker thread; called before the first lease."""

    def begin(self, task: Task) -> tuple[RunningAttempt, asyncio.Future[Outcome]]:
        """Start an attempt on a worker thread; called on the control thread's event loop."""


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """Whom the loop leases for, and how many tasks at a time."""

    service: str
    worker: str
    slots: int


class LeaseLoop:
    """One replica's loop, on a daemon thread; `drain` ends it in peace."""

    def __init__(
        self, terms: LeaseTerms, make_registry: Callable[[], RegistryClient], worker: Worker
    ) -> None:
        self._terms = terms
        self._make_registry = make_registry
        self._worker = worker
        # By task id and fence: a replica may lease a task again while its lost attempt still stops.
        self._attempts: dict[tuple[str, str], RunningAttempt] = {}
        self._reports: set[asyncio.Task[None]] = set()
        self._free_slots = terms.slots
        self._slot_freed = asyncio.Event()
        self._is_draining = threading.Event()
        self._turned_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="lease-loop", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        """Raise RuntimeError when the loop is dead or has not turned for a while."""
        silent_s = time.monotonic() - self._turned_s
        if not self._thread.is_alive() or silent_s > _HEALTH_BOUND_S:
            raise RuntimeError(f"the lease loop of {self._terms.worker} has been silent for {silent_s:.0f} s")

    def drain(self) -> None:
        """Lease nothing more; return when every running attempt has ended and is reported."""
        self._is_draining.set()
        self._thread.join()

    def _run(self) -> None:
        yield_cores()
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._registry = self._make_registry()
        beats = asyncio.get_running_loop().create_task(self._beat_for_ever())
        await self._prepare()
        while not self._is_draining.is_set():
            try:
                await self._lease()
            except RegistryUnavailable:
                await asyncio.sleep(_PAUSE_S)
            except Exception:  # the loop edge: one bad turn must not end the replica's work
                logger.exception("lease loop: this turn failed, the next one follows")
                await asyncio.sleep(_PAUSE_S)
        await asyncio.gather(*self._reports, return_exceptions=True)
        beats.cancel()

    async def _prepare(self) -> None:
        try:
            await self._worker.prepare()
        except Exception:  # the loop edge: the tasks that need what is missing fail with the reason
            logger.exception("prepare failed; tasks are leased all the same")

    async def _lease(self) -> None:
        """One turn: wait for a free slot, then for work, then begin it."""
        tasks: Sequence[Task] = ()
        if self._free_slots == 0:
            self._slot_freed.clear()
            await self._slot_freed.wait()
            tasks = await self._registry.lease(self._request(wait_s=0.0))
        for task in tasks or await self._registry.lease(self._request(wait_s=_LEASE_WAIT_S)):
            self._begin(task)

    def _request(self, wait_s: float) -> LeaseRequest:
        terms = self._terms
        return LeaseRequest(terms.service, terms.worker, uuid.uuid4().hex, self._free_slots, wait_s)

    def _begin(self, task: Task) -> None:
        if self._is_draining.is_set():
            report = self._hand_back(task)
        else:
            attempt, ended = self._worker.begin(task)
            self._attempts[_key(attempt)] = attempt
            self._free_slots -= 1
            report = self._follow(attempt, ended)
        running = asyncio.get_running_loop().create_task(report)
        self._reports.add(running)
        running.add_done_callback(self._reported)

    def _reported(self, running: asyncio.Task[None]) -> None:
        self._reports.discard(running)
        if not running.cancelled() and (error := running.exception()) is not None:
            logger.error("lease loop: an attempt was not seen through", exc_info=error)

    async def _follow(self, attempt: RunningAttempt, ended: asyncio.Future[Outcome]) -> None:
        """See an attempt through: its end, its report, its cleaning up."""
        try:
            outcome = await self._outcome(attempt, ended)
            outcome, is_accepted = await self._report_or_fail(attempt, outcome)
        finally:
            self._attempts.pop(_key(attempt), None)
        try:
            await asyncio.to_thread(attempt.settle, outcome, is_accepted=is_accepted)
        except ClusterError as error:
            logger.warning("task %s: files nobody needs were not removed: %s", attempt.task_id, error)

    async def _outcome(self, attempt: RunningAttempt, ended: asyncio.Future[Outcome]) -> Outcome:
        """How the attempt ended; its slot is free from then on."""
        try:
            return await ended
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            logger.exception("task %s: its worker thread broke", attempt.task_id)
            return attempt.failed_outcome(error)
        finally:
            self._free_slots += 1
            self._slot_freed.set()

    async def _hand_back(self, task: Task) -> None:
        await self._report(Outcome(task.id, task.fence, self._terms.worker, OutcomeKind.HANDED_BACK))

    async def _report_or_fail(self, attempt: RunningAttempt, outcome: Outcome) -> tuple[Outcome, bool]:
        """Report `outcome`, or where it cannot be recorded that; with the registry's answer."""
        try:
            return outcome, await self._report(outcome)
        except RegistryFault as error:
            logger.exception("task %s: its outcome cannot be recorded", attempt.task_id)
            outcome = attempt.failed_outcome(error)
            return outcome, await self._report(outcome)

    async def _report(self, outcome: Outcome) -> bool:
        """Ask the registry until it answers whether it takes the outcome, whatever beats were told.

        Only this answer says whether the files of the attempt are of use.
        """
        while True:
            try:
                return (await self._registry.finish([outcome]))[0]
            except RegistryUnavailable:
                await asyncio.sleep(_PAUSE_S)

    async def _beat_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_S)
            self._turned_s = time.monotonic()
            try:
                await self._beat()
            except RegistryUnavailable:
                logger.warning("beat: the task registry does not answer; attempts go on")
            except Exception:  # the loop edge: a lost beat is repeated, a dead beat loop loses tasks
                logger.exception("beat: this turn failed, the next one follows")

    async def _beat(self) -> None:
        attempts = list(self._attempts.values())
        if not attempts:
            return
        await self._end_the_deaf(attempts)
        beats = [_beat(attempt) for attempt in attempts]
        verdicts = await self._registry.beat(self._terms.worker, beats)
        for attempt, beat, verdict in zip(attempts, beats, verdicts, strict=True):
            attempt.log.heard(beat.log)
            if verdict is not Verdict.OK:
                attempt.cancel()

    async def _end_the_deaf(self, attempts: list[RunningAttempt]) -> None:
        """The last resort against work that does not stop: report it, then end this process."""
        for attempt in attempts:
            if attempt.overdue_s < _STOP_BOUND_S:
                continue
            logger.error("task %s ignores its end: this replica exits and is replaced", attempt.task_id)
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.to_thread(attempt.store_log), _LOG_BOUND_S)
            await self._registry.finish([attempt.deaf_outcome()])
            if attempt.overdue_s >= _STOP_BOUND_S:  # unless it ended while the registry was asked
                os._exit(1)


def _beat(attempt: RunningAttempt) -> Beat:
    return Beat(attempt.task_id, attempt.task.fence, attempt.progress, attempt.log.unheard())


def _key(attempt: RunningAttempt) -> tuple[str, str]:
    return attempt.task_id, attempt.task.fence
