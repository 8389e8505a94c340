"""QueuePolicy: a Serve autoscaling policy that reads the task registry instead of request counts.

It runs inside the Serve controller's loop ten times a second, for every deployment in turn: it must
never raise (that stops autoscaling of every application) and never block (that stalls the
controller). Ray pickles this module by value, so it imports the project only inside its calls.
"""

from __future__ import annotations

import time
from typing import Any

POLL_S = 0.5
STALE_S = 10.0


class QueuePolicy:
    """Wish = replicas for the running tasks + replicas for those waiting that may run, `slots` tasks each.

    Returns the raw wish: Serve itself applies bounds and delays. While the registry does not answer, or
    before its first answer, the present target is held.
    """

    def __init__(self, service: str, slots: int = 1) -> None:
        self._service = service
        self._slots = max(1, slots)
        self._reading: tuple[int, int] | None = None
        self._read_at_s = float("-inf")
        self._asked_at_s = float("-inf")
        self._answer: Any = None
        self._registry: Any = None

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        try:
            self._poll(ctx.target_num_replicas, time.monotonic())
            return self._wish(ctx.target_num_replicas, time.monotonic()), {}
        except Exception:  # noqa: BLE001 - the loop edge: an error here stops every application's scaling
            self._registry = self._answer = None
            return ctx.target_num_replicas, {}

    def _wish(self, target: int, now_s: float) -> int:
        if self._reading is None or now_s - self._read_at_s > STALE_S:
            return target
        runnable, running = self._reading
        return -(-(runnable + running) // self._slots)

    def _poll(self, target: int, now_s: float) -> None:
        """Take the answer of the last question if it is there, and ask again when it is time."""
        import ray

        if self._answer is not None:
            ready, _ = ray.wait([self._answer], timeout=0)
            if not ready and now_s - self._asked_at_s < STALE_S:
                return
            answer, self._answer = self._answer, None
            if ready:
                self._take(ray.get(answer)[0], now_s)
        elif now_s - self._asked_at_s >= POLL_S:
            self._ask(ray, target, now_s)

    def _ask(self, ray: Any, target: int, now_s: float) -> None:
        """Ask for the depths, and tell what Serve aims at: callers whose task waits for a replica see it."""
        from cluster.registry_address import NAME, NAMESPACE

        self._asked_at_s = now_s
        if self._registry is None:
            self._registry = ray.get_actor(NAME, NAMESPACE)
        self._answer = self._registry.call_many.remote([("depths", ()), ("expect", (self._service, target))])

    def _take(self, depths: Any, now_s: float) -> None:
        depth = depths.get(self._service)
        self._reading = (0, 0) if depth is None else (depth.runnable, depth.running)
        self._read_at_s = now_s
