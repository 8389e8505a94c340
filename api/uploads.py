"""Streaming a body into the artifact store: worker threads write, memory stays at one batch."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from api.errors import BodyTooLarge
from api.to_the_end import run_to_the_end
from cluster.storage import ArtifactStore, ArtifactWriter, Stored

BATCH_BYTES = 1024**2


class Upload:
    """An object being written. Leaving the block without `commit` leaves nothing in the store.

    What was committed stays, also when the request is cancelled meanwhile: who made the key removes it.
    `max_bytes` bounds the content itself; `too_large` is what callers then read.
    """

    def __init__(self, storage: ArtifactStore, key: str, *, max_bytes: int, too_large: str) -> None:
        self._storage = storage
        self.key = key
        self._max_bytes = max_bytes
        self._too_large = too_large
        self._batch = bytearray()
        self._writer: ArtifactWriter | None = None
        self.size_bytes = 0

    async def __aenter__(self) -> Self:
        try:
            await run_to_the_end(self._open)
        except asyncio.CancelledError:  # nobody leaves a block that was not entered
            if self._writer is not None:
                await run_to_the_end(self._writer.__exit__, None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await run_to_the_end(self._open_writer.__exit__, kind, error, trace)

    def _open(self) -> None:
        self._writer = self._storage.writer(self.key).__enter__()

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
        return await run_to_the_end(self._open_writer.commit)

    async def _flush(self) -> None:
        batch, self._batch = bytes(self._batch), bytearray()
        if batch:
            await run_to_the_end(self._open_writer.write, batch)


def copy(storage: ArtifactStore, old_key: str, new_key: str) -> Stored:
    """Copy an object in bounded memory. Blocks."""
    with storage.writer(new_key) as writer:
        for chunk in storage.read(old_key):
            writer.write(chunk)
        return writer.commit()
