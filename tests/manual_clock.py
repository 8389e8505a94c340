"""A clock that only tests move."""

from __future__ import annotations


class ManualClock:
    """Seconds since the epoch; `advance` moves it."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
