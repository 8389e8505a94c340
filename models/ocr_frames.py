"""Which pictures to read, and when each is shown: a folder, or a manifest that names files of one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, Field, TypeAdapter

from models.engine import InvalidInput
from models.pictures import files_below, is_picture

MAX_MANIFEST_BYTES = 64 << 20
_TIME_IN_NAME = re.compile(r"_(-?\d+)ms\.\w+$")
_NAMED_MISSING, _SHOWN_CHARS = 5, 80
_MAX_PART_BYTES, _MAX_NAME_BYTES = 255, 1024  # of a part of a name; of all of it


@dataclass(frozen=True, slots=True)
class OcrFrame:
    """A picture, its name below the folder it came from, and its time in seconds where that is known."""

    path: Path
    name: str
    time_s: float | None


@dataclass(frozen=True, slots=True)
class OcrFrames:
    """The pictures of the input `field` in their order, and how many other files lie beside them."""

    frames: tuple[OcrFrame, ...]
    field: str
    num_others: int = 0


class _Entry(BaseModel):
    """One frame of a manifest; keys of other programs are let pass."""

    file: Annotated[str, Field(min_length=1)]
    time_s: Annotated[float, Field(allow_inf_nan=False)] | None = None


class _Manifest(BaseModel):
    frames: list[_Entry | str]


_MANIFEST: TypeAdapter[_Manifest | list[_Entry | str]] = TypeAdapter(_Manifest | list[_Entry | str])


def frames_of_folder(folder: Path, field: str, check: Callable[[], None]) -> OcrFrames:
    """Every picture of a folder; times are those that ffmpeg's tasks write into names (`_000001500ms.jpg`).

    Raises InvalidInput naming `field` where there is none.
    """
    files, frames = files_below(folder), []
    for path in files:
        check()
        if is_picture(path):
            name = path.relative_to(folder).as_posix()
            frames.append(OcrFrame(path, name, _time_in(name)))
    if not frames:
        what = f"none of the {len(files)} files is a picture" if files else "the folder is empty"
        raise InvalidInput(f"{field}: {what}", field=field)
    return OcrFrames(tuple(frames), field, len(files) - len(frames))


def frames_of_manifest(manifest: Path, folder: Path) -> OcrFrames:
    """The pictures that a manifest names, in its order. Raises InvalidInput: malformed, or files missing."""
    entries = _entries(manifest)
    if not entries:
        raise InvalidInput("manifest_path names no frame", field="manifest_path")
    frames = [_frame(entry, folder) for entry in entries]
    missing = [frame.name for frame in frames if not frame.path.is_file()]
    if missing:
        more = f" and {len(missing) - _NAMED_MISSING} more" if len(missing) > _NAMED_MISSING else ""
        names = ", ".join(missing[:_NAMED_MISSING])
        text = f"manifest_path names files that are not in multi_frames_path: {names}{more}"
        raise InvalidInput(text, field="manifest_path")
    return OcrFrames(tuple(frames), "multi_frames_path")


def _entries(manifest: Path) -> list[_Entry]:
    if manifest.stat().st_size > MAX_MANIFEST_BYTES:
        text = f"manifest_path is larger than {MAX_MANIFEST_BYTES >> 20} MiB"
        raise InvalidInput(text, field="manifest_path")
    try:
        told = _MANIFEST.validate_python(json.loads(manifest.read_bytes()))
        entries = told.frames if isinstance(told, _Manifest) else told
        return [entry if isinstance(entry, _Entry) else _Entry(file=entry) for entry in entries]
    except (ValueError, RecursionError) as error:
        text = 'manifest_path is no JSON of the form {"frames": [{"file": name, "time_s": seconds}]}'
        raise InvalidInput(text, field="manifest_path") from error


def _frame(entry: _Entry, folder: Path) -> OcrFrame:
    """Raises InvalidInput for a name that leads out of the folder, or that no file can have."""
    name = PurePosixPath(entry.file)
    if name.is_absolute() or ".." in name.parts or not _can_exist(name):
        text = f"manifest_path: {entry.file[:_SHOWN_CHARS]!r} is no name below multi_frames_path"
        raise InvalidInput(text, field="manifest_path")
    time_s = _time_in(entry.file) if entry.time_s is None else entry.time_s
    return OcrFrame(folder / name, str(name), time_s)


def _can_exist(name: PurePosixPath) -> bool:
    """Whether a file may be called so: a look at the disk fails on names that are too long."""
    all_bytes, *parts_bytes = (len(part.encode()) for part in (str(name), *name.parts))
    is_short = all_bytes <= _MAX_NAME_BYTES and max(parts_bytes, default=0) <= _MAX_PART_BYTES
    return is_short and "\0" not in str(name)


def _time_in(name: str) -> float | None:
    found = _TIME_IN_NAME.search(name)
    return int(found[1]) / 1000 if found else None
