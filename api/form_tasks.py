"""Tasks that come as a form with files: judged first, stored as they stream, removed when refused.

Shared by the dialects whose clients upload and create in one request.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

import anyio
from anyio import to_thread
from starlette.requests import Request

from api.dialects import Dialect
from api.edge import Edge
from api.errors import BadRequest
from api.forms import Fields, FormPlan, ReceivedForm, received_form
from api.submission import Draft
from api.uploads import Upload
from cluster import keys
from cluster.errors import RegistryUnavailable
from cluster.storage import ArtifactStore, Stored
from cluster.task import Task
from models.engine import ModelNotReady

MAX_NAME_BYTES = 200


@dataclass(frozen=True, slots=True)
class FilePart:
    """One file of a form: the input it becomes, and how it is judged before it is stored.

    `accept` makes the name it is stored under of the one the client sent; raises BadRequest. The names of
    one form must differ. `empty` is what the sender of an empty file reads.
    """

    name: str
    field: str
    accept: Callable[[str], str]
    empty: str


@dataclass(frozen=True, slots=True)
class FormTask:
    """What a dialect expects of the form that creates its task; `check` judges the fields so far."""

    task_name: str
    dialect: Dialect
    parts: tuple[FilePart, ...]
    check: Callable[[Fields], None]


@dataclass(frozen=True, slots=True)
class Received:
    """A form whose files are stored: they and the names their sender gave them, by input."""

    task_id: str
    fields: Fields
    stored: Mapping[str, Stored]
    names: Mapping[str, str]

    @property
    def keys(self) -> dict[str, str]:
        """Storage keys by input."""
        return {field: stored.key for field, stored in self.stored.items()}


async def receive(request: Request, edge: Edge, form: FormTask) -> Received:
    """Store the form's files. What is refused leaves nothing behind.

    Raises what the form's parts raise, ModelNotReady before any content is stored, and StorageFailure.
    """
    task_id = str(uuid.uuid4())
    parts = {part.name: part for part in form.parts}
    limit_bytes = edge.context.settings.max_upload_bytes
    too_large = form.dialect.too_large_text(limit_bytes)

    def open_file(name: str, filename: str, _fields: Fields) -> Upload:
        key = keys.input_key(task_id, parts[name].accept(filename))
        return Upload(edge.context.storage, key, max_bytes=limit_bytes, too_large=too_large)

    plan = FormPlan(tuple(parts), open_file, form.check, await _not_ready(edge, form.task_name))
    async with received_form(request, plan) as read:
        form.check(read.fields)
        stored = await _committed(edge.context.storage, form.parts, read)
    names = {part.field: part.accept(read.filenames[part.name]) for part in form.parts}
    return Received(task_id, read.fields, stored, names)


async def record(edge: Edge, draft: Draft) -> Task:
    """Record the draft, or remove its files. Must not be cancelled: shield it from clients that hang up.

    Raises what `Submitter.submit` raises.
    """
    async with AsyncExitStack() as undo:
        undo.push_async_callback(_remove, edge.context.storage, list(draft.files.values()))
        try:
            submission = await edge.submitter.submit(draft)
        except RegistryUnavailable:
            undo.pop_all()  # it is not known whether the task was recorded, and with it its files
            raise
        undo.pop_all()
    return submission.task


def file_name(filename: str) -> str:
    """The file's own name, without folders and control characters, short enough; "" if none is left."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    name = "".join(char for char in name if char.isprintable()).strip()
    stem, dot, suffix = name.rpartition(".")
    ending = dot + suffix if stem else ""
    ending = ending if len(ending.encode()) < MAX_NAME_BYTES else ""
    kept_bytes = name.removesuffix(ending).encode()[: MAX_NAME_BYTES - len(ending.encode())]
    return kept_bytes.decode(errors="ignore") + ending


async def _not_ready(edge: Edge, task_name: str) -> ModelNotReady | None:
    """Why the task could not run now: a server that cannot says so before it takes gigabytes."""
    try:
        await edge.readiness.engine(edge.submitter.model(task_name))
    except ModelNotReady as error:
        return error
    return None


async def _committed(
    storage: ArtifactStore, parts: tuple[FilePart, ...], read: ReceivedForm
) -> dict[str, Stored]:
    """All files of the form published, or none."""
    for part in parts:
        if read.uploads[part.name].size_bytes == 0:
            raise BadRequest(part.empty)
    stored: dict[str, Stored] = {}
    async with AsyncExitStack() as undo:
        for part in parts:
            stored[part.field] = await read.uploads[part.name].commit()
            undo.push_async_callback(_remove, storage, [stored[part.field].key])
        undo.pop_all()
    return stored


async def _remove(storage: ArtifactStore, stored_keys: list[str]) -> None:
    with anyio.CancelScope(shield=True):
        for key in stored_keys:
            await to_thread.run_sync(storage.delete, key)
