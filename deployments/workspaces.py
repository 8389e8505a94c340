"""Scratch folders of attempts: one per attempt, always removed, also those of killed replicas."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.held_folders import HeldFolder


class Workspaces:
    """The workspace folders of one replica, in a folder of its own below `root` that it holds."""

    def __init__(self, root: Path, owner: str) -> None:
        """Raises RuntimeError when another process holds the folder of `owner`."""
        self._folder = HeldFolder(root, owner)

    def path(self, name: str) -> Path:
        """Where one attempt may make its folder."""
        return self._folder.path / name

    @contextmanager
    def removed_after(self, path: Path) -> Iterator[None]:
        """Whatever the attempt put below `path` is gone afterwards."""
        try:
            yield
        finally:
            if path.exists():
                shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        self._folder.close()
