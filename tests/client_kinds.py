"""Both clients behind one face, so that one test proves both."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import closing
from typing import Any, Self

import pytest

from mediaray import AsyncClient, Client

END = object()


class AwaitedClient:
    """An `AsyncClient` whose calls are awaited on an event loop of its own. Not for several threads."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._client = AsyncClient(*args, **kwargs)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with closing(self._runner):
            self._runner.run(self._client.aclose())

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._done(getattr(self._client, name)(*args, **kwargs))

    def _done(self, answer: Any) -> Any:
        return self._runner.run(answer) if inspect.iscoroutine(answer) else self._iterated(answer)

    def _iterated(self, values: AsyncGenerator[Any, None]) -> Iterator[Any]:
        async def following() -> Any:
            return await anext(values, END)

        try:
            while (value := self._runner.run(following())) is not END:
                yield value
        finally:
            self._runner.run(values.aclose())


Connect = Callable[..., Client]

CLIENTS = [pytest.param(Client, id="blocking"), pytest.param(AwaitedClient, id="asyncio")]
