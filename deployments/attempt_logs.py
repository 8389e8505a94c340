"""Log lines per attempt: what its engine logs, and what libraries log on its thread."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

MAX_LINES = 5_000
_LOGGER = logging.getLogger("mediaray.attempt")


class AttemptLog(logging.LoggerAdapter[logging.Logger]):
    """The logger of one attempt, for all its threads; `lines` keeps the newest MAX_LINES."""

    def __init__(self) -> None:
        super().__init__(_LOGGER)
        self.lines: deque[str] = deque(maxlen=MAX_LINES)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {"attempt_log": self}
        return msg, kwargs


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
            log.lines.append(self.format(record))
        except Exception:  # noqa: BLE001 - as every handler of logging: a bad log line is no failed attempt
            self.handleError(record)


ATTEMPT_LOGS = AttemptLogs()
