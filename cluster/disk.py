"""Files that survive a crash whole: written aside, synced, renamed. Knows nothing of artifacts."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cluster.errors import ArtifactNotFound, StorageFailure, StorageFull

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MOVE_TRIES = 100


WORKSPACE_FULL = "no space left for the workspace: free its disk or set MEDIARAY_WORKSPACE_DIR"
NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


@contextlib.contextmanager
def failing(full_text: str, key: str | None = None) -> Iterator[None]:
    """Turn OSError into StorageFailure without paths; a full disk says `full_text`.

    With `key`, a missing file (or a circle of links) is ArtifactNotFound instead.
    """
    try:
        yield
    except OSError as error:
        if key is not None and (isinstance(error, NO_FILE) or error.errno == errno.ELOOP):
            raise ArtifactNotFound(key) from error
        if error.errno in _FULL:
            raise StorageFull(full_text) from error
        cause = error.strerror or type(error).__name__
        raise StorageFailure(f"the artifact store's disk failed: {cause}") from error


def write_all(file: BinaryIO, chunk: bytes) -> None:
    """Write to an unbuffered file, which may take less than it is given when the disk fills up."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def sync_folder(folder: Path) -> None:
    """Make the folder's names durable, as fsync does for a file's bytes."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def move_durably(source: Path, target: Path) -> None:
    """Rename within one file system, replacing `target` and making its folders; durable when it returns.

    Repeats where a concurrent delete pruned a folder that was empty for a moment. Raises
    FileExistsError where a file is in the way of a folder.
    """
    for tries_left in reversed(range(_MOVE_TRIES)):
        new_folders = [folder for folder in target.parents if not folder.exists()]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
            break
        except (FileNotFoundError, FileExistsError):
            was_pruned = source.exists() and not any(folder.is_file() for folder in target.parents)
            if not tries_left or not was_pruned:
                raise
    for folder in (target.parent, *(new.parent for new in new_folders)):
        with contextlib.suppress(FileNotFoundError):  # deleted again already
            sync_folder(folder)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """An unbuffered file that becomes `path` when the block ends well, and vanishes otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f".part-{secrets.token_hex(8)}"
    try:
        with aside.open("xb", buffering=0) as file:
            yield file
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def link_or_copy(source: Path, target: Path) -> None:
    """Give `source` a second name; copy its bytes where the file systems differ or forbid links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES}:
            raise
        with source.open("rb") as reader, replacing(target) as writer:
            _copy(reader, writer)


def _copy(reader: BinaryIO, writer: BinaryIO) -> None:
    while chunk := reader.read(1024**2):
        write_all(writer, chunk)


def remove_empty_folders(folder: Path) -> None:
    """Remove `folder` with all empty folders below it; what is not empty stays."""
    for path, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(path)


def prune_parents(path: Path, stop: Path) -> None:
    """Remove the folders that the loss of `path` left empty, up to but without `stop`."""
    for folder in path.parents:
        if folder == stop:
            return
        try:
            folder.rmdir()
        except OSError:  # not empty: everything above it is not empty either
            return
