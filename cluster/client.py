"""The registry from any process: the same methods and errors, over the line into its actor.

Knows nothing of Ray: `find` tells where the registry listens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_exponential_jitter,
)

from cluster.channel import ChannelAddress, ChannelBroken, ChannelClient
from cluster.delivery import CallbackReport
from cluster.errors import ClusterError, RegistryFault, RegistryUnavailable
from cluster.outbox import DueCallback
from cluster.task import (
    Beat,
    Depth,
    Feed,
    Json,
    LeaseRequest,
    LogLines,
    NewTask,
    Outcome,
    Status,
    Submission,
    Task,
    TaskEvent,
    TaskPage,
    TaskQuery,
    Verdict,
)
from cluster.waiting import Waiting

PATIENCE_S = 30.0
_REPEATED_ARGS = {"cancel": (True,), "delete": (True,)}

_Calls = list[tuple[str, tuple[Any, ...]]]
_Pending = list[tuple[str, tuple[Any, ...], asyncio.Future[Any]]]

FindRegistry = Callable[[], Awaitable[ChannelAddress]]
"""Raises ChannelBroken while there is no registry."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RegistryFacts:
    """What the running actor says of itself.

    `settings_digest` tells whether it must be replaced, `channel` where to reach it without Ray.
    """

    pid: int
    epoch: int
    settings_digest: str
    channel: ChannelAddress


