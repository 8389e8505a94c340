"""A folder of stored files as a task's input: all objects below one prefix, within bounds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Self

from cluster import keys
from cluster.errors import ArtifactNotFound, FolderNotUsable
from cluster.storage import ArtifactStore
from cluster.task import Json

MAX_FILES = 20_000
_FACT = "folders"  # of a task's facts: what its input folders held at the submit, by field


@dataclass(frozen=True, slots=True)
class FolderMark:
    """What tells a folder from the same one after files came, went, or changed their size."""

    num_files: int
    sha256: str

    @classmethod
    def of(cls, sizes: Mapping[str, int]) -> Self:
        """The mark of a folder of files of these names and bytes, in any order."""
        text = json.dumps(sorted(sizes.items()))
        return cls(len(sizes), hashlib.sha256(text.encode()).hexdigest())


def mark_facts(marks: Mapping[str, FolderMark]) -> Json:
    """Facts of a task that record the marks of its input folders, by field; none for no folder."""
    return {_FACT: {field: asdict(mark) for field, mark in marks.items()}} if marks else {}


def recorded_mark(facts: Json, field: str) -> FolderMark | None:
    """What `mark_facts` recorded of the folder; None in a record of a version that did not."""
    mark = facts.get(_FACT, {}).get(field)
    return None if mark is None else FolderMark(**mark)


def sizes_below(store: ArtifactStore, prefix: str, max_bytes: int) -> dict[str, int]:
    """Bytes of the files below `prefix` (ending in "/") by relative name, ordered by key; at least one.

    Each name can be made in a local folder and none leads out of it. Raises ArtifactNotFound where there is
    no file, FolderNotUsable, StorageFailure.
    """
    sizes = dict(_within_bounds(store, prefix, max_bytes))
    if not sizes:
        raise ArtifactNotFound(prefix)
    for name in sizes:
        for folder in PurePosixPath(name).parents:
            if str(folder) in sizes:  # S3 can hold both, a disk cannot
                raise FolderNotUsable(f"{folder} is a file and also a folder in it")
    return sizes


def _within_bounds(store: ArtifactStore, prefix: str, max_bytes: int) -> Iterator[tuple[str, int]]:
    total_bytes = 0
    for count, (key, size_bytes) in enumerate(store.sizes(prefix), start=1):
        total_bytes += size_bytes
        if count > MAX_FILES:
            raise FolderNotUsable(f"the folder has more than the {MAX_FILES} files accepted")
        if total_bytes > max_bytes:
            raise FolderNotUsable(f"the files of the folder are larger than the {max_bytes} bytes accepted")
        yield keys.clean_path(key.removeprefix(prefix)), size_bytes
