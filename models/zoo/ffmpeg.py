"""The ffmpeg service: its four models, each in a file of its own."""

from __future__ import annotations

from models.engine import ModelSpec
from models.zoo import ffmpeg_audio, ffmpeg_keyframes, ffmpeg_segments, ffmpeg_subtitle_images

MODELS: tuple[ModelSpec, ...] = (
    *ffmpeg_keyframes.MODELS,
    *ffmpeg_audio.MODELS,
    *ffmpeg_subtitle_images.MODELS,
    *ffmpeg_segments.MODELS,
)
