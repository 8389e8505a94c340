"""Carries out the steps of flows over httpx: blocking, or on an event loop."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping
from contextlib import aclosing, closing, suppress
from typing import Any, ClassVar, Self, TypeVar

import httpx
from httpx_sse import EventSource, ServerSentEvent

from mediaray.errors import MediarayError
from mediaray.steps import (
    CHUNK_BYTES,
    Body,
    Emit,
    Flow,
    NextChunk,
    NextMessage,
    Open,
    Pause,
    Request,
    Send,
    Silence,
    Step,
    Work,
    as_only_value,
    resumed,
)
from mediaray.transport import translated

T = TypeVar("T")

FAILURES = (MediarayError, OSError)
"""What a step can end in, and a flow may handle."""


def http_options(timeout_s: float, is_loopback: bool) -> dict[str, Any]:
    """Arguments of an httpx client for one server; `timeout_s` bounds the silence within one exchange."""
    return {
        "timeout": httpx.Timeout(timeout_s, connect=min(timeout_s, 10.0)),
        "follow_redirects": True,
        # A proxy named in the environment cannot reach this machine's own loopback address.
        "trust_env": not is_loopback,
        "verify": _certificates(not is_loopback),
    }


@functools.cache
def _certificates(trust_env: bool) -> ssl.SSLContext:
    """Read once for all clients: it takes 40 ms. Loopback, too, may send a download on to TLS."""
    return httpx.create_ssl_context(trust_env=trust_env)


class Driver:
    """Runs flows in the calling thread; several threads may share one."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def close(self) -> None:
        self._http.close()

    def run(self, flow: Flow[T]) -> T:
        """What the flow returns, or raises."""
        with closing(self.iterate(as_only_value(flow))) as values:
            return next(values)

    def iterate(self, flow: Flow[None]) -> Generator[Any, None, None]:
        """What the flow emits. Ended early, the flow and its stream are closed."""
        with closing(flow), _Exchange(self._http) as exchange:
            step = resumed(flow)
            while step is not None:
                if isinstance(step, Emit):
                    yield step.value
                    step = resumed(flow)
                    continue
                try:
                    answer = exchange.do(step)
                except FAILURES as error:
                    step = resumed(flow, error=error)
                else:
                    step = resumed(flow, answer)


