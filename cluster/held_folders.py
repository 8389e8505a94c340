"""Scratch folders that are one process's while it lives; what a killed one leaves, the next removes."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

logger = logging.getLogger(__name__)

_LOCK_NAME = ".lock"


class HeldFolder:
    """The folder `name` below `root`; the end of a `with` block, or `close`, removes it.

    A file lock in it is held as long as this process lives, whatever ends it; who makes the next folder
    below `root` on this node removes those whose lock is free. Processes that begin together take turns.
    """

    def __init__(self, root: Path, name: str) -> None:
        """Raises RuntimeError when the folder is held already."""
        root.mkdir(parents=True, exist_ok=True)
        self.path = root / name
        with _turn(root / _LOCK_NAME):
            _remove_abandoned(root)
            self.path.mkdir(exist_ok=True)
            lock = _locked(self.path / _LOCK_NAME)
        if lock is None:
            raise RuntimeError(f"another process works in {self.path}")
        self._lock = lock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._lock.close()
        shutil.rmtree(self.path, ignore_errors=True)


def _remove_abandoned(root: Path) -> None:
    for folder in root.iterdir():
        if not (folder / _LOCK_NAME).exists():
            continue  # not one of these
        with suppress(OSError):
            lock = _locked(folder / _LOCK_NAME)
            if lock is None:
                continue
            logger.info("removing the scratch folder of a process that is gone: %s", folder.name)
            shutil.rmtree(folder, ignore_errors=True)
            lock.close()


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Waits until no other process is between looking at the folders and holding its own."""
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _locked(path: Path) -> IO[bytes] | None:
    """The lock file, locked; None when another process holds it."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
