"""QueuePolicy: a Serve autoscaling policy that reads the task registry instead of request counts.

It runs inside the Serve controller's loop several times a second, for every deployment in turn: it must
never raise (that stops autoscaling of every application) and never block (that stalls the
controller). Ray pickles this module by value, so it imports the project only inside its calls.
"""

from __future__ import annotations

from typing import Any


class QueuePolicy:
    """Wish = replicas for the running tasks + replicas for those waiting that may run, `slots` tasks each.

    Returns the raw wish: Serve itself applies bounds and delays. While the registry does not answer, or
    before its first answer, the present target is held.
    """

    def __init__(self, service: str, slots: int = 1) -> None:
        self._service = service
        self._slots = max(1, slots)

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        target = ctx.target_num_replicas
        try:
            from deployments.queue_poll import queue_poll

            depth = queue_poll().depth(self._service, target)
        except Exception:  # noqa: BLE001 - the loop edge: an error here stops every application's scaling
            return target, {}
        return (target if depth is None else -(-(depth.runnable + depth.running) // self._slots)), {}
