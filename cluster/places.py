"""The order in which the waiting tasks of one service would be served, as of one moment. Pure."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from typing import TypeAlias

Place: TypeAlias = tuple[int, int, int, str]
"""Rank of a task, how many its tenant runs by then, the tenant's turn among those, and the task's id."""


class Places:
    """`next_levels`: how many tasks each tenant would run after all of these."""

    def __init__(self, places: list[Place], next_levels: Mapping[str, int]) -> None:
        self._places = sorted(places)
        self._numbers = {place[3]: number for number, place in enumerate(self._places)}
        self._next_levels = next_levels

    def ahead_of(self, task_id: str, rank: int, tenant: str, num_running: int) -> int:
        """How many come before the task; about where it belongs if it has come since."""
        number = self._numbers.get(task_id)
        if number is not None:
            return number
        return bisect_right(self._places, (rank, self._next_levels.get(tenant, num_running), math.inf, ""))
