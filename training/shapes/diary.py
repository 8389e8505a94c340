"""What is told of a training while it runs, and kept of it: mean losses, and the weights beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_STEPS = 20


class Diary:
    """Prints and collects the mean loss of every 20 steps; `product` is the folder of the weights."""

    def __init__(self, product: Path) -> None:
        self._product = product
        self._losses: list[tuple[int, float]] = []
        self._recent: list[float] = []

    def note(self, step: int, loss: float) -> None:
        """`step` counts from 1."""
        self._recent.append(loss)
        if len(self._recent) == _STEPS:
            self._losses.append((step, round(sum(self._recent) / _STEPS, 4)))
            self._recent.clear()
            print(f"{self._product.name}: step {step}, loss {self._losses[-1][1]:.4f}", flush=True)

    def save(self, network: Any) -> None:
        """Write a diffusers network to its folder, and the losses so far beside it."""
        network.save_pretrained(self._product)
        self._product.with_suffix(".json").write_text(json.dumps(self._losses))
