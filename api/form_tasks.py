"""Tasks that come as a form with files: judged first, stored as they stream, removed when refused.

Shared by the dialects whose clients upload and create in one request.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from starlette.requests import Request

from api.dialects import Dialect
from api.edge import Edge
from api.errors import BadRequest
from api.forms import Fields, FormPlan, ReceivedForm, received_form
from api.submission import Draft
from api.to_the_end import remove
from api.uploads import Upload
from cluster import keys
from cluster.errors import RegistryUnavailable, TaskNotFound
from cluster.storage import Stored
from cluster.task import Task
from models.engine import ModelNotReady

MAX_NAME_BYTES = 200
# C0 and C1, ends of lines, what turns the direction of the text beside it, and halves of characters.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


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
    """Store the form's files. What is refused or cancelled leaves nothing behind.

    Raises what the form's parts raise, RegistryUnavailable before the body is read, ModelNotReady before any
    content is stored, and StorageFailure.
    """
    task_id = str(uuid.uuid4())
    parts = {part.name: part for part in form.parts}
    limit_bytes = edge.context.settings.max_upload_bytes
    too_large = form.dialect.too_large_text(limit_bytes)

    def open_file(name: str, filename: str, _fields: Fields) -> Upload:
        key = keys.input_key(task_id, parts[name].accept(filename))
        return Upload(edge.context.storage, key, max_bytes=limit_bytes, too_large=too_large)

    await _ask_registry(edge, task_id)
    plan = FormPlan(tuple(parts), open_file, form.check, await _not_ready(edge, form.task_name))
    async with AsyncExitStack() as undo:
        async with received_form(request, plan) as read:
            form.check(read.fields)
            _refuse_empty(form.parts, read)
            stored_keys = [read.uploads[part.name].key for part in form.parts]
            undo.push_async_callback(remove, edge.context.storage, stored_keys)
            stored = {part.field: await read.uploads[part.name].commit() for part in form.parts}
        undo.pop_all()
    names = {part.field: part.accept(read.filenames[part.name]) for part in form.parts}
    return Received(task_id, read.fields, stored, names)


async def record(edge: Edge, draft: Draft) -> Task:
    """Record the draft, or remove its files. Must not be cancelled: shield it from clients that hang up.

    Raises what `Submitter.submit` raises.
    """
    async with AsyncExitStack() as undo:
        undo.push_async_callback(remove, edge.context.storage, list(draft.files.values()))
        try:
            submission = await edge.submitter.submit(draft)
        except RegistryUnavailable:
            # It is not known whether the task was recorded, and with it its files: the registry's sweep
            # (`cluster/retention.py`) removes them when it was not.
            undo.pop_all()
            raise
        undo.pop_all()
    return submission.task


def file_name(filename: str) -> str:
    """The file's own name, without folders and invisible controls, short enough; "" if none is left."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    name = _CONTROLS.sub("", name).strip()
    stem, dot, suffix = name.rpartition(".")
    ending = dot + suffix if stem else ""
    ending = ending if len(ending.encode()) < MAX_NAME_BYTES else ""
    kept_bytes = name.removesuffix(ending).encode()[: MAX_NAME_BYTES - len(ending.encode())]
    return kept_bytes.decode(errors="ignore") + ending


async def _ask_registry(edge: Edge, new_id: str) -> None:
    """Raises RegistryUnavailable, before gigabytes came for a task that could not be recorded."""
    with suppress(TaskNotFound):
        await edge.context.registry.get(new_id)


async def _not_ready(edge: Edge, task_name: str) -> ModelNotReady | None:
    """Why the task could not run now: a server that cannot says so before it takes gigabytes."""
    try:
        await edge.readiness.engine(edge.submitter.model(task_name))
    except ModelNotReady as error:
        return error
    return None


def _refuse_empty(parts: tuple[FilePart, ...], read: ReceivedForm) -> None:
    for part in parts:
        if read.uploads[part.name].size_bytes == 0:
            raise BadRequest(part.empty)
