"""How the deliveries of a task's callback are shown."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from api.dialects import TASKS
from cluster.delivery import Delivery, DeliveryTry
from cluster.task import Task
from cluster.webhooks import message_id


class TryView(BaseModel):
    """One POST: `status_code` is null where no answer came, and `error` says why."""

    at: str
    status_code: int | None
    error: str | None
    duration_s: float


class DeliveryView(BaseModel):
    """A callback to one URL: pending, sent or failed. `webhook_id` is the same for every try of it."""

    number: int
    webhook_id: str
    url: str
    status: str
    created_at: str
    next_try_at: str | None
    num_tries: int
    tries: list[TryView]


class DeliveryList(BaseModel):
    """Answer of GET …/deliveries, oldest first; `tries` are the last ones of each."""

    task_id: str
    deliveries: list[DeliveryView]


def list_view(task: Task) -> dict[str, Any]:
    shown = [delivery_view(task, delivery) for delivery in task.deliveries]
    return {"task_id": task.id, "deliveries": shown}


def delivery_view(task: Task, delivery: Delivery) -> dict[str, Any]:
    return {
        "number": delivery.number,
        "webhook_id": message_id(task, delivery.number),
        "url": delivery.url,
        "status": delivery.status,
        "created_at": TASKS.time(delivery.created_at),
        "next_try_at": TASKS.time(delivery.due_at),
        "num_tries": delivery.num_tries,
        "tries": [_try_view(tried) for tried in delivery.tries],
    }


def _try_view(tried: DeliveryTry) -> dict[str, Any]:
    return {
        "at": TASKS.time(tried.at),
        "status_code": tried.status_code,
        "error": tried.error or None,
        "duration_s": round(tried.duration_s, 3),
    }
