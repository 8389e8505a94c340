"""The registry's clock for leases: it stands still while the registry's process does."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_MAX_LATE_S = 2.0

logger = logging.getLogger(__name__)


class AwakeClock:
    """Seconds of `clock`, less those in which this process did not run: stopped, or its machine paused.

    Replicas beat meanwhile and nobody hears them. By any other clock every lease would have lapsed at the
    moment the process wakes, before it has read a single beat.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turned_at = clock()
        self._lost_s = 0.0

    def __call__(self) -> float:
        return self._clock() - self._lost_s

    def turn(self, period_s: float) -> None:
        """Call every `period_s`, before anything that asks for the time; what comes late did not count."""
        now = self._clock()
        late_s = now - self._turned_at - period_s
        self._turned_at = now
        if late_s > _MAX_LATE_S:
            self._lost_s += late_s
            logger.warning("the task registry stood still for %.1f s: leases last as much longer", late_s)
