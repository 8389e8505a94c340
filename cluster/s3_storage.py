"""Artifacts in S3, or in anything that speaks its API. The only module that knows boto3.

Endpoint, region and credentials come to boto3 by its own standard chain (AWS_ENDPOINT_URL, …).

An object's sha256 is in its metadata. That of a multipart upload is known only when metadata can no longer
be set, so it goes into a companion `<prefix>/.sha256/<key>`, which names the ETag it is about. An object
that has neither (a crash between the two, or put there by another tool) is read once by its first stat,
which then writes the companion. Companions are never listed and are deleted with their object.

A killed process leaves its unfinished multipart upload: give the bucket a lifecycle rule that ends those.
"""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.response import StreamingBody

from cluster import disk, presigned_urls
from cluster.download_urls import inline_disposition
from cluster.errors import ArtifactNotFound, InvalidKey, StorageFailure
from cluster.keys import clean_path
from cluster.media_types import HEAD_BYTES, sniff
from cluster.range_reader import READ_AHEAD_BYTES, RangeReader
from cluster.storage import CHUNK_BYTES, Stored, clean_prefix, digest_and_head, round_trip, upload_file

PART_BYTES = 8 * 1024**2
"""Objects above this size are uploaded in parts of it; S3 takes 10,000 parts, so 78 GiB."""
MAX_URL_AGE_S = 7 * 86400  # S3 refuses signed URLs that live longer
_COMPANIONS = ".sha256/"
_STAT_THREADS = 16
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})

log = logging.getLogger(__name__)

_CONFIG = Config(
    s3={"addressing_style": "path"},
    signature_version="s3v4",
    retries={"mode": "standard"},
    connect_timeout=5,
    max_pool_connections=2 * _STAT_THREADS,
)


@contextlib.contextmanager
def _failing(key: str = "") -> Iterator[None]:
    """Turn boto3's errors into ours, without endpoint, bucket or credentials in the text."""
    try:
        yield
    except ClientError as error:
        code = _code(error)
        if code in _MISSING:
            raise ArtifactNotFound(key) from error
        if code == "KeyTooLongError":
            raise InvalidKey(key) from error
        raise StorageFailure(
            f"S3 answered {code} to {error.operation_name}: check MEDIARAY_STORAGE_URL and the AWS_* settings"
        ) from error
    except BotoCoreError as error:
        raise StorageFailure(
            f"S3 cannot be used ({type(error).__name__}): check AWS_ENDPOINT_URL and the AWS_* credentials"
        ) from error


@dataclass(frozen=True, slots=True)
class _About:
    """What is known about the object of this ETag."""

    etag: str
    sha256: str
    media_type: str


