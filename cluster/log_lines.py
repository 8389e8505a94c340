"""Log lines of attempts: what memory keeps of them while a task runs, and how they are stored. Pure."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable

from cluster.task import LogLines

MAX_LINE_CHARS = 2_000
_MAX_TAIL_LINES = 200
_MAX_TAIL_BYTES = 64 * 1024

_DROPPED = "[{number} earlier lines were not kept]"
_DROPPED_LINE = re.compile(r"\[(\d{1,12}) earlier lines were not kept\]")


class LogTail:
    """The newest lines of a task's running attempt: at most 200 and 64 KiB. One event loop or thread."""

    def __init__(self, known: LogLines | None = None) -> None:
        self._fence = ""
        self._next = 0
        self._lines: deque[tuple[int, str]] = deque()
        self._size_bytes = 0
        self.version = 0
        if known is not None:
            self.add(known)

    def add(self, news: LogLines, version: int = 0) -> None:
        """Append lines; those that are here already are skipped.

        After a gap, and with the lines of another attempt, the tail begins anew.
        """
        if not self.joins(news):
            self._restart(news)
        for line in news.lines[self._next - news.first :]:
            self._lines.append((version, line))
            self._size_bytes += _size_bytes(line)
        self._next = max(self._next, news.next)
        self.version = version
        while len(self._lines) > _MAX_TAIL_LINES or self._size_bytes > _MAX_TAIL_BYTES:
            self._size_bytes -= _size_bytes(self._lines.popleft()[1])

    def joins(self, news: LogLines) -> bool:
        """Whether nothing is missing between these lines and `news`."""
        return news.fence == self._fence and news.first <= self._next

    def since(self, version: int = -1) -> LogLines:
        """The lines that came after `version`; without it all that are kept."""
        lines = tuple(line for at, line in self._lines if at > version)
        return LogLines(self._fence, self._next - len(lines), lines)

    def _restart(self, news: LogLines) -> None:
        self._lines.clear()
        self._size_bytes = 0
        self._fence, self._next = news.fence, news.first


def newest(known: LogLines, max_lines: int, max_bytes: int) -> LogLines:
    """The end of `known` within these bounds; at least one line where there is one."""
    kept: list[str] = []
    for line in reversed(known.lines):
        max_bytes -= _size_bytes(line)
        if kept and (len(kept) == max_lines or max_bytes < 0):
            break
        kept.append(line)
    return known.since(known.next - len(kept))


def bounded(known: LogLines) -> LogLines:
    """As much of the end of `known` as memory keeps of a running task."""
    return newest(known, _MAX_TAIL_LINES, _MAX_TAIL_BYTES)


def as_file(known: LogLines) -> bytes:
    """An attempt's log as it is stored: UTF-8, one line each; what was dropped before them is said first."""
    head = [_DROPPED.format(number=known.first)] if known.first else []
    return "\n".join([*head, *known.lines, ""]).encode(errors="replace")


def from_file(fence: str, chunks: Iterable[bytes]) -> LogLines:
    """The lines of a stored log with their numbers."""
    lines = b"".join(chunks).decode(errors="replace").split("\n")[:-1]
    dropped = _DROPPED_LINE.fullmatch(lines[0]) if lines else None
    if dropped is None:
        return LogLines(fence, 0, tuple(lines))
    return LogLines(fence, int(dropped.group(1)), tuple(lines[1:]))


def _size_bytes(line: str) -> int:
    return len(line.encode(errors="replace"))
