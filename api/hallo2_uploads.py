"""Creating a `hallo2` task from a form: a portrait, a recording, and the tenant's own defaults."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import PurePosixPath

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from api.callers import caller
from api.dialects import HALLO2
from api.edge import Edge, edge_of
from api.errors import (
    REGISTRY_FAULT,
    BadRequest,
    ServerFault,
    Unprocessable,
    WrongContent,
    error_list,
)
from api.form_tasks import FilePart, FormTask, Received, file_name, receive, record
from api.forms import Fields
from api.hallo2_defaults import defaults_of
from api.submission import Draft
from cluster.errors import RegistryFault, RegistryUnavailable, StorageFailure
from cluster.task import Json, Task

TASK_NAME = "hallo2.animate_portrait"
NOT_SUBMITTED = "Failed to submit task: {error}"
_WRONG = {
    "image_path": "Invalid image file format",
    "audio_path": "Invalid audio file format",
}


class FormFields(BaseModel):
    """The form's fields beside its files; without `use_cache` the configured default counts."""

    use_cache: bool | None = None


async def create(request: Request) -> Task:
    """Store portrait and recording and record the task; a refused request leaves nothing behind."""
    edge = edge_of(request)
    tenant = caller(request).tenant
    try:
        defaults = await defaults_of(edge.context.storage, tenant)
        received = await receive(request, edge, FORM)
        # A client that hangs up now must not tear apart the record and its files.
        return await asyncio.shield(_record(edge, received, tenant, defaults))
    except WrongContent as error:
        raise BadRequest(_WRONG[error.details["field"]]) from error
    except StorageFailure as error:
        raise ServerFault(NOT_SUBMITTED.format(error=error)) from error


async def _record(edge: Edge, received: Received, tenant: str, defaults: Json) -> Task:
    given = _fields(received.fields).model_dump(exclude_none=True)
    draft = Draft(
        name=TASK_NAME,
        inputs={**received.keys, **defaults, **given},
        tenant=tenant,
        dialect=HALLO2.name,
        task_id=received.task_id,
        files=received.keys,
        is_fresh_id=True,
    )
    try:
        return await record(edge, draft)
    except RegistryUnavailable as error:
        raise ServerFault(NOT_SUBMITTED.format(error=error)) from error
    except RegistryFault as error:
        raise ServerFault(NOT_SUBMITTED.format(error=REGISTRY_FAULT)) from error


def _accepted(field: str, suffixes: frozenset[str], filename: str) -> str:
    name = file_name(filename)
    if PurePosixPath(name).suffix.lower() not in suffixes:
        raise BadRequest(_WRONG[field])
    return name


def _fields(fields: Fields) -> FormFields:
    """The form's fields; an empty one counts as absent. Raises Unprocessable."""
    try:
        return FormFields.model_validate({name: text for name, text in fields.items() if text})
    except ValidationError as error:
        raise Unprocessable(error_list(error.errors(include_context=False), "body")) from error


def _check(fields: Fields) -> None:
    _fields(fields)


def _part(name: str, field: str, *suffixes: str) -> FilePart:
    return FilePart(name, field, partial(_accepted, field, frozenset(suffixes)), _WRONG[field])


FORM = FormTask(
    TASK_NAME,
    HALLO2,
    (
        _part("image_file", "image_path", ".jpg", ".jpeg", ".png"),
        _part("audio_file", "audio_path", ".wav", ".mp3", ".ogg", ".m4a"),
    ),
    _check,
)
