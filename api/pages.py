"""Lists in numbered pages, newest first, as several dialects show them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from api.dialects import Dialect
from cluster.task import TaskPage, TaskQuery

StatusWord = Literal["pending", "processing", "completed", "failed"]
PageSize = Annotated[int, Field(ge=1, le=100)]


class PageQuery(BaseModel):
    """Which page GET /api/tasks shows."""

    page: Annotated[int, Field(ge=1, le=10**6)] = 1
    page_size: PageSize = 20
    status: StatusWord | None = None

    def of(self, dialect: Dialect, tenant: str) -> TaskQuery:
        """The registry's query for this page of a tenant's tasks."""
        return TaskQuery(
            tenant=tenant,
            dialect=dialect.name,
            statuses=dialect.statuses(self.status) if self.status else None,
            offset=(self.page - 1) * self.page_size,
            limit=self.page_size,
        )

    def numbers(self, page: TaskPage) -> dict[str, Any]:
        """What an answer tells beside its tasks."""
        return {"total": page.total, "page": self.page, "page_size": self.page_size}
