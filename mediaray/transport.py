"""Exchanges with patience, as flows: restarts and overload of the server are ridden out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx

from mediaray.errors import ApiError, ServerUnavailable
from mediaray.steps import Flow, Pause

T = TypeVar("T")

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 2.0
AWAY = frozenset({429, 502, 503, 504})
"""Statuses that say: not now."""
NOT_TAKEN = frozenset({429, 503})
"""Those of them that promise that the request had no effect."""
LASTING = frozenset({"MODEL_NOT_READY"})
"""Codes of a refusal that waiting does not mend."""


def delays_s(first_s: float, longest_s: float) -> Iterator[float]:
    """first, twice that, … and then for ever the longest."""
    delay_s = first_s
    while True:
        yield min(delay_s, longest_s)
        delay_s = min(delay_s * 2, longest_s)


class Patience:
    """How long to go on trying, from the first try on; `renew` when something got through.

    Never beyond `until` (time.monotonic).
    """

    def __init__(self, retry_s: float, until: float = math.inf) -> None:
        self._retry_s = retry_s
        self._until = until
        self._give_up_at: float | None = None

    def begin(self) -> None:
        """The first try; later calls change nothing."""
        if self._give_up_at is None:
            self.renew()

    def renew(self) -> None:
        self._give_up_at = min(time.monotonic() + self._retry_s, self._until)

    def allows(self, pause_s: float) -> bool:
        return self._give_up_at is None or time.monotonic() + pause_s <= self._give_up_at


def with_retries(attempt: Callable[[], Flow[T]], patience: Patience, *, repeatable: bool = True) -> Flow[T]:
    """The value of the flow `attempt`, tried again while the server is away and `patience` lasts.

    `repeatable` false: only what certainly had no effect is tried again. Raises the last error.
    """
    patience.begin()
    for delay_s in delays_s(FIRST_DELAY_S, LONGEST_DELAY_S):
        try:
            return (yield from attempt())
        except (ApiError, ServerUnavailable) as error:
            pause_s = max(delay_s, _retry_after_s(error))
            if not _may_repeat(error, repeatable) or not patience.allows(pause_s):
                raise
        yield Pause(pause_s)
    raise AssertionError("delays_s never ends")


def _may_repeat(error: ApiError | ServerUnavailable, repeatable: bool) -> bool:
    if isinstance(error, ApiError):
        return error.status in (AWAY if repeatable else NOT_TAKEN) and error.code not in LASTING
    return repeatable or not error.may_have_arrived


def _retry_after_s(error: ApiError | ServerUnavailable) -> float:
    return (error.retry_after_s or 0.0) if isinstance(error, ApiError) else 0.0


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turns httpx's errors and time limits into ServerUnavailable; `url` says which server did not answer."""
    try:
        yield
    except (httpx.RequestError, TimeoutError) as error:
        connected = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        reason = str(error) or type(error).__name__
        raise ServerUnavailable(url, reason, may_have_arrived=connected) from error


def raise_for_error(response: httpx.Response) -> None:
    """Raises ApiError for a status of 400 and above; the body must have been read."""
    if response.status_code < 400:
        return
    body = json_object(response)
    envelope = body.get("error")
    code = envelope.get("code") if isinstance(envelope, dict) else body.get("error_code")
    detail = _detail_text(body.get("detail")) or response.reason_phrase or "no reason given"
    request_id = response.headers.get("x-request-id", "")
    error = ApiError(response.status_code, str(code or ""), detail, request_id)
    retry_after = response.headers.get("retry-after", "")
    error.retry_after_s = float(retry_after) if retry_after.isdigit() else None
    raise error


def json_object(response: httpx.Response) -> dict[str, Any]:
    """The body as an object; empty where it is something else (a proxy's page, for one)."""
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _detail_text(detail: Any) -> str:
    """Text of an error's detail: a string, or the list that request validation answers with."""
    if not isinstance(detail, list):
        return str(detail or "")
    return "; ".join(_problem_text(problem) for problem in detail)


def _problem_text(problem: Any) -> str:
    if not isinstance(problem, dict):
        return str(problem)
    where = ".".join(str(part) for part in problem.get("loc", ()))
    return f"{where}: {problem.get('msg', '')}"
