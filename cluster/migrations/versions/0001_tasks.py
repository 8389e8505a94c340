"""The first tables: tasks, their events, and the registry's own facts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", sa.String(160), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("dialect", sa.String(32), nullable=False),
        sa.Column("service", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("is_deleted", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("idempotency_key", sa.String(512)),
        sa.Column("dedupe_key", sa.String(64)),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
    )
    op.create_index("tasks_by_status", "tasks", ["status"])
    op.create_index("tasks_by_age", "tasks", ["dialect", "created_at"])
    op.create_index("tasks_by_expiry", "tasks", ["expires_at"])
    op.create_index("tasks_by_idempotency_key", "tasks", ["tenant", "idempotency_key"])
    op.create_index("tasks_by_dedupe_key", "tasks", ["tenant", "dedupe_key"])
    op.create_table(
        "events",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("task_id", sa.String(160), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("event", sa.String(32), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_index("ix_events_task_id", "events", ["task_id"])
    op.create_table(
        "facts",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    for table in ("facts", "events", "tasks"):
        op.drop_table(table)
