"""Log lines per attempt: what its engine logs, and what libraries log on its thread."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from cluster.log_lines import MAX_LINE_CHARS, newest
from cluster.task import LogLines

MAX_LINES = 5_000
_MAX_BEAT_LINES = 100
_MAX_BEAT_BYTES = 16 * 1024
_LOGGER = logging.getLogger("mediaray.attempt")


class AttemptLog(logging.LoggerAdapter[logging.Logger]):
    """The logger of one attempt, for all its threads; keeps the newest MAX_LINES lines.

    `unheard` and `heard` are the control thread's, which tells the registry.
    """

    def __init__(self, fence: str = "") -> None:
        super().__init__(_LOGGER)
        self._fence = fence
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._next = 0
        self._heard = 0
        self._lock = threading.Lock()

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {"attempt_log": self}
        return msg, kwargs

    def append(self, text: str) -> None:
        """Add the lines of `text`, long ones cut."""
        lines = [_cut(line) for line in text.splitlines()]
        with self._lock:
            self._lines.extend(lines)
            self._next += len(lines)

    def known(self) -> LogLines:
        """Every line that is kept."""
        with self._lock:
            return LogLines(self._fence, self._next - len(self._lines), tuple(self._lines))

    def unheard(self) -> LogLines | None:
        """The newest of the lines that no beat has carried yet, as many as a beat takes; None without any."""
        if self._heard == self._next:
            return None
        return newest(self.known().since(self._heard), _MAX_BEAT_LINES, _MAX_BEAT_BYTES)

    def heard(self, lines: LogLines | None) -> None:
        """A beat with these lines has arrived."""
        if lines is not None:
            self._heard = lines.next


class AttemptLogs(logging.Handler):
    """One handler per process that sorts records by attempt. A logger per task would never be freed."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("%(asctime)s [%(levelname)s] %(message)s"))
        self._by_thread: dict[int, AttemptLog] = {}

    def install(self) -> None:
        """See every record of this process from now on."""
        _LOGGER.setLevel(logging.INFO)
        logging.getLogger().addHandler(self)

    @contextmanager
    def collecting(self, log: AttemptLog) -> Iterator[None]:
        """Records of this thread go to `log`."""
        thread = threading.get_ident()
        self._by_thread[thread] = log
        try:
            yield
        finally:
            del self._by_thread[thread]

    def emit(self, record: logging.LogRecord) -> None:
        log = getattr(record, "attempt_log", None) or self._by_thread.get(record.thread or 0)
        if log is None:
            return
        try:
            log.append(self.format(record))
        except Exception:  # noqa: BLE001 - as every handler of logging: a bad log line is no failed attempt
            self.handleError(record)


ATTEMPT_LOGS = AttemptLogs()


def _cut(line: str) -> str:
    return line if len(line) <= MAX_LINE_CHARS else line[: MAX_LINE_CHARS - 1] + "…"
