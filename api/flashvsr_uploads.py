"""Creating a `flashvsr` task from a form: checked first, stored while hashing, removed when refused."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from dataclasses import dataclass
from pathlib import PurePosixPath

from anyio import to_thread
from pydantic import ValidationError
from starlette.requests import Request

from api.callers import caller
from api.dialects import FLASHVSR
from api.edge import Edge, edge_of
from api.errors import BadRequest, ServerFault, Unprocessable, error_list
from api.forms import Fields, FormPlan, received_form
from api.submission import Draft
from api.uploads import Upload
from api.views.flashvsr import TaskParameters, output_name
from cluster import keys
from cluster.errors import RegistryUnavailable, StorageFailure
from cluster.storage import Stored
from cluster.task import Task

TASK_NAME = "flashvsr.upscale_video"
EXTENSIONS = (".mp4", ".mov", ".avi", ".mkv", ".ts", ".m2ts", ".mts", ".m4s", ".mpg", ".mpeg", ".webm")
MAX_NAME_BYTES = 200
_RANGE_ERRORS = frozenset({"greater_than_equal", "less_than_equal", "finite_number"})


@dataclass(frozen=True, slots=True)
class Received:
    """An accepted form: the stored video, its name, and the parameters."""

    task_id: str
    stored: Stored
    filename: str
    parameters: TaskParameters

    @property
    def dedupe_key(self) -> str:
        """Equal for the same content with the same parameters."""
        asked = json.dumps(self.parameters.model_dump(), sort_keys=True)
        return hashlib.sha256(f"{self.stored.sha256}:{asked}".encode()).hexdigest()


async def create(request: Request) -> Task:
    """Store the form's video and record the task; a refused request leaves nothing behind."""
    edge = edge_of(request)
    tenant = caller(request).tenant
    # A server that cannot run the task says so before it takes gigabytes.
    await edge.readiness.engine(edge.submitter.model(TASK_NAME))
    received = await _receive(request, edge)
    # A client that hangs up now must not tear apart the record and its file.
    return await asyncio.shield(_record(edge, received, tenant))


async def _receive(request: Request, edge: Edge) -> Received:
    task_id = str(uuid.uuid4())
    limit_bytes = edge.context.settings.max_upload_bytes

    def open_file(_name: str, filename: str, _fields: Fields) -> Upload:
        key = keys.input_key(task_id, accepted_name(filename))
        text = FLASHVSR.too_large_text(limit_bytes)
        return Upload(edge.context.storage, key, max_bytes=limit_bytes, too_large=text)

    try:
        async with received_form(request, FormPlan(("file",), open_file, _check)) as form:
            parameters = parameters_of(form.fields)
            upload = form.uploads["file"]
            if upload.size_bytes == 0:
                raise BadRequest("文件大小为0")
            stored = await upload.commit()
    except StorageFailure as error:
        raise ServerFault(f"文件保存失败: {error}") from error
    return Received(task_id, stored, accepted_name(form.filenames["file"]), parameters)


async def _record(edge: Edge, received: Received, tenant: str) -> Task:
    parameters = received.parameters.model_dump()
    draft = Draft(
        name=TASK_NAME,
        inputs={"video_path": received.stored.key, **parameters},
        tenant=tenant,
        dialect=FLASHVSR.name,
        task_id=received.task_id,
        dedupe_key=received.dedupe_key,
        files={"video_path": received.stored.key},
        facts={
            "input_file_name": received.filename,
            "output_file_name": output_name(received.task_id, received.filename),
        },
        shows_probe=True,
        is_fresh_id=True,
    )
    keeps_file = False
    try:
        submission = await edge.submitter.submit(draft)
        keeps_file = True
    except RegistryUnavailable as error:
        keeps_file = True  # it is not known whether the task was recorded, and with it its file
        raise ServerFault("创建任务失败") from error
    finally:
        if not keeps_file:
            await to_thread.run_sync(edge.context.storage.delete, received.stored.key)
    return submission.task


def accepted_name(filename: str) -> str:
    """The file's own name, without folders and control characters; raises BadRequest."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    name = "".join(char for char in name if char.isprintable()).strip()
    if not name:
        raise BadRequest("文件名不能为空")
    suffix = PurePosixPath(name).suffix
    if suffix.lower() not in EXTENSIONS:
        raise BadRequest(f"不支持的文件类型。支持的格式: {', '.join(EXTENSIONS)}")
    stem = name.removesuffix(suffix).encode()[: MAX_NAME_BYTES - len(suffix)].decode(errors="ignore")
    return stem + suffix


def parameters_of(fields: Fields) -> TaskParameters:
    """The form's parameters; an empty field counts as absent.

    Raises Unprocessable for a wrong type, BadRequest with the list of errors for a value out of range.
    """
    known = {name: text for name, text in fields.items() if name in TaskParameters.model_fields and text}
    try:
        return TaskParameters.model_validate(known)
    except ValidationError as error:
        problems = error_list(error.errors(include_context=False), "body")
        is_range = all(problem["type"] in _RANGE_ERRORS for problem in problems)
        raise (BadRequest if is_range else Unprocessable)(problems) from error


def _check(fields: Fields) -> None:
    parameters_of(fields)
