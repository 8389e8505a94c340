"""What a file input must contain: the same rules wherever the file is first looked at.

Uploaded files are judged when a task is submitted, files behind URLs when an attempt has downloaded them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from models import media
from models.engine import InvalidInput, MediaKind
from models.media import MediaInfo

_NEEDS: Mapping[MediaKind, tuple[tuple[str, Callable[[MediaInfo], bool]], ...]] = {
    MediaKind.VIDEO: (("video stream", lambda info: info.video is not None and not info.is_image),),
    MediaKind.AUDIO: (("audio stream", lambda info: info.audio is not None),),
    MediaKind.AUDIO_OF_VIDEO: (
        ("video stream", lambda info: info.video is not None and not info.is_image),
        ("audio stream", lambda info: info.audio is not None),
    ),
    MediaKind.IMAGE: (("still image", lambda info: info.is_image),),
    MediaKind.FILE: (),
}
"""What each kind of input must contain, in words and as a test."""


def looked_at(field: str, kind: MediaKind, source: Path | BinaryIO, max_pixels: int) -> MediaInfo | None:
    """What the file of an input contains; None for a folder, and where any file will do.

    Raises InvalidInput.
    """
    if kind is MediaKind.FOLDER:
        return None
    try:
        return _judged(kind, source, max_pixels)
    except InvalidInput as error:
        raise InvalidInput(f"{field}: {error}", field=field) from error


def _judged(kind: MediaKind, source: Path | BinaryIO, max_pixels: int) -> MediaInfo | None:
    if media.size_bytes(source) == 0:
        raise InvalidInput("the file has zero bytes")
    if kind is MediaKind.FILE:
        return None
    info = media.probe(source)
    _require(kind, info, max_pixels)
    return info


def _require(kind: MediaKind, info: MediaInfo, max_pixels: int) -> None:
    for words, is_met in _NEEDS[kind]:
        if not is_met(info):
            raise InvalidInput(f"the file has no {words}")
    video = info.video
    if video is not None and video.width_px * video.height_px > max_pixels:
        size = f"{video.width_px}x{video.height_px}"
        raise InvalidInput(f"{size} pixels are more than the {max_pixels} accepted")
