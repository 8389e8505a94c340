"""Calls without their I/O: a flow is a generator of steps, which a driver (`drivers.py`) carries out.

So each call is written once, for the blocking and the asynchronous client. A step that fails is
raised inside the flow, where its `yield` stands.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar

import httpx
from httpx_sse import ServerSentEvent

T = TypeVar("T")

CHUNK_BYTES = 1024 * 1024
"""How files travel: read, sent, received and written in pieces of this size."""


class Body(Protocol):
    """A body that is sent in chunks, once: a repeated request takes a new one."""

    def chunks(self) -> Iterator[bytes]:
        """The bytes; reads files, so an event loop takes each chunk in a worker thread."""
        ...

    def sent(self, chunk: bytes) -> None:
        """Told when `chunk` is on its way."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request; `server` is what errors call the other side."""

    method: str
    url: str
    server: str
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str | int] | None = None
    json: Any = None
    body: Body | None = None


@dataclass(frozen=True, slots=True)
class Silence:
    """How long a stream may be silent, and when (by time.monotonic) following it ends anyhow."""

    limit_s: float
    until: float = math.inf

    @property
    def left_s(self) -> float | None:
        """Until that moment; None where there is none."""
        return None if self.until == math.inf else max(0.0, self.until - time.monotonic())


@dataclass(frozen=True, slots=True)
class Send:
    """Answer: the response, read in full."""

    request: Request


@dataclass(frozen=True, slots=True)
class Open:
    """Answer: the head of the response, from status 400 on also its body. An earlier stream is closed."""

    request: Request
    silence: Silence | None = None


@dataclass(frozen=True, slots=True)
class NextChunk:
    """Answer: the next bytes of the open stream as they are on the wire; none at its end."""


@dataclass(frozen=True, slots=True)
class NextMessage:
    """Answer: the next server-sent event of the open stream; None at its end."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Answered after this time."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Work:
    """File work, kept off an event loop. Answer: what the call returns."""

    call: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Emit:
    """A value for the caller who iterates over the flow."""

    value: Any


Step: TypeAlias = Send | Open | NextChunk | NextMessage | Pause | Work | Emit
Flow: TypeAlias = Generator[Step, Any, T]


def send(request: Request) -> Flow[httpx.Response]:
    return (yield Send(request))


def open_stream(request: Request, silence: Silence | None = None) -> Flow[httpx.Response]:
    return (yield Open(request, silence))


def next_chunk() -> Flow[bytes]:
    return (yield NextChunk())


def next_message() -> Flow[ServerSentEvent | None]:
    return (yield NextMessage())


def work(call: Callable[[], T]) -> Flow[T]:
    return (yield Work(call))


def as_only_value(flow: Flow[T]) -> Flow[None]:
    """Emits what `flow` returns."""
    yield Emit((yield from flow))


def resumed(flow: Flow[None], answer: Any = None, error: Exception | None = None) -> Step | None:
    """The flow's next step after its last one was answered, or failed; None at its end."""
    try:
        return flow.send(answer) if error is None else flow.throw(error)
    except StopIteration:
        return None
