"""Folders as archive files, written and read in bounded memory."""

from __future__ import annotations

import hashlib
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.disk import disk_errors
from models.engine import RunContext

_PIECE_BYTES = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that zip knows: equal content, equal checksum


@dataclass(frozen=True, slots=True)
class ArchiveFacts:
    """What was packed. Sizes are bytes; the ratio is compressed by original; the checksum is sha256."""

    original_size: int
    compressed_size: int
    compression_ratio: float
    files_count: int
    compression_time: float
    checksum: str
    format: str


def write_zip(context: RunContext, files: Sequence[Path], archive: Path) -> ArchiveFacts:
    """Pack `files` under their plain names; a cancelled attempt stops within one piece of 1 MiB."""
    started_s = time.monotonic()
    with disk_errors(), zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        for number, file in enumerate(files, start=1):
            _add(context, target, file)
            context.report(number, len(files), stage="archive", unit="files")
    original_size = sum(file.stat().st_size for file in files)
    compressed_size = archive.stat().st_size
    return ArchiveFacts(
        original_size=original_size,
        compressed_size=compressed_size,
        compression_ratio=round(compressed_size / original_size, 4) if original_size else 1.0,
        files_count=len(files),
        compression_time=round(time.monotonic() - started_s, 3),
        checksum=sha256_of(archive),
        format="zip",
    )


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _add(context: RunContext, target: zipfile.ZipFile, file: Path) -> None:
    entry = zipfile.ZipInfo(file.name, date_time=_EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.file_size = file.stat().st_size
    with file.open("rb") as source, target.open(entry, "w") as packed:
        while piece := source.read(_PIECE_BYTES):
            context.check()
            packed.write(piece)
