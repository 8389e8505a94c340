"""Tasks on disk: SQLAlchemy Core on SQLite (WAL, full sync) or PostgreSQL. Synchronous.

Knows rows and transactions, not rules: what may follow what is the registry's business.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import URL, make_url

from cluster.changes import Changes, ChangeWriter, refusal
from cluster.errors import RegistryUnavailable
from cluster.records import from_row
from cluster.schema import events, facts, tasks
from cluster.task import FINAL, Status, Task, TaskEvent, TaskPage, TaskQuery

_LIVE_WORDS = [status.value for status in Status if status not in FINAL]
_IDS_PER_QUERY = 500


class TaskStore:
    """One task database. Every method is one transaction; any thread may call any, one alone `apply`."""

    def __init__(self, url: str) -> None:
        self._url = _driver_url(url)
        self._engine = _engine(self._url)
        self._epoch = 0
        self._lock: IO[bytes] | None = None
        self._writer = ChangeWriter(self._engine)

    def open(self) -> int:
        """Migrate the schema and begin a new epoch; returns its number.

        Raises RegistryUnavailable where another process has this SQLite file open as its task database.
        """
        if self._url.database and self._url.get_backend_name() == "sqlite":
            self._claim(Path(self._url.database))
        with self._transaction() as connection:
            config = Config()
            config.set_main_option("script_location", "cluster:migrations")
            config.set_main_option("path_separator", "os")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        self._epoch = self._next_epoch()
        return self._epoch

    def close(self) -> None:
        self._writer.close()
        self._engine.dispose()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def apply(self, changes: Changes) -> None:
        """Write everything or nothing, and nothing once another registry has opened the database.

        Raises RegistryUnavailable when the disk or server refuses, Superseded.
        """
        self._writer.write(changes, self._epoch)

    def live(self) -> list[Task]:
        """Every task that has not ended, oldest first."""
        query = sa.select(tasks).where(tasks.c.status.in_(_LIVE_WORDS)).order_by(tasks.c.created_at)
        return self._tasks(query)

    def owing(self) -> list[Task]:
        """Every task that owes a callback."""
        return self._tasks(sa.select(tasks).where(tasks.c.callback_due_at.is_not(None)))

    def find(self, ids: Iterable[str]) -> list[Task]:
        """Tasks with one of these ids, whatever their tenant and status."""
        found: list[Task] = []
        for some in _slices(list(ids)):
            found += self._tasks(sa.select(tasks).where(tasks.c.id.in_(some)))
        return found

    def find_keyed(
        self, tenant: str, idempotency_key: str | None = None, dedupe_key: str | None = None
    ) -> list[Task]:
        """The tenant's tasks with one of these keys, whatever their status."""
        wanted = ((tasks.c.idempotency_key, idempotency_key), (tasks.c.dedupe_key, dedupe_key))
        return [
            task
            for column, key in wanted
            if key
            for task in self._tasks(sa.select(tasks).where(tasks.c.tenant == tenant, column == key))
        ]

    def page(self, query: TaskQuery) -> TaskPage:
        """Tasks in order of creation, those of the same moment by id."""
        where = _conditions(query)
        order = tasks.c.created_at.desc() if query.newest_first else tasks.c.created_at.asc()
        page = sa.select(tasks).where(*where, *_behind(query)).order_by(order, tasks.c.id)
        with self._transaction() as connection:
            total = connection.execute(
                sa.select(sa.func.count()).select_from(tasks).where(*where)
            ).scalar_one()
            # One more than asked for tells whether a page follows.
            rows = connection.execute(page.offset(query.offset).limit(query.limit + 1)).all()
        found = [from_row(row) for row in rows[: query.limit]]
        return TaskPage(found, total, has_more=len(rows) > query.limit)

    def counts(self, tenant: str | None, dialect: str | None) -> dict[Status, int]:
        where = _conditions(TaskQuery(tenant=tenant, dialect=dialect))
        query = sa.select(tasks.c.status, sa.func.count()).where(*where).group_by(tasks.c.status)
        with self._transaction() as connection:
            found = {Status(word): number for word, number in connection.execute(query)}
        return {status: found.get(status, 0) for status in Status}

    def events(self, task_id: str) -> list[TaskEvent]:
        query = sa.select(events).where(events.c.task_id == task_id).order_by(events.c.seq)
        with self._transaction() as connection:
            rows = connection.execute(query)
            return [TaskEvent(row.task_id, row.at, row.event, row.attempt, row.detail) for row in rows]

    def expired(self, now: float, limit: int, after: tuple[float, str] | None = None) -> list[Task]:
        """Ended tasks whose time to be removed has come and that owe no callback, the oldest first.

        `after` is the (expires_at, id) of the last task of the page before.
        """
        column = tasks.c.expires_at
        # Only an ended task has such a time; asked for its status, SQLite would read all that ended.
        where = [column <= now, tasks.c.callback_due_at.is_(None)]
        if after is not None:
            expires_at, task_id = after
            where += [column >= expires_at, sa.or_(column != expires_at, tasks.c.id > task_id)]
        return self._tasks(sa.select(tasks).where(*where).order_by(column, tasks.c.id).limit(limit))

    def recorded(self, ids: Iterable[str]) -> set[str]:
        """Those of the ids that are a task's, hidden ones too."""
        found: set[str] = set()
        with self._transaction() as connection:
            for some in _slices(list(ids)):
                found.update(connection.execute(sa.select(tasks.c.id).where(tasks.c.id.in_(some))).scalars())
        return found

    def began_at(self, now: float) -> float:
        """Since when this database is in use: the time of the first call, down to the minute."""
        name = facts.c.name == "began_min"  # in seconds it would outgrow the column in 2038
        with self._transaction() as connection:
            minute = connection.execute(sa.select(facts.c.value).where(name)).scalar()
            if minute is None:
                minute = int(now // 60)
                connection.execute(facts.insert().values(name="began_min", value=minute))
        return float(minute * 60)

    def _claim(self, path: Path) -> None:
        if self._lock is not None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f"{path.name}.lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise RegistryUnavailable(
                f"another server uses the task database {path.name}: stop it, or set MEDIARAY_DATA_DIR"
            ) from None
        self._lock = lock

    def _next_epoch(self) -> int:
        """Counted by one statement: of two registries that open at once, each has a number of its own."""
        epoch = facts.c.name == "epoch"
        count = facts.update().where(epoch).values(value=facts.c.value + 1).returning(facts.c.value)
        with self._transaction() as connection:
            number = connection.execute(count).scalar()
            if number is None:
                number = 1
                connection.execute(facts.insert().values(name="epoch", value=number))
        return int(number)

    def _tasks(self, query: sa.Select[Any]) -> list[Task]:
        with self._transaction() as connection:
            return [from_row(row) for row in connection.execute(query)]

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.DBAPIError as error:
            raise refusal(error) from error


