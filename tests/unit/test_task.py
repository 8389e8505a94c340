"""The table of statuses: every pair of status and event, legal or not."""

from __future__ import annotations

import itertools

import pytest

from cluster.errors import IllegalStep
from cluster.task import FINAL, STEPS, Event, Progress, Status, step

LEGAL = {
    ("queued", "lease"): "running",
    ("queued", "fail"): "failed",
    ("queued", "cancel"): "cancelled",
    ("running", "requeue"): "queued",
    ("running", "succeed"): "succeeded",
    ("running", "fail"): "failed",
    ("running", "cancel"): "cancelled",
}


@pytest.mark.parametrize(
    ("status", "event"), list(itertools.product(Status, Event)), ids=lambda word: word.value
)
def test_every_pair_of_status_and_event(status: Status, event: Event) -> None:
    target = LEGAL.get((status.value, event.value))
    if target is None:
        with pytest.raises(IllegalStep):
            step(status, event)
    else:
        assert step(status, event) == target


def test_nothing_leaves_a_final_status() -> None:
    assert not [pair for pair in STEPS if pair[0] in FINAL]
    assert {status for status in Status if status.is_final} == {"succeeded", "failed", "cancelled"}


@pytest.mark.parametrize(
    ("done", "total", "fraction"), [(0, None, 0.0), (5, 10, 0.5), (11, 10, 1.0), (0, 0, 0.0)]
)
def test_progress_is_a_fraction(done: float, total: float | None, fraction: float) -> None:
    assert Progress(done, total).fraction == fraction
