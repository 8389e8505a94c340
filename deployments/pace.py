"""How long the rest takes, learned from the pace of committed units. Pure."""

from __future__ import annotations

_MIN_ELAPSED_S = 0.5


class Pace:
    """One attempt's pace; a new stage starts a new measurement."""

    def __init__(self) -> None:
        self._stage: str | None = None
        self._first_done = 0.0
        self._first_at_s = 0.0

    def eta_s(self, stage: str, done: float, total: float | None, now_s: float) -> float | None:
        """Seconds until `total`; None until enough units were committed to say."""
        if stage != self._stage:
            self._stage, self._first_done, self._first_at_s = stage, done, now_s
        elapsed_s = now_s - self._first_at_s
        units = done - self._first_done
        if total is None or units <= 0 or elapsed_s < _MIN_ELAPSED_S:
            return None
        return max(0.0, (total - done) * elapsed_s / units)
