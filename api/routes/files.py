"""Files of the caller: /v1/files (contracts §6). Bodies stream both ways; nothing is held whole."""

from __future__ import annotations

import math
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any

from anyio import to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.answers import Json, base_url
from api.callers import caller
from api.dialects import TASKS
from api.edge import Edge, edge_of, own_task
from api.errors import BadRequest, NotFound
from api.file_responses import file_response
from api.form_tasks import file_name
from api.forms import Fields, FormPlan, received_form
from api.routing import FILE_FIELD, direct_router, file_answers, form_body, query_parameters
from api.to_the_end import remove, run_to_the_end
from api.uploads import Upload, copy
from api.views.problems import problems
from cluster import keys
from cluster.errors import BadSignature, InvalidKey, TaskNotFound
from cluster.storage import Stored

NO_PATH = "file_path不能为空"
BAD_PATH = "无效的文件路径"
EMPTY = "文件大小为0"
_RESERVED_HEADS = ("tasks/", "files/", ".incoming/")  # the store's own folders, and this file's
_RESERVED_NAMES = frozenset({"directories"})  # DELETE /v1/files/directories is another route
MAX_LISTED_FILES = 10_000

router = direct_router("files")


class UploadedFile(BaseModel):
    """A stored file; `file_path` is what tasks take as an input."""

    file_path: str
    bucket: str
    download_url: str
    size: int
    uploaded_at: str
    content_type: str


class DeletedFile(BaseModel):
    """What was deleted."""

    file_path: str
    message: str


class DeletedDirectory(BaseModel):
    """How many files were below the directory."""

    directory_path: str
    deleted_count: int
    message: str


class DirectoryQuery(BaseModel):
    """Which directory to delete."""

    directory_path: str


def upload_key(tenant: str, path: str) -> str:
    """The storage key of a caller's path; raises BadRequest for one that is none or is reserved."""
    if not path:
        raise BadRequest(NO_PATH, details={"field": "file_path"})
    try:
        key = keys.upload_key(tenant, path)
    except InvalidKey as error:
        raise BadRequest(BAD_PATH, code="INVALID_PATH", details={"field": "file_path"}) from error
    if path in _RESERVED_NAMES or path.startswith(_RESERVED_HEADS):
        raise BadRequest(f"{BAD_PATH}: {path.partition('/')[0]} is reserved", code="INVALID_PATH")
    return key


@router.post(
    "/v1/files/upload",
    response_model=UploadedFile,
    responses=problems(400, 413, 422, 503),
    openapi_extra=form_body(
        {"file": FILE_FIELD, "file_path": {"type": "string"}, "bucket": {"type": "string"}}, ["file"]
    ),
)
async def upload_form(request: Request) -> Response:
    """Store a file under `file_path`, which is a form field (before or after the file) or in the query."""
    edge = edge_of(request)
    tenant = caller(request).tenant
    incoming_key = keys.incoming_key(tenant, uuid.uuid4().hex)
    given = {
        name: request.query_params[name] for name in ("file_path", "bucket") if name in request.query_params
    }

    def check(fields: Fields) -> None:
        _check_bucket(edge, fields.get("bucket", ""))
        if "file_path" in fields:
            upload_key(tenant, fields["file_path"])

    def open_file(_name: str, _filename: str, fields: Fields) -> Upload:
        # A path that is not known yet, because the field comes after the file, is given at the end.
        if "file_path" in fields:
            return _upload(edge, upload_key(tenant, fields["file_path"]))
        undo.push_async_callback(remove, edge.context.storage, [incoming_key])
        return _upload(edge, incoming_key)

    check(given)
    async with AsyncExitStack() as undo:
        async with received_form(request, FormPlan(("file",), open_file, check), given) as form:
            path = form.fields.get("file_path", "")
            key = upload_key(tenant, path)
            if form.uploads["file"].key not in {key, incoming_key}:
                raise BadRequest("file_path is given twice", details={"field": "file_path"})
            stored = await _commit(form.uploads["file"])
        if stored.key != key:
            stored = await run_to_the_end(copy, edge.context.storage, stored.key, key)
    return Json(_uploaded(request, path, stored))


@router.put(
    "/v1/files/{path:path}",
    response_model=UploadedFile,
    responses=problems(400, 413, 503),
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": FILE_FIELD}}}
    },
)
async def upload_raw(request: Request, path: str) -> Response:
    """Store the body under the path; it may be chunked."""
    edge = edge_of(request)
    key = upload_key(caller(request).tenant, path)
    async with _upload(edge, key) as upload:
        async for chunk in request.stream():
            await upload.write(chunk)
        return Json(_uploaded(request, path, await _commit(upload)))


