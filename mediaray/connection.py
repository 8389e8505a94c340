"""A blocking client's connection to one server, open for as long as the client is."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import httpx

from mediaray.calls import DEFAULT_URL, Calls
from mediaray.drivers import Driver, http_options


class Connection:
    """What every blocking client is: calls to one server, and what carries them out.

    `timeout_s` bounds the silence within one exchange, `retry_s` how long a call goes on trying a
    server that is away (no connection, 429, 502, 503, 504).
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        retry_s: float = 30.0,
    ) -> None:
        self._retry_s = retry_s
        self._calls = Calls(base_url, api_key, retry_s)
        self._driver = Driver(httpx.Client(**http_options(timeout_s, self._calls.is_loopback)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._driver.close()

    @property
    def base_url(self) -> str:
        return self._calls.base_url
