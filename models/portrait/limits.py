"""What a talking portrait may be made of; torch-free, for the catalogue and the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from models.engine import InvalidInput
from models.pictures import MAX_PIXELS

if TYPE_CHECKING:
    from models.media import MediaInfo

MAX_SOUND_S = 3600.0
MAX_SIDE_PX = 1024  # of the video; a larger picture is reduced


def check(_inputs: Any, probes: Mapping[str, MediaInfo]) -> None:
    """Refuse what the files' own facts rule out; raises InvalidInput."""
    picture, sound = probes.get("image_path"), probes.get("audio_path")
    if picture is not None and picture.video is not None:
        width_px, height_px = picture.video.width_px, picture.video.height_px
        if width_px * height_px > MAX_PIXELS:
            text = f"image_path has {width_px}x{height_px} pixels, more than the {MAX_PIXELS} accepted"
            raise InvalidInput(text, field="image_path")
    if sound is not None:
        check_length(sound.duration_s)


def check_length(seconds: float) -> None:
    """Raises InvalidInput for a sound that is too long."""
    if seconds > MAX_SOUND_S:
        text = (
            f"audio_path lasts {seconds:.0f} s; at most {MAX_SOUND_S:.0f} s are accepted: cut it into parts"
        )
        raise InvalidInput(text, field="audio_path")
