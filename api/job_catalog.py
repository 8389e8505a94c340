"""The operator's numbered jobs: what an index of the `indexed` dialect runs, read from a YAML file at start.

A file that is wrong anywhere refuses to start, with the line and the field of everything that is wrong.
`jobs.yaml` beside this module is the catalogue that ships, and shows the form.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.errors import NotFound, Unavailable
from cluster import keys
from cluster.errors import InvalidKey
from cluster.task import Json
from models.engine import MediaKind, ModelSpec, file_fields

SHIPPED = Path(__file__).with_name("jobs.yaml")
_SHOWN_INDICES = 20

logger = logging.getLogger(__name__)


class CatalogError(ValueError):
    """The job catalogue cannot be used; the message names the file, its lines and fields."""


class JobEntry(BaseModel):
    """One entry as it is written."""

    model_config = ConfigDict(extra="forbid")

    task: str
    inputs: dict[str, Any] = {}


class CatalogFile(BaseModel):
    """The file as it is written."""

    model_config = ConfigDict(extra="forbid")

    root: str = "."
    jobs: dict[Annotated[int, Field(ge=1, strict=True)], JobEntry]


@dataclass(frozen=True, slots=True)
class Job:
    """What one index runs. `files` maps each file input to its name below the catalogue's root."""

    index: int
    task: str
    inputs: Json
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class JobCatalog:
    """Jobs by index, and the one folder that their files may be read from."""

    root: Path
    jobs: Mapping[int, Job]

    def job(self, index: int) -> Job:
        """Raises NotFound naming the indices that there are."""
        found = self.jobs.get(index)
        if found is None:
            raise NotFound(f"no job has the index {index}; this server has {_listed(sorted(self.jobs))}")
        return found

    def path(self, job: Job, field: str) -> Path:
        """The file of an input; raises Unavailable when it is not there, or not below the root."""
        path = (self.root / job.files[field]).resolve()
        if not path.is_relative_to(self.root) or not path.is_file():
            raise Unavailable(
                f"job {job.index} cannot run: its input file {job.files[field]} is not on this server; the"
                " operator may put it into the job catalogue's folder, or name another catalogue with"
                " MEDIARAY_CATALOG"
            )
        return path


def load_jobs(path: Path | None, models: Mapping[str, ModelSpec]) -> JobCatalog:
    """The catalogue at `path`, or the one that ships; raises CatalogError.

    Files that are not there yet are told in the log: their jobs answer 503 until they are.
    """
    catalog = _load(path or SHIPPED, models)
    for job in catalog.jobs.values():
        for field in job.files:
            try:
                catalog.path(job, field)
            except Unavailable as error:
                logger.warning("%s", error)
    return catalog


def _load(path: Path, models: Mapping[str, ModelSpec]) -> JobCatalog:
    node, content = _parsed(path)
    try:
        file = CatalogFile.model_validate(content)
    except ValidationError as error:
        raise _wrong(path, node, _problems((), error)) from error
    problems = [
        problem for index, entry in file.jobs.items() for problem in _entry_problems(index, entry, models)
    ]
    if problems:
        raise _wrong(path, node, problems)
    root = (path.parent / Path(file.root).expanduser()).resolve()
    return JobCatalog(root, {index: _job(index, entry, models) for index, entry in file.jobs.items()})


def _job(index: int, entry: JobEntry, models: Mapping[str, ModelSpec]) -> Job:
    marks = file_fields(models[entry.task].inputs)
    files = {field: entry.inputs[field] for field in marks if entry.inputs.get(field) is not None}
    return Job(index, entry.task, entry.inputs, files)


Problem = tuple[Sequence[str | int], str]
"""Where in the file, and what is wrong there."""


def _entry_problems(index: int, entry: JobEntry, models: Mapping[str, ModelSpec]) -> Iterator[Problem]:
    where = ("jobs", index)
    model = models.get(entry.task)
    if model is None:
        yield (*where, "task"), f"unknown task {entry.task!r}; known: {', '.join(sorted(models))}"
        return
    try:
        model.inputs.model_validate(entry.inputs)
    except ValidationError as error:
        yield from _problems((*where, "inputs"), error)
        return
    marks = file_fields(model.inputs)
    for field, name in _job(index, entry, models).files.items():
        if marks[field].kind is MediaKind.FOLDER:
            yield (
                (*where, "inputs", field),
                "a numbered job reads files of the catalogue's folder, no folders",
            )
            continue
        try:
            keys.clean_path(name)
        except InvalidKey:
            yield (*where, "inputs", field), f"{name!r} is not a file below the root: no .., no leading slash"


def _problems(where: Sequence[str | int], error: ValidationError) -> Iterator[Problem]:
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        yield (*where, *(part for part in problem["loc"] if part != "[key]")), problem["msg"]


def _wrong(path: Path, node: yaml.Node | None, problems: Iterable[Problem]) -> CatalogError:
    lines = [
        f"{path}:{_line(node, where)}: {'.'.join(str(part) for part in where) or 'the file'}: {text}"
        for where, text in problems
    ]
    return CatalogError("the job catalogue (MEDIARAY_CATALOG) is wrong:\n" + "\n".join(lines))


def _parsed(path: Path) -> tuple[yaml.Node | None, Any]:
    """The YAML nodes, which know their lines, and their content. Raises CatalogError."""
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        return node, None if node is None else loader.construct_document(node)
    except OSError as error:
        raise CatalogError(f"the job catalogue {path} (MEDIARAY_CATALOG) cannot be read: {error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CatalogError(f"the job catalogue {path} (MEDIARAY_CATALOG) is not YAML: {error}") from error


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice: YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            seen.add((key.tag, str(key.value)))
        return super().construct_mapping(node, deep=deep)


def _line(node: yaml.Node | None, where: Sequence[str | int]) -> int:
    """The line of the innermost part of `where` that the file has, counted from 1."""
    for part in where:
        found = _child(node, str(part))
        if found is None:
            break
        node = found
    return 1 if node is None else node.start_mark.line + 1


def _child(node: yaml.Node | None, part: str) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and part.isdecimal() and int(part) < len(node.value):
        item: yaml.Node = node.value[int(part)]
        return item
    return None


def _listed(indices: list[int]) -> str:
    shown = ", ".join(str(index) for index in indices[:_SHOWN_INDICES])
    more = len(indices) - _SHOWN_INDICES
    return (f"{shown} and {more} more" if more > 0 else shown) or "none"
