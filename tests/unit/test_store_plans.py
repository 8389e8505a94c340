"""What the store asks SQLite reads an index: the table grows with the retention time, look-ups must not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from cluster.store import TaskStore
from cluster.task import TaskQuery

LOOK_UPS: dict[str, Callable[[TaskStore], Any]] = {
    "by id": lambda store: store.find(["t"]),
    "by idempotency key": lambda store: store.find_keyed("local", "k"),
    "by dedupe key": lambda store: store.find_keyed("local", dedupe_key="d"),
    "a tenant's page": lambda store: store.page(TaskQuery(tenant="local")),
    "a tenant's next page": lambda store: store.page(TaskQuery(tenant="local", after=(1.0, "t"))),
    "a tenant's counts": lambda store: store.counts("local", None),
    "what owes a callback": lambda store: store.owing(),
    "what has not ended": lambda store: store.live(),
    "what has expired": lambda store: store.expired(1.0, 100),
    "what else has expired": lambda store: store.expired(1.0, 100, (0.5, "t")),
}
KEY_INDEXES = {
    "by idempotency key": "tasks_by_idempotency_key (tenant=? AND idempotency_key=?)",
    "by dedupe key": "tasks_by_dedupe_key (tenant=? AND dedupe_key=?)",
    "a tenant's page": "tasks_by_tenant (tenant=?)",
    "a tenant's next page": "tasks_by_tenant (tenant=? AND created_at<?)",
    "what has expired": "tasks_by_expiry (expires_at<?)",
    "what else has expired": "tasks_by_expiry (expires_at>? AND expires_at<?)",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskStore]:
    store = TaskStore(f"sqlite:///{tmp_path_factory.mktemp('plans')}/tasks.sqlite")
    store.open()
    yield store
    store.close()


def plans(store: TaskStore, look_up: Callable[[TaskStore], Any]) -> list[str]:
    """How SQLite runs each statement of a look-up."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    sa.event.listen(store._engine, "before_cursor_execute", note)
    look_up(store)
    sa.event.remove(store._engine, "before_cursor_execute", note)
    with store._engine.connect() as connection:
        return [
            row[3]
            for statement, parameters in asked
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]


@pytest.mark.parametrize("name", LOOK_UPS)
def test_no_look_up_reads_the_whole_table(store: TaskStore, name: str) -> None:
    steps = plans(store, LOOK_UPS[name])
    assert steps
    assert not [step for step in steps if step.startswith("SCAN")]
    assert KEY_INDEXES.get(name, "INDEX") in " ".join(steps)
