"""Which replicas are there, as the registry sees it: who asked for work or beat lately. In memory, pure."""

from __future__ import annotations

_GONE_AFTER_S = 10.0
"""A free replica asks for work every 3 s, a busy one beats more often."""


class Presence:
    """When each replica was last heard of, and how many replicas Serve wants of each service."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, float]] = {}
        self._wanted: dict[str, tuple[int, float]] = {}

    def saw(self, service: str, worker: str, now_s: float) -> None:
        """A replica asked for work or reported on it."""
        self._seen.setdefault(service, {})[worker] = now_s

    def expect(self, service: str, num_replicas: int, now_s: float) -> None:
        """Serve keeps, or is starting, this many replicas."""
        self._wanted[service] = (num_replicas, now_s)

    def is_served(self, service: str, now_s: float) -> bool:
        """Whether a replica of the service was heard of lately."""
        seen = self._seen.get(service, {})
        for worker in [worker for worker, at_s in seen.items() if now_s - at_s > _GONE_AFTER_S]:
            del seen[worker]
        return bool(seen)

    def is_expected(self, service: str, now_s: float) -> bool:
        """Whether Serve lately wanted at least one replica of the service."""
        num_replicas, at_s = self._wanted.get(service, (0, now_s))
        return num_replicas > 0 and now_s - at_s <= _GONE_AFTER_S

    def prune(self, now_s: float) -> None:
        """Forget replicas that are gone."""
        for service in self._seen:
            self.is_served(service, now_s)