class S3ArtifactStore:
    """An ArtifactStore in `bucket`, below `prefix`."""

    def __init__(
        self, bucket: str, prefix: str = "", client: Any = None, now: Callable[[], float] = time.time
    ) -> None:
        self._bucket = bucket
        self._now = now
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        with _failing():
            # A session of its own: creating clients from boto3's default one is not thread safe.
            self._client = client or boto3.session.Session().client("s3", config=_CONFIG)

    def writer(self, key: str) -> S3Writer:
        return S3Writer(self._client, self._address(key), key, self._put_companion)

    def put_file(self, key: str, path: Path) -> Stored:
        return upload_file(self, key, path)

    def stat(self, key: str) -> Stored:
        with _failing(key):
            head = self._client.head_object(**self._address(key))
            known = head["Metadata"].get("sha256")
            about = (
                _About(head["ETag"], known, head["ContentType"]) if known else self._about(key, head["ETag"])
            )
        modified_at = head["LastModified"].timestamp()
        return Stored(key, head["ContentLength"], about.media_type, about.sha256, modified_at)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        chunks = self._chunks(key, start, stop)
        next(chunks)  # sends the request now: a missing object is refused at the call
        return chunks

    def open(self, key: str) -> BinaryIO:
        with _failing(key):
            head = self._client.head_object(**self._address(key))
        reader = RangeReader(partial(self._bytes, key, head["ETag"]), head["ContentLength"])
        return cast(BinaryIO, io.BufferedReader(reader, READ_AHEAD_BYTES))

    def fetch(self, key: str, path: Path) -> None:
        chunks = self.read(key)
        with disk.failing(disk.WORKSPACE_FULL), disk.replacing(path) as file:
            for chunk in chunks:
                disk.write_all(file, chunk)

    def list(self, prefix: str) -> Iterator[Stored]:
        with ThreadPoolExecutor(_STAT_THREADS) as pool:
            for names in self._pages(self._name_below(prefix)):
                keys = [name.removeprefix(self._prefix) for name in names]
                yield from filter(None, pool.map(self._stat_or_none, keys))

    def sizes(self, prefix: str) -> Iterator[tuple[str, int]]:
        for page in self._answers(self._name_below(prefix)):
            for entry in page.get("Contents", ()):
                with contextlib.suppress(InvalidKey):  # not written by us ("folder/" markers)
                    yield clean_path(entry["Key"].removeprefix(self._prefix)), entry["Size"]

    def folders(self, prefix: str) -> Iterator[str]:
        name = self._name_below(prefix)
        for page in self._answers(name, Delimiter="/"):
            for entry in page.get("CommonPrefixes", ()):
                yield entry["Prefix"].removeprefix(name).removesuffix("/")

    def newest_at(self, prefix: str) -> float | None:
        """Multipart uploads count from when they began: S3 dates them so."""
        pages = self._answers(self._name_below(prefix))
        written = (entry["LastModified"] for page in pages for entry in page.get("Contents", ()))
        return max((at.timestamp() for at in written), default=None)

    def delete(self, key: str) -> bool:
        address = self._address(key)
        try:
            with _failing(key):
                self._client.head_object(**address)
        except ArtifactNotFound:
            return False
        self._delete_names([address["Key"], self._companion_name(key)])
        return True

    def delete_prefix(self, prefix: str) -> int:
        names = self._pages(self._name_below(prefix))
        count = sum(self._delete_names(page) for page in names)
        for page in self._pages(self._companion_name(prefix)):
            self._delete_names(page)
        return count

    def download_url(
        self,
        key: str,
        *,
        base_url: str,  # noqa: ARG002 (the interface has it; S3 serves its objects itself)
        expires_s: int,
        filename: str | None = None,
    ) -> str:
        """A presigned URL, of seven days at most; it answers with the media type judged at the write."""
        disposition = inline_disposition(filename or key.rpartition("/")[2])
        params = {**self._address(key), "ResponseContentDisposition": disposition}
        age_s = min(expires_s, MAX_URL_AGE_S)
        with _failing(key):
            return str(self._client.generate_presigned_url("get_object", Params=params, ExpiresIn=age_s))

    def key_of_url(self, url: str) -> str | None:
        pattern = self.download_url(presigned_urls.NAME, base_url="", expires_s=1)
        return presigned_urls.name_of(url, pattern, self._now())

    def check(self) -> None:
        round_trip(self)

    # Names

    def _address(self, key: str) -> dict[str, str]:
        if f"{clean_path(key)}/".startswith(_COMPANIONS):
            raise InvalidKey(key)
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def _name_below(self, prefix: str) -> str:
        return self._address(clean_prefix(prefix)[:-1])["Key"] + "/"

    def _companion_name(self, key: str) -> str:
        return f"{self._prefix}{_COMPANIONS}{key}"

    # Companions

    def _about(self, key: str, etag: str) -> _About:
        """What the companion of `key` says, or the object itself where that is of another ETag."""
        try:
            body = self._client.get_object(Bucket=self._bucket, Key=self._companion_name(key))["Body"]
            with contextlib.closing(body):
                fields = json.loads(body.read())
            about = _About(**fields)
        except (ClientError, ValueError, TypeError) as error:
            if isinstance(error, ClientError) and _code(error) not in _MISSING:
                raise
            return self._heal(key)
        return about if about.etag == etag else self._heal(key)

    def _heal(self, key: str) -> _About:
        answer = self._client.get_object(**self._address(key))
        with contextlib.closing(answer["Body"]) as body:
            digest, head = digest_and_head(body.iter_chunks(CHUNK_BYTES))
        about = _About(answer["ETag"], digest, sniff(head, key))
        self._put_companion(key, about)
        return about

    def _put_companion(self, key: str, about: _About) -> None:
        self._client.put_object(
            Bucket=self._bucket,
            Key=self._companion_name(key),
            Body=json.dumps(asdict(about)).encode(),
            ContentType="application/json",
        )

    # Requests

    def _chunks(self, key: str, start: int, stop: int | None) -> Iterator[bytes]:
        with _failing(key):
            body = self._body(self._address(key), start, stop)
            with contextlib.closing(body):
                yield b""  # taken by read()
                yield from body.iter_chunks(CHUNK_BYTES)

    def _body(self, address: dict[str, str], start: int, stop: int | None) -> StreamingBody:
        if stop is not None and stop <= start:
            self._client.head_object(**address)
            return _empty()
        try:
            return self._client.get_object(**address, **_range(start, stop))["Body"]
        except ClientError as error:
            if _code(error) != "InvalidRange":  # the object ends before `start`
                raise
            return _empty()

    def _bytes(self, key: str, etag: str, start: int, stop: int) -> bytes:
        """A range of that very version of the object: two versions must not be mixed."""
        with _failing(key):
            answer = self._client.get_object(**self._address(key), IfMatch=etag, **_range(start, stop))
            with contextlib.closing(answer["Body"]) as body:
                return bytes(body.read())

    def _stat_or_none(self, key: str) -> Stored | None:
        try:
            return self.stat(key)
        except (ArtifactNotFound, InvalidKey):  # gone since, or not written by us ("folder/" markers)
            return None

    def _pages(self, name: str) -> Iterator[builtins.list[str]]:
        """Names of objects that start with `name`, in order, up to 1000 at a time."""
        for page in self._answers(name):
            if found := page.get("Contents"):
                yield [entry["Key"] for entry in found]

    def _answers(self, name: str, **options: str) -> Iterator[dict[str, Any]]:
        """Pages of the list of what starts with `name`."""
        with _failing(name):
            pages = self._client.get_paginator("list_objects_v2")
            yield from pages.paginate(Bucket=self._bucket, Prefix=name, **options)

    def _delete_names(self, names: builtins.list[str]) -> int:
        with _failing():
            objects = [{"Key": name} for name in names]
            answer = self._client.delete_objects(
                Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True}
            )
        if refused := answer.get("Errors"):
            raise StorageFailure(f"S3 answered {refused[0].get('Code')} to DeleteObjects")
        return len(names)


