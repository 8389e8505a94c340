"""Blocking work that a cancelled request must not leave half done.

Ray cancels the asyncio task of a request whose client hung up or whose time is over. A shield of anyio does
not stop that, and the worker thread goes on unseen: the request would clean up beside it, or not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
from anyio import to_thread

from cluster.storage import ArtifactStore

T = TypeVar("T")


async def run_to_the_end(call: Callable[..., T], *args: Any) -> T:
    """`to_thread.run_sync`, of which CancelledError comes only when the call has ended."""
    work = asyncio.create_task(to_thread.run_sync(call, *args))
    was_cancelled = False
    with anyio.CancelScope(shield=True):  # a cancelled scope would cancel each turn of this loop
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError:
                was_cancelled = True
    if was_cancelled:
        work.exception()  # looked at: nobody else will
        raise asyncio.CancelledError
    return work.result()


async def remove(storage: ArtifactStore, stored_keys: list[str]) -> None:
    """Delete objects, cancelled or not; those that are not there are no error."""
    await run_to_the_end(lambda: [storage.delete(key) for key in stored_keys])
