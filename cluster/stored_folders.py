"""A folder of stored files as a task's input: all objects below one prefix, within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from cluster import keys
from cluster.errors import ArtifactNotFound, FolderNotUsable
from cluster.storage import ArtifactStore

MAX_FILES = 20_000


def names_below(store: ArtifactStore, prefix: str, max_bytes: int) -> list[str]:
    """Relative names of the files below `prefix` (ending in "/"), in the order of their keys; at least one.

    Each can be made in a local folder and none leads out of it. Raises ArtifactNotFound where there is no
    file, FolderNotUsable, StorageFailure.
    """
    names = list(_within_bounds(store, prefix, max_bytes))
    if not names:
        raise ArtifactNotFound(prefix)
    taken = set(names)
    for name in names:
        for folder in PurePosixPath(name).parents:
            if str(folder) in taken:  # S3 can hold both, a disk cannot
                raise FolderNotUsable(f"{folder} is a file and also a folder in it")
    return names


def _within_bounds(store: ArtifactStore, prefix: str, max_bytes: int) -> Iterator[str]:
    total_bytes = 0
    for count, (key, size_bytes) in enumerate(store.sizes(prefix), start=1):
        total_bytes += size_bytes
        if count > MAX_FILES:
            raise FolderNotUsable(f"the folder has more than the {MAX_FILES} files accepted")
        if total_bytes > max_bytes:
            raise FolderNotUsable(f"the files of the folder are larger than the {max_bytes} bytes accepted")
        yield keys.clean_path(key.removeprefix(prefix))
