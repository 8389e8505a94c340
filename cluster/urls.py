"""The one place that judges and opens a URL that a caller named: callbacks and input files.

A URL is judged by the addresses that its host resolves to, never by its spelling, and a connection goes to
an address that was judged a moment before, so that a name whose answer changes in between wins nothing.
TLS still names and verifies the host. Redirects are not followed here, proxies of the environment are not
used, and messages never carry a path or query, which may hold secrets.
"""

from __future__ import annotations

import math
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property, partial
from ipaddress import ip_address
from typing import Any, NamedTuple

import anyio
import httpcore
import httpx
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

from cluster.addresses import Address, may_reach
from cluster.errors import UnsafeUrl, UrlUnreachable
from cluster.settings import Network

Resolver = Callable[..., Sequence[tuple[Any, ...]]]

MAX_ANSWER_BYTES = 2048
MAX_PORT = 65535
_SCHEMES = frozenset({"http", "https"})
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")  # a name or IPv4, or IPv6 without a zone
_RESOLVE_S = 10.0
_CONNECT_S = 10.0
_STALL_S = 30.0
_ANSWER_S = 1.0  # how long the body of an answer may take once its status is known
_MAX_RESOLVERS = 16
_TIMEOUTS = {"connect": _CONNECT_S, "read": _STALL_S, "write": _STALL_S, "pool": _CONNECT_S}
# One text whether a name resolves or not: callers must not learn which internal names there are.
_NOT_PUBLIC = (
    "{host} is not a public address, or does not resolve; the operator can allow its network with"
    " MEDIARAY_CALLBACK_ALLOW_CIDRS"
)


