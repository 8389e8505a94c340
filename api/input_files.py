"""From what a caller names as an input file to a storage key whose content has been looked at.

An input is an object key as uploaded, an artifact key of one of the caller's own tasks, or either with
`s3://bucket/` or `minio://bucket/` of our bucket in front; or an http(s) URL, which is judged here and
downloaded by the attempt. Never a path on this machine.
"""

from __future__ import annotations

from functools import partial

import anyio
from anyio import to_thread

from api.context import Registry
from api.errors import BadRequest, WrongContent
from cluster import keys
from cluster.errors import ArtifactNotFound, InvalidKey, TaskNotFound, UrlProblem
from cluster.storage import ArtifactStore
from cluster.urls import UrlGuard
from models.engine import InputFile, InvalidInput, MediaKind
from models.input_files import looked_at
from models.media import MediaInfo

MAX_PROBES = 4  # decoders at work at once: each may hold a few frames
_BUCKET_SCHEMES = frozenset({"s3", "minio"})


class InputFiles:
    """Resolves and probes the file inputs of one server; `decoders` bounds the threads that decode."""

    def __init__(
        self, registry: Registry, storage: ArtifactStore, guard: UrlGuard, bucket: str, max_pixels: int
    ) -> None:
        self._registry = registry
        self._storage = storage
        self._guard = guard
        self._bucket = bucket
        self._max_pixels = max_pixels
        self.decoders = anyio.CapacityLimiter(MAX_PROBES)

    async def key_of(self, field: str, value: str, tenant: str) -> str:
        """The storage key that `value` names; raises BadRequest naming the field."""
        path = self._path(field, value)
        try:
            keys.clean_path(path)
            if path.startswith("tasks/"):
                return await self._artifact_key(path, tenant)
            return _upload_key(path, tenant)
        except InvalidKey as error:
            text = f"{field}: not a valid object key: {value[:200]!r} (a relative path such as videos/in.mp4)"
            raise BadRequest(text, details={"field": field}) from error
        except TaskNotFound as error:
            raise _not_there(field, value) from error

    async def judge_url(self, field: str, url: str) -> None:
        """Raises BadRequest naming the field for a URL that no attempt would download."""
        try:
            await self._guard.judge(url)
        except UrlProblem as error:
            text = f"{field}: {error}. Or upload the file: POST /v1/files/upload, then pass its file_path"
            raise BadRequest(text, code="INVALID_URL", details={"field": field}) from error

    async def probe(self, field: str, key: str, kind: InputFile, shown: str) -> MediaInfo | None:
        """What the object contains; None for a kind that is any file. Raises BadRequest."""
        look = partial(self._look, field, key, kind.kind)
        try:
            return await to_thread.run_sync(look, limiter=self.decoders)
        except ArtifactNotFound as error:
            raise _not_there(field, shown) from error

    def _path(self, field: str, value: str) -> str:
        scheme, has_scheme, rest = value.partition("://")
        if not has_scheme:
            return value
        bucket, _, path = rest.partition("/")
        if scheme.lower() not in _BUCKET_SCHEMES or bucket != self._bucket:
            text = (
                f"{field}: an object key, s3://{self._bucket}/key or an http(s) URL can be read, not"
                f" {value[:200]!r}"
            )
            raise BadRequest(text, details={"field": field})
        return path

    async def _artifact_key(self, path: str, tenant: str) -> str:
        """`path` as it is, once its task is known to be the caller's."""
        task_id = path.split("/")[1]
        if not keys.is_task_id(task_id):
            raise InvalidKey(path)
        task = await self._registry.get(task_id)
        if task.tenant != tenant:
            raise TaskNotFound(task_id)
        return path

    def _look(self, field: str, key: str, kind: MediaKind) -> MediaInfo | None:
        with self._storage.open(key) as source:
            try:
                return looked_at(field, kind, source, self._max_pixels)
            except InvalidInput as error:
                raise WrongContent(str(error), details={"field": field}) from error


def _upload_key(path: str, tenant: str) -> str:
    if path.startswith("files/"):  # the store's own folder: a caller's path lies below it already
        raise InvalidKey(path)
    return keys.upload_key(tenant, path)


def _not_there(field: str, value: str) -> BadRequest:
    text = f"文件不存在: {field}: {value[:300]}"
    return BadRequest(text, code="FILE_NOT_FOUND", details={"field": field, "path": value[:300]})
