"""What can go wrong for a caller, as one tree: catching MediarayError catches everything here."""

from __future__ import annotations


class MediarayError(Exception):
    """The base of all errors that the client raises on purpose."""


class ApiError(MediarayError):
    """The server refused a request. `code` is the server's public error code, empty where it gave none.

    `retry_after_s` is the server's own wish when it is busy (429, 503).
    """

    retry_after_s: float | None = None

    def __init__(self, status: int, code: str, detail: str, request_id: str = "") -> None:
        super().__init__(f"{detail} (HTTP {status})")
        self.status = status
        self.code = code
        self.detail = detail
        self.request_id = request_id


class TaskFailed(MediarayError):
    """The task ended without a result. `code` is one of the server's failure codes."""

    def __init__(self, task_id: str, code: str, message: str) -> None:
        super().__init__(f"task {task_id} failed: {message}" + (f" [{code}]" if code else ""))
        self.task_id = task_id
        self.code = code
        self.message = message


class TaskCancelled(MediarayError):
    """Somebody cancelled the task that was waited for."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"task {task_id} was cancelled")
        self.task_id = task_id


class ServerUnavailable(MediarayError):
    """No answer from the server, also after trying again.

    `may_have_arrived` is false when no connection came about, so that the request had no effect.
    """

    def __init__(self, url: str, reason: str, *, may_have_arrived: bool = True) -> None:
        super().__init__(f"no answer from {url}: {reason}")
        self.url = url
        self.reason = reason
        self.may_have_arrived = may_have_arrived


class WaitTimeout(MediarayError):
    """The task was not final in time; it goes on, and can be waited for again."""

    def __init__(self, task_id: str, timeout_s: float) -> None:
        super().__init__(f"task {task_id} was not finished after {timeout_s:g} s (it goes on)")
        self.task_id = task_id
        self.timeout_s = timeout_s


class ChecksumMismatch(MediarayError):
    """A downloaded file does not have the sha256 that the server announced; nothing was kept."""

    def __init__(self, url: str, expected: str, actual: str) -> None:
        super().__init__(f"{url}: sha256 is {actual}, the server announced {expected}")
        self.url = url
        self.expected = expected
        self.actual = actual
