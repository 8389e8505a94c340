"""Files to and from the server: streamed, resumed, checked, and never half there."""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import httpx

from mediaray.errors import ChecksumMismatch
from mediaray.steps import CHUNK_BYTES, Flow, Request, next_chunk, open_stream, work
from mediaray.transport import Patience, raise_for_error, with_retries
from mediaray.values import Transfer, TransferCallback

_SHA256_ETAG = re.compile(r'"([0-9a-f]{64})"')
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


def local_path(name: str, folder: Path) -> Path:
    """Where a file that the server calls `name` goes: always inside `folder`, subfolders kept."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", ".")]
    parts = [part.replace("\\", "_").replace("\0", "_") for part in parts]
    return folder.joinpath(*parts or ["download"])


def name_in_url(url: str) -> str:
    """The last path segment of a URL, decoded."""
    return PurePosixPath(unquote(httpx.URL(url).path)).name


def files_below(folder: Path) -> list[Path]:
    """Every file at any depth, ordered by name. Raises OSError where there is none, or an empty one."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise FileNotFoundError(errno.ENOENT, "the folder has no files", str(folder))
    for path in files:
        if path.stat().st_size == 0:
            raise OSError(errno.EINVAL, "the server takes no empty files", str(path))
    return files


class FolderProgress:
    """Tells the progress of files that move one after the other as that of one folder."""

    def __init__(self, folder: Path, files: Iterable[Path], on_progress: TransferCallback | None) -> None:
        self._name = folder.name
        self._on_progress = on_progress
        self._before_bytes = 0
        self.total_bytes = sum(path.stat().st_size for path in files)

    def show(self, transfer: Transfer) -> None:
        if self._on_progress:
            self._on_progress(
                Transfer(self._name, self._before_bytes + transfer.done_bytes, self.total_bytes)
            )
        if transfer.done_bytes == transfer.total_bytes:
            self._before_bytes += transfer.done_bytes


class FileBody:
    """A local file as the body of a request; progress is told as its chunks are taken."""

    def __init__(self, path: Path, on_progress: TransferCallback | None) -> None:
        self._path = path
        self._on_progress = on_progress
        self._total_bytes = path.stat().st_size
        self._done_bytes = 0

    def chunks(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def sent(self, chunk: bytes) -> None:
        self._done_bytes += len(chunk)
        if self._on_progress:
            self._on_progress(Transfer(self._path.name, self._done_bytes, self._total_bytes))


@dataclass(frozen=True, slots=True)
class _Body:
    """What an answer's body is: bytes from `start_byte` on of a whole with this size and ETag."""

    start_byte: int
    total_bytes: int | None
    etag: str

    @property
    def sha256(self) -> str | None:
        match = _SHA256_ETAG.fullmatch(self.etag)
        return match.group(1) if match else None


class _StartOver(Exception):
    """The bytes that lie there cannot be continued; they were removed."""


class Download:
    """One file on its way to `target`, by way of `target` + ".part", which survives interruptions.

    Bytes left by an earlier process are used only when the server's ETag is a sha256, because only
    then the whole can be checked. Not safe for two threads on one target.
    """

    def __init__(self, url: str, headers: dict[str, str], on_progress: TransferCallback | None) -> None:
        self._url = url
        self._headers = {**headers, "accept-encoding": "identity"}
        self._on_progress = on_progress
        self._etag = ""

    def to(self, target: Path, retry_s: float) -> Flow[Path]:
        """Fetch, check, and rename into place. Raises ApiError, ServerUnavailable, ChecksumMismatch.

        Gives up after `retry_s` without a new byte.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        part_path = target.with_name(target.name + ".part")
        had_leftover = part_path.exists()
        try:
            yield from self._fetch(part_path, target.name, Patience(retry_s))
        except ChecksumMismatch:
            if not had_leftover:
                raise
            # The leftover was of another file.
            yield from self._fetch(part_path, target.name, Patience(retry_s))
        part_path.replace(target)
        return target

    def _fetch(self, part_path: Path, name: str, patience: Patience) -> Flow[None]:
        def attempt() -> Flow[str | None]:
            try:
                return (yield from self._fetch_rest(part_path, name, patience))
            except _StartOver:
                return (yield from self._fetch_rest(part_path, name, patience))

        expected = yield from with_retries(attempt, patience)
        if expected:
            yield from work(partial(self._check, part_path, expected))

    def _fetch_rest(self, part_path: Path, name: str, patience: Patience) -> Flow[str | None]:
        """One exchange that appends what is missing; returns the announced sha256, if any."""
        have_bytes = part_path.stat().st_size if part_path.exists() else 0
        request = Request("GET", self._url, self._url, headers=self._range_headers(have_bytes))
        response = yield from open_stream(request)
        return (yield from self._store(response, part_path, name, patience))

    def _range_headers(self, have_bytes: int) -> dict[str, str]:
        if not have_bytes:
            return self._headers
        condition = {"if-range": self._etag} if self._etag else {}
        return {**self._headers, "range": f"bytes={have_bytes}-", **condition}

    def _store(
        self, response: httpx.Response, part_path: Path, name: str, patience: Patience
    ) -> Flow[str | None]:
        body = self._body_of(response, part_path)
        self._etag = body.etag
        done_bytes = body.start_byte
        with part_path.open("r+b" if done_bytes else "wb") as file:
            file.seek(done_bytes)
            while chunk := (yield from next_chunk()):
                yield from work(partial(file.write, chunk))
                done_bytes += len(chunk)
                patience.renew()
                if self._on_progress:
                    self._on_progress(Transfer(name, done_bytes, body.total_bytes))
        return body.sha256

    def _body_of(self, response: httpx.Response, part_path: Path) -> _Body:
        """Judges the answer's head. Raises ApiError, or _StartOver when a leftover must go."""
        if response.status_code != 416:
            raise_for_error(response)
        body = _body(response)
        can_prove = bool(self._etag or body.sha256)
        if response.status_code == 416 or (body.start_byte and not can_prove):
            part_path.unlink(missing_ok=True)
            raise _StartOver
        return body

    def _check(self, part_path: Path, expected: str) -> None:
        with part_path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != expected:
            part_path.unlink()
            raise ChecksumMismatch(self._url, expected, actual)


def _body(response: httpx.Response) -> _Body:
    etag = response.headers.get("etag", "")
    match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    if response.status_code == 206 and match:
        return _Body(int(match.group(1)), int(match.group(2)), etag)
    length = response.headers.get("content-length")
    return _Body(0, int(length) if length else None, etag)
