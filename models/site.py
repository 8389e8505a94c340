"""What this installation offers engines, and which engine of a model it can run."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from models.engine import Endpoint, EngineSpec, ModelNotReady, ModelSpec, Resources
from models.weights import ModelFolder, WeightFile, locate, locate_folder

_W = TypeVar("_W", WeightFile, ModelFolder)
_NO_ENGINE = (
    "{name} cannot run here: this version of the server has no engine for it; install a version that has one"
    " (GET /v1/models and `mediaray models` list what can run)"
)


@dataclass(frozen=True, slots=True)
class Site:
    """The operator's weights, GPUs and servers. `endpoints` are those that are set, by name."""

    models_dir: Path | None = None
    has_gpu: bool = False
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)


def resources_of(engine: EngineSpec, site: Site, *, device: str, threads: int) -> Resources:
    """What `engine` loads from; raises ModelNotReady for the first thing that is missing."""
    files = {weight.path: _found(locate, weight, site) for weight in engine.weights}
    folders = {folder.path: _found(locate_folder, folder, site) for folder in engine.folders}
    for name in engine.packages:
        _require_package(name)
    if engine.endpoint:
        _require_endpoint(engine.endpoint, site)
    return Resources(
        device=device,
        threads=threads,
        weights=files | folders,
        models_dir=site.models_dir,
        endpoints={
            name: site.endpoints[name]
            for name in (engine.endpoint, engine.optional_endpoint)
            if name in site.endpoints
        },
    )


def missing(engine: EngineSpec, site: Site) -> list[str]:
    """What `engine` lacks but a GPU, each with the next step; [] when nothing."""
    needs: list[Callable[[], object]] = [
        *(partial(_found, locate, weight, site) for weight in engine.weights),
        *(partial(_found, locate_folder, folder, site) for folder in engine.folders),
        *(partial(_require_package, name) for name in engine.packages),
        *(partial(_require_endpoint, name, site) for name in (engine.endpoint,) if name),
    ]
    return [problem for need in needs if (problem := _problem(need))]


def ready_engine(model: ModelSpec, site: Site) -> EngineSpec:
    """The first engine that has all it needs.

    Raises ModelNotReady: what every engine lacks, or that this version has no engine for the model.
    """
    problems = []
    for engine in model.engines:
        lacks = missing(engine, site)
        if engine.needs_gpu and not site.has_gpu:
            lacks.append(f"engine {engine.name} needs a GPU")
        if not lacks:
            return engine
        problems += lacks
    raise ModelNotReady("; ".join(problems) or _NO_ENGINE.format(name=model.name))


def _found(find: Callable[[_W, Path | None], Path], what: _W, site: Site) -> Path:
    try:
        return find(what, site.models_dir)
    except (
        OSError
    ) as error:  # such as a folder that this user may not read; its whole path is not for callers
        name = Path(error.filename or "").name
        raise ModelNotReady(f"weights cannot be read: {name}: {error.strerror}") from error


def _problem(need: Callable[[], object]) -> str:
    try:
        need()
    except ModelNotReady as error:
        return str(error)
    return ""


def _require_package(name: str) -> None:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelNotReady(f"a package is not installed: pip install {name}") from error


def _require_endpoint(name: str, site: Site) -> None:
    if name not in site.endpoints:
        variable = f"MEDIARAY_{name.upper()}_URL"
        raise ModelNotReady(f"no {name} server is set: {variable} names the one to ask")