class Answer(NamedTuple):
    """What a POST was answered. Header names are lower case; `body` is its first 2 KiB."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class UrlGuard:
    """Judges and opens URLs. `allow_cidrs` are networks that may be reached besides public addresses.

    `resolver` is called like socket.getaddrinfo. Each guard looks up names on threads of its own, so that
    slow names in one place stall no other. Safe for use from several threads and event loops.
    """

    def __init__(
        self,
        allow_cidrs: Sequence[Network] = (),
        resolver: Resolver = socket.getaddrinfo,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._allowed = tuple(allow_cidrs)
        self._resolver = resolver
        self._ssl_context = ssl_context
        self._resolvers: RunVar[CapacityLimiter] = RunVar("resolvers")

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return self._ssl_context or httpx.create_ssl_context()

    def check_form(self, url: str) -> httpx.URL:
        """The URL in parts, judged by its spelling alone; raises UnsafeUrl."""
        try:
            parts = httpx.URL(url)
        except (httpx.InvalidURL, ValueError, TypeError) as error:
            raise UnsafeUrl("not a URL: write it as https://host/path") from error
        if parts.scheme not in _SCHEMES or not _HOST.fullmatch(parts.raw_host.decode("ascii")):
            raise UnsafeUrl("only http:// and https:// URLs with a plain host name can be opened")
        if parts.userinfo:
            raise UnsafeUrl("a URL must not carry a user name or password")
        if not 0 < _port_of(parts) <= MAX_PORT:
            raise UnsafeUrl(f"a port is a number from 1 to {MAX_PORT}")
        return parts

    async def judge(self, url: str) -> None:
        """Raises UnsafeUrl for a URL that will not be opened, UrlUnreachable for a host without address."""
        parts = self.check_form(url)
        with bounded(parts, _RESOLVE_S):
            await self._judged_addresses(parts.raw_host.decode("ascii"), _port_of(parts))

    async def post(self, url: str, content: bytes, headers: Mapping[str, str], timeout_s: float) -> Answer:
        """POST and return the answer, whatever its status; raises UnsafeUrl and UrlUnreachable.

        `timeout_s` bounds everything up to the answer's headers; a body that comes too slowly is cut.
        """
        parts = self.check_form(url)
        with bounded(parts, timeout_s) as bound:
            async with self.exchange("POST", parts, headers, content) as response:
                bound.deadline = math.inf
                return Answer(response.status, headers_of(response), await _first_bytes(response))

    @asynccontextmanager
    async def exchange(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], content: bytes | None = None
    ) -> AsyncIterator[httpcore.Response]:
        """One request and its answer, on a connection of its own to a judged address."""
        async with (
            httpcore.AsyncConnectionPool(
                ssl_context=self._tls if url.scheme == "https" else None,
                network_backend=_JudgedConnections(self._judged_addresses),
            ) as pool,
            pool.stream(
                method,
                _core_url(url),
                headers=[("Host", url.netloc), ("User-Agent", "mediaray"), *headers.items()],
                content=content,
                extensions={"timeout": _TIMEOUTS},
            ) as response,
        ):
            yield response

    async def _judged_addresses(self, host: str, port: int) -> list[str]:
        """All addresses of a host, in the resolver's order; raises UnsafeUrl unless every one may be reached.

        One bad address among good ones is a trap, so the whole name is refused.
        """
        addresses = await self._addresses(host, port)
        if not all(may_reach(address, self._allowed) for address in addresses):
            raise UnsafeUrl(_NOT_PUBLIC.format(host=host))
        return [str(address) for address in addresses]

    async def _addresses(self, host: str, port: int) -> list[Address]:
        look = partial(self._resolver, host, port, type=socket.SOCK_STREAM)
        try:
            found = await to_thread.run_sync(look, abandon_on_cancel=True, limiter=self._limiter())
        except (OSError, UnicodeError) as error:
            raise UrlUnreachable(_NOT_PUBLIC.format(host=host)) from error
        if not found:
            raise UrlUnreachable(_NOT_PUBLIC.format(host=host))
        return [ip_address(text) for text in dict.fromkeys(entry[4][0] for entry in found)]

    def _limiter(self) -> CapacityLimiter:
        """The limit of name look-ups at a time on this event loop: each holds a thread."""
        try:
            return self._resolvers.get()
        except LookupError:
            limiter = CapacityLimiter(_MAX_RESOLVERS)
            self._resolvers.set(limiter)
            return limiter


class _JudgedConnections(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that were judged, one after the other, and to nothing else."""

    def __init__(self, judged_addresses: Callable[[str, int], Any]) -> None:
        self._judged_addresses = judged_addresses
        self._tcp = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's signature)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception | None = None
        for address in await self._judged_addresses(host, port):
            try:
                return await self._tcp.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError("no address")


def is_web_url(text: str) -> bool:
    """Whether `text` means to be an http(s) URL, good or bad."""
    scheme, has_scheme, _ = text.partition("://")
    return bool(has_scheme) and scheme.lower() in _SCHEMES


def headers_of(response: httpcore.Response) -> dict[str, str]:
    """An answer's headers, with lower-case names."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}


@contextmanager
def bounded(url: httpx.URL, seconds: float) -> Iterator[anyio.CancelScope]:
    """Bounds what happens inside; time-outs and network trouble come out as UrlUnreachable."""
    try:
        with anyio.fail_after(seconds) as scope:
            yield scope
    except (TimeoutError, httpcore.TimeoutException) as error:
        raise UrlUnreachable(f"{url.host} did not answer in time") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError) as error:
        raise UrlUnreachable(f"{url.host} cannot be reached: {str(error) or type(error).__name__}") from error


async def _first_bytes(response: httpcore.Response) -> bytes:
    """What came of the body in time; the status counts, so trouble with the body does not."""
    body = b""
    with anyio.move_on_after(_ANSWER_S):
        try:
            async for chunk in response.aiter_stream():
                body += chunk
                if len(body) >= MAX_ANSWER_BYTES:
                    break
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
            pass
    return body[:MAX_ANSWER_BYTES]


def _core_url(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def _port_of(url: httpx.URL) -> int:
    if url.port is not None:
        return url.port
    return 443 if url.scheme == "https" else 80
