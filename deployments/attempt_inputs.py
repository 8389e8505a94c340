"""The inputs of an attempt as its engine gets them: validated, with every file on this machine's disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from cluster.errors import ArtifactNotFound, FolderNotUsable, UrlProblem
from cluster.storage import ArtifactStore
from cluster.stored_folders import FolderMark, recorded_mark, sizes_below
from cluster.task import Task
from cluster.url_downloads import UrlDownloads
from cluster.urls import is_web_url
from models.engine import InputFile, InvalidInput, MediaKind, ModelSpec, RunContext, file_fields
from models.input_files import looked_at

_PART_NAME = "download.part"
_FETCHES = 8  # files of a folder that are fetched at a time: from S3 each one waits for its answer


@dataclass(frozen=True, slots=True)
class FileAccess:
    """What attempts read and write: the artifact store, and files behind URLs.

    Those of at most so many pixels; `max_folder_bytes` bounds all files of an input folder together.
    """

    storage: ArtifactStore
    downloads: UrlDownloads
    max_pixels: int
    max_folder_bytes: int


class InputGone(ArtifactNotFound):
    """A stored file or folder that was there at the submit."""

    def __init__(self, field: str, key: str) -> None:
        super().__init__(key)
        kind = "folder" if key.endswith("/") else "file"
        self.args = (f"{field}: the {kind} is gone since the task was submitted: {key}",)


class FolderChanged(ArtifactNotFound):
    """A stored folder that has lost, gained or changed files since the submit."""

    def __init__(self, field: str, prefix: str, then: FolderMark, now: FolderMark) -> None:
        super().__init__(prefix)
        counts = f"{then.num_files} files then, {now.num_files} now"
        if then.num_files == now.num_files:
            counts = f"{now.num_files} files as then, but of other names or sizes"
        self.args = (f"{field}: the folder has changed since the task was submitted: {counts}: {prefix}",)


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
        stored = {
            name: self._stored(name, mark.kind, task) for name, mark in marks.items() if name in task.files
        }
        urls = {name: getattr(inputs, name) for name in marks if name not in stored}
        downloaded = {name: self._download(name, url) for name, url in urls.items() if is_web_url(url or "")}
        paths = stored | downloaded
        if downloaded:
            self._judge(model, inputs, marks, paths)
        return inputs.model_copy(update={name: str(path) for name, path in paths.items()})

    def _stored(self, field: str, kind: MediaKind, task: Task) -> Path:
        key = task.files[field]
        path = self._folder_of(field) / Path(key).name
        if kind is MediaKind.FOLDER:
            self._fetch_folder(field, key, path, recorded_mark(task.facts, field))
        else:
            self._fetch(field, key, path)
            self._on_file()
        return path

    def _fetch(self, field: str, key: str, path: Path) -> None:
        try:
            self._files.storage.fetch(key, path)
        except ArtifactNotFound as error:
            raise InputGone(field, key) from error

    def _fetch_folder(self, field: str, prefix: str, folder: Path, recorded: FolderMark | None) -> None:
        """Every file below `prefix`, as they were at the submit; raises FolderChanged for any other."""
        sizes = self._sizes_below(field, prefix)
        listed = FolderMark.of(sizes)
        then = recorded or listed
        if listed == then:
            self._fetch_all(field, prefix, list(sizes), folder)
            # A file replaced since the listing came as what it is now.
            listed = FolderMark.of({name: (folder / name).stat().st_size for name in sizes})
        if listed != then:
            raise FolderChanged(field, prefix, then, listed)

    def _sizes_below(self, field: str, prefix: str) -> dict[str, int]:
        try:
            return sizes_below(self._files.storage, prefix, self._files.max_folder_bytes)
        except ArtifactNotFound as error:
            raise InputGone(field, prefix) from error
        except FolderNotUsable as error:
            raise InvalidInput(f"{field}: {error}", field=field) from error

    def _fetch_all(self, field: str, prefix: str, names: list[str], folder: Path) -> None:
        """Each file under its relative name; what fails or is told to stop ends all."""
        with ThreadPoolExecutor(_FETCHES, thread_name_prefix="fetch") as pool:
            fetches = [pool.submit(self._fetch, field, prefix + name, folder / name) for name in names]
            try:
                for count, fetch in enumerate(as_completed(fetches), start=1):
                    fetch.result()
                    self._on_file()
                    self._context.report(count, len(names), stage="fetch", unit="files")
            finally:
                pool.shutdown(cancel_futures=True)

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
