"""What the local store remembers about each object, so that stat needs no rehash.

One small JSON file per key, named by the key's hash. It names the very file it describes (inode, size,
mtime): whatever replaced or touched that file since, and whatever a crash tore, is noticed and computed
anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.media_types import HEAD_BYTES, sniff
from cluster.storage import Stored

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found when the file of this identity was written or rehashed."""

    inode: int
    size_bytes: int
    mtime_ns: int
    sha256: str
    media_type: str

    @classmethod
    def of(cls, status: os.stat_result, sha256: str, media_type: str) -> Facts:
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, sha256, media_type)

    def describe(self, status: os.stat_result) -> bool:
        found = (status.st_ino, status.st_size, status.st_mtime_ns)
        return found == (self.inode, self.size_bytes, self.mtime_ns)

    def as_stored(self, key: str) -> Stored:
        return Stored(key, self.size_bytes, self.media_type, self.sha256, self.mtime_ns / 1e9)


class FactsFolder:
    """Facts by key in `folder`; written aside in `incoming`, which lies on the same file system."""

    def __init__(self, folder: Path, incoming: Path) -> None:
        self._folder = folder
        self._incoming = incoming

    def get(self, key: str, path: Path) -> Facts:
        """Facts of the object at `path`, rehashed where what is remembered is of another file."""
        status = path.stat()
        facts = self._read(key)
        return facts if facts is not None and facts.describe(status) else self._heal(key, path)

    def put(self, key: str, facts: Facts) -> None:
        # Not synced: what a power failure tears is computed anew.
        aside = self._incoming / secrets.token_hex(16)
        target = self._path(key)
        try:
            aside.write_text(json.dumps({"key": key, **asdict(facts)}), encoding="utf-8")
            target.parent.mkdir(exist_ok=True)
            aside.replace(target)
        except OSError:
            aside.unlink(missing_ok=True)
            raise

    def forget(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def _heal(self, key: str, path: Path) -> Facts:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            facts = Facts.of(os.fstat(file.fileno()), digest, sniff(head, key))
        try:
            self.put(key, facts)
        except OSError as error:
            log.warning("the facts of %s were computed anew and could not be kept: %s", key, error.strerror)
        return facts

    def _read(self, key: str) -> Facts | None:
        try:
            fields = json.loads(self._path(key).read_bytes())
            return Facts(**{name: fields[name] for name in Facts.__dataclass_fields__})
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # none, or torn
            return None

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self._folder / name[:2] / name
