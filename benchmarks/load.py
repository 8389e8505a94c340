"""The load generator: raw HTTP/1.1 over kept connections, the same for every system.

An HTTP client library would cost more CPU than some of the servers it measures, on the same cores.
`ceiling` in `sections/http_load.py` shows how far this one is from being the bottleneck.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

CHUNK_END = b"\r\n"


class BadAnswer(Exception):
    """A measured system answered something that is no success; its figures would mean nothing."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose bytes are made before the clock starts."""

    method: str
    path: str
    body: bytes = b""

    def encode(self, host: str) -> bytes:
        head = f"{self.method} {self.path} HTTP/1.1\r\nhost: {host}\r\n"
        if self.body:
            head += f"content-type: application/json\r\ncontent-length: {len(self.body)}\r\n"
        return head.encode() + b"\r\n" + self.body


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run of requests took: each one's latency, and all of them together."""

    latencies_s: list[float]
    wall_s: float


class Connection:
    """One kept connection; one request at a time. A server may close it between two requests."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.reopened = 0

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def send(self, request: Request) -> bytes:
        """The body of the answer. Raises BadAnswer for anything but 200."""
        head = await self._head(request.encode(f"127.0.0.1:{self._port}"))
        body = await self._body(head.lower())
        if not head.startswith(b"HTTP/1.1 200"):
            first_line = head.split(CHUNK_END, 1)[0].decode()
            raise BadAnswer(f"{request.method} {request.path}: {first_line}: {body[:300]!r}")
        if b"connection: close" in head.lower():
            await self._reopen()
        return body

    async def _head(self, request: bytes) -> bytes:
        """The answer's head; sent once more where the server closed before it read the request."""
        self._writer.write(request)
        try:
            return await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionResetError) as error:
            if getattr(error, "partial", b""):
                raise
        await self._reopen()
        self._writer.write(request)
        return await self._reader.readuntil(b"\r\n\r\n")

    async def _reopen(self) -> None:
        self.reopened += 1
        self.close()
        await self.open()

    async def ask(self, request: Request) -> Any:
        return json.loads(await self.send(request))

    async def _body(self, head: bytes) -> bytes:
        _, mark, rest = head.partition(b"content-length:")
        if mark:
            return await self._reader.readexactly(int(rest.split(CHUNK_END, 1)[0]))
        return await self._chunks() if b"transfer-encoding: chunked" in head else b""

    async def _chunks(self) -> bytes:
        body = b""
        while size := int((await self._reader.readuntil(CHUNK_END)).split(b";")[0], 16):
            body += (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readuntil(CHUNK_END)
        return body

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def connections(port: int, count: int) -> Any:
    """`count` open connections to 127.0.0.1:port."""
    kept = [Connection(port) for _ in range(count)]
    for one in kept:
        await one.open()
    try:
        yield kept
    finally:
        for one in kept:
            one.close()


async def shared(kept: list[Connection], jobs: Iterator[Any], work: Callable[..., Awaitable[None]]) -> float:
    """Wall seconds to do `work(connection, job)` for every job, each connection taking the next free one."""

    async def user(connection: Connection) -> None:
        for job in jobs:
            await work(connection, job)

    started_at = time.perf_counter()
    await asyncio.gather(*(user(one) for one in kept))
    return time.perf_counter() - started_at


async def measure(kept: list[Connection], requests: list[Request]) -> tuple[Sample, list[bytes]]:
    """Send all requests, as many at once as there are connections; bodies come in order of arrival."""
    latencies_s: list[float] = []
    bodies: deque[bytes] = deque()

    async def timed(connection: Connection, request: Request) -> None:
        started_at = time.perf_counter()
        bodies.append(await connection.send(request))
        latencies_s.append(time.perf_counter() - started_at)

    wall_s = await shared(kept, iter(requests), timed)
    return Sample(latencies_s, wall_s), list(bodies)
