"""What one transaction of the task store writes, and the connection that writes it.

SQLAlchemy compiles the statements once and the driver runs them: for the few rows of a commit its execution
layer costs four times what SQLite does (docs/experiments.md), and every submit waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from cluster.errors import RegistryFault, RegistryUnavailable, Superseded
from cluster.records import to_row, to_update
from cluster.schema import events, facts, tasks
from cluster.task import Task, TaskEvent

_STEPPED = ("status", "is_deleted", "expires_at", "dedupe_key", "callback_due_at", "state")
_EVENT = ("task_id", "at", "event", "attempt", "detail")
_BEGIN = {"sqlite": "BEGIN IMMEDIATE"}  # Python's sqlite3 would begin after the epoch was read

Row = dict[str, Any]


@dataclass(slots=True)
class Changes:
    """What one transaction writes; a task that changes twice is written once, in its last state."""

    tasks: dict[str, Task] = field(default_factory=dict)
    created: dict[str, Row] = field(default_factory=dict)
    updated: dict[str, Row] = field(default_factory=dict)
    events: list[TaskEvent] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    def put(self, task: Task, *, is_new: bool = False) -> None:
        """Add a task's new state; raises RegistryFault, and adds nothing, for what JSON cannot carry."""
        try:
            if is_new or task.id in self.created:
                self.created[task.id] = to_row(task)
            else:
                self.updated[task.id] = to_update(task)
        except (TypeError, ValueError) as error:
            raise RegistryFault(f"task {task.id} cannot be recorded: {error}") from error
        self.tasks[task.id] = task


class _Statement:
    """A statement for many rows, in the driver's own words."""

    def __init__(
        self, engine: sa.Engine, clause: sa.ClauseElement, columns: Sequence[str] | None = None
    ) -> None:
        compiled = clause.compile(engine, column_keys=columns)
        self._text = str(compiled)
        self._order: Sequence[str] | None = getattr(compiled, "positiontup", None)

    def run(self, cursor: Any, rows: Iterable[Row]) -> None:
        """Execute for each row; nothing for none."""
        parameters: list[Any] = list(rows)
        if self._order is not None:
            parameters = [tuple(row[name] for name in self._order) for row in parameters]
        if parameters:
            cursor.executemany(self._text, parameters)


class ChangeWriter:
    """Writes changes on one connection that is kept while it works. One thread at a time."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._connection: sa.PoolProxiedConnection | None = None
        self._begin = _BEGIN.get(engine.dialect.name)
        self._epoch = str(_EPOCH.compile(engine, compile_kwargs={"literal_binds": True}))
        self._create = _Statement(engine, tasks.insert(), [column.name for column in tasks.columns])
        self._update = _Statement(engine, _UPDATE)
        self._tell = _Statement(engine, events.insert(), _EVENT)
        self._remove = [_Statement(engine, clause) for clause in _REMOVE]

    def write(self, changes: Changes, epoch: int) -> None:
        """Write everything or nothing. Raises Superseded where the database's epoch is another."""
        with self._transaction() as cursor:
            cursor.execute(self._epoch)
            if cursor.fetchone() != (epoch,):
                raise Superseded(f"another task registry has opened the database (mine was epoch {epoch})")
            self._create.run(cursor, changes.created.values())
            self._update.run(cursor, ({**row, "row_id": row["id"]} for row in changes.updated.values()))
            self._tell.run(cursor, map(_event_row, changes.events))
            for statement in self._remove:
                statement.run(cursor, ({"removed_id": task_id} for task_id in changes.removed))

    def close(self) -> None:
        """Give the connection up, with what it has not committed; the next write opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        try:
            if self._connection is None:
                self._connection = self._engine.raw_connection()
            cursor = self._connection.cursor()
            if self._begin:
                cursor.execute(self._begin)
            yield cursor
            self._connection.commit()
            cursor.close()
        except BaseException as error:
            self.close()
            if isinstance(error, self._engine.dialect.loaded_dbapi.Error | sa.exc.DBAPIError):
                raise refusal(error) from error
            raise


def refusal(error: BaseException) -> RegistryUnavailable:
    """The database's own words, without the statement and its parameters: those are callers' inputs."""
    return RegistryUnavailable(f"the task database refused: {getattr(error, 'orig', error)}")


_UPDATE = (
    tasks.update()
    .where(tasks.c.id == sa.bindparam("row_id"))
    .values({name: sa.bindparam(name) for name in _STEPPED})
)
_REMOVE = (
    events.delete().where(events.c.task_id == sa.bindparam("removed_id")),
    tasks.delete().where(tasks.c.id == sa.bindparam("removed_id")),
)
# On PostgreSQL the row stays locked until the commit: nobody takes over in between.
_EPOCH = sa.select(facts.c.value).where(facts.c.name == "epoch").with_for_update(read=True)


def _event_row(event: TaskEvent) -> Row:
    return {
        "task_id": event.task_id,
        "at": event.at,
        "event": event.event,
        "attempt": event.attempt,
        "detail": event.detail.replace("\0", "").encode("utf-8", "replace").decode(),
    }
