"""Files to and from the server: streamed, resumed, checked, and never half there."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
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
# What the server's own rules for keys and folders are (cluster/keys.py, cluster/stored_folders.py).
MAX_FOLDER_FILES = 20_000
_MAX_KEY_BYTES, _MAX_PART_BYTES = 900, 255
_REFUSED_CHARS = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\\]")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


def local_path(name: str, folder: Path) -> Path:
    """Where a file that the server calls `name` goes: always inside `folder`, subfolders kept."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", ".")]
    parts = [part.replace("\\", "_").replace("\0", "_") for part in parts]
    return folder.joinpath(*parts or ["download"])


def name_in_url(url: str) -> str:
    """The last path segment of a URL, decoded."""
    return PurePosixPath(unquote(httpx.URL(url).path)).name


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of a folder that goes to the server; `name` is its path below the folder, with "/"."""

    path: Path
    name: str
    size_bytes: int


def files_below(folder: Path, key: str) -> list[LocalFile]:
    """Every file at any depth, ordered by path, as the server will take it below the key `key`.

    A link to a file goes as that file. Raises OSError naming the first thing that the server would refuse, or
    that would be missing there: a link to a folder (it may lead back up) or to nothing, what is no file, an
    empty file, a folder without files, with more than `MAX_FOLDER_FILES`, or that cannot be read.
    """
    files: list[LocalFile] = []
    for path in _entries(folder):
        if len(files) == MAX_FOLDER_FILES:
            text = f"the folder has more than the {MAX_FOLDER_FILES} files that a task takes"
            raise OSError(errno.EFBIG, text, str(folder))
        name = path.relative_to(folder).as_posix()
        size_bytes = _size_bytes(path)
        if not is_taken(f"{key}/{name}"):
            raise OSError(errno.EINVAL, "the server takes no file of such a name", str(path))
        files.append(LocalFile(path, name, size_bytes))
    if not files:
        raise FileNotFoundError(errno.ENOENT, "the folder has no files", str(folder))
    return sorted(files, key=lambda file: file.path)


def _entries(folder: Path) -> Iterator[Path]:
    """What lies below the folder and is none itself."""
    for where, folders, names in os.walk(folder, onerror=_raise):
        for name in folders:
            if (link := Path(where, name)).is_symlink():
                raise OSError(errno.ELOOP, "links to folders are not followed", str(link))
        yield from (Path(where, name) for name in names)


def _raise(error: OSError) -> None:
    raise error


def _size_bytes(path: Path) -> int:
    """Raises OSError for what cannot be sent."""
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "the link leads to nothing", str(path))
    if not path.is_file():
        raise OSError(errno.EINVAL, "neither a file nor a folder", str(path))
    size_bytes = path.stat().st_size
    if size_bytes == 0:
        raise OSError(errno.EINVAL, "the server takes no empty files", str(path))
    return size_bytes


def is_taken(path: str) -> bool:
    """Whether the server takes a file of this path: bounded text without controls and backslashes."""
    return (
        not _REFUSED_CHARS.search(path)
        and len(path.encode()) <= _MAX_KEY_BYTES
        and all(len(part.encode()) <= _MAX_PART_BYTES for part in path.split("/"))
    )


class FolderProgress:
    """Tells the progress of files that move one after the other as that of one folder."""

    def __init__(self, name: str, total_bytes: int, on_progress: TransferCallback | None) -> None:
        self._name = name
        self._on_progress = on_progress
        self._before_bytes = 0
        self._total_bytes = total_bytes

    def show(self, transfer: Transfer) -> None:
        """The file on its way: one that is sent again counts from its start again."""
        if self._on_progress:
            done_bytes = self._before_bytes + transfer.done_bytes
            self._on_progress(Transfer(self._name, done_bytes, self._total_bytes))

    def finished(self, size_bytes: int) -> None:
        """The file is there."""
        self._before_bytes += size_bytes


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
