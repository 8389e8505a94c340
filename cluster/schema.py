"""The tables of the task store, as SQLAlchemy Core sees them; `migrations/` creates them."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()
_OWED = sa.text("callback_due_at IS NOT NULL")

tasks = sa.Table(
    "tasks",
    metadata,
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
    sa.Column("callback_due_at", sa.Double),  # null when no callback is owed
    sa.Column("request", sa.Text, nullable=False),  # JSON of what was asked; never rewritten
    sa.Column("state", sa.Text, nullable=False),  # JSON of what became of it
    sa.Index("tasks_by_status", "status"),
    sa.Index("tasks_by_age", "dialect", "created_at"),
    sa.Index("tasks_by_expiry", "expires_at"),
    sa.Index("tasks_by_idempotency_key", "tenant", "idempotency_key"),
    sa.Index("tasks_by_dedupe_key", "tenant", "dedupe_key"),
    sa.Index("tasks_by_callback", "callback_due_at", sqlite_where=_OWED, postgresql_where=_OWED),
    sa.Index("tasks_by_tenant", "tenant", "created_at", "id"),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("task_id", sa.String(160), nullable=False, index=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("event", sa.String(32), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)

facts = sa.Table(
    "facts",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.Integer, nullable=False),
)
