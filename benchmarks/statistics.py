"""From samples to the figures of a table. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.load import Sample


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of all values do not exceed (nearest rank)."""
    if not values:
        raise ValueError("no values, no percentile")
    rank = max(1, math.ceil(len(values) * percent / 100))
    return sorted(values)[rank - 1]


@dataclass(frozen=True, slots=True)
class Figures:
    """One system on one row."""

    p50_ms: float
    p99_ms: float
    per_s: float


def figures(sample: Sample) -> Figures:
    return Figures(
        p50_ms=percentile(sample.latencies_s, 50) * 1000,
        p99_ms=percentile(sample.latencies_s, 99) * 1000,
        per_s=len(sample.latencies_s) / sample.wall_s,
    )


def middle(rounds: Iterable[Figures]) -> Figures:
    """The median of each figure over the rounds."""
    listed = list(rounds)
    return Figures(
        p50_ms=median(one.p50_ms for one in listed),
        p99_ms=median(one.p99_ms for one in listed),
        per_s=median(one.per_s for one in listed),
    )


def ratio(ours: float, theirs: float) -> str:
    """How many times theirs ours is, such as "1.82×"; a dash where there is nothing to compare with."""
    return f"{ours / theirs:.2f}×" if theirs else "–"
