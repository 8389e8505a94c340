"""Artifacts: stored inputs and outputs, on a local folder or in S3, behind one interface.

Synchronous on purpose: engines' threads use it directly, HTTP routes through worker threads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self
from urllib.parse import SplitResult, unquote, urlsplit
from uuid import uuid4

from cluster.errors import ArtifactNotFound, InvalidKey, StorageFailure
from cluster.keys import clean_path
from cluster.media_types import HEAD_BYTES
from cluster.settings import Settings

CHUNK_BYTES = 1024**2
_URL_SHAPE = "MEDIARAY_STORAGE_URL must look like file:///folder or s3://bucket/prefix"


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
        """Bytes start..stop (without stop) in chunks of at most 1 MiB; fewer where the object ends.

        Raises ArtifactNotFound at the call, not at the first chunk.
        """

    def open(self, key: str) -> BinaryIO:
        """A seekable reader that fetches only what is read; for probing. Raises ArtifactNotFound."""

    def fetch(self, key: str, path: Path) -> None:
        """Make the object a local file at `path`; must not be written to. Raises ArtifactNotFound."""

    def list(self, prefix: str) -> Iterator[Stored]:
        """Objects whose key starts with `prefix` (ending in "/"), ordered by key."""

    def sizes(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Key and bytes of what `list` gives, in its order, without a look at each object."""

    def folders(self, prefix: str) -> Iterator[str]:
        """Names of the folders directly below `prefix` (ending in "/"), whatever lies in them."""

    def newest_at(self, prefix: str) -> float | None:
        """When the newest object below `prefix` (ending in "/") was written; None where there is none."""

    def delete(self, key: str) -> bool:
        """False when there was none."""

    def delete_prefix(self, prefix: str) -> int:
        """Delete everything below `prefix` (ending in "/"); how many objects."""

    def download_url(self, key: str, *, base_url: str, expires_s: int, filename: str | None = None) -> str:
        """A URL that works for `expires_s` seconds without credentials."""

    def key_of_url(self, url: str) -> str | None:
        """The key (of an object or a folder) that a download URL of this store names; None for other URLs.

        Raises ExpiredUrl. Says nothing of who may read the object: the caller judges the key.
        """

    def check(self) -> None:
        """A real write-read-delete round trip; raises StorageFailure."""


def open_store(settings: Settings) -> ArtifactStore:
    """The store that `MEDIARAY_STORAGE_URL` names; raises StorageFailure for what cannot be one."""
    if not settings.storage_url:
        return _open_local(settings.data_path / "artifacts", settings)
    url = urlsplit(settings.storage_url)
    opener = _OPENERS.get(url.scheme)
    if opener is None:
        raise StorageFailure(_URL_SHAPE)
    return opener(url, settings)


def _open_file_url(url: SplitResult, settings: Settings) -> ArtifactStore:
    if url.netloc or not url.path.strip("/"):
        raise StorageFailure(_URL_SHAPE)
    return _open_local(Path(unquote(url.path)), settings)


def _open_local(root: Path, settings: Settings) -> ArtifactStore:
    from cluster.local_storage import LocalArtifactStore  # noqa: PLC0415 (it imports this module)

    return LocalArtifactStore(root, secret_path=settings.data_path / "download.key")


def _open_s3(url: SplitResult, settings: Settings) -> ArtifactStore:  # noqa: ARG001 (one shape of opener)
    from cluster.s3_storage import S3ArtifactStore  # noqa: PLC0415 (boto3 loads only where S3 is used)

    if not url.netloc:
        raise StorageFailure(_URL_SHAPE)
    return S3ArtifactStore(url.netloc, url.path)


_OPENERS = {"file": _open_file_url, "s3": _open_s3}


def clean_prefix(prefix: str) -> str:
    """`prefix` as given; raises InvalidKey unless it is a plain relative path that ends in "/"."""
    if not prefix.endswith("/"):
        raise InvalidKey(prefix)
    return clean_path(prefix[:-1]) + "/"


def upload_file(store: ArtifactStore, key: str, path: Path) -> Stored:
    """Stream a local file through the store's writer."""
    with path.open("rb") as source, store.writer(key) as writer:
        while chunk := source.read(CHUNK_BYTES):
            writer.write(chunk)
        return writer.commit()


def digest_and_head(chunks: Iterator[bytes]) -> tuple[str, bytes]:
    """The sha256 of some content, and its first bytes, which tell the media type."""
    digest = hashlib.sha256()
    head = bytearray()
    for chunk in chunks:
        digest.update(chunk)
        head += chunk[: HEAD_BYTES - len(head)]
    return digest.hexdigest(), bytes(head)


def round_trip(store: ArtifactStore) -> None:
    """Write, read and delete an object of its own; raises StorageFailure."""
    key = f".check/{uuid4().hex}"
    with store.writer(key) as writer:
        writer.write(key.encode())
        writer.commit()
    try:
        content = b"".join(store.read(key))
    except ArtifactNotFound as error:
        raise StorageFailure("the artifact store lost what was just written") from error
    finally:
        store.delete(key)
    if content != key.encode():
        raise StorageFailure("the artifact store returned other bytes than were written")
