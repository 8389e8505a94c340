"""Alembic's entry point: runs migrations on the connection that `TaskStore.open` hands over."""

from __future__ import annotations

from alembic import context

from cluster.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
