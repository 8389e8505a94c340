"""Callbacks that tasks owe, and a tenant's own tasks, found without reading every task."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("callback_due_at", sa.Double))
    owed = sa.text("callback_due_at IS NOT NULL")  # what most tasks do not: no entry for them
    op.create_index(
        "tasks_by_callback", "tasks", ["callback_due_at"], sqlite_where=owed, postgresql_where=owed
    )
    op.create_index("tasks_by_tenant", "tasks", ["tenant", "created_at", "id"])


def downgrade() -> None:
    op.drop_index("tasks_by_tenant", "tasks")
    op.drop_index("tasks_by_callback", "tasks")
    op.drop_column("tasks", "callback_due_at")
