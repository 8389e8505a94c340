"""Every call of the API as a flow: what is asked, what the answer means, what is decided. No I/O here."""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urljoin

import httpx

from mediaray.errors import ApiError
from mediaray.steps import Emit, Flow, Request, send, work
from mediaray.transfers import Download, FileBody, FolderProgress, files_below, local_path, name_in_url
from mediaray.transport import Patience, raise_for_error, with_retries
from mediaray.values import (
    CANCELLED,
    Delivery,
    Json,
    ModelView,
    RemoteFile,
    TaskView,
    TransferCallback,
    delivery_view,
    model_view,
    remote_file,
    task_view,
)

A = TypeVar("A")
T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8000"
PAGE_TASKS = 100
"""The longest page of a list that the server gives."""


class Calls:
    """The API of one server, for one caller."""

    def __init__(self, base_url: str, api_key: str | None, retry_s: float) -> None:
        url = httpx.URL(base_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"not the URL of a server: {base_url!r}, expected one like {DEFAULT_URL}")
        self.base_url = str(url).rstrip("/")
        self.is_loopback = _is_loopback(url)
        self._origin = (url.scheme, url.host, url.port)
        self._auth = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._retry_s = retry_s

    def submit(
        self, task_name: str, inputs: Mapping[str, Any], idempotency_key: str | None, options: Json
    ) -> Flow[TaskView]:
        """`options` are further fields of the body; those without a value are left out."""
        body: Json = {"task_name": task_name, "input_data": (yield from self._with_uploads(dict(inputs)))}
        body |= {name: value for name, value in options.items() if value}
        key = idempotency_key or (None if options["task_id"] else uuid.uuid4().hex)
        headers = {"idempotency-key": key} if key else {}
        return self._task((yield from self.call("POST", "/v1/tasks", json=body, headers=headers)))

    def status(self, task_id: str, retry_s: float | None = None) -> Flow[TaskView]:
        return self._task((yield from self.call("GET", task_path(task_id, "status"), retry_s=retry_s)))

    def result(self, task_id: str) -> Flow[TaskView]:
        return self._task((yield from self.call("GET", task_path(task_id, "result"))))

    def cancel(self, task_id: str) -> Flow[TaskView]:
        try:
            return self._task((yield from self.call("DELETE", task_path(task_id))))
        except ApiError as error:
            if error.status != 400:
                raise
            view = yield from self.status(task_id)
            if view.status != CANCELLED:
                raise
            return view

    def retry(self, task_id: str, inputs: Mapping[str, Any] | None) -> Flow[TaskView]:
        body = {"input_data": (yield from self._with_uploads(dict(inputs)))} if inputs else None
        path = task_path(task_id, "retry")
        return self._task((yield from self.call("POST", path, json=body, repeatable=False)))

    def listed(
        self, status: str | None, task_name: str | None, limit: int | None, cursor: str | None
    ) -> Flow[None]:
        """Emits TaskView values, page by page."""
        left = limit
        while left is None or left > 0:
            asked = {
                "status": status,
                "task_name": task_name,
                "cursor": cursor,
                "limit": PAGE_TASKS if left is None else min(left, PAGE_TASKS),
            }
            params = {name: value for name, value in asked.items() if value is not None}
            answer = yield from self.call("GET", "/v1/tasks", params=params)
            views = self.read(lambda body: [task_view(item) for item in body["tasks"]], answer)
            for view in views[:left]:
                yield Emit(view)
            left = None if left is None else left - len(views)
            cursor = answer.get("next_cursor")
            if not cursor:
                return

    def logs(self, task_id: str, tail: int | None) -> Flow[list[str]]:
        params = {} if tail is None else {"tail": tail}
        request = self.request("GET", task_path(task_id, "logs"), params=params)
        response = yield from with_retries(lambda: _accepted(request), Patience(self._retry_s))
        text = response.content.decode(errors="replace")
        # Not splitlines, which also breaks at characters that may stand inside a line.
        return text.removesuffix("\n").split("\n") if text else []

    def deliveries(self, task_id: str) -> Flow[list[Delivery]]:
        answer = yield from self.call("GET", task_path(task_id, "deliveries"))
        return self.read(lambda body: [delivery_view(item) for item in body["deliveries"]], answer)

    def replay_delivery(self, task_id: str, number: int) -> Flow[Delivery]:
        path = task_path(task_id, f"deliveries/{number}/replay")
        return self.read(delivery_view, (yield from self.call("POST", path, repeatable=False)))

    def download(
        self, source: TaskView | RemoteFile | str, target: Path | str, on_progress: TransferCallback | None
    ) -> Flow[list[Path]]:
        files = yield from self._files_of(source)
        is_folder = str(target).endswith(("/", "\\")) or Path(target).is_dir() or len(files) > 1
        paths = []
        for file in files:
            path = local_path(file.name, Path(target)) if is_folder else Path(target)
            url = urljoin(self.base_url + "/", file.url)
            paths.append((yield from Download(url, self._auth_for(url), on_progress).to(path, self._retry_s)))
        return paths

    def upload(
        self, path: Path, file_path: str | None, on_progress: TransferCallback | None
    ) -> Flow[RemoteFile]:
        """Of a folder every file; the answer then names the folder."""
        is_folder = yield from work(path.is_dir)
        name = path.resolve().name if is_folder else path.name  # the current folder is "." and has no name
        key = file_path or f"uploads/{uuid.uuid4().hex}/{name}"
        if is_folder:
            return (yield from self._upload_folder(path.resolve(), key.rstrip("/"), on_progress))
        return (yield from self._upload_file(path, key, on_progress))

    def _upload_folder(
        self, folder: Path, key: str, on_progress: TransferCallback | None
    ) -> Flow[RemoteFile]:
        files = yield from work(partial(files_below, folder, key))
        total_bytes = sum(file.size_bytes for file in files)
        progress = FolderProgress(folder.name, total_bytes, on_progress)
        for file in files:
            yield from self._upload_file(file.path, f"{key}/{file.name}", progress.show)
            progress.finished(file.size_bytes)
        return RemoteFile(key, self._download_url(key), total_bytes, "", folder.name)

    def _upload_file(self, path: Path, key: str, on_progress: TransferCallback | None) -> Flow[RemoteFile]:
        headers = {
            "content-length": str(path.stat().st_size),
            "content-type": "application/octet-stream",
            # Ray Serve then hands body bytes on at the application's pace, not collecting them. It wants
            # exactly ?1, a true of RFC 8941: any other value counts as false.
            "x-request-disconnect-disabled": "?1",
        }

        def attempt() -> Flow[Json]:
            body = FileBody(path, on_progress)
            return (
                yield from self._exchange(
                    self.request("PUT", f"/v1/files/{quote(key)}", headers=headers, body=body)
                )
            )

        return self.read(remote_file, (yield from with_retries(attempt, Patience(self._retry_s))))

    def delete_file(self, file_path: str) -> Flow[None]:
        yield from self.call("DELETE", f"/v1/files/{quote(file_path)}")

    def delete_directory(self, directory_path: str) -> Flow[None]:
        yield from self.call("DELETE", "/v1/files/directories", params={"directory_path": directory_path})

    def models(self) -> Flow[list[ModelView]]:
        answer = yield from self.call("GET", "/v1/models")
        return self.read(lambda body: [model_view(item) for item in body["models"]], answer)

    def health(self) -> Flow[Json]:
        return (yield from self.call("GET", "/v1/tasks/health", retry_s=0.0))

    def call(
        self, method: str, path: str, *, retry_s: float | None = None, repeatable: bool = True, **content: Any
    ) -> Flow[Json]:
        request = self.request(method, path, **content)
        patience = Patience(self._retry_s if retry_s is None else retry_s)
        return (yield from with_retries(lambda: self._exchange(request), patience, repeatable=repeatable))

    def request(self, method: str, path: str, *, headers: Mapping[str, str] = {}, **content: Any) -> Request:
        headers = {**self._auth, **headers}
        return Request(method, self.base_url + path, self.base_url, headers, **content)

    def read(self, parse: Callable[[A], T], answer: A) -> T:
        """`parse(answer)`, with an answer that does not fit told as what it is: a wrong server."""
        try:
            return parse(answer)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self.wrong_server() from error

    def wrong_server(self) -> ApiError:
        return ApiError(200, "", f"{self.base_url} does not answer like a mediaray server")

    def _exchange(self, request: Request) -> Flow[Json]:
        response = yield from _accepted(request)
        return self.read(httpx.Response.json, response) if response.content else {}

    def _task(self, answer: Json) -> TaskView:
        return self.read(task_view, answer)

    def _with_uploads(self, value: Any) -> Flow[Any]:
        if isinstance(value, Path):
            return (yield from self.upload(value, None, None)).path
        if isinstance(value, Mapping):
            return dict(zip(value, (yield from self._with_uploads(tuple(value.values()))), strict=True))
        if isinstance(value, list | tuple):
            items = []
            for item in value:
                items.append((yield from self._with_uploads(item)))
            return items
        return value

    def _files_of(self, source: TaskView | RemoteFile | str) -> Flow[list[RemoteFile]]:
        if isinstance(source, TaskView):
            return list(source.files or (yield from self.status(source.id)).files)
        if isinstance(source, RemoteFile):
            return [source]
        url = source if "://" in source else self._download_url(source)
        return [RemoteFile(path=source, url=url, size_bytes=0, media_type="", name=name_in_url(url))]

    def _download_url(self, key: str) -> str:
        return f"{self.base_url}/v1/files/download/{quote(key)}"

    def _auth_for(self, url: str) -> dict[str, str]:
        """Our key, for our server only: a store's signed URL carries its own permission."""
        parts = httpx.URL(url)
        return self._auth if (parts.scheme, parts.host, parts.port) == self._origin else {}


def _accepted(request: Request) -> Flow[httpx.Response]:
    response = yield from send(request)
    raise_for_error(response)
    return response


def task_path(task_id: str, part: str = "") -> str:
    return f"/v1/tasks/{quote(task_id, safe='')}" + (f"/{part}" if part else "")


def _is_loopback(url: httpx.URL) -> bool:
    try:
        return ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return url.host == "localhost"
