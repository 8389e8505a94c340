"""A file from a caller's URL onto this machine's disk: every redirect judged, size and time bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, TypeVar

import httpcore
import httpx

from cluster import keys
from cluster.disk import WORKSPACE_FULL, failing
from cluster.errors import InvalidKey, UnsafeUrl, UrlNotFound, UrlNotUsable, UrlUnreachable
from cluster.urls import UrlGuard, bounded, headers_of

MAX_REDIRECTS = 5
_REPORT_S = 0.25
_FOUND = frozenset({200, 203})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NOT_THERE = frozenset({401, 403, 404, 410})
_TRY_AGAIN = frozenset({408, 425, 429})
# The bytes as they are: a compressed answer would pass the size limit and be no media file.
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity"}

OnBytes = Callable[[int, int | None], None]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Downloaded:
    """`media_type` is what its server says; `name` is one path segment, from its server or the URL."""

    size_bytes: int
    media_type: str
    name: str


@dataclass(frozen=True, slots=True)
class UrlDownloads:
    """Downloads within the operator's bounds: bytes of one file, seconds of one download."""

    guard: UrlGuard
    max_bytes: int
    timeout_s: float

    def fetch(self, url: str, target: Path, on_bytes: OnBytes) -> Downloaded:
        """Stream the file at `url` to `target`; blocks, on a thread without an event loop.

        `on_bytes` gets the bytes so far and those expected several times a second, also while nothing
        comes, and stops the download by raising. Raises UnsafeUrl, UrlNotFound, UrlNotUsable,
        UrlUnreachable and StorageFailure; `target` may then hold a part.
        """
        with failing(WORKSPACE_FULL), target.open("wb") as file:
            transfer = _Transfer(file, self.max_bytes)
            return asyncio.run(
                _watched(
                    self._fetch(url, transfer), lambda: on_bytes(transfer.done_bytes, transfer.total_bytes)
                )
            )

    async def _fetch(self, url: str, transfer: _Transfer) -> Downloaded:
        parts = self.guard.check_form(url)
        with bounded(parts, self.timeout_s):
            for _ in range(MAX_REDIRECTS + 1):
                async with self.guard.exchange("GET", parts, _HEADERS) as response:
                    if response.status not in _REDIRECTS:
                        return await transfer.take(parts, response)
                    parts = self._redirected(parts, headers_of(response).get("location", ""))
        raise UrlNotUsable(f"{parts.host} redirects more than {MAX_REDIRECTS} times")

    def _redirected(self, url: httpx.URL, location: str) -> httpx.URL:
        try:
            return self.guard.check_form(str(url.join(location)))
        except httpx.InvalidURL as error:
            raise UnsafeUrl(f"{url.host} redirects to what is no URL") from error


class _Transfer:
    """One answer on its way into a file."""

    def __init__(self, file: IO[bytes], max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self.done_bytes = 0
        self.total_bytes: int | None = None

    async def take(self, url: httpx.URL, response: httpcore.Response) -> Downloaded:
        headers = headers_of(response)
        _refuse(url, response.status, headers.get("content-encoding", "identity"))
        length = headers.get("content-length", "")
        self.total_bytes = int(length) if length.isdecimal() else None
        self._bound(self.total_bytes or 0)
        async for chunk in response.aiter_stream():
            self.done_bytes += len(chunk)
            self._bound(self.done_bytes)
            self._file.write(chunk)
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        return Downloaded(self.done_bytes, media_type, _name(url, headers.get("content-disposition", "")))

    def _bound(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise UrlNotUsable(f"the file at the URL is larger than the {self._max_bytes} bytes accepted")


def _refuse(url: httpx.URL, status: int, encoding: str) -> None:
    """Raises unless the answer is a file as it is."""
    said = f"{url.host} answered {status}"
    if status in _NOT_THERE:
        raise UrlNotFound(f"no file at the URL: {said}")
    if status in _TRY_AGAIN or status >= 500:
        raise UrlUnreachable(said)
    if status not in _FOUND:
        raise UrlNotUsable(f"no file at the URL: {said}")
    if encoding.strip().lower() not in {"", "identity"}:
        raise UrlNotUsable(
            f"{url.host} answered with a compressed body ({encoding[:50]}), not the file itself"
        )


def _name(url: httpx.URL, disposition: str) -> str:
    for told in (_told_name(disposition), url.path):
        name = told.replace("\\", "/").rpartition("/")[2]
        try:
            return keys.clean_name(name)
        except InvalidKey:
            continue
    return "download"


def _told_name(disposition: str) -> str:
    """The name that the server gives the file; empty where it gives none that can be read."""
    message = Message()
    try:
        message["Content-Disposition"] = disposition
        return message.get_filename() or ""
    except (LookupError, ValueError):  # an unknown charset, or bytes that are none of it
        return ""


async def _watched(work: Coroutine[None, None, _T], look: Callable[[], None]) -> _T:
    """The result of `work`; what `look`, called now and then, raises ends it."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=_REPORT_S)
            look()
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
