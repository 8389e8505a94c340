"""Finished clips that outlive their attempt: each is committed, with the frames that the next one needs."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.disk import disk_errors
from models.engine import RunContext
from models.hallo2.audio_windows import FPS
from models.hallo2.pipeline import CLIP_FRAMES
from models.video_streams import VideoForm, VideoWriter

_DAMAGES = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True, slots=True, eq=False)
class Begun:
    """What of a film is there: its first clips, and the frames that the next one begins from."""

    num_clips: int = 0
    motion: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """A clip to keep: only the frames that the film has."""

    number: int
    frames: np.ndarray  # (F, H, W, 3) uint8
    motion: Tensor  # (2, 3, H, W) float32


class KeptClips:
    """The parts of one film.

    `key` stands for all that decides its pixels and is in the parts' names, so that none of another request,
    model or device is ever taken for one of these.
    """

    def __init__(self, context: RunContext, key: str) -> None:
        self.chunks: list[Path] = []
        self._context, self._key = context, key

    def begun(self) -> Begun:
        """What an earlier attempt of the task left; nothing where a part is missing or damaged."""
        found = self._context.committed(self._motion_name)
        if found is None:
            return Begun()
        try:
            with found.open("rb") as file, np.load(file, allow_pickle=False) as state:
                num_clips, motion = int(state["num_clips"]), torch.from_numpy(state["motion"])
        except _DAMAGES:
            return Begun()
        whole: list[Path] = []
        for number in range(num_clips):
            self._context.check()
            chunk = self._context.committed(self._chunk_name(number))
            if chunk is None:
                return Begun()
            whole.append(chunk)
        self.chunks = whole
        return Begun(len(whole), motion)

    def keep(self, finished: Finished) -> None:
        """Write a clip and commit it. The chunk goes first: the state never counts one that is not there."""
        folder, number = self._context.scratch_dir, finished.number
        with disk_errors():
            chunk = folder / self._chunk_name(number)
            self._write(finished, chunk)
            state = folder / self._motion_name
            with state.open("wb") as file:
                np.savez(file, num_clips=np.int64(number + 1), motion=finished.motion.numpy())
        self._context.commit(chunk)
        self._context.commit(state)
        self.chunks.append(chunk)

    def _write(self, finished: Finished, path: Path) -> None:
        height_px, width_px = finished.frames.shape[1:3]
        form = VideoForm(width_px, height_px, Fraction(FPS), Fraction(1, FPS))
        first = finished.number * CLIP_FRAMES
        start_s = Fraction(first, FPS)
        with VideoWriter(path, form, threads=self._context.threads, start_s=start_s) as writer:
            for index, frame in enumerate(finished.frames):
                writer.write(frame, Fraction(first + index, FPS))

    def _chunk_name(self, number: int) -> str:
        return f"clip-{number:06d}-{self._key}.mp4"

    @property
    def _motion_name(self) -> str:
        return f"motion-{self._key}.npz"
