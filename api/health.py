"""Whether the parts behind the HTTP edge answer: real calls, each with a time bound."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from urllib.parse import urlsplit

from anyio import to_thread

from api.context import ApiContext
from cluster.errors import ClusterError

CHECK_TIMEOUT_S = 5.0


async def failing_parts(context: ApiContext) -> dict[str, str]:
    """Why each part that does not answer does not; {} when all is well."""
    storage_check = to_thread.run_sync(context.storage.check, abandon_on_cancel=True)
    registry, storage = await asyncio.gather(
        _problem_of(context.registry.depths()), _problem_of(storage_check)
    )
    problems = {"registry": registry, "storage": storage}
    return {part: problem for part, problem in problems.items() if problem is not None}


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
