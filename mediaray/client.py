"""The Python client of a mediaray server: submit, watch, cancel, and files both ways."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from mediaray.connection import Connection
from mediaray.events import TaskEvent
from mediaray.values import (
    Delivery,
    Json,
    ModelView,
    ProgressCallback,
    RemoteFile,
    TaskView,
    TransferCallback,
)
from mediaray.watching import Following

Paths = list[Path]
Lines = list[str]
Deliveries = list[Delivery]
Models = list[ModelView]


class Client(Connection):
    """Talks to one server; use it in a `with` block, or `close` it. Safe for use from several threads.

    `timeout_s` bounds the silence within one exchange, `retry_s` how long a call goes on trying a
    server that is away (no connection, 429, 502, 503, 504). All calls raise ApiError when the server
    refuses them and ServerUnavailable when none answers. `AsyncClient` is the same for an event loop.
    """

    def submit(
        self,
        task_name: str,
        inputs: Mapping[str, Any],
        *,
        task_id: str | None = None,
        idempotency_key: str | None = None,
        priority: int = 0,
        callback: str | None = None,
    ) -> TaskView:
        """Record a task on the server; when this returns, it survives restarts there.

        Inputs that are `pathlib.Path` (also inside lists and objects) are uploaded first and replaced
        by their object key. Safe to repeat: with the same `task_id` or `idempotency_key` the server
        answers with the task it already has; without either, a key is made for this call.
        `callback` is a URL that the server calls when the task is final.
        """
        options = {"task_id": task_id, "priority": priority, "callback": callback}
        return self._driver.run(self._calls.submit(task_name, inputs, idempotency_key, options))

    def status(self, task_id: str) -> TaskView:
        return self._driver.run(self._calls.status(task_id))

    def result(self, task_id: str) -> TaskView:
        """As `status`, with the inputs and what is known about the execution."""
        return self._driver.run(self._calls.result(task_id))

    def cancel(self, task_id: str) -> TaskView:
        """Stop a waiting or running task. One that is cancelled already is no error."""
        return self._driver.run(self._calls.cancel(task_id))

    def retry(self, task_id: str, inputs: Mapping[str, Any] | None = None) -> TaskView:
        """Submit a finished task again under a new id, with `inputs` laid over the old ones.

        Not repeated when a connection breaks after the request was sent: it may have arrived.
        """
        return self._driver.run(self._calls.retry(task_id, inputs))

    def events(self, task_id: str) -> Generator[TaskEvent, None, None]:
        """What happens to a task, as it happens: first how it stands, last a TaskEnd.

        Reconnects without repeating events, and rides out server restarts of up to five minutes. A
        server without an event stream is asked for the status every second; it tells no log lines.
        """
        return self._driver.iterate(Following(self._calls, task_id).events())

    def wait(
        self,
        task_id: str,
        *,
        on_progress: ProgressCallback | None = None,
        timeout_s: float | None = None,
        poll_s: float = 1.0,
    ) -> TaskView:
        """The completed task. Follows its events, as `events` does; rides out server restarts.

        `poll_s` is for servers without an event stream: how often the status is asked after a while.
        Raises TaskFailed, TaskCancelled, WaitTimeout; ServerUnavailable when no server answered until
        the time limit (without one: for five minutes).
        """
        following = Following(self._calls, task_id, timeout_s=timeout_s, poll_s=poll_s)
        return self._driver.run(following.end(on_progress))

    def list(
        self,
        *,
        status: str | None = None,
        task_name: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Generator[TaskView, None, None]:
        """The caller's tasks, newest first, fetched page by page; `limit` is for all pages together.

        `status` and `task_name` choose; `cursor` is where an earlier list ended, in the server's words.
        """
        return self._driver.iterate(self._calls.listed(status, task_name, limit, cursor))

    def logs(self, task_id: str, tail: int | None = None) -> Lines:
        """What the running or the last attempt wrote, or the `tail` newest lines of it."""
        return self._driver.run(self._calls.logs(task_id, tail))

    def deliveries(self, task_id: str) -> Deliveries:
        """The callbacks of a task, with their tries."""
        return self._driver.run(self._calls.deliveries(task_id))

    def replay_delivery(self, task_id: str, number: int) -> Delivery:
        """Send an ended delivery again. Not repeated where the request may have arrived."""
        return self._driver.run(self._calls.replay_delivery(task_id, number))

    def download(
        self,
        source: TaskView | RemoteFile | str,
        target: Path | str,
        *,
        on_progress: TransferCallback | None = None,
    ) -> Paths:
        """Fetch a task's outputs, one file, an object key or a URL; returns the files written.

        `target` is a folder when it is one, ends with a slash, or several files come; else the file's
        path. An interrupted download leaves `NAME.part` and continues there. The sha256 is checked
        where the server tells it: if it differs, ChecksumMismatch is raised and nothing is kept.
        """
        return self._driver.run(self._calls.download(source, target, on_progress))

    def upload(
        self, path: Path | str, file_path: str | None = None, *, on_progress: TransferCallback | None = None
    ) -> RemoteFile:
        """Store a local file under the object key `file_path` (default: a new unique one).

        Of a folder every file below it is stored below that key, which inputs then name as the folder. One
        with links to folders, broken links, empty files or names that no key can have raises OSError, and
        nothing is sent.
        """
        return self._driver.run(self._calls.upload(Path(path), file_path, on_progress))

    def delete_file(self, file_path: str) -> None:
        self._driver.run(self._calls.delete_file(file_path))

    def delete_directory(self, directory_path: str) -> None:
        """Delete every object below `directory_path`; none there is no error."""
        self._driver.run(self._calls.delete_directory(directory_path))

    def models(self) -> Models:
        return self._driver.run(self._calls.models())

    def health(self) -> Json:
        """The server's own words about its queue and its file store; raises ApiError when unwell."""
        return self._driver.run(self._calls.health())
