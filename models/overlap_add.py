"""A network of a fixed window over a stream of any length: overlapping windows that fade into each other.

Neighbouring windows share `overlap` samples, where the first fades into the second: no border is heard.
Memory: two windows and one block, whatever the length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Windows:
    """How a stream is cut, in samples. Of the outermost `margin` nothing is used where another window is."""

    size: int
    overlap: int
    margin: int

    @classmethod
    def of(cls, size: int, share: float, margin: int) -> Windows:
        """Windows that share this part of themselves, or as little as leaves a fade between the margins."""
        return cls(size, max(round(size * share), 3 * margin), margin)

    @property
    def step(self) -> int:
        return self.size - self.overlap

    @property
    def fade_in(self) -> np.ndarray:
        """The weight of the later window in the overlap: (overlap,) float32, 0..1."""
        positions = np.arange(self.overlap, dtype=np.float32) - self.margin + 0.5
        return np.clip(positions / (self.overlap - 2 * self.margin), 0.0, 1.0)


def overlap_add(
    blocks: Iterable[np.ndarray], windows: Windows, process: Callable[[np.ndarray], np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pieces of (input, processed), each (C, L) float32; together as many samples as `blocks` have.

    `process` sees (C, L) with L = windows.size, less in the last window, and returns as many samples.
    """
    fade_in = windows.fade_in
    tail: np.ndarray | None = None  # what the window before made of the samples this one shares with it
    for window, is_last in _cut(blocks, windows):
        processed = process(window)
        if tail is not None:
            shared = processed[:, : windows.overlap]
            processed[:, : windows.overlap] = tail + (shared - tail) * fade_in
        ready = window.shape[1] if is_last else windows.step
        tail = processed[:, ready:]
        yield window[:, :ready], processed[:, :ready]


def _cut(blocks: Iterable[np.ndarray], windows: Windows) -> Iterator[tuple[np.ndarray, bool]]:
    """Windows, and whether it is the last, which is longer than the overlap unless it is the only one."""
    kept: np.ndarray | None = None
    for block in blocks:
        kept = block if kept is None else np.concatenate((kept, block), axis=1)
        while kept.shape[1] > windows.size:
            yield kept[:, : windows.size], False
            kept = kept[:, windows.step :]
    if kept is not None:
        yield kept, True
