"""Seconds per stage of attempts, in Ray's own Prometheus endpoint."""

from __future__ import annotations

from ray.util.metrics import Histogram

_BOUNDARIES_S = [0.001, 0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 7200]


class StageMetrics:
    """Fetch, load, run and publish seconds of one service's replica."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._seconds = Histogram(
            "mediaray_stage_seconds",
            "Seconds an attempt spent in a stage",
            boundaries=_BOUNDARIES_S,
            tag_keys=("service", "stage"),
        )

    def observe(self, stage: str, seconds: float) -> None:
        self._seconds.observe(seconds, {"service": self._service, "stage": stage})
