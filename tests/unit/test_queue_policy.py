"""The autoscaling policy: what it wishes, and that no trouble of the registry's reaches the controller."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cluster.task import Depth
from deployments.autoscaling import STALE_S, QueuePolicy


class ManualPolicy(QueuePolicy):
    """The policy without Ray: tests hand it readings, and move its clock."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("echo", **kwargs)
        self.trouble: Exception | None = None

    def _poll(self, target: int, now_s: float) -> None:
        if self.trouble is not None:
            raise self.trouble


def context(target: int) -> SimpleNamespace:
    return SimpleNamespace(target_num_replicas=target)


def read(policy: QueuePolicy, runnable: int, running: int, age_s: float = 0.0) -> None:
    import time

    policy._take({"echo": Depth(runnable + 100, running, runnable)}, time.monotonic() - age_s)


@pytest.mark.parametrize(
    ("runnable", "running", "slots", "wish"),
    [(0, 0, 1, 0), (1, 0, 1, 1), (0, 1, 1, 1), (5, 2, 1, 7), (5, 2, 4, 2), (1, 0, 32, 1)],
    ids=["idle", "first task", "busy", "backlog", "backlog on slots", "one of many slots"],
)
def test_the_wish_covers_what_runs_and_what_may_run(
    runnable: int, running: int, slots: int, wish: int
) -> None:
    policy = ManualPolicy(slots=slots)
    read(policy, runnable, running)
    assert policy(context(3)) == (wish, {})


def test_a_service_that_the_registry_does_not_know_needs_nothing() -> None:
    policy = ManualPolicy()
    policy._take({}, float("inf"))
    assert policy(context(2))[0] == 0


def test_the_target_is_held_before_the_first_reading_and_when_it_is_stale() -> None:
    policy = ManualPolicy()
    assert policy(context(2)) == (2, {})
    read(policy, runnable=9, running=0, age_s=STALE_S + 1)
    assert policy(context(2)) == (2, {})


def test_no_error_reaches_the_controller() -> None:
    policy = ManualPolicy()
    read(policy, runnable=9, running=0)
    policy.trouble = RuntimeError("the registry is gone")
    assert policy(context(4)) == (4, {})
    policy.trouble = None
    assert policy(context(4)) == (9, {})
