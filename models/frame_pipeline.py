"""Overlap of decode, compute and encode: an iterator that runs ahead, and a consumer that runs behind.

Both own one thread and a bounded channel. An error on either side reaches the other at its next step,
and leaving the `with` block ends the thread whatever happened, so nothing hangs and nothing leaks.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Channel(Generic[Item]):
    """A bounded queue that either side may end; safe for one producer and one consumer thread."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._is_ended = False
        self._is_dropped = False
        self._error: BaseException | None = None

    def put(self, item: Item) -> bool:
        """Wait for room; False when the consumer is gone."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._items) < self._capacity or self._is_dropped)
            if self._is_dropped:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def end(self, error: BaseException | None = None) -> None:
        """No more items will come; the consumer sees `error` after those that came."""
        with self._changed:
            self._is_ended, self._error = True, error
            self._changed.notify_all()

    def drop(self) -> None:
        """Nobody will take further items: those that wait are forgotten, `put` returns False."""
        with self._changed:
            self._is_dropped = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._is_ended or self._is_dropped)
                if not self._items:
                    if self._error is not None:
                        raise self._error
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item


class RunAhead(AbstractContextManager["RunAhead[Item]"], Generic[Item]):
    """Iterates `source` in a thread, at most `capacity` items ahead of its own iterator."""

    def __init__(self, source: Iterator[Item], capacity: int) -> None:
        self._source = source
        self._channel: Channel[Item] = Channel(capacity)
        self._thread = threading.Thread(target=self._produce, name="run-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        return iter(self._channel)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.drop()
        self._thread.join()

    def _produce(self) -> None:
        failure: BaseException | None = None
        try:
            for item in self._source:
                if not self._channel.put(item):
                    break
        except BaseException as error:  # noqa: BLE001 - carried to the consumer, which raises it
            failure = error
        finally:
            _close(self._source)
            self._channel.end(failure)


class RunBehind(AbstractContextManager["RunBehind[Item]"], Generic[Item]):
    """Calls `consume` in a thread with each item that is put, at most `capacity` items late.

    Leaving the block normally waits until all items are consumed and raises what `consume` raised;
    leaving it by an exception forgets the items that wait.
    """

    def __init__(self, consume: Callable[[Item], None], capacity: int) -> None:
        self._consume = consume
        self._channel: Channel[Item] = Channel(capacity)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="run-behind", daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Wait for room; raises what `consume` raised for an earlier item."""
        if not self._channel.put(item):
            self._raise()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._channel.end()
        else:
            self._channel.drop()
        self._thread.join()
        if error is None:
            self._raise()

    def _work(self) -> None:
        try:
            for item in self._channel:
                self._consume(item)
        except BaseException as error:  # noqa: BLE001 - carried to the producer, which raises it
            self._error = error
        finally:
            self._channel.drop()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


def _close(source: Iterator[object]) -> None:
    """Run the `finally` blocks of a generator on the thread that ran it."""
    close = getattr(source, "close", None)
    if close is not None:
        close()
