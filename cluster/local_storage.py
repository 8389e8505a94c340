"""Artifacts in a local folder.

    root/objects/<key>   the bytes, read-only
    root/facts/          media type, size and sha256 of each object (see `cluster.local_facts`)
    root/.incoming/      uploads under way, on the same file system

Publishing writes the facts first and the object second, each by a rename. After a crash between the two
the facts do not match the object and are computed anew; the object itself is whole: old, new, or absent.
"""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from cluster import disk
from cluster.download_urls import DownloadSigner, load_secret
from cluster.errors import ArtifactNotFound, InvalidKey
from cluster.keys import clean_path
from cluster.local_facts import Facts, FactsFolder
from cluster.media_types import HEAD_BYTES, sniff
from cluster.storage import CHUNK_BYTES, Stored, clean_prefix, round_trip, upload_file

INCOMING_MAX_AGE_S = 86400.0
_READ_ONLY = 0o400  # fetch hands out hard links: a write through one must not change the object


class LocalArtifactStore:
    """An ArtifactStore in the folder `root`, for one machine; any number of its processes may share it.

    Unlike S3, a file system cannot hold both "a" and "a/b": the second writer gets InvalidKey.
    Symbolic links that lead out of the folder are treated as absent.
    """

    def __init__(
        self, root: Path, secret_path: Path | None = None, now: Callable[[], float] = time.time
    ) -> None:
        """Create the folders and remove stale uploads; raises StorageFailure.

        `secret_path` keeps the secret of download URLs; by default download.key beside `root`.
        """
        self._now = now
        self._full_text = (
            f"no space left on the artifact store's disk: free space in {root.name}"
            " or set MEDIARAY_STORAGE_URL"
        )
        with self._failing():
            root = root.resolve()
            self._objects = root / "objects"
            self._incoming = root / ".incoming"
            for folder in (self._objects, self._incoming, root / "facts"):
                disk.make_folder(folder)
            self._facts = FactsFolder(root / "facts", self._incoming)
            self._remove_stale_uploads()
            self.signer = DownloadSigner(load_secret(secret_path or root.parent / "download.key"))

    def writer(self, key: str) -> LocalWriter:
        """Raises InvalidKey where an object is in the way of a folder, or a folder of the object."""
        path = self._path_to_write(key)
        with self._failing():
            return LocalWriter(
                key,
                self._incoming / secrets.token_hex(16),
                publish=lambda incoming, facts: self._publish(key, incoming, path, facts),
                failing=self._failing,
            )

    def put_file(self, key: str, path: Path) -> Stored:
        return upload_file(self, key, path)

    def stat(self, key: str) -> Stored:
        path = self._path(key)
        with self._failing(key):
            if not stat.S_ISREG(path.stat().st_mode):
                raise ArtifactNotFound(key)
            return self._facts.get(key, path).as_stored(key)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        chunks = self._chunks(key, start, stop)
        next(chunks)  # opens the object now: a missing one is refused at the call
        return chunks

    def open(self, key: str) -> BinaryIO:
        path = self._path(key)
        with self._failing(key):
            return path.open("rb")

    def fetch(self, key: str, path: Path) -> None:
        source = self._path(key).resolve()
        with disk.failing(disk.WORKSPACE_FULL):
            if not source.is_file():
                raise ArtifactNotFound(key)
            disk.link_or_copy(source, path)

    def list(self, prefix: str) -> Iterator[Stored]:
        for key in self._keys(clean_prefix(prefix)):
            with contextlib.suppress(ArtifactNotFound, InvalidKey):  # gone since, or no file of ours
                yield self.stat(key)

    def sizes(self, prefix: str) -> Iterator[tuple[str, int]]:
        for key in self._keys(clean_prefix(prefix)):
            with contextlib.suppress(ArtifactNotFound, InvalidKey), self._failing(key):
                yield key, self._path(key).stat().st_size

    def folders(self, prefix: str) -> Iterator[str]:
        folder = self._objects / clean_prefix(prefix)
        for entry in self._entries(folder) if self._holds(folder) else []:
            if entry.is_dir(follow_symlinks=False):
                yield entry.name

    def newest_at(self, prefix: str) -> float | None:
        return max(self._written_at(clean_prefix(prefix)), default=None)

    def delete(self, key: str) -> bool:
        path = self._objects / clean_path(key)
        if not self._holds(path.parent):
            return False
        with self._failing():
            try:
                path.unlink()
            except disk.NO_FILE:
                return False
            self._facts.forget(key)
            disk.prune_parents(path, stop=self._objects)
        return True

    def delete_prefix(self, prefix: str) -> int:
        count = sum(self.delete(key) for key in list(self._keys(clean_prefix(prefix))))
        if self._holds(self._objects / prefix):
            disk.remove_empty_folders(self._objects / prefix)
        return count

    def download_url(self, key: str, *, base_url: str, expires_s: int, filename: str | None = None) -> str:
        """A URL of the files route whose token `signer` verifies.

        A `filename` other than the key's own travels beside the token.
        """
        token = self.signer.sign(clean_path(key), expires_s, self._now())
        return self.signer.url(key, token, base_url, filename)

    def key_of_url(self, url: str) -> str | None:
        return self.signer.key_of(url, self._now())

    def check(self) -> None:
        round_trip(self)

    def _publish(self, key: str, incoming: Path, path: Path, facts: Facts) -> Stored:
        try:
            self._facts.put(key, facts)
            disk.remove_empty_folders(path)  # what an interrupted upload below this key left
            disk.move_durably(incoming, path)
        except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
            raise InvalidKey(key) from error
        return facts.as_stored(key)

    def _path(self, key: str) -> Path:
        """Where `key` lies; raises ArtifactNotFound where a link leads out of the folder."""
        path = self._objects / clean_path(key)
        if not self._holds(path):
            raise ArtifactNotFound(key)
        return path

    def _path_to_write(self, key: str) -> Path:
        path = self._objects / clean_path(key)
        with self._failing():
            above = path.parents[: key.count("/")]
            has_object_above = any(parent.is_file() for parent in above)
            has_object_below = next(self._keys(key + "/"), None) is not None
        if has_object_above or has_object_below or not self._holds(path.parent):
            raise InvalidKey(key)
        return path

    def _holds(self, path: Path) -> bool:
        # Not Path.resolve, which raises for a circle of links.
        return Path(os.path.realpath(path)).is_relative_to(self._objects)

    def _keys(self, prefix: str) -> Iterator[str]:
        """Keys below `prefix` in key order; linked folders are not entered."""
        folder = self._objects / prefix
        entries = self._entries(folder) if self._holds(folder) else []
        for name in sorted(entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in entries):
            if name.endswith("/"):
                yield from self._keys(prefix + name)
            elif (folder / name).is_file():
                yield prefix + name

    def _entries(self, folder: Path) -> builtins.list[os.DirEntry[str]]:
        with self._failing():
            try:
                return [*os.scandir(folder)]
            except disk.NO_FILE:
                return []

    def _written_at(self, prefix: str) -> Iterator[float]:
        for key in self._keys(prefix):
            with contextlib.suppress(ArtifactNotFound), self._failing(key):  # gone since
                yield (self._objects / key).stat().st_mtime

    def _chunks(self, key: str, start: int, stop: int | None) -> Iterator[bytes]:
        with self.open(key) as file, self._failing():
            file.seek(start)
            left = (os.fstat(file.fileno()).st_size if stop is None else stop) - start
            yield b""  # taken by read()
            while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk

    def _remove_stale_uploads(self) -> None:
        oldest = self._now() - INCOMING_MAX_AGE_S
        for path in self._incoming.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process cleans up too
                if path.stat().st_mtime < oldest:
                    path.unlink()

    def _failing(self, key: str | None = None) -> AbstractContextManager[None]:
        return disk.failing(self._full_text, key)


class LocalWriter:
    """An upload into `incoming`; one thread at a time."""

    def __init__(
        self,
        key: str,
        incoming: Path,
        *,
        publish: Callable[[Path, Facts], Stored],
        failing: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._key = key
        self._incoming = incoming
        self._publish = publish
        self._failing = failing
        self._hash = hashlib.sha256()
        self._head = bytearray()
        self._file = incoming.open("xb", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._incoming.unlink(missing_ok=True)  # moved away by a commit

    def write(self, chunk: bytes) -> None:
        with self._failing():
            disk.write_all(self._file, chunk)
        self._hash.update(chunk)
        self._head += chunk[: HEAD_BYTES - len(self._head)]

    def commit(self) -> Stored:
        """Publish; raises InvalidKey where another object came in the way meanwhile."""
        with self._failing():
            fd = self._file.fileno()
            os.fchmod(fd, _READ_ONLY)
            os.fsync(fd)
            media_type = sniff(bytes(self._head), self._key)
            facts = Facts.of(os.fstat(fd), self._hash.hexdigest(), media_type)
            return self._publish(self._incoming, facts)
