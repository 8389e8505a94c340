"""What follows a failed attempt: again after a delay, or the end. Pure."""

from __future__ import annotations

from cluster.task import Failure, FailureCode

FIRST_DELAY_S = 1.0
MAX_DELAY_S = 30.0

LEASE_LOST = Failure(
    FailureCode.INTERNAL_ERROR,
    "the replica stopped answering while it ran this task (killed, crashed or cut off)",
    is_transient=True,
)


def retry_delay_s(failure: Failure, failed_attempts: int, max_attempts: int) -> float | None:
    """Seconds until the next attempt, or None when the task has failed.

    `failed_attempts` includes the one that just ended. A lost lease has already cost a lease length,
    so its first repetition does not wait.
    """
    if not failure.is_transient or failed_attempts >= max_attempts:
        return None
    exponent = failed_attempts - (2 if failure is LEASE_LOST else 1)
    return 0.0 if exponent < 0 else min(MAX_DELAY_S, FIRST_DELAY_S * 2.0**exponent)