class AsyncDriver:
    """Runs flows on an event loop; several tasks may share one."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def aclose(self) -> None:
        await self._http.aclose()

    async def run(self, flow: Flow[T]) -> T:
        """What the flow returns, or raises."""
        async with aclosing(self.iterate(as_only_value(flow))) as values:
            return await anext(values)

    async def iterate(self, flow: Flow[None]) -> AsyncGenerator[Any, None]:
        """What the flow emits. Closed early, the flow and its stream are closed."""
        with closing(flow):
            async with _AsyncExchange(self._http) as exchange:
                step = resumed(flow)
                while step is not None:
                    if isinstance(step, Emit):
                        yield step.value
                        step = resumed(flow)
                        continue
                    try:
                        answer = await exchange.do(step)
                    except FAILURES as error:
                        step = resumed(flow, error=error)
                    else:
                        step = resumed(flow, answer)


class _Exchange:
    """The I/O of one flow, with the one stream that it may have open."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._server = ""
        self._response: httpx.Response | None = None
        self._chunks: Iterator[bytes] = iter(())
        self._messages: Iterator[ServerSentEvent] = iter(())
        self._alarm: threading.Timer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def do(self, step: Step) -> Any:
        return self._DOERS[type(step)](self, step)

    def _send(self, step: Send) -> httpx.Response:
        content = _content(step.request.body) if step.request.body else None
        with translated(step.request.server):
            return self._http.send(_build(self._http, step.request, content))

    def _open(self, step: Open) -> httpx.Response:
        self._close()
        self._server = step.request.server
        request = _build(self._http, step.request, None, step.silence)
        with translated(self._server):
            self._response = response = self._http.send(request, stream=True)
            if response.status_code >= 400:
                response.read()
        if step.silence and step.silence.left_s is not None and not response.is_closed:
            self._alarm = _hang_up_after(response, step.silence.left_s)
        self._chunks = response.iter_raw(CHUNK_BYTES)
        self._messages = EventSource(response).iter_sse()
        return response

    def _next_chunk(self, _: NextChunk) -> bytes:
        with translated(self._server):
            return next(self._chunks, b"")

    def _next_message(self, _: NextMessage) -> ServerSentEvent | None:
        with translated(self._server):
            message = next(self._messages, None)
        if message is None:
            self._close()  # before the alarm could meet another user of the connection
        return message

    def _pause(self, step: Pause) -> None:
        time.sleep(step.delay_s)

    def _work(self, step: Work) -> Any:
        return step.call()

    def _close(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if self._response is not None:
            self._response.close()

    _DOERS: ClassVar[Mapping[type, Callable[..., Any]]] = {
        Send: _send,
        Open: _open,
        NextChunk: _next_chunk,
        NextMessage: _next_message,
        Pause: _pause,
        Work: _work,
    }


class _AsyncExchange:
    """As `_Exchange`, on an event loop."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._server = ""
        self._silence: Silence | None = None
        self._response: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes]
        self._messages: AsyncGenerator[ServerSentEvent, None]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def do(self, step: Step) -> Any:
        return await self._DOERS[type(step)](self, step)

    async def _send(self, step: Send) -> httpx.Response:
        content = _async_content(step.request.body) if step.request.body else None
        with translated(step.request.server):
            return await self._http.send(_build(self._http, step.request, content))

    async def _open(self, step: Open) -> httpx.Response:
        await self._close()
        self._server, self._silence = step.request.server, step.silence
        request = _build(self._http, step.request, None, step.silence)
        with translated(self._server):
            self._response = response = await self._http.send(request, stream=True)
            if response.status_code >= 400:
                await response.aread()
        self._chunks = response.aiter_raw(CHUNK_BYTES)
        self._messages = EventSource(response).aiter_sse()
        return response

    async def _next_chunk(self, _: NextChunk) -> bytes:
        with translated(self._server):
            return await anext(self._chunks, b"")

    async def _next_message(self, _: NextMessage) -> ServerSentEvent | None:
        left_s = None if self._silence is None else self._silence.left_s
        with translated(self._server):
            async with asyncio.timeout(left_s):
                return await anext(self._messages, None)

    async def _pause(self, step: Pause) -> None:
        await asyncio.sleep(step.delay_s)

    async def _work(self, step: Work) -> Any:
        return await asyncio.to_thread(step.call)

    async def _close(self) -> None:
        if self._response is not None:
            await self._response.aclose()

    _DOERS: ClassVar[Mapping[type, Callable[..., Any]]] = {
        Send: _send,
        Open: _open,
        NextChunk: _next_chunk,
        NextMessage: _next_message,
        Pause: _pause,
        Work: _work,
    }


def _build(
    http: httpx.Client | httpx.AsyncClient, request: Request, content: Any, silence: Silence | None = None
) -> httpx.Request:
    built = http.build_request(
        request.method,
        request.url,
        headers=dict(request.headers),
        params=request.params,
        json=request.json,
        content=content,
    )
    if silence is not None:
        built.extensions["timeout"]["read"] = silence.limit_s
    return built


def _hang_up_after(response: httpx.Response, left_s: float) -> threading.Timer:
    """Ends a blocked read in time: by httpx's own limit it might never end, which each heartbeat renews."""
    stream = response.extensions["network_stream"]
    alarm = threading.Timer(left_s, _hang_up, [stream.get_extra_info("socket")])
    alarm.daemon = True
    alarm.start()
    return alarm


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        connection.shutdown(socket.SHUT_RDWR)


def _content(body: Body) -> Iterator[bytes]:
    for chunk in body.chunks():
        yield chunk
        body.sent(chunk)


async def _async_content(body: Body) -> AsyncIterator[bytes]:
    chunks = body.chunks()
    while chunk := await asyncio.to_thread(next, chunks, b""):
        yield chunk
        body.sent(chunk)
