"""Submitting an ended task again, with files of its own: those of the first one go when it is deleted."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace

from api.edge import Edge
from api.errors import BadRequest
from api.submission import Draft, validated
from api.to_the_end import remove, run_to_the_end
from api.uploads import copy
from cluster import keys
from cluster.errors import ArtifactNotFound, RegistryUnavailable
from cluster.task import Json, Task
from models.engine import ModelSpec


def kept_files(task: Task, model: ModelSpec, overrides: Json) -> dict[str, str]:
    """The files of those inputs that `overrides` leave as they were, under whatever name they give them.

    Raises BadRequest for inputs that are none of the model's.
    """
    old, new = (validated(model.inputs, inputs) for inputs in (task.inputs, task.inputs | overrides))
    return {name: key for name, key in task.files.items() if getattr(old, name) == getattr(new, name)}


async def record_retry(edge: Edge, draft: Draft, new_id: str, old_id: str) -> Task:
    """Record the draft as `new_id`, with copies of the files that were uploaded together with `old_id`.

    What is refused leaves nothing behind. Must not be cancelled: shield it from clients that hang up.
    Raises BadRequest where a file is gone, StorageFailure, and what `Submitter.submit` raises.
    """
    prefix = keys.input_prefix(old_id)
    copies = {
        key: keys.input_key(new_id, key.removeprefix(prefix))
        for key in draft.files.values()
        if key.startswith(prefix)
    }
    async with AsyncExitStack() as undo:
        undo.push_async_callback(remove, edge.context.storage, list(copies.values()))
        for old_key, new_key in copies.items():
            await _copy(edge, old_key, new_key)
        try:
            submission = await edge.submitter.submit(_with_copies(replace(draft, task_id=new_id), copies))
        except RegistryUnavailable:
            # As in `api.form_tasks.record`: it is not known whether the task was recorded.
            undo.pop_all()
            raise
        undo.pop_all()
    return submission.task


async def _copy(edge: Edge, old_key: str, new_key: str) -> None:
    try:
        await run_to_the_end(copy, edge.context.storage, old_key, new_key)
    except ArtifactNotFound as error:
        raise BadRequest(
            f"文件不存在: {old_key}", code="FILE_NOT_FOUND", details={"path": old_key}
        ) from error


def _with_copies(draft: Draft, copies: dict[str, str]) -> Draft:
    """The draft with every copied key replaced, in its inputs, too, where they name it."""
    copied = {name: copies[key] for name, key in draft.files.items() if key in copies}
    named = {name: key for name, key in copied.items() if draft.inputs.get(name) == draft.files[name]}
    return replace(draft, files={**draft.files, **copied}, inputs={**draft.inputs, **named})
