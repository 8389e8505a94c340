"""Artifacts: stored inputs and outputs, on a local folder or in S3, behind one interface.

Synchronous on purpose: engines' threads use it directly, HTTP routes through worker threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self


@dataclass(frozen=True, slots=True)
class Stored:
    """An object in the store. `media_type` is judged by its content, `etag` by its bytes."""

    key: str
    size_bytes: int
    media_type: str
    sha256: str
    modified_at: float

    @property
    def etag(self) -> str:
        return f'"{self.sha256}"'


class ArtifactWriter(Protocol):
    """A streaming upload. Leaving the `with` block without `commit` leaves nothing behind."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def write(self, chunk: bytes) -> None:
        """Append; raises StorageFailure (disk full, S3 down)."""

    def commit(self) -> Stored:
        """Publish atomically, replacing an object of the same key."""


class ArtifactStore(Protocol):
    """Objects by key (keys come from `cluster.keys`). Safe for use from several threads."""

    def writer(self, key: str) -> ArtifactWriter: ...
    def put_file(self, key: str, path: Path) -> Stored:
        """Upload a local file in bounded memory."""

    def stat(self, key: str) -> Stored:
        """Raises ArtifactNotFound."""

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Bytes start..stop in chunks of at most 1 MiB. Raises ArtifactNotFound before the first."""

    def open(self, key: str) -> BinaryIO:
        """A seekable reader that fetches only what is read; for probing. Raises ArtifactNotFound."""

    def fetch(self, key: str, path: Path) -> None:
        """Make the object a local file at `path`; must not be written to. Raises ArtifactNotFound."""

    def list(self, prefix: str) -> Iterator[Stored]:
        """Objects whose key starts with `prefix` (ending in "/"), ordered by key."""

    def delete(self, key: str) -> bool:
        """False when there was none."""

    def delete_prefix(self, prefix: str) -> int:
        """Delete everything below `prefix` (ending in "/"); how many objects."""

    def download_url(self, key: str, *, base_url: str, expires_s: int, filename: str | None = None) -> str:
        """A URL that works for `expires_s` seconds without credentials."""

    def check(self) -> None:
        """A real write-read-delete round trip; raises StorageFailure."""
