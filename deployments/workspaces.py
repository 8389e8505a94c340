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


class Workspaces:
    """The workspace folders of one replica, below `root`.

    The replica holds a file lock as long as its process lives, whatever ends it; the next replica on
    this node removes the folders whose lock is free.
    """

    def __init__(self, root: Path, owner: str) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._remove_abandoned(root)
        self._folder = root / owner
        self._folder.mkdir()
        self._lock = _locked(self._folder / ".lock")

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
        if self._lock is not None:
            self._lock.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _remove_abandoned(self, root: Path) -> None:
        for folder in root.iterdir():
            with suppress(OSError):
                lock = _locked(folder / ".lock")
                if lock is None:
                    continue
                logger.info("removing the workspaces of a replica that is gone: %s", folder.name)
                shutil.rmtree(folder, ignore_errors=True)
                lock.close()


def _locked(path: Path) -> IO[bytes] | None:
    """The lock file, locked; None when another process holds it."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
