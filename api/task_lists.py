"""Which tasks GET /v1/tasks shows: its filters, and pages that stay put while tasks are added. Pure."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, FiniteFloat, TypeAdapter, WithJsonSchema
from starlette.datastructures import QueryParams

from api.dialects import TASKS
from cluster import keys
from cluster.task import Task, TaskQuery

_MAX_CURSOR_CHARS = 300
_PLACE: TypeAdapter[tuple[float, str]] = TypeAdapter(tuple[FiniteFloat, str])

Word = Literal["pending", "running", "completed", "failed", "cancelled"]


def _seconds(value: Any) -> float:
    """Seconds since the epoch, of a number or of ISO 8601 (UTC where no zone is named)."""
    text = str(value)
    try:
        seconds = float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(seconds):
        raise ValueError("not a moment")
    return seconds


def _place(value: Any) -> tuple[float, str]:
    """The (created_at, id) behind a cursor."""
    text = str(value)
    try:
        created_at, task_id = _PLACE.validate_json(base64.urlsafe_b64decode(text.encode()))
    except ValueError as error:  # of UTF-8, base64 or pydantic
        raise ValueError("not a cursor of this list") from error
    if len(text) > _MAX_CURSOR_CHARS or not keys.is_task_id(task_id):
        raise ValueError("not a cursor of this list")
    return created_at, task_id


Moment = Annotated[
    float,
    BeforeValidator(_seconds),
    WithJsonSchema({"type": "string", "description": "ISO 8601, or seconds since the epoch"}),
]
Place = Annotated[
    tuple[float, str],
    BeforeValidator(_place),
    WithJsonSchema({"type": "string", "description": "`next_cursor` of the page before"}),
]


class ListQuery(BaseModel):
    """Filters and paging; all filters given must hold.

    `status` may be given several times, or several with commas. `created_after` is inclusive,
    `created_before` is not. `cursor` goes on behind a page whatever was added since.
    """

    status: list[Word] = []
    task_name: Annotated[str, Field(max_length=200)] | None = None
    service: Annotated[str, Field(max_length=64, pattern=r"^[\w.-]*$")] | None = None
    dialect: Literal["indexed", "flashvsr", "hallo2", "creation", "tasks"] | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    cursor: Place | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    offset: Annotated[int, Field(ge=0, le=10**9)] = 0

    def of(self, tenant: str) -> TaskQuery:
        """The registry's query for the tasks of one tenant."""
        statuses = tuple(status for word in self.status for status in TASKS.statuses(word))
        return TaskQuery(
            tenant=tenant,
            dialect=self.dialect,
            statuses=statuses or None,
            service=self.service,
            name=self.task_name,
            created_after=self.created_after,
            created_before=self.created_before,
            after=self.cursor,
            offset=self.offset,
            limit=self.limit,
        )


def list_values(params: QueryParams) -> dict[str, Any]:
    """The query string as values of ListQuery: of a name given twice the last counts, of `status` all."""
    words = [word for text in params.getlist("status") for word in text.split(",")]
    return dict(params) | ({"status": words} if words else {})


def cursor_after(tasks: Sequence[Task]) -> str:
    """The cursor of the page behind these tasks."""
    place = [tasks[-1].created_at, tasks[-1].id]
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()
