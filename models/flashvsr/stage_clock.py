"""How long the stages of a stream take, without making a GPU wait to be asked."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_MOST_PENDING = 256


class StageClock:
    """Sums up seconds by stage. On a GPU a stage lasts from its first to its last kernel; for one thread."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._pending: deque[tuple[str, Any, Any]] = deque()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the block's time; an exception leaves it out."""
        if self._device.type != "cuda":
            begin_s = time.monotonic()
            yield
            self._seconds[name] += time.monotonic() - begin_s
            return
        begin = _mark()
        yield
        self._pending.append((name, begin, _mark()))
        if len(self._pending) > _MOST_PENDING:
            self._settle()

    def seconds(self) -> dict[str, float]:
        """What was counted so far; waits for the device."""
        if self._pending:
            self._pending[-1][2].synchronize()
        self._settle()
        return dict(self._seconds)

    def _settle(self) -> None:
        """Add up what is over, in the order of the device's work."""
        while self._pending and self._pending[0][2].query():
            name, begin, end = self._pending.popleft()
            self._seconds[name] += begin.elapsed_time(end) / 1000


def _mark() -> Any:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
