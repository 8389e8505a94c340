"""How often a caller may create tasks, and ask how they stand: counted per minute, in this process.

Which requests count is a column of the dialects' table (`Dialect.creates`, `Dialect.reads`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.callers import source_of
from api.dialects import DIALECTS, Dialect, dialect_at
from api.errors import TooManyRequests, answer_error
from cluster.settings import Settings

MAX_WINDOWS = 20_000
"""Callers remembered at a time; beyond it, the one whose minute began first begins a new one."""


class Kind(StrEnum):
    """What is limited: each kind has a count of its own."""

    CREATE = "create"
    READ = "read"


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Requests per minute and caller of each kind; a kind without a limit is not counted."""

    per_minute: Mapping[Kind, int]
    has_keys: bool

    @staticmethod
    def of(settings: Settings, *, has_keys: bool) -> RateLimits:
        given = {Kind.CREATE: settings.rate_limit_create, Kind.READ: settings.rate_limit_status}
        return RateLimits({kind: limit for kind, limit in given.items() if limit}, has_keys)


class WindowStorage(Storage):
    """What `limits` counts in: bounded, on our clock, for one event loop.

    The library's own memory storage starts a thread every 10 ms while requests come, and keeps every caller
    of the last minute. All windows are equally long, so the order of insertion is the order of their ends.
    """

    STORAGE_SCHEME = None

    def __init__(self, now: Callable[[], float], max_windows: int = MAX_WINDOWS) -> None:
        super().__init__()
        self._now = now
        self._max_windows = max_windows
        self._windows: dict[str, list[float]] = {}  # key -> [count, end in seconds since the epoch]

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        window = self._open(key)
        if window is None:
            self._drop_oldest()
            window = self._windows[key] = [0, self._now() + expiry]
        window[0] += amount
        return int(window[0])

    def get(self, key: str) -> int:
        window = self._open(key)
        return 0 if window is None else int(window[0])

    def get_expiry(self, key: str) -> float:
        window = self._open(key)
        return self._now() if window is None else window[1]

    def check(self) -> bool:
        return True

    def reset(self) -> int:
        count = len(self._windows)
        self._windows.clear()
        return count

    def clear(self, key: str) -> None:
        self._windows.pop(key, None)

    def __len__(self) -> int:
        return len(self._windows)

    def _open(self, key: str) -> list[float] | None:
        """The caller's window, unless its minute is over."""
        window = self._windows.get(key)
        if window is not None and window[1] <= self._now():
            del self._windows[key]
            return None
        return window

    def _drop_oldest(self) -> None:
        """Make room: two windows that are over, and in any case one where the table is full."""
        for _ in range(2):
            oldest = next(iter(self._windows), None)
            if oldest is None:
                return
            if self._windows[oldest][1] <= self._now() or len(self._windows) >= self._max_windows:
                del self._windows[oldest]


class RateGate:
    """Counts what the table says, tells callers how much is left, and refuses what is too much."""

    def __init__(self, app: ASGIApp, limits: RateLimits, now: Callable[[], float]) -> None:
        self._app = app
        self._now = now
        self._has_keys = limits.has_keys
        self._items: dict[Kind, RateLimitItem] = {
            kind: RateLimitItemPerMinute(limit, namespace=kind.value)
            for kind, limit in limits.per_minute.items()
        }
        self._limiter = FixedWindowRateLimiter(WindowStorage(now))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        item = self._item(scope)
        if item is None:
            await self._app(scope, receive, send)
            return
        source = source_of(scope, has_keys=self._has_keys)
        is_allowed = self._limiter.hit(item, source)
        left = self._limiter.get_window_stats(item, source)
        headers = _headers(item.amount, left.remaining, left.reset_time)
        if is_allowed:
            await self._app(scope, receive, _with_headers(send, headers))
            return
        wait_s = max(1, math.ceil(left.reset_time - self._now()))
        error = TooManyRequests(
            f"too many requests: at most {item.amount} a minute; try again in {wait_s} s",
            retry_after_s=wait_s,
        )
        answer = answer_error(error, scope["path"], self._now())
        await answer(scope, receive, _with_headers(send, headers))

    def _item(self, scope: Scope) -> RateLimitItem | None:
        if scope["type"] != "http" or not self._items:
            return None
        kind = counted_as(scope["method"], scope["path"])
        return None if kind is None else self._items.get(kind)


def counted_as(method: str, path: str) -> Kind | None:
    """What a request counts as; None where it is free."""
    dialect, inner = dialect_at(path)
    request = f"{method} {inner}"
    return next((kind for kind, pattern in _COUNTED[dialect.name] if pattern.fullmatch(request)), None)


def _patterns(dialect: Dialect) -> tuple[tuple[Kind, re.Pattern[str]], ...]:
    columns = ((Kind.READ, dialect.reads), (Kind.CREATE, dialect.creates))
    return tuple((kind, _pattern(routes)) for kind, routes in columns if routes)


def _pattern(routes: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for several "METHOD /path/{id}"."""
    return re.compile("|".join(_PARAMETER.sub(lambda _: _ID, re.escape(route)) for route in routes))


_PARAMETER = re.compile(r"\\\{\w+\\\}")  # {name} in escaped text
_ID = r"(?!(?:health|supported-tasks|parameter_schema|recent)$)[^/]+"
"""An id: not one of the words that are routes of their own where ids may stand."""
_COUNTED = {dialect.name: _patterns(dialect) for dialect in DIALECTS}


def _headers(limit: int, remaining: int, reset_at: float) -> list[tuple[bytes, bytes]]:
    """`reset_at` is told in whole seconds since the epoch."""
    told = (("limit", limit), ("remaining", remaining), ("reset", math.ceil(reset_at)))
    return [(b"x-ratelimit-" + name.encode(), str(value).encode()) for name, value in told]


def _with_headers(send: Send, headers: list[tuple[bytes, bytes]]) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *headers]
        await send(message)

    return send_with_headers
