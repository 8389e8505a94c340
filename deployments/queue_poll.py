"""QueuePoll: what the task registry says of every queue, asked once for all policies of Serve's controller.

Never blocks: a turn takes the answer to the last question where it is there, and asks the next one. A
question for each service took 4 % of a core of an idle server in the registry alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import ray

from cluster.registry_address import NAME, NAMESPACE
from cluster.task import Depth

POLL_S = 0.25
STALE_S = 10.0


class QueuePoll:
    """The newest depths of all services. For one thread: Serve's controller calls policies in turn."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._depths: Mapping[str, Depth] = {}
        self._read_at_s = float("-inf")
        self._asked_at_s = float("-inf")
        self._targets: dict[str, int] = {}
        self._answer: Any = None
        self._registry: Any = None

    def depth(self, service: str, target: int) -> Depth | None:
        """The service's depth; None while the registry does not answer, or before its first answer.

        `target` is what Serve aims at, which the registry hears with the next question: callers whose task
        waits for a replica see it. Raises what Ray raises; the next call begins anew.
        """
        self._targets[service] = target
        now_s = self._monotonic()
        self._take(now_s)
        if self._answer is None and now_s - self._asked_at_s >= POLL_S:
            self._ask(now_s)
        if now_s - self._read_at_s > STALE_S:
            return None
        return self._depths.get(service, Depth(0, 0, 0))

    def _take(self, now_s: float) -> None:
        """Take the answer that is there; give up one that does not come."""
        if self._answer is None:
            return
        ready, _ = ray.wait([self._answer], timeout=0)
        if not ready and now_s - self._asked_at_s < STALE_S:
            return
        answer, self._answer = self._answer, None
        registry, self._registry = self._registry, None  # one that does not answer is looked up anew
        if ready:
            self._depths = ray.get(answer)[0]
            self._read_at_s, self._registry = now_s, registry

    def _ask(self, now_s: float) -> None:
        self._asked_at_s = now_s
        if self._registry is None:
            self._registry = ray.get_actor(NAME, NAMESPACE)
        aims, self._targets = self._targets, {}  # those of a service that is deleted end with it
        calls: list[tuple[str, tuple[Any, ...]]] = [
            ("depths", ()),
            *(("expect", aim) for aim in aims.items()),
        ]
        self._answer = self._registry.call_many.remote(calls)


@cache
def queue_poll() -> QueuePoll:
    """The one of this process."""
    return QueuePoll()
