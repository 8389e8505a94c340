"""Following one task until it is final: by the server's event stream, or by asking again. No I/O here."""

from __future__ import annotations

import math
import time

from httpx_sse import ServerSentEvent

from mediaray.calls import Calls, task_path
from mediaray.errors import ApiError, ServerUnavailable, TaskCancelled, TaskFailed, WaitTimeout
from mediaray.events import EventReader, LogLines, StatusChange, TaskEnd, TaskEvent
from mediaray.steps import Emit, Flow, Pause, Silence, next_message, open_stream
from mediaray.transport import FIRST_DELAY_S, Patience, delays_s, raise_for_error, with_retries
from mediaray.values import CANCELLED, DELETED, FAILED, FINAL, Progress, ProgressCallback, TaskView

LONGEST_OUTAGE_S = 300.0
"""How long following without a time limit goes on trying a server that does not answer at all."""
LONGEST_SILENCE_S = 45.0
"""Three heartbeats of the server: a stream that stays silent for longer is dead."""
STEADY_S = 50.0
"""A stream that lasted this long was kept open by heartbeats: one that is silent ends before."""
SHORTEST_SILENCE_S = 1.0
"""What a server gets to answer in when the time limit is nearly reached."""
NO_SUCH_ENDPOINT = frozenset({404, 405})
NO_ROOM = "TOO_MANY_LISTENERS"
"""The server's code for: as many streams are open as may be, but the status can be asked."""


class _NoStream(Exception):
    """There is no event stream to be had for this task, by what the server answered."""


class TimeLimit:
    """When to stop following; `timeout_s` None: never."""

    def __init__(self, task_id: str, timeout_s: float | None) -> None:
        self._task_id = task_id
        self._timeout_s = timeout_s
        self.until = math.inf if timeout_s is None else time.monotonic() + timeout_s

    @property
    def left_s(self) -> float:
        return max(0.0, self.until - time.monotonic())

    @property
    def outage_s(self) -> float:
        """How long an outage that begins now may last."""
        return LONGEST_OUTAGE_S if self._timeout_s is None else self.left_s

    def check(self, pause_s: float = 0.0) -> None:
        """Raises WaitTimeout when the limit is reached, or would be after a pause."""
        if self._timeout_s is not None and time.monotonic() + pause_s >= self.until:
            raise WaitTimeout(self._task_id, self._timeout_s)


class EventStream:
    """The server's events of one task, across broken connections and restarts."""

    def __init__(self, calls: Calls, task_id: str, reader: EventReader, limit: TimeLimit) -> None:
        self._calls = calls
        self._path = task_path(task_id, "events")
        self._reader = reader
        self._limit = limit
        self._last_id = ""
        self._is_open = False
        self._opened_at = 0.0
        self._has_told = False
        self._patience = Patience(LONGEST_OUTAGE_S if limit.until == math.inf else math.inf, limit.until)

    def next(self) -> Flow[TaskEvent]:
        """Raises _NoStream where there is no such endpoint, no such task, or no room for a listener."""
        event = None
        while event is None:
            message = yield from with_retries(self._next_message, self._patience)
            event = self._calls.read(lambda one: self._reader.read(one.event, one.data), message)
        return event

    def _next_message(self) -> Flow[ServerSentEvent]:
        if not self._is_open:
            yield from self._open()
        try:
            message = yield from next_message()
        except ServerUnavailable:
            self._broken()
            raise
        if message is None:
            self._broken()
            raise ServerUnavailable(self._calls.base_url, "the event stream ended early")
        self._has_told = True
        self._last_id = message.id or self._last_id
        return message

    def _broken(self) -> None:
        self._is_open = False
        self._limit.check(FIRST_DELAY_S)
        if self._has_told or time.monotonic() - self._opened_at >= STEADY_S:
            self._patience.renew()  # the outage begins only now
        self._has_told = False

    def _open(self) -> Flow[None]:
        headers = {"accept": "text/event-stream", "cache-control": "no-store"}
        headers |= {"last-event-id": self._last_id} if self._last_id else {}
        silence_s = min(LONGEST_SILENCE_S, max(SHORTEST_SILENCE_S, self._limit.left_s))
        response = yield from open_stream(
            self._calls.request("GET", self._path, headers=headers), Silence(silence_s, self._limit.until)
        )
        try:
            raise_for_error(response)
        except ApiError as error:
            if error.status in NO_SUCH_ENDPOINT or error.code == NO_ROOM:
                raise _NoStream from error
            raise
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise self._calls.wrong_server()
        self._is_open = True
        self._opened_at = time.monotonic()


class StatusPolls:
    """The same by asking for the status: often at first, every `poll_s` later. Log lines are not told."""

    def __init__(
        self, calls: Calls, task_id: str, reader: EventReader, limit: TimeLimit, poll_s: float
    ) -> None:
        self._calls = calls
        self._task_id = task_id
        self._reader = reader
        self._limit = limit
        self._pauses_s = delays_s(min(FIRST_DELAY_S, poll_s), poll_s)
        self._is_first = True

    def next(self) -> Flow[TaskEvent]:
        if not self._is_first:
            pause_s = next(self._pauses_s)
            self._limit.check(pause_s)
            yield Pause(pause_s)
        self._is_first = False
        view = yield from self._calls.status(self._task_id, self._limit.outage_s)
        return self._reader.polled(view)


class Following:
    """The events of one task to its end, by the server's stream where it has one.

    A server without the endpoint answers 404 or 405 to it while it shows the task's status: that look at the
    status, the first poll, tells it from a task that does not exist.
    """

    def __init__(
        self, calls: Calls, task_id: str, *, timeout_s: float | None = None, poll_s: float = 1.0
    ) -> None:
        self._limit = TimeLimit(task_id, timeout_s)
        reader = EventReader(task_id)
        self._polls = StatusPolls(calls, task_id, reader, self._limit, poll_s)
        self._source: EventStream | StatusPolls = EventStream(calls, task_id, reader, self._limit)

    def next(self) -> Flow[TaskEvent]:
        try:
            return (yield from self._source.next())
        except _NoStream:
            self._source = self._polls
        return (yield from self._source.next())

    def events(self) -> Flow[None]:
        """Emits every event, a TaskEnd last."""
        event = None
        while not isinstance(event, TaskEnd):
            event = yield from self.next()
            yield Emit(event)

    def end(self, on_progress: ProgressCallback | None) -> Flow[TaskView]:
        """The completed task. Raises what `settled` raises, and WaitTimeout."""
        while True:
            event = yield from self.next()
            progress = progress_of(event)
            if on_progress and progress:
                on_progress(progress)
            if isinstance(event, TaskEnd):
                return settled(event.view)
            self._limit.check()


def progress_of(event: TaskEvent) -> Progress | None:
    """How far the task is after this event; None where the event does not tell.

    A change to a final status only repeats what was said last: the TaskEnd behind it knows.
    """
    if isinstance(event, LogLines) or (isinstance(event, StatusChange) and event.status in FINAL):
        return None
    return event.view.progress if isinstance(event, TaskEnd) else event.progress


def settled(view: TaskView) -> TaskView:
    """The view of a completed task. Raises TaskFailed, TaskCancelled, or ApiError where it was deleted."""
    if view.status == DELETED:
        raise ApiError(404, "TASK_NOT_FOUND", f"task {view.id} was deleted")
    if view.status == CANCELLED:
        raise TaskCancelled(view.id)
    if view.status == FAILED:
        result = view.result or {}
        raise TaskFailed(
            view.id, str(result.get("error_code") or ""), str(result.get("error") or view.message)
        )
    return view
