"""Callers that wait on one event loop for something to do."""

from __future__ import annotations

import asyncio


class Waiters:
    """Any number of callers that wait to be woken, one at a time or all. One event loop."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[bool]] = set()

    def wake_one(self) -> None:
        """Wake one that has not been woken yet; nothing when there is none."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(True)
                return

    def wake_all(self) -> None:
        for waiter in self._waiters:
            _settle(waiter, is_woken=True)

    async def woken_within(self, wait_s: float) -> bool:
        """Wait to be woken; False when nobody did.

        A caller that is cancelled after it was woken wakes another in its place: what there was to do is
        still there. `asyncio.wait_for` would lose either the cancellation or the call.
        """
        if wait_s <= 0:
            return False
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        alarm = loop.call_later(wait_s, _settle, waiter)
        self._waiters.add(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.result():
                self.wake_one()
            raise
        finally:
            alarm.cancel()
            self._waiters.discard(waiter)


def _settle(waiter: asyncio.Future[bool], *, is_woken: bool = False) -> None:
    if not waiter.done():
        waiter.set_result(is_woken)
