"""The client of the `hallo2` API: a portrait and a recording in, a video out."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import httpx

from mediaray.connection import Connection
from mediaray.errors import TaskCancelled, TaskFailed
from mediaray.steps import Flow, Pause
from mediaray.transfers import Download
from mediaray.transport import FIRST_DELAY_S, delays_s
from mediaray.values import Json
from mediaray.watching import TimeLimit

COMPLETED, FAILED = "completed", "failed"
CANCELLED_TEXT = "cancelled"
"""The error of a failed task that was cancelled: this API has no status for it."""


class Hallo2Client(Connection):
    """Talks to one server, at its root or at its `/hallo2`; use it in a `with` block, or `close` it.

    `timeout_s` bounds the silence within one exchange, `retry_s` how long a call goes on trying a
    server that is away. All calls raise ApiError when the server refuses them (with the code
    MODEL_NOT_READY where it has no model to run) and ServerUnavailable when none answers.
    """

    def inference(self, image_path: Path | str, audio_path: Path | str, use_cache: bool | None = None) -> str:
        """Upload a portrait and a recording, and queue the video; returns the task's id.

        Without `use_cache` the server's own default counts. Raises FileNotFoundError for a missing file.
        Not repeated when a connection breaks after the request was sent: it may have arrived.
        """
        fields = {} if use_cache is None else {"use_cache": str(use_cache).lower()}
        form = FormBody(fields, {"image_file": Path(image_path), "audio_file": Path(audio_path)})
        call = self._calls.call(
            "POST", "/api/v1/inference/hallo2", headers=form.headers, body=form, repeatable=False
        )
        return self._calls.read(lambda answer: str(answer["task_id"]), self._driver.run(call))

    def configure(
        self,
        *,
        guidance_scale: float | None = None,
        inference_steps: int | None = None,
        enable_cache: bool | None = None,
    ) -> None:
        """Change the defaults of your later tasks; what is left out stays as it is."""
        asked = {
            "guidance_scale": guidance_scale,
            "inference_steps": inference_steps,
            "enable_cache": enable_cache,
        }
        changes = {name: value for name, value in asked.items() if value is not None}
        self._driver.run(self._calls.call("POST", "/api/v1/inference/hallo2/config", json=changes))

    def status(self, task_id: str) -> Json:
        """The task as the server shows it: `progress` is 0-100, `result` and `error` come at its end."""
        return self._driver.run(self._calls.call("GET", _task_path(task_id)))

    def logs(self, task_id: str) -> str:
        """What the task's last attempt logged so far."""
        answer = self._driver.run(self._calls.call("POST", _task_path(task_id, "/logs")))
        return self._calls.read(lambda body: str(body["logs"]), answer)

    def cancel(self, task_id: str) -> None:
        """Stop a queued or running task; raises ApiError where there is nothing to stop."""
        self._driver.run(self._calls.call("DELETE", _task_path(task_id), repeatable=False))

    def wait(
        self,
        task_id: str,
        *,
        on_status: Callable[[Json], None] | None = None,
        timeout_s: float | None = None,
        poll_s: float = 1.0,
    ) -> Json:
        """The status of the completed task; `on_status` sees every one before it.

        Asks often at first, every `poll_s` later, and rides out server restarts. Raises TaskFailed,
        TaskCancelled, WaitTimeout.
        """
        limit = TimeLimit(task_id, timeout_s)
        return self._driver.run(self._ended(task_id, limit, poll_s, on_status or (lambda _status: None)))

    def download(self, task_id: str, output_path: Path | str) -> Path:
        """Fetch the video of a completed task, streamed and checked against the server's sha256.

        Interrupted, it leaves `output_path` + ".part", and continues there the next time.
        """
        request = self._calls.request("GET", _task_path(task_id, "/video"))
        download = Download(request.url, dict(request.headers), None)
        return self._driver.run(download.to(Path(output_path), self._retry_s))

    def wait_and_download(
        self, task_id: str, output_path: Path | str, *, timeout_s: float | None = None
    ) -> Path:
        """`wait`, then `download`."""
        self.wait(task_id, timeout_s=timeout_s)
        return self.download(task_id, output_path)

    def _ended(
        self, task_id: str, limit: TimeLimit, poll_s: float, on_status: Callable[[Json], None]
    ) -> Flow[Json]:
        for pause_s in delays_s(min(FIRST_DELAY_S, poll_s), poll_s):
            task = yield from self._calls.call("GET", _task_path(task_id), retry_s=limit.outage_s)
            on_status(task)
            if self._calls.read(lambda body: body["status"], task) in {COMPLETED, FAILED}:
                return _settled(task_id, task)
            limit.check(pause_s)
            yield Pause(pause_s)
        raise AssertionError("delays_s never ends")


class FormBody:
    """A form with files, read while it is sent; every sending reads them from their beginning."""

    def __init__(self, fields: Mapping[str, str], files: Mapping[str, Path]) -> None:
        self._fields = dict(fields)
        self._files = files
        self._content_type = f"multipart/form-data; boundary={uuid.uuid4().hex}"
        with self._encoded() as request:
            self.headers = {
                "content-type": self._content_type,
                "content-length": request.headers["content-length"],
                # Ray Serve then hands body bytes on at the application's pace, not collecting them.
                "x-request-disconnect-disabled": "?1",
            }

    def chunks(self) -> Iterator[bytes]:
        with self._encoded() as request:
            if isinstance(request.stream, httpx.SyncByteStream):
                yield from request.stream

    def sent(self, chunk: bytes) -> None:
        """Nobody watches."""

    @contextmanager
    def _encoded(self) -> Iterator[httpx.Request]:
        """The form as httpx writes it, while its files are open."""
        with ExitStack() as opened:
            files = {
                name: (path.name, opened.enter_context(path.open("rb"))) for name, path in self._files.items()
            }
            headers = {"content-type": self._content_type}
            yield httpx.Request("POST", "http://form", data=self._fields, files=files, headers=headers)


def _task_path(task_id: str, part: str = "") -> str:
    return f"/api/v1/tasks/{quote(task_id, safe='')}{part}"


def _settled(task_id: str, task: Json) -> Json:
    """The status of a completed task; raises TaskFailed or TaskCancelled for the other ends."""
    if task["status"] == COMPLETED:
        return task
    error = str(task.get("error") or "")
    if error == CANCELLED_TEXT:
        raise TaskCancelled(task_id)
    raise TaskFailed(task_id, "", error)
