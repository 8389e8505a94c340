"""Whether the parts behind the HTTP edge answer: real calls, each with a time bound.

Health is open to everybody, so however many ask, one check runs at a time, on a thread of its own, and its
answer serves for a moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from urllib.parse import urlsplit

from anyio import CapacityLimiter, to_thread

from api.context import ApiContext
from cluster.errors import ClusterError

CHECK_TIMEOUT_S = 5.0
KEPT_S = 2.0


class HealthChecks:
    """The checks of one process, for one event loop."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._thread = CapacityLimiter(1)
        self._running: asyncio.Task[Mapping[str, str]] | None = None
        self._known: Mapping[str, str] = {}
        self._known_until = 0.0

    async def failing(self) -> Mapping[str, str]:
        """Why each part that does not answer does not; {} when all is well."""
        if self._context.now() < self._known_until:
            return self._known
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._check())
        return await asyncio.shield(self._running)  # a caller that goes takes nobody's answer along

    async def _check(self) -> Mapping[str, str]:
        context = self._context
        storage_check = to_thread.run_sync(
            context.storage.check, abandon_on_cancel=True, limiter=self._thread
        )
        registry, storage = await asyncio.gather(
            _problem_of(context.registry.depths()), _problem_of(storage_check)
        )
        problems = {"registry": registry, "storage": storage}
        self._known = {part: problem for part, problem in problems.items() if problem is not None}
        self._known_until = context.now() + KEPT_S
        return self._known


def redacted_url(url: str) -> str:
    """A database URL without user, password, options and local folders."""
    parts = urlsplit(url)
    if not parts.hostname:
        return f"{parts.scheme}:///{parts.path.rpartition('/')[2]}"
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


async def _problem_of(answer: Awaitable[object]) -> str | None:
    try:
        await asyncio.wait_for(answer, CHECK_TIMEOUT_S)
    except ClusterError as error:
        return str(error) or type(error).__name__
    except TimeoutError:
        return f"no answer within {CHECK_TIMEOUT_S:g} s"
    return None
