"""Media facts: probe, decode and encode. Axis letters, units and ranges are defined here.

Axis letters used throughout `models/`: B batch, T frames, C channels, H and W pixels, L audio samples.
Frames are (T, H, W, 3) uint8 RGB, 0..255 at the borders of this module unless a line says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """The first video stream. Width and height are as shown (rotation applied)."""

    width_px: int
    height_px: int
    fps: Fraction
    num_frames: int | None
    duration_s: float
    codec: str
    pixel_format: str
    rotation_deg: int
    bit_rate: int | None


@dataclass(frozen=True, slots=True)
class AudioFacts:
    """The first audio stream."""

    sample_rate_hz: int
    channels: int
    duration_s: float
    codec: str


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a file contains; `image` kinds are a video of one frame without duration."""

    container: str
    duration_s: float
    size_bytes: int
    bit_rate: int | None
    video: VideoFacts | None
    audio: AudioFacts | None
    is_image: bool = False


def probe(source: Path | BinaryIO) -> MediaInfo:
    """Open the container, decode the first frame or sample, and tell what is inside.

    Raises InvalidInput for what cannot be decoded: no media, zero bytes, truncated before a frame.
    """
    raise NotImplementedError
