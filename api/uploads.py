"""Streaming a body into the artifact store: worker threads write, memory stays at one batch."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import anyio
from anyio import to_thread

from api.errors import BodyTooLarge
from cluster.storage import ArtifactStore, ArtifactWriter, Stored

BATCH_BYTES = 1024**2


class Upload:
    """An object being written. Leaving the block without `commit` leaves nothing in the store.

    `max_bytes` bounds the content itself; `too_large` is what callers then read.
    """

    def __init__(self, storage: ArtifactStore, key: str, *, max_bytes: int, too_large: str) -> None:
        self._storage = storage
        self._key = key
        self._max_bytes = max_bytes
        self._too_large = too_large
        self._batch = bytearray()
        self._writer: ArtifactWriter | None = None
        self.size_bytes = 0

    async def __aenter__(self) -> Self:
        self._writer = await to_thread.run_sync(_open, self._storage, self._key)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A client that hangs up cancels this request: the clean-up must run all the same.
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._open_writer.__exit__, kind, error, trace)

    @property
    def _open_writer(self) -> ArtifactWriter:
        if self._writer is None:
            raise RuntimeError("the upload is not open")
        return self._writer

    async def write(self, chunk: bytes) -> None:
        """Raises BodyTooLarge, StorageFailure."""
        self.size_bytes += len(chunk)
        if self.size_bytes > self._max_bytes:
            raise BodyTooLarge(self._too_large)
        self._batch += chunk
        if len(self._batch) >= BATCH_BYTES:
            await self._flush()

    async def commit(self) -> Stored:
        await self._flush()
        return await to_thread.run_sync(self._open_writer.commit)

    async def _flush(self) -> None:
        batch, self._batch = bytes(self._batch), bytearray()
        if batch:
            await to_thread.run_sync(self._open_writer.write, batch)


def _open(storage: ArtifactStore, key: str) -> ArtifactWriter:
    return storage.writer(key).__enter__()


def rename(storage: ArtifactStore, old_key: str, new_key: str) -> Stored:
    """Copy an object in bounded memory and delete the old one, whatever happens. Blocks."""
    try:
        with storage.writer(new_key) as writer:
            for chunk in storage.read(old_key):
                writer.write(chunk)
            return writer.commit()
    finally:
        storage.delete(old_key)
