"""The inputs of an attempt as its engine gets them: validated, with every file on this machine's disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from cluster.errors import ArtifactNotFound, UrlProblem
from cluster.storage import ArtifactStore
from cluster.task import Task
from cluster.url_downloads import UrlDownloads
from cluster.urls import is_web_url
from models.engine import InputFile, ModelSpec, RunContext, file_fields
from models.input_files import looked_at

_PART_NAME = "download.part"


@dataclass(frozen=True, slots=True)
class FileAccess:
    """What attempts read and write: the artifact store, and files behind URLs of at most so many pixels."""

    storage: ArtifactStore
    downloads: UrlDownloads
    max_pixels: int


class InputGone(ArtifactNotFound):
    """A stored file that was there at the submit."""

    def __init__(self, field: str, key: str) -> None:
        super().__init__(key)
        self.args = (f"{field}: the file is gone since the task was submitted: {key}",)


class InputFetch:
    """Brings the inputs of one attempt into `folder`, under the names that callers gave them.

    Downloads report to `context` and stop with it; `on_file` is called when a stored file has come.
    """

    def __init__(
        self, files: FileAccess, folder: Path, context: RunContext, on_file: Callable[[], None]
    ) -> None:
        self._files = files
        self._folder = folder
        self._context = context
        self._on_file = on_file

    def inputs_of(self, task: Task, model: ModelSpec) -> BaseModel:
        """The engine's inputs. Raises ArtifactNotFound, StorageFailure, UrlProblem and InvalidInput."""
        inputs = model.inputs.model_validate(task.inputs)
        marks = file_fields(model.inputs)
        stored = {name: self._fetch(name, task.files[name]) for name in marks if name in task.files}
        urls = {name: getattr(inputs, name) for name in marks if name not in stored}
        downloaded = {name: self._download(name, url) for name, url in urls.items() if is_web_url(url or "")}
        paths = stored | downloaded
        if downloaded:
            self._judge(model, inputs, marks, paths)
        return inputs.model_copy(update={name: str(path) for name, path in paths.items()})

    def _fetch(self, field: str, key: str) -> Path:
        path = self._folder_of(field) / Path(key).name
        try:
            self._files.storage.fetch(key, path)
        except ArtifactNotFound as error:
            raise InputGone(field, key) from error
        self._on_file()
        return path

    def _download(self, field: str, url: str) -> Path:
        part = self._folder_of(field) / _PART_NAME
        try:
            found = self._files.downloads.fetch(url, part, self._report_bytes)
        except UrlProblem as error:
            raise type(error)(f"{field}: {error}") from error
        self._context.logger.info(
            "downloaded %s: %d bytes, %s", field, found.size_bytes, found.media_type or "no media type"
        )
        return part.rename(part.with_name(found.name))

    def _report_bytes(self, done_bytes: int, total_bytes: int | None) -> None:
        self._context.report(done_bytes, total_bytes, stage="download", unit="bytes")

    def _judge(
        self, model: ModelSpec, inputs: BaseModel, marks: Mapping[str, InputFile], paths: Mapping[str, Path]
    ) -> None:
        """What a submit checks of files that lie in the store already."""
        looks = {
            name: looked_at(name, marks[name].kind, path, self._files.max_pixels)
            for name, path in paths.items()
        }
        if model.check is not None:
            model.check(inputs, {name: info for name, info in looks.items() if info is not None})

    def _folder_of(self, field: str) -> Path:
        folder = self._folder / field
        folder.mkdir(parents=True)
        return folder
