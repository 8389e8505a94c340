"""What a task owes to its callback URL: frozen values, as the record keeps them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DeliveryStatus(StrEnum):
    """How the delivery of a callback stands."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class DeliveryTry:
    """One try to deliver a callback; `status_code` is None where no answer came, and `error` says why.

    `is_refused`: the URL may not be called (any more). `retry_after_s` is what the receiver asked for.
    """

    at: float
    duration_s: float
    status_code: int | None = None
    error: str = ""
    is_refused: bool = False
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A callback that a task owes, or owed, to one URL; `number` counts from 1 within the task.

    `request_id` is the call that asked for it, so that a repeated call does not ask twice. `due_at` is set
    while it is pending. `num_tries` counts all tries and is the fence of the next one; the schedule
    counts from `round_start`, the value of `num_tries` at the last replay. `tries` are the last ones.
    """

    number: int
    url: str
    request_id: str
    created_at: float
    status: DeliveryStatus = DeliveryStatus.PENDING
    due_at: float | None = None
    num_tries: int = 0
    round_start: int = 0
    tries: tuple[DeliveryTry, ...] = ()


@dataclass(frozen=True, slots=True)
class CallbackReport:
    """How one try went; `fence` is the delivery's `num_tries` before it."""

    task_id: str
    number: int
    fence: int
    tried: DeliveryTry