class RegistryClient:
    """The registry from any process: same methods, same errors, batched and retried calls.

    Quick calls that are made while a batch is under way travel together in the next. While the actor
    restarts, calls are repeated (each may have been heard already) until `PATIENCE_S` is over; then
    RegistryUnavailable. One instance belongs to one event loop.
    """

    def __init__(self, find: FindRegistry) -> None:
        self._find = find
        self._line: ChannelClient | None = None
        self._connecting = asyncio.Lock()
        self._pending: _Pending = []
        self._sender: asyncio.Task[None] | None = None
        self._is_sending = False

    async def submit(self, new: NewTask) -> Submission:
        submission: Submission = await self._call_together("submit", new)
        return submission

    async def get(self, task_id: str) -> Task:
        task: Task = await self._call("get", task_id)
        return task

    async def keyed(self, tenant: str, idempotency_key: str) -> Task | None:
        task: Task | None = await self._call("keyed", tenant, idempotency_key)
        return task

    async def counts(self, tenant: str | None = None, dialect: str | None = None) -> dict[Status, int]:
        counts: dict[Status, int] = await self._call("counts", tenant, dialect)
        return counts

    async def events(self, task_id: str) -> Sequence[TaskEvent]:
        events: Sequence[TaskEvent] = await self._call("events", task_id)
        return events

    async def depths(self) -> dict[str, Depth]:
        depths: dict[str, Depth] = await self._call("depths")
        return depths

    async def cancel(self, task_id: str) -> Task:
        task: Task = await self._call("cancel", task_id)
        return task

    async def delete(self, task_id: str) -> None:
        await self._call("delete", task_id)

    async def annotate(self, task_id: str, facts: Json) -> Task:
        task: Task = await self._call("annotate", task_id, facts)
        return task

    async def redirect_callback(self, task_id: str, url: str, request_id: str) -> Task:
        task: Task = await self._call_together("redirect_callback", task_id, url, request_id)
        return task

    async def replay_callback(self, task_id: str, number: int, request_id: str) -> Task:
        task: Task = await self._call("replay_callback", task_id, number, request_id)
        return task

    async def lease_callbacks(self, limit: int, wait_s: float) -> Sequence[DueCallback]:
        due: Sequence[DueCallback] = await self._call("lease_callbacks", limit, wait_s)
        return due

    async def report_callback(self, report: CallbackReport) -> None:
        await self._call_together("report_callback", report)

    async def watch(self, epoch: int, since: int, wait_s: float) -> Feed:
        feed: Feed = await self._call("watch", epoch, since, wait_s)
        return feed

    async def log_tail(self, task_id: str) -> LogLines:
        lines: LogLines = await self._call("log_tail", task_id)
        return lines

    async def waiting(self, task_id: str) -> Waiting | None:
        waiting: Waiting | None = await self._call("waiting", task_id)
        return waiting

    async def lease(self, request: LeaseRequest) -> Sequence[Task]:
        # Never with an outcome: that waits for the disk, and a lease does not.
        tasks: Sequence[Task] = await self._call("lease", request)
        return tasks

    async def beat(self, worker: str, beats: Sequence[Beat]) -> Sequence[Verdict]:
        verdicts: Sequence[Verdict] = await self._call("beat", worker, beats)
        return verdicts

    async def finish(self, outcomes: Sequence[Outcome]) -> Sequence[bool]:
        accepted: Sequence[bool] = await self._call_together("finish", outcomes)
        return accepted

    async def facts(self) -> RegistryFacts:
        facts: RegistryFacts = await self._call("facts")
        return facts

    async def list(self, query: TaskQuery) -> TaskPage:
        page: TaskPage = await self._call("list", query)
        return page

    async def _call(self, method: str, *args: Any) -> Any:
        """A call that may wait or read the database for long, and so travels alone."""
        return _value((await self._ask([(method, args)]))[0])

    async def _call_together(self, method: str, *args: Any) -> Any:
        """A quick call: at once where none is under way, else with all that come meanwhile."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._is_sending:
            self._pending.append((method, args, answer))
        else:
            await self._send_first((method, args, answer))
        return _value(await answer)

    async def _send_first(self, call: tuple[str, tuple[Any, ...], asyncio.Future[Any]]) -> None:
        """Send a call from its caller's own task: starting another costs as much as the sending."""
        self._is_sending = True
        try:
            await self._send([call])
        finally:
            if self._pending:
                self._sender = asyncio.get_running_loop().create_task(self._send_pending())
            else:
                self._is_sending = False

    async def _send_pending(self) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            await self._send(batch)
        self._is_sending = False

    async def _send(self, batch: _Pending) -> None:
        answers: Sequence[Any]
        try:
            answers = await self._ask([(method, args) for method, args, _ in batch])
        except ClusterError as error:
            answers = [error] * len(batch)
        except Exception as error:  # the loop edge: without an answer the callers would wait for ever
            logger.exception("calls to the task registry failed")
            answers = [RegistryFault(f"{type(error).__name__}: {error}")] * len(batch)
        for (_, _, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)

    async def _ask(self, calls: _Calls) -> Sequence[Any]:
        try:
            return await self._ask_once(calls)
        except ChannelBroken:
            _mark_repeated(calls)
            return await self._ask_again(calls)

    async def _ask_again(self, calls: _Calls) -> Sequence[Any]:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(ChannelBroken),
            wait=wait_exponential_jitter(multiplier=0.05, max=1.0),
            stop=stop_after_delay(PATIENCE_S),
            reraise=True,
        )
        try:
            answers: Sequence[Any] = await retrying(self._ask_once, calls)
        except ChannelBroken as error:
            raise RegistryUnavailable(f"the task registry does not answer: {error}") from error
        return answers

    async def _ask_once(self, calls: _Calls) -> Sequence[Any]:
        line = self._line or await self._connect()
        try:
            answers: Sequence[Any] = await line.call_many(calls)
        except ChannelBroken:
            if self._line is line:
                self._line = None
                line.close()
            raise
        return answers

    async def _connect(self) -> ChannelClient:
        """Find the registry and open a line to it; once for all calls that need it now."""
        async with self._connecting:
            if self._line is None:
                self._line = await ChannelClient.connect(await self._find())
            return self._line


def _value(answer: Any) -> Any:
    if isinstance(answer, ClusterError):
        raise answer
    return answer


def _mark_repeated(calls: _Calls) -> None:
    """Before a repetition: what the first call asked for may have happened."""
    calls[:] = [
        (method, (*map(_as_repeated, args), *_REPEATED_ARGS.get(method, ()))) for method, args in calls
    ]


def _as_repeated(argument: Any) -> Any:
    return replace(argument, is_fresh_id=False) if isinstance(argument, NewTask) else argument
