"""Scratch folders of attempts: one per attempt, always removed, also those of killed replicas."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

_LOCK_NAME = ".lock"


class Workspaces:
    """The workspace folders of one replica, below `root`.

    The replica holds a file lock as long as its process lives, whatever ends it; the next replica on
    this node removes the folders whose lock is free. Replicas that start at the same time take turns.
    """

    def __init__(self, root: Path, owner: str) -> None:
        """Raises RuntimeError when another process holds the folder of `owner`."""
        root.mkdir(parents=True, exist_ok=True)
        self._folder = root / owner
        with _turn(root / _LOCK_NAME):
            _remove_abandoned(root)
            self._folder.mkdir(exist_ok=True)
            lock = _locked(self._folder / _LOCK_NAME)
        if lock is None:
            raise RuntimeError(f"another replica works in {self._folder}")
        self._lock = lock

    def path(self, name: str) -> Path:
        """Where one attempt may make its folder."""
        return self._folder / name

    @contextmanager
    def removed_after(self, path: Path) -> Iterator[None]:
        """Whatever the attempt put below `path` is gone afterwards."""
        try:
            yield
        finally:
            if path.exists():
                shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        self._lock.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _remove_abandoned(root: Path) -> None:
    for folder in root.iterdir():
        if not (folder / _LOCK_NAME).exists():
            continue  # not a replica's: the API exports here too
        with suppress(OSError):
            lock = _locked(folder / _LOCK_NAME)
            if lock is None:
                continue
            logger.info("removing the workspaces of a replica that is gone: %s", folder.name)
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