@router.get(
    "/v1/files/download/{path:path}", response_class=Response, responses=file_answers(400, 401, 403, 404)
)
@router.head("/v1/files/download/{path:path}", include_in_schema=False)
async def download(request: Request, path: str) -> Response:
    """The content: streamed, with Range and ETag. A signed URL of ours needs no API key.

    For a folder, JSON: `path`, `files` (each with `name`, `size`, `content_type`, `download_url`; at most
    10,000) and `is_truncated`.
    """
    edge = edge_of(request)
    token = request.query_params.get("token")
    filename = file_name(request.query_params.get("filename", "")) or None
    try:
        opened = _signed(edge, path, token) if token else await _own(request, path)
    except InvalidKey as error:
        raise BadRequest(BAD_PATH, code="INVALID_PATH") from error
    except TaskNotFound as error:
        raise NotFound("文件不存在", code="FILE_NOT_FOUND") from error
    try:
        return await file_response(request, edge.context.storage, opened.key, filename=filename)
    except NotFound:
        listing = await _listing(request, path, opened)
        if not listing["files"]:
            raise
        return Json(listing)


@router.delete(
    "/v1/files/directories",
    response_model=DeletedDirectory,
    responses=problems(400),
    openapi_extra=query_parameters(DirectoryQuery),
)
async def delete_directory(request: Request) -> Response:
    """Delete everything below a directory; one that is not there is no error."""
    path = request.query_params.get("directory_path", "").removesuffix("/")
    key = upload_key(caller(request).tenant, path)
    count = await to_thread.run_sync(edge_of(request).context.storage.delete_prefix, key + "/")
    return Json({"directory_path": path, "deleted_count": count, "message": "目录已删除"})


@router.delete("/v1/files/{path:path}", response_model=DeletedFile, responses=problems(400, 404))
async def delete_file(request: Request, path: str) -> Response:
    """Delete an uploaded file. Outputs go with their task."""
    key = upload_key(caller(request).tenant, path)
    if not await to_thread.run_sync(edge_of(request).context.storage.delete, key):
        raise NotFound("文件不存在", code="FILE_NOT_FOUND")
    return Json({"file_path": path, "message": "文件已删除"})


@dataclass(frozen=True, slots=True)
class _Opened:
    """What a caller may read, and for how long URLs of what lies below it may be valid."""

    key: str
    expires_s: int


def _signed(edge: Edge, path: str, token: str) -> _Opened:
    """What a token opens; raises ExpiredUrl, BadSignature, InvalidKey."""
    key = keys.clean_path(path)
    if edge.signer is None:
        raise BadSignature(key)
    now = edge.context.now()
    return _Opened(key, math.ceil(edge.signer.verify(token, key, now) - now))


async def _own(request: Request, path: str) -> _Opened:
    """A caller's own upload, or an output of one of its tasks."""
    tenant = caller(request).tenant
    expires_s = edge_of(request).context.settings.download_url_ttl_s
    if not path.startswith("tasks/"):
        return _Opened(keys.upload_key(tenant, path), expires_s)
    keys.clean_path(path)
    await own_task(request, path.split("/")[1])
    return _Opened(path, expires_s)


async def _listing(request: Request, path: str, folder: _Opened) -> dict[str, Any]:
    """The files below a folder. Their URLs end with the permission to list it, so that none prolongs it."""
    context = edge_of(request).context
    base, prefix = base_url(request, context.settings.public_url), folder.key + "/"

    def shown(file: Stored) -> dict[str, Any]:
        url = context.storage.download_url(file.key, base_url=base, expires_s=folder.expires_s)
        return {
            "name": file.key.removeprefix(prefix),
            "size": file.size_bytes,
            "content_type": file.media_type,
            "download_url": url,
        }

    def listed() -> list[dict[str, Any]]:
        return [shown(file) for file in islice(context.storage.list(prefix), MAX_LISTED_FILES + 1)]

    files = await to_thread.run_sync(listed)
    is_truncated = len(files) > MAX_LISTED_FILES
    return {"path": path, "files": files[:MAX_LISTED_FILES], "is_truncated": is_truncated}


def _check_bucket(edge: Edge, bucket: str) -> None:
    known = edge.context.settings.bucket
    if bucket not in {"", known}:
        raise BadRequest(f"bucket must be {known}", details={"field": "bucket"})


def _upload(edge: Edge, key: str) -> Upload:
    limit_bytes = edge.context.settings.max_upload_bytes
    text = TASKS.too_large_text(limit_bytes)
    return Upload(edge.context.storage, key, max_bytes=limit_bytes, too_large=text)


async def _commit(upload: Upload) -> Stored:
    if upload.size_bytes == 0:
        raise BadRequest(EMPTY, details={"field": "file"})
    return await upload.commit()


def _uploaded(request: Request, path: str, stored: Stored) -> dict[str, Any]:
    edge = edge_of(request)
    return {
        "file_path": path,
        "bucket": edge.context.settings.bucket,
        "download_url": edge.url_of(request)(stored.key),
        "size": stored.size_bytes,
        "uploaded_at": TASKS.time(stored.modified_at),
        "content_type": stored.media_type,
    }
