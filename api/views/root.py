"""How the root's lists show tasks of several dialects: each item has the fields of all of them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from api.dialects import CREATION, FLASHVSR, INDEXED
from api.views import creation, flashvsr, indexed
from cluster.task import Json, Task

ITEM_VIEWS: Mapping[str, Callable[[Task], Json]] = {
    INDEXED.name: indexed.item_view,
    CREATION.name: creation.task_view,
    FLASHVSR.name: flashvsr.task_view,
}
"""The dialects whose tasks the root's lists show, and how each shows its own."""


def item_view(task: Task) -> Json:
    """The task as its own dialect shows it, and the other dialects' fields with what is common to all."""
    foreign = replace(task, inputs={}, facts={}, result=None, artifacts=())
    item: Json = {}
    for view in ITEM_VIEWS.values():
        item |= view(foreign)
    return item | ITEM_VIEWS[task.dialect](task)
