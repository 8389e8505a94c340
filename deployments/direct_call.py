"""One short task without a record: for Python handles that would rather wait than poll."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from cluster import keys
from deployments.attempt_logs import AttemptLog
from deployments.engines import EngineRoom, LoadedEngine
from deployments.results import replaced_paths
from deployments.workspaces import Workspaces
from models.engine import MediaKind, Result, RunContext, file_fields
from models.errors import InvalidInput, PermanentFailure, TimedOut


class DirectContext(RunContext):
    """The run context of a call without a record: nobody watches it, only its deadline ends it."""

    def __init__(self, workspace: Path, *, device: str, threads: int, timeout_s: float) -> None:
        self.task_id = f"call-{uuid.uuid4()}"
        self.device = device
        self.threads = threads
        self.logger = AttemptLog()
        self.output_dir = workspace / "output"
        self.scratch_dir = workspace / "scratch"
        for folder in (self.output_dir, self.scratch_dir):
            folder.mkdir(parents=True)
        self._deadline_s = time.monotonic() + timeout_s

    @override
    def report(self, done: float, total: float | None = None, *, stage: str = "", unit: str = "") -> None:
        self.check()

    def check(self) -> None:
        if time.monotonic() > self._deadline_s:
            raise TimedOut

    def commit(self, path: Path) -> None:
        """Nothing resumes a call, so nothing is kept."""


def run_directly(
    engines: EngineRoom,
    workspaces: Workspaces,
    *,
    name: str,
    inputs: dict[str, Any],
    files: Mapping[str, bytes],
) -> dict[str, Any]:
    """Answer `{"result": …, "files": {name: bytes}}`; raises what the engine raises.

    Runs on a worker thread. Raises TimeoutError past the model's run_timeout_s.
    """
    loaded = engines.get(name)
    workspace = workspaces.path(f"call-{uuid.uuid4()}")
    with workspaces.removed_after(workspace):
        context = DirectContext(
            workspace,
            device=engines.device,
            threads=engines.threads,
            timeout_s=loaded.model.run_timeout_s,
        )
        local = _written(files, loaded.model.inputs, inputs, workspace)
        result = _run(loaded, inputs | local, context)
        return {
            "result": replaced_paths(result.values, context.output_dir) | {"engine": loaded.label_of(result)},
            "files": {
                path.relative_to(context.output_dir).as_posix(): path.read_bytes()
                for path in context.output_dir.rglob("*")
                if path.is_file()
            },
        }


def _run(loaded: LoadedEngine, inputs: dict[str, Any], context: DirectContext) -> Result:
    """Run the engine; only Exceptions come out, because others would end the caller's event loop."""
    try:
        return loaded.engine.run(loaded.model.inputs.model_validate(inputs), context)
    except TimedOut as error:
        raise TimeoutError(f"the call ran longer than {loaded.model.run_timeout_s:g} s") from error
    except (SystemExit, KeyboardInterrupt) as error:
        raise PermanentFailure(f"the engine {loaded.spec.name} ended with {error!r}") from error


def _written(
    files: Mapping[str, bytes], model: type, inputs: dict[str, Any], workspace: Path
) -> dict[str, str]:
    """File inputs on disk, under the names that the caller's inputs give them. Raises InvalidInput."""
    paths = {}
    for field, mark in file_fields(model).items():
        if mark.kind is MediaKind.FOLDER and (field in files or inputs.get(field) is not None):
            raise InvalidInput(
                f"{field} is a folder, which no direct call can carry: submit a task", field=field
            )
        if field not in files:
            if inputs.get(field) is not None:
                raise InvalidInput(f"a direct call needs the content of {field} in `files`", field=field)
            continue
        name = Path(str(inputs.get(field) or field)).name
        path = workspace / "input" / field / keys.clean_name(name)
        path.parent.mkdir(parents=True)
        path.write_bytes(files[field])
        paths[field] = str(path)
    return paths
