"""Frames to an MP4 file, encoded on a thread of its own while the next ones are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np

from models.disk import disk_errors
from models.engine import PermanentFailure
from models.frame_pipeline import RunBehind
from models.video_streams import TimedFrame, VideoForm, VideoWriter

_QUEUE_BYTES = 64 << 20  # frames that may wait for the encoder
_MAX_QUEUE_FRAMES = 32


@dataclass(frozen=True, slots=True)
class Film:
    """A finished H.264 MP4 without sound."""

    path: Path
    width_px: int
    height_px: int
    num_frames: int
    fps: int

    @property
    def duration_s(self) -> float:
        return self.num_frames / self.fps


def write_film(
    frames: Iterator[np.ndarray], path: Path, fps: int, *, threads: int, on_frame: Callable[[int], None]
) -> Film:
    """Write (H, W, 3) uint8 RGB frames with even sides; `on_frame` hears how many were made and may stop it.

    Nothing is left at `path` when it fails. Raises PermanentFailure without a frame, and for a full disk.
    """
    first = next(frames, None)
    if first is None:
        raise PermanentFailure("the model made no picture")
    height_px, width_px = first.shape[:2]
    form = VideoForm(width_px, height_px, Fraction(fps), Fraction(1, fps))
    waiting_frames = max(1, min(_MAX_QUEUE_FRAMES, _QUEUE_BYTES // first.nbytes))
    with (
        disk_errors(),
        VideoWriter(path, form, threads=threads) as writer,
        RunBehind[TimedFrame](lambda timed: writer.write(*timed), waiting_frames) as encoder,
    ):
        for number, frame in enumerate(chain([first], frames)):
            encoder.put((frame, Fraction(number, fps)))
            on_frame(number + 1)
    return Film(path, width_px, height_px, writer.num_frames, fps)