class S3Writer:
    """An upload to S3 that holds at most two parts in memory; one thread at a time."""

    def __init__(
        self,
        client: Any,
        address: dict[str, str],
        key: str,
        put_companion: Callable[[str, _About], None],
    ) -> None:
        self._client = client
        self._address = address
        self._key = key
        self._put_companion = put_companion
        self._hash = hashlib.sha256()
        self._size_bytes = 0
        self._buffer = bytearray()
        self._media_type = ""
        self._upload_id: str | None = None
        self._parts: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._upload_id is None:
            return
        try:
            self._client.abort_multipart_upload(**self._address, UploadId=self._upload_id)
        except (ClientError, BotoCoreError) as abort_error:
            log.warning("an unfinished upload of %s stays in the bucket: %s", self._key, abort_error)

    def write(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        self._size_bytes += len(chunk)
        for start in range(0, len(chunk), PART_BYTES):
            self._buffer += memoryview(chunk)[start : start + PART_BYTES]
            if len(self._buffer) > PART_BYTES:
                self._send_part(PART_BYTES)

    def commit(self) -> Stored:
        with _failing(self._key):
            if self._upload_id is None:
                self._put_whole()
            else:
                self._complete()
            modified_at = self._client.head_object(**self._address)["LastModified"].timestamp()
        return Stored(self._key, self._size_bytes, self._media_type, self._hash.hexdigest(), modified_at)

    def _put_whole(self) -> None:
        self._judge()
        self._client.put_object(
            **self._address,
            Body=bytes(self._buffer),
            ContentType=self._media_type,
            Metadata={"sha256": self._hash.hexdigest()},
        )

    def _complete(self) -> None:
        self._send_part(len(self._buffer))
        answer = self._client.complete_multipart_upload(
            **self._address, UploadId=self._upload_id, MultipartUpload={"Parts": self._parts}
        )
        self._upload_id = None  # published: nothing left to abort
        self._put_companion(self._key, _About(answer["ETag"], self._hash.hexdigest(), self._media_type))

    def _send_part(self, size_bytes: int) -> None:
        with _failing(self._key):
            if self._upload_id is None:
                self._judge()
                created = self._client.create_multipart_upload(**self._address, ContentType=self._media_type)
                self._upload_id = created["UploadId"]
            number = len(self._parts) + 1
            answer = self._client.upload_part(
                **self._address,
                UploadId=self._upload_id,
                PartNumber=number,
                Body=bytes(self._buffer[:size_bytes]),
            )
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        del self._buffer[:size_bytes]

    def _judge(self) -> None:
        """S3 wants the media type before the bytes: the buffer still begins with the first of them."""
        self._media_type = sniff(bytes(self._buffer[:HEAD_BYTES]), self._key)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def _range(start: int, stop: int | None) -> dict[str, str]:
    if start == 0 and stop is None:
        return {}  # an empty object has no range that could be asked for
    return {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}


def _empty() -> StreamingBody:
    return StreamingBody(io.BytesIO(), 0)
