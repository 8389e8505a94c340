"""What an engine is, and what it may use while it runs: the whole surface a model author learns.

A model is one file in `models/zoo/` that exports `MODELS: tuple[ModelSpec, ...]`, and one line in
`models/catalog.py`. An engine is two methods, `load` and `run`. Engines know nothing of Ray, HTTP,
storage or the environment: they get local files and a `RunContext`, and raise `models.errors`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from models.child_process import run_child
from models.errors import (
    Cancelled,
    EngineError,
    InvalidInput,
    ModelNotReady,
    OutOfMemory,
    PermanentFailure,
    TimedOut,
    TransientFailure,
)

if TYPE_CHECKING:
    from models.media import MediaInfo
    from models.weights import ModelFolder, WeightFile


__all__ = [
    "Cancelled",
    "DownloadUrl",
    "Endpoint",
    "Engine",
    "EngineError",
    "EngineKind",
    "EngineSpec",
    "InputFile",
    "InvalidInput",
    "MediaKind",
    "ModelNotReady",
    "ModelSpec",
    "OutOfMemory",
    "PermanentFailure",
    "Resources",
    "Result",
    "RunContext",
    "TimedOut",
    "TransientFailure",
    "engine_label",
    "file_fields",
]


class MediaKind(StrEnum):
    """What a file input must contain."""

    VIDEO = "video"  # a decodable video stream
    AUDIO = "audio"  # a decodable audio stream (a video with sound will do)
    AUDIO_OF_VIDEO = "audio_of_video"  # both a video and an audio stream
    IMAGE = "image"
    FILE = "file"  # any file
    FOLDER = "folder"  # a folder of files: what a task published, or what was uploaded below one path


@dataclass(frozen=True, slots=True)
class InputFile:
    """Marks a str field of an inputs model as a file: `Annotated[str, InputFile(MediaKind.VIDEO)]`.

    At submit the value is an object key or URL; in `Engine.run` it is a local path, of a folder for FOLDER.
    """

    kind: MediaKind = MediaKind.FILE


def file_fields(inputs: type[BaseModel]) -> dict[str, InputFile]:
    """The file fields of an inputs model, by name."""
    marks = {
        name: [mark for mark in info.metadata if isinstance(mark, InputFile)]
        for name, info in inputs.model_fields.items()
    }
    return {name: found[0] for name, found in marks.items() if found}


@dataclass(frozen=True, slots=True)
class DownloadUrl:
    """A result value that callers see as a download URL of the output file or folder at `path`."""

    path: Path


@dataclass(frozen=True, slots=True)
class Result:
    """What an engine returns.

    A `Path` in `values` (at any depth) stands for an output file or folder below
    `RunContext.output_dir`; callers see its storage key. Every file below `output_dir` is published.
    `engine` is the label of who did the work where that is not the engine that ran.
    """

    values: dict[str, Any] = field(default_factory=dict)
    engine: Mapping[str, str] | None = None


class RunContext(ABC):
    """What one attempt gives its engine. Methods may be called from any thread of the attempt."""

    output_dir: Path
    scratch_dir: Path
    task_id: str
    threads: int
    device: str
    logger: logging.Logger | logging.LoggerAdapter[logging.Logger]

    @abstractmethod
    def report(self, done: float, total: float | None = None, *, stage: str = "", unit: str = "") -> None:
        """Record `done` committed units of `total`. Raises Cancelled or TimedOut when told to stop."""

    @abstractmethod
    def check(self) -> None:
        """Raise Cancelled or TimedOut when told to stop; call at least every 0.5 s of work."""

    def run_process(self, argv: Sequence[str], *, on_line: Callable[[str], None] | None = None) -> None:
        """Run a child program to its end; `on_line` sees each line of its stdout.

        The child has a process group of its own, which is ended on cancel, on timeout and when this
        process dies. Raises PermanentFailure with the tail of stderr when it exits non-zero.
        """
        run_child(argv, check=self.check, on_line=on_line)

    @abstractmethod
    def commit(self, path: Path) -> None:
        """Keep a finished part (a file below `scratch_dir`) even if this attempt fails later."""

    def committed(self, name: str) -> Path | None:  # noqa: ARG002 - most contexts keep nothing
        """The part of this name that an earlier attempt of the task committed, as a file below `scratch_dir`.

        None where there is none. An engine whose parts depend on its inputs and version says so in the name.
        """
        return None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server of the operator's that an engine asks over HTTP; `model` is the name it knows its model by."""

    url: str
    model: str = ""
    api_key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What an engine loads from.

    `weights` maps the `path` of each WeightFile and ModelFolder of its spec to the verified local file or
    folder; `models_dir` is where the operator keeps the weights of full engines; `endpoints` has those of its
    spec that are set. `threads` bounds the CPU threads of one attempt.
    """

    device: str = "cpu"
    threads: int = 1
    weights: Mapping[str, Path] = field(default_factory=dict)
    models_dir: Path | None = None
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)


class Engine(ABC):
    """A loaded model. One instance per replica; `run` is called by one thread per slot.

    `version`: what it learned of itself in `load`, where its spec cannot know it.
    """

    version: str = ""

    def load(self, resources: Resources) -> None:  # noqa: B027 - optional
        """Read weights and warm up, once per replica, before the first `run`."""

    @abstractmethod
    def run(self, inputs: Any, context: RunContext) -> Result:
        """Do the work. `inputs` is the spec's pydantic model with file fields as local paths."""


class EngineKind(StrEnum):
    """Whether an engine is the model that the service is named for, or the stand-in that ships in wheels."""

    FULL = "full"
    EMBEDDED = "embedded"


def engine_label(name: str, kind: EngineKind, version: str) -> dict[str, str]:
    """How results name an engine."""
    return {"name": name, "kind": kind.value, "version": version}


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSpec:
    """One engine of a model: how to make it, and what it needs.

    `version` is shown in results beside `name`, so that no embedded engine passes for the full one.
    `packages` are distributions that the operator installs for it, `endpoint` names the server it asks;
    `optional_endpoint` one that it asks where it is set, and does without where it is not.
    """

    name: str
    kind: EngineKind
    make: Callable[[], Engine]
    version: str = ""
    weights: tuple[WeightFile, ...] = ()
    folders: tuple[ModelFolder, ...] = ()
    packages: tuple[str, ...] = ()
    endpoint: str = ""
    optional_endpoint: str = ""
    needs_gpu: bool = False
    gpu_memory_bytes: int = 0
    licence: str = "Apache-2.0"
    is_commercial_use_allowed: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A catalogue entry: one task name, its inputs, and its engines in order of preference.

    A model without engines is known, and its tasks are refused as not ready.
    `check` sees the validated inputs and the probe of each given file field, and raises InvalidInput;
    it runs at submit, so it must be quick and free of torch. A file behind a URL has no probe yet at
    submit; `check` runs again when the attempt has downloaded it.
    """

    name: str
    title: str
    inputs: type[BaseModel]
    engines: tuple[EngineSpec, ...]
    check: Callable[[Any, Mapping[str, MediaInfo]], None] | None = None
    run_timeout_s: float = 3600.0
    max_attempts: int = 3
    is_listed: bool = True

    @property
    def service(self) -> str:
        """The part of the task name before the dot."""
        return self.name.partition(".")[0]
