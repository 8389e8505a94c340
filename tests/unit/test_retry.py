"""Attempt outcome -> again or the end."""

from __future__ import annotations

import pytest

from cluster.retry import LEASE_LOST, retry_delay_s
from cluster.task import Failure, FailureCode

TRANSIENT = Failure(FailureCode.INTERNAL_ERROR, "passing", is_transient=True)
PERMANENT = Failure(FailureCode.INVALID_PARAMS, "wrong")


@pytest.mark.parametrize(
    ("failure", "failed_attempts", "delay_s"),
    [
        (PERMANENT, 1, None),
        (TRANSIENT, 1, 1.0),
        (TRANSIENT, 2, 2.0),
        (TRANSIENT, 3, None),
        (LEASE_LOST, 1, 0.0),
        (LEASE_LOST, 2, 1.0),
        (LEASE_LOST, 3, None),
    ],
)
def test_three_attempts(failure: Failure, failed_attempts: int, delay_s: float | None) -> None:
    assert retry_delay_s(failure, failed_attempts, max_attempts=3) == delay_s


def test_the_delay_is_bounded() -> None:
    assert retry_delay_s(TRANSIENT, 50, max_attempts=99) == 30.0
