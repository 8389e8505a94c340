"""The client for an event loop (asyncio): the calls of `mediaray.Client`, awaited."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from mediaray.calls import DEFAULT_URL, Calls
from mediaray.client import Deliveries, Lines, Models, Paths
from mediaray.drivers import AsyncDriver, http_options
from mediaray.events import TaskEvent
from mediaray.values import (
    Delivery,
    Json,
    ProgressCallback,
    RemoteFile,
    TaskView,
    TransferCallback,
)
from mediaray.watching import Following


class AsyncClient:
    """`Client` for asyncio: the same calls, arguments, values and errors; see there.

    Use it in an `async with` block, or `aclose` it. Many tasks of one event loop may share it. Files
    are read and written in worker threads; callbacks are called on the loop, so they must not block.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        retry_s: float = 30.0,
    ) -> None:
        self._calls = Calls(base_url, api_key, retry_s)
        self._driver = AsyncDriver(httpx.AsyncClient(**http_options(timeout_s, self._calls.is_loopback)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._driver.aclose()

    @property
    def base_url(self) -> str:
        return self._calls.base_url

    async def submit(
        self,
        task_name: str,
        inputs: Mapping[str, Any],
        *,
        task_id: str | None = None,
        idempotency_key: str | None = None,
        priority: int = 0,
        callback: str | None = None,
    ) -> TaskView:
        options = {"task_id": task_id, "priority": priority, "callback": callback}
        return await self._driver.run(self._calls.submit(task_name, inputs, idempotency_key, options))

    async def status(self, task_id: str) -> TaskView:
        return await self._driver.run(self._calls.status(task_id))

    async def result(self, task_id: str) -> TaskView:
        return await self._driver.run(self._calls.result(task_id))

    async def cancel(self, task_id: str) -> TaskView:
        return await self._driver.run(self._calls.cancel(task_id))

    async def retry(self, task_id: str, inputs: Mapping[str, Any] | None = None) -> TaskView:
        return await self._driver.run(self._calls.retry(task_id, inputs))

    def events(self, task_id: str) -> AsyncGenerator[TaskEvent, None]:
        """As `Client.events`. Ended early, `contextlib.aclosing` closes its connection at once."""
        return self._driver.iterate(Following(self._calls, task_id).events())

    async def wait(
        self,
        task_id: str,
        *,
        on_progress: ProgressCallback | None = None,
        timeout_s: float | None = None,
        poll_s: float = 1.0,
    ) -> TaskView:
        following = Following(self._calls, task_id, timeout_s=timeout_s, poll_s=poll_s)
        return await self._driver.run(following.end(on_progress))

    def list(
        self,
        *,
        status: str | None = None,
        task_name: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> AsyncGenerator[TaskView, None]:
        return self._driver.iterate(self._calls.listed(status, task_name, limit, cursor))

    async def logs(self, task_id: str, tail: int | None = None) -> Lines:
        return await self._driver.run(self._calls.logs(task_id, tail))

    async def deliveries(self, task_id: str) -> Deliveries:
        return await self._driver.run(self._calls.deliveries(task_id))

    async def replay_delivery(self, task_id: str, number: int) -> Delivery:
        return await self._driver.run(self._calls.replay_delivery(task_id, number))

    async def download(
        self,
        source: TaskView | RemoteFile | str,
        target: Path | str,
        *,
        on_progress: TransferCallback | None = None,
    ) -> Paths:
        return await self._driver.run(self._calls.download(source, target, on_progress))

    async def upload(
        self, path: Path | str, file_path: str | None = None, *, on_progress: TransferCallback | None = None
    ) -> RemoteFile:
        return await self._driver.run(self._calls.upload(Path(path), file_path, on_progress))

    async def delete_file(self, file_path: str) -> None:
        await self._driver.run(self._calls.delete_file(file_path))

    async def delete_directory(self, directory_path: str) -> None:
        await self._driver.run(self._calls.delete_directory(directory_path))

    async def models(self) -> Models:
        return await self._driver.run(self._calls.models())

    async def health(self) -> Json:
        return await self._driver.run(self._calls.health())
