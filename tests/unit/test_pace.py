"""The time to the end: a guess and an interval that the truth lies in."""

from __future__ import annotations

import random

import pytest

from deployments.pace import Eta, Pace


def paced(paces_s: list[float], total: float) -> Eta:
    """What is said after one unit at each of these paces."""
    pace, now_s = Pace(), 100.0
    pace.eta("run", 0, total, now_s)
    eta = Eta()
    for done, unit_s in enumerate(paces_s, 1):
        now_s += unit_s
        eta = pace.eta("run", done, total, now_s)
    return eta


@pytest.mark.parametrize(
    ("paces_s", "total"),
    [([], 10.0), ([0.1], 10.0), ([1.0] * 5, None)],
    ids=["nothing done", "too soon to say", "no total"],
)
def test_what_is_not_known_is_not_said(paces_s, total) -> None:
    assert paced(paces_s, total) == Eta()


def test_a_steady_pace_is_nearly_certain() -> None:
    eta = paced([1.0] * 20, 40)
    assert eta == pytest.approx(Eta(20.0, 18.0, 22.0))


def test_after_few_units_the_interval_is_wide() -> None:
    assert paced([1.0, 1.0], 12) == pytest.approx(Eta(10.0, 5.0, 20.0))


def test_an_uneven_pace_widens_the_interval() -> None:
    even, uneven = paced([1.0] * 20, 40), paced([0.6, 1.4] * 10, 40)
    assert uneven.eta_s == pytest.approx(even.eta_s)
    assert uneven.high_s - uneven.low_s > 1.5 * (even.high_s - even.low_s)


def test_the_truth_lies_in_the_interval_nearly_always() -> None:
    dice = random.Random(7)
    hits = 0
    for _ in range(200):
        paces_s = [dice.uniform(0.5, 2.5) for _ in range(200)]
        known = dice.randrange(5, 150)
        eta = paced(paces_s[:known], 200)
        hits += eta.low_s <= sum(paces_s[known:]) <= eta.high_s
    assert hits >= 180


def test_a_stage_begins_a_new_measurement_and_so_does_a_step_back() -> None:
    pace = Pace()
    pace.eta("decode", 0, 10, 0.0)
    assert pace.eta("decode", 5, 10, 5.0).eta_s == 5.0
    assert pace.eta("encode", 0, 10, 6.0) == Eta()
    assert pace.eta("encode", 5, 10, 16.0).eta_s == 10.0
    assert pace.eta("encode", 1, 10, 17.0) == Eta()


def test_memory_of_the_pace_does_not_grow() -> None:
    pace = Pace()
    for done in range(100_000):
        pace.eta("run", done, 100_000, float(done))
    assert len(pace._marks) <= 32
    assert pace.eta("run", 100_000, 200_000, 100_000.0).eta_s == pytest.approx(100_000)
