"""The clock of leases: time in which the registry did not run does not count."""

from __future__ import annotations

from cluster.awake_clock import AwakeClock
from tests.manual_clock import ManualClock


def test_turns_that_come_in_time_or_nearly_so_all_count() -> None:
    steady = ManualClock(100.0)
    clock = AwakeClock(steady)
    for waited_s in (0.5, 0.5, 2.25, 0.25):
        steady.advance(waited_s)
        clock.turn(0.5)
    assert clock() == 103.5


def test_a_standstill_does_not_count_and_time_goes_on_after_it() -> None:
    steady = ManualClock(100.0)
    clock = AwakeClock(steady)
    for _ in range(2):
        steady.advance(60.5)
        clock.turn(0.5)
    assert clock() == 101.0
    steady.advance(0.25)
    assert clock() == 101.25
