"""Live feedback on our own API: long poll, event stream and log of one task.

Served from this process's memory: however many listen, the registry sees one feed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Annotated, Any

from pydantic import BaseModel, Field
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from api.answers import Json
from api.bodies import parse_query
from api.edge import Edge, edge_of, own_task
from api.errors import NotFound
from api.file_responses import file_response
from api.results import signed
from api.routing import direct_router, header_parameter, query_parameters
from api.task_logs import log_lines
from api.views.live import LiveStatus, live_view, step_of
from api.views.problems import problems
from cluster import keys
from cluster.task import Status, Task

HEARTBEAT_S = 15
MAX_WAIT_S = 60

router = direct_router("tasks")


class WaitQuery(BaseModel):
    """How long to wait for the end of the task, or with `since` for any other status than that version."""

    wait: Annotated[float, Field(ge=0, le=MAX_WAIT_S, allow_inf_nan=False, description="Seconds")] = 0.0
    since: Annotated[int | None, Field(ge=0, le=10**9, description="A `version` of an answer")] = None


class EventsQuery(BaseModel):
    """Where to go on, for clients that cannot send Last-Event-ID."""

    last_event_id: Annotated[str, Field(max_length=64)] = ""


class LogsQuery(BaseModel):
    """How much of the log: the last `tail` lines, or all there are."""

    tail: Annotated[int | None, Field(ge=0, le=100_000)] = None


class _EventStream(EventSourceResponse):
    """A stream of events that takes its listener's place before it answers: 503 where there is none."""

    def __init__(self, events: AsyncIterator[ServerSentEvent], place: AbstractContextManager[None]) -> None:
        super().__init__(
            events,
            ping=HEARTBEAT_S,
            ping_message_factory=lambda: ServerSentEvent(comment="alive", sep="\n"),
            sep="\n",
        )
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._place:
            await super().__call__(scope, receive, send)


_LAST_EVENT_ID = header_parameter("Last-Event-ID", "The id of the last event that was seen")
_EVENT = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
    "description": "`data` is JSON: a step of the status, a log line, or at the end the whole status",
}
_STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": _EVENT}}}}
_TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


@router.get(
    "/v1/tasks/{task_id}",
    response_model=LiveStatus,
    responses=problems(404, 422, 503),
    openapi_extra=query_parameters(WaitQuery),
)
async def task(request: Request, task_id: str) -> Response:
    """How the task stands and, while it is queued, why it waits.

    With `wait` the answer comes as soon as the task has ended, or its status is another than that of
    `since`, and after `wait` seconds in any case.
    """
    query = parse_query(WaitQuery, request)
    edge = edge_of(request)
    found = await own_task(request, task_id)
    if query.wait and not _is_awaited(found, query):
        with edge.live.listener(found.tenant):
            found = await _waited(edge, found, query)
    waiting = await edge.context.registry.waiting(task_id) if found.status is Status.QUEUED else None
    return Json(await signed([found], live_view, found, waiting, edge.url_of(request)))


@router.get(
    "/v1/tasks/{task_id}/events",
    responses={**_STREAM, **problems(404, 503)},
    openapi_extra={
        "parameters": [*query_parameters(EventsQuery)["parameters"], _LAST_EVENT_ID],
    },
)
async def task_events(request: Request, task_id: str) -> Response:
    """Server-sent events: `status` with every change, `progress`, `log`, and `end` with the full status.

    Reconnecting with the last event's id goes on behind it: status changes and log lines are told again, of
    the progress only the newest. Lines are numbered from 0 in each attempt; a jump of `first` means
    that lines between were not kept. A task that is deleted ends with the status `deleted`.
    """
    query = parse_query(EventsQuery, request)
    edge = edge_of(request)
    found = await own_task(request, task_id)
    last_event_id = request.headers.get("last-event-id", query.last_event_id)
    events = edge.live.events(found, last_event_id, edge.url_of(request))
    return _EventStream(events, edge.live.listener(found.tenant))


@router.get(
    "/v1/tasks/{task_id}/logs",
    responses={**_TEXT, **problems(404, 416, 422, 503)},
    openapi_extra=query_parameters(LogsQuery),
)
async def task_logs(request: Request, task_id: str) -> Response:
    """The log of the running attempt as far as memory keeps it, else of the last one as it is stored."""
    query = parse_query(LogsQuery, request)
    edge = edge_of(request)
    found = await own_task(request, task_id)
    if query.tail is None and found.fence and found.status is not Status.RUNNING:
        return await _stored_log(request, edge, found)
    lines = (await log_lines(edge.context, found)).lines
    shown = lines if query.tail is None else lines[max(0, len(lines) - query.tail) :]
    return _text("".join(f"{line}\n" for line in shown))


def _is_awaited(task: Task, query: WaitQuery) -> bool:
    return task.status.is_final or query.since not in {None, step_of(task).number}


async def _waited(edge: Edge, task: Task, query: WaitQuery) -> Task:
    loop = asyncio.get_running_loop()
    until = loop.time() + query.wait
    while not _is_awaited(task, query) and (left_s := until - loop.time()) > 0:
        task = await edge.context.registry.changed(task, left_s)
    return task


async def _stored_log(request: Request, edge: Edge, task: Task) -> Response:
    """The stored file; nothing where the attempt logged nothing."""
    key = keys.log_key(task.id, task.fence)
    try:
        return await file_response(request, edge.context.storage, key, filename=f"{task.id}.log")
    except NotFound:
        return _text("")


def _text(text: str) -> Response:
    return PlainTextResponse(text.encode(errors="replace"), headers={"X-Content-Type-Options": "nosniff"})
