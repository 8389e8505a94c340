"""Creating a `flashvsr` task from a form: its file names, its parameters, its texts."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import PurePosixPath

from pydantic import ValidationError
from starlette.requests import Request

from api.bodies import is_out_of_range
from api.callers import caller
from api.dialects import FLASHVSR
from api.edge import Edge, edge_of
from api.errors import BadRequest, ServerFault, Unprocessable, error_list
from api.form_tasks import FilePart, FormTask, Received, file_name, receive, record
from api.forms import Fields
from api.submission import Draft
from api.views.flashvsr import TaskParameters, output_name
from cluster.errors import RegistryFault, RegistryUnavailable, StorageFailure
from cluster.task import Json, Task

TASK_NAME = "flashvsr.upscale_video"
EXTENSIONS = (".mp4", ".mov", ".avi", ".mkv", ".ts", ".m2ts", ".mts", ".m4s", ".mpg", ".mpeg", ".webm")
VIDEO = "video_path"


async def create(request: Request) -> Task:
    """Store the form's video and record the task; a refused request leaves nothing behind."""
    edge = edge_of(request)
    tenant = caller(request).tenant
    try:
        received = await receive(request, edge, FORM)
    except StorageFailure as error:
        raise ServerFault(f"文件保存失败: {error}") from error
    # A client that hangs up now must not tear apart the record and its file.
    return await asyncio.shield(_record(edge, received, tenant))


async def _record(edge: Edge, received: Received, tenant: str) -> Task:
    parameters = parameters_of(received.fields).model_dump()
    name = received.names[VIDEO]
    draft = Draft(
        name=TASK_NAME,
        inputs={**received.keys, **parameters},
        tenant=tenant,
        dialect=FLASHVSR.name,
        task_id=received.task_id,
        dedupe_key=dedupe_key(received.stored[VIDEO].sha256, parameters),
        files=received.keys,
        facts={"input_file_name": name, "output_file_name": output_name(received.task_id, name)},
        shows_probe=True,
        is_fresh_id=True,
    )
    try:
        return await record(edge, draft)
    except (RegistryUnavailable, RegistryFault) as error:
        raise ServerFault("创建任务失败") from error


def dedupe_key(sha256: str, parameters: Json) -> str:
    """Equal for the same content with the same parameters."""
    asked = json.dumps(parameters, sort_keys=True)
    return hashlib.sha256(f"{sha256}:{asked}".encode()).hexdigest()


def accepted_name(filename: str) -> str:
    """The name a video is stored under; raises BadRequest."""
    name = file_name(filename)
    if not name:
        raise BadRequest("文件名不能为空")
    if PurePosixPath(name).suffix.lower() not in EXTENSIONS:
        raise BadRequest(f"不支持的文件类型。支持的格式: {', '.join(EXTENSIONS)}")
    return name


def parameters_of(fields: Fields) -> TaskParameters:
    """The form's parameters; an empty field counts as absent.

    Raises Unprocessable for a wrong type, BadRequest with the list of errors for a value out of range.
    """
    known = {name: text for name, text in fields.items() if name in TaskParameters.model_fields and text}
    try:
        return TaskParameters.model_validate(known)
    except ValidationError as error:
        problems = error_list(error.errors(include_context=False), "body")
        raise (BadRequest if is_out_of_range(problems) else Unprocessable)(problems) from error


def _check(fields: Fields) -> None:
    parameters_of(fields)


FORM = FormTask(TASK_NAME, FLASHVSR, (FilePart("file", VIDEO, accepted_name, "文件大小为0"),), _check)
