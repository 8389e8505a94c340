"""From what a caller names as an input file to a storage key whose content has been looked at.

An input is an object key as uploaded, an artifact key of one of the caller's own tasks, either of them with
`s3://bucket/` or `minio://bucket/` of our bucket in front or as a download URL of ours; or another http(s)
URL, which is judged here and downloaded by the attempt. Never a path on this machine. A folder is named like
a file, with or without a slash at its end, and is the prefix of what lies below it.
"""

from __future__ import annotations

from functools import partial

import anyio
from anyio import to_thread

from api.context import Registry
from api.errors import BadRequest, WrongContent
from cluster import keys
from cluster.errors import (
    ArtifactNotFound,
    ExpiredUrl,
    FolderNotUsable,
    InvalidKey,
    TaskNotFound,
    UrlProblem,
)
from cluster.settings import Settings
from cluster.storage import ArtifactStore
from cluster.stored_folders import FolderMark, sizes_below
from cluster.urls import UrlGuard, is_web_url
from models.engine import InvalidInput, MediaKind
from models.input_files import looked_at
from models.media import MediaInfo

MAX_PROBES = 4  # decoders at work at once: each may hold a few frames
_BUCKET_SCHEMES = frozenset({"s3", "minio"})


class InputFiles:
    """Resolves and probes the file inputs of one server; `decoders` bounds the threads that decode."""

    def __init__(
        self, registry: Registry, storage: ArtifactStore, guard: UrlGuard, settings: Settings
    ) -> None:
        self._registry = registry
        self._storage = storage
        self._guard = guard
        self._settings = settings
        self.decoders = anyio.CapacityLimiter(MAX_PROBES)

    async def key_of(self, field: str, value: str, kind: MediaKind, tenant: str) -> str | None:
        """The storage key that `value` names, of a folder its prefix.

        None for a URL that the attempt will download. Raises BadRequest naming the field.
        """
        is_folder = kind is MediaKind.FOLDER
        try:
            key = await self._key(field, value.removesuffix("/") if is_folder else value, tenant)
        except InvalidKey as error:
            text = (
                f"{field}: not a valid object key: {_shown(value)!r} (a relative path such as videos/in.mp4)"
            )
            raise BadRequest(text, details={"field": field}) from error
        except TaskNotFound as error:
            raise _not_there(field, value) from error
        if key is None:
            await self._judge_url(field, value, kind)
            return None
        return f"{key}/" if is_folder else key

    async def probe(self, field: str, key: str, kind: MediaKind, shown: str) -> MediaInfo | FolderMark | None:
        """What the object or folder contains; None where any file will do. Raises BadRequest."""
        look = partial(self._look, field, key, kind)
        try:
            return await to_thread.run_sync(look, limiter=self.decoders)
        except ArtifactNotFound as error:
            raise _not_there(field, shown) from error
        except FolderNotUsable as error:
            raise BadRequest(f"{field}: {error}", details={"field": field}) from error

    async def _key(self, field: str, value: str, tenant: str) -> str | None:
        """Raises InvalidKey, TaskNotFound for what is not the caller's, BadRequest."""
        if is_web_url(value):
            key = await self._key_of_url(field, value, tenant)
            return None if key is None else await self._own_key(key, tenant)
        path = keys.clean_path(self._path(field, value))
        return await self._own_key(path if path.startswith(keys.TASKS) else _upload_key(path, tenant), tenant)

    async def _key_of_url(self, field: str, url: str, tenant: str) -> str | None:
        try:
            key = await to_thread.run_sync(self._storage.key_of_url, url)
        except ExpiredUrl as error:
            path = error.key.removeprefix(f"{keys.FILES}{tenant}/")
            text = (
                f"{field}: the download URL has expired: read the result again for a fresh one, or pass the"
                f" object key, which does not expire: {path[:300]}"
            )
            raise BadRequest(text, code="URL_EXPIRED", details={"field": field}) from error
        return None if key is None else keys.clean_path(key)

    async def _judge_url(self, field: str, url: str, kind: MediaKind) -> None:
        """Raises BadRequest naming the field for a URL that no attempt would download."""
        if kind is MediaKind.FOLDER:
            text = (
                f"{field}: a folder cannot be read from a URL of another server: upload its files with"
                " POST /v1/files/upload, then pass the folder of their file_path"
            )
            raise BadRequest(text, code="INVALID_URL", details={"field": field})
        try:
            await self._guard.judge(url)
        except UrlProblem as error:
            text = f"{field}: {error}. Or upload the file: POST /v1/files/upload, then pass its file_path"
            raise BadRequest(text, code="INVALID_URL", details={"field": field}) from error

    def _path(self, field: str, value: str) -> str:
        scheme, has_scheme, rest = value.partition("://")
        if not has_scheme:
            return value
        bucket, _, path = rest.partition("/")
        ours = self._settings.bucket
        if scheme.lower() not in _BUCKET_SCHEMES or bucket != ours:
            text = (
                f"{field}: an object key, s3://{ours}/key or an http(s) URL can be read, not {value[:200]!r}"
            )
            raise BadRequest(text, details={"field": field})
        return path

    async def _own_key(self, key: str, tenant: str) -> str:
        """`key` as it is, once it is known to be the caller's; raises TaskNotFound otherwise."""
        owner = key.split("/")[1:2]
        if key.startswith(keys.FILES) and owner == [tenant]:
            return key
        if not key.startswith(keys.TASKS):
            raise TaskNotFound(key)
        (task_id,) = owner
        if not keys.is_task_id(task_id):
            raise InvalidKey(key)
        task = await self._registry.get(task_id)
        if task.tenant != tenant:
            raise TaskNotFound(task_id)
        return key

    def _look(self, field: str, key: str, kind: MediaKind) -> MediaInfo | FolderMark | None:
        if kind is MediaKind.FOLDER:
            return FolderMark.of(sizes_below(self._storage, key, self._settings.max_upload_bytes))
        with self._storage.open(key) as source:
            try:
                return looked_at(field, kind, source, self._settings.max_pixels)
            except InvalidInput as error:
                raise WrongContent(str(error), details={"field": field}) from error


def _upload_key(path: str, tenant: str) -> str:
    if path.startswith(keys.FILES):  # the store's own folder: a caller's path lies below it already
        raise InvalidKey(path)
    return keys.upload_key(tenant, path)


def _shown(value: str) -> str:
    """What a caller named, without the query of a URL, which holds its permission."""
    return (value.partition("?")[0] if is_web_url(value) else value)[:300]


def _not_there(field: str, value: str) -> BadRequest:
    text = f"文件不存在: {field}: {_shown(value)}"
    return BadRequest(text, code="FILE_NOT_FOUND", details={"field": field, "path": _shown(value)})
