"""multipart/form-data as a stream: fields in memory (small), file content chunk by chunk, nothing spooled.

Push parser: python-multipart. Only what the socket delivers next is held.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from api.errors import BadRequest, Unprocessable

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_FIELD_BYTES = 64 * 1024
MAX_PARTS = 100
_PIECE_BYTES = 8 * 1024
_TURN_S = 0.005  # of the event loop


@dataclass(frozen=True, slots=True)
class Field:
    """A complete form field."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class FileStart:
    """A file part begins; `filename` is as the client wrote it: hostile until cleaned."""

    name: str
    filename: str


@dataclass(frozen=True, slots=True)
class FileEnd:
    """The file part that began last is complete."""


FormEvent = Field | FileStart | bytes | FileEnd


async def form_events(request: Request) -> AsyncGenerator[FormEvent, None]:
    """The parts of a form as they arrive; `bytes` are content of the file that began last.

    Raises BadRequest for a malformed or cut body, Unprocessable for another content type.
    """
    parts = _Parts()
    parser = MultipartParser(_boundary(request), parts.callbacks())
    try:
        async for piece in _pieces(request):
            parser.write(piece)
            for event in parts.take():
                yield event
    except FormParserError as error:
        raise BadRequest(f"malformed multipart body: {error}") from error
    if not parts.is_complete:
        raise BadRequest("the multipart body ends before its closing boundary")


async def _pieces(request: Request) -> AsyncGenerator[bytes, None]:
    """The body, small enough to let other requests have their turn.

    Content full of beginnings of the boundary, which its sender chooses, is parsed at 0.5 MB/s.
    """
    turn_ends_s = time.monotonic() + _TURN_S
    async for chunk in request.stream():
        for start in range(0, len(chunk), _PIECE_BYTES):
            yield chunk[start : start + _PIECE_BYTES]
            if time.monotonic() >= turn_ends_s:
                await asyncio.sleep(0)
                turn_ends_s = time.monotonic() + _TURN_S


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data":
        text = "the body must be multipart/form-data"
        raise Unprocessable([{"type": "content_type", "loc": ["body"], "msg": text}])
    if not 0 < len(boundary) <= 200:
        raise BadRequest("multipart/form-data needs a boundary of 1 to 200 characters")
    return boundary


class _Parts:
    """Collects what the parser's callbacks tell between two chunks."""

    def __init__(self) -> None:
        self.is_complete = False
        self._events: list[FormEvent] = []
        self._num_parts = 0
        self._header = bytearray()
        self._header_value = bytearray()
        self._headers: dict[str, str] = {}
        self._field_name = ""
        self._field = bytearray()
        self._is_file = False

    def take(self) -> list[FormEvent]:
        events, self._events = self._events, []
        return events

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, stop: self._header.extend(data[start:stop]),
            "on_header_value": lambda data, start, stop: self._header_value.extend(data[start:stop]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._start,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise FormParserError(f"more than {MAX_PARTS} parts")
        self._headers = {}
        self._field = bytearray()

    def _end_header(self) -> None:
        self._headers[self._header.decode("latin-1").lower()] = self._header_value.decode("latin-1")
        self._header = bytearray()
        self._header_value = bytearray()

    def _start(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", ""))
        if b"name" not in options:
            raise FormParserError("a part has no name")
        self._field_name = _text(options[b"name"])
        self._is_file = b"filename" in options
        if self._is_file:
            self._events.append(FileStart(self._field_name, _text(options[b"filename"])))

    def _data(self, data: bytes, start: int, stop: int) -> None:
        if self._is_file:
            self._events.append(data[start:stop])
            return
        if len(self._field) + stop - start > MAX_FIELD_BYTES:
            raise FormParserError(f"field {self._field_name!r} is longer than {MAX_FIELD_BYTES} bytes")
        self._field += data[start:stop]

    def _end(self) -> None:
        self._events.append(
            FileEnd() if self._is_file else Field(self._field_name, _text(bytes(self._field)))
        )

    def _finish(self) -> None:
        self.is_complete = True


def _text(data: bytes) -> str:
    """Names, file names and values are UTF-8; a byte that is not becomes U+FFFD."""
    return data.decode("utf-8", "replace")
