"""Forms as they stream: other requests have their turn, whatever the body holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from api.multipart import FileEnd, FileStart, form_events

CHUNK_BYTES = 256 * 1024


class Request:
    """A request of one form, whose body came in one go."""

    def __init__(self, content: bytes) -> None:
        self.headers = {"content-type": "multipart/form-data; boundary=b"}
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        self._body = head + content + b"\r\n--b--\r\n"

    async def stream(self) -> AsyncIterator[bytes]:
        yield self._body


@pytest.mark.parametrize("piece", [b"\r\n--b-", b"\r\n--", b"\r", b"0"], ids=repr)
async def test_the_content_is_what_was_sent(piece: bytes) -> None:
    content = piece * (CHUNK_BYTES // len(piece))
    events = [event async for event in form_events(Request(content))]  # type: ignore[arg-type]
    assert (events[0], events[-1]) == (FileStart("file", "x"), FileEnd())
    assert b"".join(event for event in events if isinstance(event, bytes)) == content


async def test_content_that_is_slow_to_parse_leaves_others_their_turn() -> None:
    """Full of beginnings of the boundary: hundreds of milliseconds of parsing in one chunk."""
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    async for _ in form_events(Request(b"\r\n--b-" * (CHUNK_BYTES // 6))):  # type: ignore[arg-type]
        pass
    counting.cancel()
    assert turns > 5
