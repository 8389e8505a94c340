"""Waiting callers: who is woken, and that a wake-up outlives the caller that it reached."""

from __future__ import annotations

import asyncio

import pytest

from cluster.waiters import Waiters


async def waiting(waiters: Waiters, count: int) -> list[asyncio.Task[bool]]:
    tasks = [asyncio.create_task(waiters.woken_within(60)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_one_wake_up_wakes_one() -> None:
    waiters = Waiters()
    tasks = await waiting(waiters, 3)
    waiters.wake_one()
    waiters.wake_one()
    done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert (len(done), len(others)) == (2, 1)
    waiters.wake_all()
    assert await asyncio.gather(*tasks) == [True] * 3


async def test_nobody_comes() -> None:
    waiters = Waiters()
    assert not await waiters.woken_within(0)
    assert not await waiters.woken_within(0.001)
    waiters.wake_one()


async def test_a_caller_that_is_cancelled_after_its_wake_up_passes_it_on() -> None:
    waiters = Waiters()
    (first,) = await waiting(waiters, 1)
    second = asyncio.create_task(waiters.woken_within(60))
    # `second` begins to wait in the loop's next turn, and `first` hears of its cancellation after that.
    waiters.wake_one()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second
