"""How long the rest takes, learned from the pace of committed units. Pure."""

from __future__ import annotations

import math
from statistics import pstdev
from typing import NamedTuple

_MIN_ELAPSED_S = 0.5
_MAX_MARKS = 32
_MIN_SPREAD = 0.1
_FEW_STRETCHES = 3
_FEW_FACTOR = 2.0


class Eta(NamedTuple):
    """Seconds until the end: the best guess, and the interval that it honestly means; None: unknown."""

    eta_s: float | None = None
    low_s: float | None = None
    high_s: float | None = None


class Pace:
    """One attempt's pace; a new stage starts a new measurement.

    Marks (seconds, units done) cut the stage into stretches of at least half a second. When there are 32,
    every second one is dropped, so the stretches cover the whole stage however long it is.
    """

    def __init__(self) -> None:
        self._stage: str | None = None
        self._marks: list[tuple[float, float]] = []
        self._min_stretch_s = _MIN_ELAPSED_S

    def eta(self, stage: str, done: float, total: float | None, now_s: float) -> Eta:
        """The rest until `total`; unknown until enough units were committed to say."""
        if stage != self._stage or done < self._marks[-1][1]:
            self._stage, self._marks, self._min_stretch_s = stage, [(now_s, done)], _MIN_ELAPSED_S
        begun_s, first = self._marks[0]
        if total is None or done <= first or now_s - begun_s < _MIN_ELAPSED_S:
            return Eta()
        self._mark(now_s, done)
        rest = max(0.0, total - done)
        eta_s = rest * (now_s - begun_s) / (done - first)
        return self._interval(eta_s, rest)

    def _mark(self, now_s: float, done: float) -> None:
        last_s, last_done = self._marks[-1]
        if now_s - last_s < self._min_stretch_s or done <= last_done:
            return
        self._marks.append((now_s, done))
        if len(self._marks) > _MAX_MARKS:
            self._marks = self._marks[::2]
            self._min_stretch_s *= 2

    def _interval(self, eta_s: float, rest: float) -> Eta:
        """Two standard deviations either way: of the pace so far, and of as many stretches as are to come."""
        paces, units = self._stretches()
        if len(paces) < _FEW_STRETCHES:
            return Eta(eta_s, eta_s / _FEW_FACTOR, eta_s * _FEW_FACTOR)
        to_come = max(1.0, rest * len(paces) / units)
        spread_s = 2 * pstdev(paces) * rest * math.sqrt(1 / len(paces) + 1 / to_come)
        spread_s = max(spread_s, _MIN_SPREAD * eta_s)
        return Eta(eta_s, max(0.0, eta_s - spread_s), eta_s + spread_s)

    def _stretches(self) -> tuple[list[float], float]:
        """Seconds per unit of each stretch, and the units of all."""
        pairs = list(zip(self._marks, self._marks[1:], strict=False))
        paces = [(end_s - begin_s) / (end - begin) for (begin_s, begin), (end_s, end) in pairs]
        return paces, self._marks[-1][1] - self._marks[0][1]
