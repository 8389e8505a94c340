"""What the storage tests share: real files, and how to put, read and list objects."""

from __future__ import annotations

import os
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path

from cluster.storage import ArtifactStore, Stored
from cluster.url_downloads import UrlDownloads
from cluster.urls import UrlGuard
from deployments.attempt_inputs import FileAccess

REPOSITORY = Path(__file__).parents[1]
SAMPLES = REPOSITORY / "samples"
BUCKET = "artifacts"
SECRET = "very-secret-access-key"
FAR_AHEAD_S = 10**6
MAX_DOWNLOAD_BYTES = MAX_FOLDER_BYTES = 32 * 1024**2


def file_access(store: ArtifactStore, guard: UrlGuard | None = None) -> FileAccess:
    """What an attempt may use: the store, and URLs of 127.0.0.1 or of what `guard` lets through."""
    guard = guard or UrlGuard([ip_network("127.0.0.0/8")])
    downloads = UrlDownloads(guard, max_bytes=MAX_DOWNLOAD_BYTES, timeout_s=60)
    return FileAccess(store, downloads, 8192**2, MAX_FOLDER_BYTES)


def put(store: ArtifactStore, key: str, content: bytes) -> Stored:
    with store.writer(key) as writer:
        writer.write(content)
        return writer.commit()


def content_of(store: ArtifactStore, key: str) -> bytes:
    return b"".join(store.read(key))


def keys_below(store: ArtifactStore, prefix: str) -> list[str]:
    return [stored.key for stored in store.list(prefix)]


def noise(size_bytes: int) -> bytes:
    return (os.urandom(1021) * (size_bytes // 1021 + 1))[:size_bytes]


def run_python(code: str, *arguments: str, wrapper: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*wrapper, sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
