"""The input files of catalogue jobs in the artifact store: put there once, under what they contain.

Blocking, for worker threads.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from api.job_catalog import Job, JobCatalog
from cluster import keys
from cluster.errors import ArtifactNotFound, StorageFailure
from cluster.storage import ArtifactStore


def stored_files(storage: ArtifactStore, catalog: JobCatalog, job: Job) -> dict[str, str]:
    """The storage key of each file input. Raises Unavailable, StorageFailure."""
    return {field: _stored(storage, catalog.path(job, field)) for field in job.files}


def _stored(storage: ArtifactStore, path: Path) -> str:
    try:
        facts = path.stat()
        digest = _sha256(path, facts.st_mtime_ns, facts.st_size)
        key = keys.catalog_key(digest, path.name)
        try:
            storage.stat(key)
        except ArtifactNotFound:
            _put(storage, key, path, digest)
    except OSError as error:
        raise StorageFailure(f"the job's file {path.name} cannot be read: {error.strerror}") from error
    return key


def _put(storage: ArtifactStore, key: str, path: Path, digest: str) -> None:
    if storage.put_file(key, path).sha256 != digest:
        storage.delete(key)
        raise StorageFailure(f"the job's file {path.name} changed while it was stored; try again")


@lru_cache(maxsize=1024)
def _sha256(path: Path, _mtime_ns: int, _size_bytes: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
