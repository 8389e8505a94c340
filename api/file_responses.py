"""Serving stored files: streamed, with Range, ETag and names that no browser is harmed by.

Shared by all dialects. RFC 9110 §13 and §14: one range is served, several are answered with the whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from api.errors import NotFound
from cluster.download_urls import inline_disposition
from cluster.errors import ArtifactNotFound
from cluster.storage import ArtifactStore, Stored

_RANGE = re.compile(r"bytes=\s*(\d*)\s*-\s*(\d*)\s*")
_SHOWN = ("image/", "video/", "audio/", "text/plain", "application/json", "application/pdf", "text/vtt")
_NEVER_SHOWN = ("image/svg",)  # scripts run inside
_MAX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes start..stop of a file, stop excluded."""

    start: int
    stop: int


class Unsatisfiable(Exception):
    """The range lies behind the end of the file."""


def asked_span(header: str, size_bytes: int) -> Span | None:
    """The one range that a Range header asks for; None where the whole file is the answer.

    Raises Unsatisfiable.
    """
    match = _RANGE.fullmatch(header)
    if match is None or match.group(1) == match.group(2) == "" or len(header) > 2 * _MAX_DIGITS:
        return None
    first, last = (int(text) if text else None for text in match.groups())
    if first is None:
        first, last = max(0, size_bytes - (last or 0)), None
    elif last is not None and last < first:
        return None
    if first >= size_bytes:
        raise Unsatisfiable
    return Span(first, size_bytes if last is None else min(last + 1, size_bytes))


async def file_response(
    request: Request,
    storage: ArtifactStore,
    key: str,
    *,
    filename: str | None = None,
    missing: str = "文件不存在",
) -> Response:
    """The answer to GET or HEAD for the object at `key`; raises NotFound with the text `missing`."""
    try:
        return await _response(request, storage, key, filename or key.rpartition("/")[2])
    except ArtifactNotFound as error:
        raise NotFound(missing, code="FILE_NOT_FOUND") from error


async def _response(request: Request, storage: ArtifactStore, key: str, filename: str) -> Response:
    """Raises ArtifactNotFound."""
    stored = await to_thread.run_sync(storage.stat, key)
    headers = _headers(stored, filename)
    if _is_known(request, stored):
        return Response(status_code=304, headers=headers)
    try:
        span = (
            asked_span(request.headers.get("range", ""), stored.size_bytes)
            if _may_range(request, stored)
            else None
        )
    except Unsatisfiable:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{stored.size_bytes}"})
    return await _content(request, storage, stored, span, headers)


async def _content(
    request: Request, storage: ArtifactStore, stored: Stored, span: Span | None, headers: dict[str, str]
) -> Response:
    served = span or Span(0, stored.size_bytes)
    headers["Content-Length"] = str(served.stop - served.start)
    if span is not None:
        headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{stored.size_bytes}"
    status = 200 if span is None else 206
    if request.method == "HEAD" or served.start == served.stop:
        return Response(status_code=status, headers=headers, media_type=stored.media_type)
    # It opens the object: a request to S3.
    chunks = await to_thread.run_sync(storage.read, stored.key, served.start, served.stop)
    return StreamingResponse(chunks, status, headers, media_type=stored.media_type)


def _headers(stored: Stored, filename: str) -> dict[str, str]:
    headers = {
        "ETag": stored.etag,
        "Last-Modified": _http_date(stored),
        "Accept-Ranges": "bytes",
        "Content-Disposition": inline_disposition(filename),
        "X-Content-Type-Options": "nosniff",
    }
    if not _may_show(stored.media_type):
        headers["Content-Disposition"] = "attachment" + headers["Content-Disposition"].removeprefix("inline")
        headers["Content-Security-Policy"] = "sandbox"
    return headers


def _may_show(media_type: str) -> bool:
    """Whether a browser may open it in our origin: nothing that can run."""
    return media_type.startswith(_SHOWN) and not media_type.startswith(_NEVER_SHOWN)


def _is_known(request: Request, stored: Stored) -> bool:
    """Whether the caller's copy is current (If-None-Match compares weakly)."""
    tags = request.headers.get("if-none-match")
    if tags is not None:
        known = {tag.strip().removeprefix("W/") for tag in tags.split(",")}
        return "*" in known or stored.etag in known
    since = request.headers.get("if-modified-since")
    return since is not None and _is_unchanged_since(since, stored)


def _may_range(request: Request, stored: Stored) -> bool:
    """Whether a Range counts: of GET alone, and where If-Range, if given, is exactly the version we have."""
    if request.method != "GET":
        return False
    condition = request.headers.get("if-range")
    return condition is None or condition in {stored.etag, _http_date(stored)}


def _http_date(stored: Stored) -> str:
    return formatdate(stored.modified_at, usegmt=True)


def _is_unchanged_since(date: str, stored: Stored) -> bool:
    try:
        return int(stored.modified_at) <= parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return False
