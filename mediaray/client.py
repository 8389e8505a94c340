"""The Python client of a mediaray server: submit, watch, cancel, and files both ways."""

from __future__ import annotations

import ipaddress
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urljoin

import httpx

from mediaray.errors import ApiError, TaskCancelled, TaskFailed, WaitTimeout
from mediaray.transfers import Download, local_path, name_in_url, read_chunks
from mediaray.transport import FIRST_DELAY_S, Patience, delays_s, raise_for_error, translated, with_retries
from mediaray.values import (
    CANCELLED,
    FAILED,
    Json,
    ModelView,
    ProgressCallback,
    RemoteFile,
    TaskView,
    TransferCallback,
    model_view,
    remote_file,
    task_view,
)

A = TypeVar("A")
T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8000"
LONGEST_OUTAGE_S = 300.0
"""How long `wait` without a time limit goes on trying a server that does not answer at all."""


class Client:
    """Talks to one server; use it in a `with` block, or `close` it. Safe for use from several threads.

    `timeout_s` bounds the silence within one exchange, `retry_s` how long a call goes on trying a
    server that is away (no connection, 429, 502, 503, 504). All calls raise ApiError when the server
    refuses them and ServerUnavailable when none answers.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        retry_s: float = 30.0,
    ) -> None:
        url = httpx.URL(base_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"not the URL of a server: {base_url!r}, expected one like {DEFAULT_URL}")
        self.base_url = str(url).rstrip("/")
        self._origin = (url.scheme, url.host, url.port)
        self._auth = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._retry_s = retry_s
        timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, 10.0))
        # A proxy named in the environment cannot reach this machine's own loopback address.
        self._http = httpx.Client(timeout=timeout, follow_redirects=True, trust_env=not _is_loopback(url))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(
        self,
        task_name: str,
        inputs: Mapping[str, Any],
        *,
        task_id: str | None = None,
        idempotency_key: str | None = None,
        priority: int = 0,
    ) -> TaskView:
        """Record a task on the server; when this returns, it survives restarts there.

        Inputs that are `pathlib.Path` (also inside lists and objects) are uploaded first and replaced
        by their object key. Safe to repeat: with the same `task_id` or `idempotency_key` the server
        answers with the task it already has; without either, a key is made for this call.
        """
        body: Json = {"task_name": task_name, "input_data": self._with_uploads(dict(inputs))}
        body |= {"task_id": task_id} if task_id else {}
        body |= {"priority": priority} if priority else {}
        key = idempotency_key or (None if task_id else uuid.uuid4().hex)
        headers = {"idempotency-key": key} if key else {}
        return self._task(self._call("POST", "/v1/tasks", json=body, headers=headers))

    def status(self, task_id: str) -> TaskView:
        return self._task(self._call("GET", f"/v1/tasks/{_segment(task_id)}/status"))

    def result(self, task_id: str) -> TaskView:
        """As `status`, with the inputs and what is known about the execution."""
        return self._task(self._call("GET", f"/v1/tasks/{_segment(task_id)}/result"))

    def cancel(self, task_id: str) -> TaskView:
        """Stop a waiting or running task. One that is cancelled already is no error."""
        try:
            return self._task(self._call("DELETE", f"/v1/tasks/{_segment(task_id)}"))
        except ApiError as error:
            if error.status != 400:
                raise
            view = self.status(task_id)
            if view.status != CANCELLED:
                raise
            return view

    def retry(self, task_id: str, inputs: Mapping[str, Any] | None = None) -> TaskView:
        """Submit a finished task again under a new id, with `inputs` laid over the old ones.

        Not repeated when a connection breaks after the request was sent: it may have arrived.
        """
        body = {"input_data": self._with_uploads(dict(inputs))} if inputs else None
        path = f"/v1/tasks/{_segment(task_id)}/retry"
        return self._task(self._call("POST", path, json=body, repeatable=False))

    def wait(
        self,
        task_id: str,
        *,
        on_progress: ProgressCallback | None = None,
        timeout_s: float | None = None,
        poll_s: float = 1.0,
    ) -> TaskView:
        """The completed task. Asks often at first and every `poll_s` later; rides out server restarts.

        Raises TaskFailed, TaskCancelled, WaitTimeout; ServerUnavailable when no server answered until
        the time limit (without one: for LONGEST_OUTAGE_S).
        """
        started_at = time.monotonic()
        path = f"/v1/tasks/{_segment(task_id)}/status"
        for delay_s in delays_s(min(FIRST_DELAY_S, poll_s), poll_s):
            left_s = LONGEST_OUTAGE_S if timeout_s is None else timeout_s - (time.monotonic() - started_at)
            view = self._task(self._call("GET", path, retry_s=left_s))
            if on_progress and view.progress:
                on_progress(view.progress)
            if view.is_final:
                return _settled(view)
            if left_s <= delay_s and timeout_s is not None:
                raise WaitTimeout(task_id, timeout_s)
            time.sleep(delay_s)
        raise AssertionError("delays_s never ends")

    def download(
        self,
        source: TaskView | RemoteFile | str,
        target: Path | str,
        *,
        on_progress: TransferCallback | None = None,
    ) -> list[Path]:
        """Fetch a task's outputs, one file, an object key or a URL; returns the files written.

        `target` is a folder when it is one, ends with a slash, or several files come; else the file's
        path. An interrupted download leaves `NAME.part` and continues there. The sha256 is checked
        where the server tells it, else ChecksumMismatch is raised and nothing is kept.
        """
        files = self._files_of(source)
        is_folder = str(target).endswith(("/", "\\")) or Path(target).is_dir() or len(files) > 1
        return [
            self._fetch(file, local_path(file.name, Path(target)) if is_folder else Path(target), on_progress)
            for file in files
        ]

    def upload(
        self, path: Path | str, file_path: str | None = None, *, on_progress: TransferCallback | None = None
    ) -> RemoteFile:
        """Store a local file under the object key `file_path` (default: a new unique one)."""
        path = Path(path)
        key = file_path or f"uploads/{uuid.uuid4().hex}/{path.name}"
        headers = {
            "content-length": str(path.stat().st_size),
            "content-type": "application/octet-stream",
            # Ray Serve then hands body bytes on at the application's pace, not collecting them. It wants
            # exactly ?1, a true of RFC 8941: any other value counts as false.
            "x-request-disconnect-disabled": "?1",
        }

        def attempt() -> Json:
            content = read_chunks(path, on_progress)
            return self._exchange("PUT", f"/v1/files/{quote(key)}", headers=headers, content=content)

        return self._read(remote_file, with_retries(attempt, Patience(self._retry_s)))

    def delete_file(self, file_path: str) -> None:
        self._call("DELETE", f"/v1/files/{quote(file_path)}")

    def delete_directory(self, directory_path: str) -> None:
        """Delete every object below `directory_path`; none there is no error."""
        self._call("DELETE", "/v1/files/directories", params={"directory_path": directory_path})

    def models(self) -> list[ModelView]:
        answer = self._call("GET", "/v1/models")
        return self._read(lambda body: [model_view(item) for item in body["models"]], answer)

    def health(self) -> Json:
        """The server's own words about its queue and its file store; raises ApiError when unwell."""
        return self._call("GET", "/v1/tasks/health", retry_s=0.0)

    def _call(
        self, method: str, path: str, *, retry_s: float | None = None, repeatable: bool = True, **content: Any
    ) -> Json:
        patience = Patience(self._retry_s if retry_s is None else retry_s)
        return with_retries(lambda: self._exchange(method, path, **content), patience, repeatable=repeatable)

    def _exchange(self, method: str, path: str, *, headers: Mapping[str, str] = {}, **content: Any) -> Json:
        with translated(self.base_url):
            response = self._http.request(
                method, self.base_url + path, headers={**self._auth, **headers}, **content
            )
        raise_for_error(response)
        return self._read(httpx.Response.json, response) if response.content else {}

    def _task(self, answer: Json) -> TaskView:
        return self._read(task_view, answer)

    def _read(self, parse: Callable[[A], T], answer: A) -> T:
        """`parse(answer)`, with an answer that does not fit told as what it is: a wrong server."""
        try:
            return parse(answer)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ApiError(200, "", f"{self.base_url} does not answer like a mediaray server") from error

    def _with_uploads(self, value: Any) -> Any:
        if isinstance(value, Path):
            return self.upload(value).path
        if isinstance(value, Mapping):
            return {name: self._with_uploads(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._with_uploads(item) for item in value]
        return value

    def _files_of(self, source: TaskView | RemoteFile | str) -> list[RemoteFile]:
        if isinstance(source, TaskView):
            return list(source.files or self.status(source.id).files)
        if isinstance(source, RemoteFile):
            return [source]
        url = source if "://" in source else f"{self.base_url}/v1/files/download/{quote(source)}"
        return [RemoteFile(path=source, url=url, size_bytes=0, media_type="", name=name_in_url(url))]

    def _fetch(self, file: RemoteFile, target: Path, on_progress: TransferCallback | None) -> Path:
        url = urljoin(self.base_url + "/", file.url)
        return Download(self._http, url, self._auth_for(url), on_progress).to(target, self._retry_s)

    def _auth_for(self, url: str) -> dict[str, str]:
        """Our key, for our server only: a store's signed URL carries its own permission."""
        parts = httpx.URL(url)
        return self._auth if (parts.scheme, parts.host, parts.port) == self._origin else {}


def _segment(task_id: str) -> str:
    return quote(task_id, safe="")


def _settled(view: TaskView) -> TaskView:
    if view.status == CANCELLED:
        raise TaskCancelled(view.id)
    if view.status == FAILED:
        result = view.result or {}
        raise TaskFailed(
            view.id, str(result.get("error_code") or ""), str(result.get("error") or view.message)
        )
    return view


def _is_loopback(url: httpx.URL) -> bool:
    try:
        return ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return url.host == "localhost"