def _conditions(query: TaskQuery) -> list[sa.ColumnElement[bool]]:
    where: list[sa.ColumnElement[bool]] = [tasks.c.is_deleted.is_(False)]
    for column, value in (
        (tasks.c.tenant, query.tenant),
        (tasks.c.dialect, query.dialect),
        (tasks.c.service, query.service),
    ):
        if value is not None:
            where.append(column == value)
    if query.dialects is not None:
        where.append(tasks.c.dialect.in_(query.dialects))
    if query.statuses is not None:
        where.append(tasks.c.status.in_([status.value for status in query.statuses]))
    if query.name is not None:
        # The name has no column: it opens the request's JSON.
        head = f'{{"name":{json.dumps(query.name)},'
        where.append(sa.func.substr(tasks.c.request, 1, len(head)) == head)
    if query.created_after is not None:
        where.append(tasks.c.created_at >= query.created_after)
    if query.created_before is not None:
        where.append(tasks.c.created_at < query.created_before)
    return where


def _behind(query: TaskQuery) -> list[sa.ColumnElement[bool]]:
    """What lies behind the last task of the page before, whatever was inserted since."""
    if query.after is None:
        return []
    created_at, task_id = query.after
    column = tasks.c.created_at
    begin = column <= created_at if query.newest_first else column >= created_at  # what an index can seek
    return [begin, sa.or_(column != created_at, tasks.c.id > task_id)]


def _slices(values: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(values), _IDS_PER_QUERY):
        yield values[start : start + _IDS_PER_QUERY]


def _driver_url(url: str) -> URL:
    parsed = make_url(url)
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


def _engine(url: URL) -> sa.Engine:
    engine = sa.create_engine(url)
    if url.get_backend_name() == "sqlite":
        sa.event.listen(engine, "connect", _set_pragmas)
    return engine


def _set_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
