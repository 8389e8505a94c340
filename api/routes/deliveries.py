"""/v1/tasks/{id}/deliveries: how a task's callbacks went, and sending one again."""

from __future__ import annotations

import uuid

from starlette.requests import Request
from starlette.responses import Response

from api.answers import Json
from api.edge import edge_of, own_task
from api.routing import direct_router
from api.views.deliveries import DeliveryList, DeliveryView, delivery_view, list_view
from api.views.problems import problems
from cluster.errors import DeliveryNotFound
from cluster.outbox import delivery_of

router = direct_router("tasks")


@router.get("/v1/tasks/{task_id}/deliveries", response_model=DeliveryList, responses=problems(404))
async def list_deliveries(request: Request, task_id: str) -> Response:
    """Every delivery of the task's callback, with its last tries; empty until the task has ended."""
    return Json(list_view(await own_task(request, task_id)))


@router.post(
    "/v1/tasks/{task_id}/deliveries/{number}/replay",
    response_model=DeliveryView,
    responses=problems(404, 409, 422, 503),
)
async def replay_delivery(request: Request, task_id: str, number: str) -> Response:
    """Send an ended delivery again, now, under the same webhook-id; 409 while it is pending."""
    task = await own_task(request, task_id)
    # Not Starlette's own int: it fails on thousands of digits.
    delivery = next((each for each in task.deliveries if str(each.number) == number), None)
    if delivery is None:
        raise DeliveryNotFound(task.id, number[:20])
    registry = edge_of(request).context.registry
    task = await registry.replay_callback(task.id, delivery.number, uuid.uuid4().hex)
    return Json(delivery_view(task, delivery_of(task, delivery.number)))
