"""The loaded engines of one replica: chosen once, loaded once, kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from models.engine import Engine, EngineSpec, ModelSpec, Resources, Result, engine_label
from models.errors import EngineError, ModelNotReady, PermanentFailure
from models.site import Site, ready_engine, resources_of


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine that is ready to run, and where it came from."""

    model: ModelSpec
    spec: EngineSpec
    engine: Engine

    def label_of(self, result: Result) -> dict[str, str]:
        """What callers are told of who made the result."""
        told = engine_label(self.spec.name, self.spec.kind, self.engine.version or self.spec.version)
        return dict(result.engine or told)


class EngineRoom:
    """The engines of a service's models on one device; loads each on first use or by `load_all`.

    `pinned_engine` allows only the engine of that name; "auto" takes the first that is ready.
    """

    def __init__(
        self,
        models: Sequence[ModelSpec],
        *,
        site: Site,
        device: str,
        threads: int,
        pinned_engine: str = "auto",
        on_load_s: Callable[[str, float], None] = lambda _stage, _seconds: None,
    ) -> None:
        self._models = {model.name: _pinned(model, pinned_engine) for model in models}
        self._site = site
        self.device = device
        self.threads = threads
        self._on_load_s = on_load_s
        self._loaded: dict[str, LoadedEngine] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> LoadedEngine:
        """The engine for a task name, loaded now if it is not yet, also after a load that failed.

        Raises ModelNotReady with what to install, PermanentFailure when the engine does not load.
        """
        loaded = self._loaded.get(name)
        if loaded is not None:
            return loaded
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = self._load(name)
            return self._loaded[name]

    def load_all(self) -> list[str]:
        """Load every engine that is ready; returns why the others are not. Never raises."""
        problems = []
        for name in self._models:
            try:
                self.get(name)
            except Exception as error:  # noqa: BLE001 - the attempt edge: each task of this engine tells it again
                problems.append(f"{name}: {error}")
        return problems

    def _load(self, name: str) -> LoadedEngine:
        model = self._models.get(name)
        if model is None:
            raise ModelNotReady(f"this replica does not serve {name}")
        begin_s = time.monotonic()
        spec = ready_engine(model, self._site)
        engine = _loaded(spec, resources_of(spec, self._site, device=self.device, threads=self.threads))
        self._on_load_s("load", time.monotonic() - begin_s)
        return LoadedEngine(model, spec, engine)


def _loaded(spec: EngineSpec, resources: Resources) -> Engine:
    try:
        engine = spec.make()
        engine.load(resources)
    except (EngineError, MemoryError):
        raise  # says itself what is wrong, and whether to try again
    except BaseException as error:  # also SystemExit: a library must not end the replica
        reason = f"{type(error).__name__}: {error}"
        raise PermanentFailure(f"the engine {spec.name} does not load: {reason}") from error
    return engine


def _pinned(model: ModelSpec, engine_name: str) -> ModelSpec:
    if engine_name == "auto":
        return model
    return replace(model, engines=tuple(spec for spec in model.engines if spec.name == engine_name))
