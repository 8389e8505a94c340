"""A direct line into the registry actor: length-prefixed frames over TCP, on the actor's own event loop.

An awaited Ray actor call costs about four milliseconds when nothing else is under way, a gRPC call 0.4
and ten times this line's CPU time (docs/experiments.md). Ray still starts, finds and restarts the
actor. Frames are pickles, as Ray's own are: none is opened before the caller's first frame has shown
the proof that only an actor call tells.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import logging
import pickle
import secrets
import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

_LENGTH_BYTES = 4
_PROOF_BYTES = 32
_MAX_FRAME_BYTES = 256 * 1024**2
_CONNECT_TIMEOUT_S = 10.0
# A machine that vanishes says no goodbye: without these the kernel waits for it for hours.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000}

logger = logging.getLogger(__name__)

CallMany = Callable[[Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class ChannelAddress:
    """Where a registry listens, and what proves that the caller may speak."""

    host: str
    port: int
    proof: bytes


class ChannelBroken(Exception):
    """The registry's process has gone: ask Ray for the new one. Whether the call was made is unknown."""


class _Frames(asyncio.Protocol, ABC):
    """One end of a line: cuts what arrives into frames, frames what goes out.

    A protocol, not a pair of streams: those wake a task of their own twice for every frame.
    """

    max_frame_bytes = _MAX_FRAME_BYTES

    def __init__(self) -> None:
        self._arrived = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        line: socket.socket = transport.get_extra_info("socket")
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # not all of them outside Linux
                line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def data_received(self, data: bytes) -> None:
        self._arrived += data
        while (frame := self._cut()) is not None:
            self.take(frame)

    @abstractmethod
    def take(self, frame: bytes) -> None:
        """A frame has arrived."""

    def send(self, frame: bytes) -> None:
        """Send it, unless the other end has gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(len(frame).to_bytes(_LENGTH_BYTES, "big") + frame)

    def hang_up(self) -> None:
        self._arrived.clear()
        if self._transport is not None:
            self._transport.abort()

    def _cut(self) -> bytes | None:
        """The next whole frame that is there."""
        if len(self._arrived) < _LENGTH_BYTES:
            return None
        end = _LENGTH_BYTES + int.from_bytes(self._arrived[:_LENGTH_BYTES], "big")
        if end > _LENGTH_BYTES + self.max_frame_bytes:
            self.hang_up()
            return None
        if len(self._arrived) < end:
            return None
        frame = bytes(self._arrived[_LENGTH_BYTES:end])
        del self._arrived[:end]
        return frame


class ChannelServer:
    """The actor's side: answers every frame with what `call_many` returns. One event loop."""

    def __init__(self, call_many: CallMany) -> None:
        self._call_many = call_many
        self._proof = secrets.token_bytes(_PROOF_BYTES)
        self._server: asyncio.Server | None = None
        self._callers: set[_Caller] = set()
        self._is_closed = False

    async def start(self, host: str) -> ChannelAddress:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Caller(self._call_many, self._proof, self), host, 0)
        return ChannelAddress(host, self._server.sockets[0].getsockname()[1], self._proof)

    def close(self) -> None:
        """Take no more callers, and hang up on those that are connected: they ask the next registry."""
        self._is_closed = True
        if self._server is not None:
            self._server.close()
        for caller in self._callers:
            caller.hang_up()

    def admit(self, caller: _Caller) -> None:
        """A connection was made; one that was accepted just before `close` is hung up on, too."""
        self._callers.add(caller)
        if self._is_closed:
            caller.hang_up()

    def leave(self, caller: _Caller) -> None:
        self._callers.discard(caller)


class _Caller(_Frames):
    """One connection to the actor: the proof first, then calls.

    What a caller asked for ends with its connection: a task that is leased to nobody would wait for its
    lease to lapse. Changes that are under way reach the disk all the same.
    """

    max_frame_bytes = _PROOF_BYTES

    def __init__(self, call_many: CallMany, proof: bytes, server: ChannelServer) -> None:
        super().__init__()
        self._call_many = call_many
        self._proof = proof
        self._server = server
        self._is_known = False
        self._answers: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.admit(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._server.leave(self)
        for answer in self._answers:
            answer.cancel()

    def take(self, frame: bytes) -> None:
        if self._is_known:
            answer = asyncio.get_running_loop().create_task(self._answer(frame))
            self._answers.add(answer)
            answer.add_done_callback(self._answers.discard)
        elif hmac.compare_digest(frame, self._proof):
            self._is_known = True
            self.max_frame_bytes = _MAX_FRAME_BYTES
        else:
            self.hang_up()

    async def _answer(self, frame: bytes) -> None:
        try:
            number, calls = pickle.loads(frame)  # noqa: S301 - the caller has shown the proof
            self.send(_pickled((number, await self._call_many(calls))))
        except Exception:  # the loop edge: a caller without an answer would wait for ever
            logger.exception("a call over the line failed: hanging up")
            self.hang_up()


class ChannelClient(_Frames):
    """The caller's side. Calls may overlap; each gets its own answer. One event loop."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._is_closed = False

    @classmethod
    async def connect(cls, address: ChannelAddress) -> ChannelClient:
        """Raises ChannelBroken."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                _, line = await loop.create_connection(cls, address.host, address.port)
        except OSError as error:  # TimeoutError is one
            raise ChannelBroken(str(error) or "the registry does not answer") from error
        line.send(address.proof)
        return line

    async def call_many(self, calls: Any) -> Any:
        """Raises ChannelBroken."""
        if self._is_closed:
            raise ChannelBroken("closed")
        number = next(self._numbers)
        frame = _pickled((number, calls))
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self.send(frame)
        try:
            return await answer
        finally:
            self._waiting.pop(number, None)

    def close(self) -> None:
        self.hang_up()
        self._end()

    def take(self, frame: bytes) -> None:
        try:
            number, answer = pickle.loads(frame)  # noqa: S301 - from the registry Ray named
        except Exception:  # the loop edge: an answer that cannot be read ends the line
            logger.exception("an answer over the line could not be read")
            self.close()
            return
        waiting = self._waiting.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def connection_lost(self, _error: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        self._is_closed = True
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ChannelBroken("the connection ended"))


def _pickled(value: Any) -> bytes:
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
