"""The finished video in parts that outlive their attempt: closed MP4 files of some chunks each, committed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np

from models.engine import RunContext
from models.flashvsr.geometry import frames_before
from models.video_streams import VideoForm, VideoWriter

PART_CHUNKS = 12  # 96 frames, the first part 109: a part of its own for 8 frames would be a third larger


class KeptParts(AbstractContextManager["KeptParts"]):
    """Writes frames chunk by chunk; for one thread at a time.

    `key` stands for all that decides the pixels and is in the parts' names, which are in the order of the
    video: none of another request, model or device is ever taken for one of these. Leaving the block by an
    exception forgets the part in work; the block may then be entered again.
    """

    def __init__(self, context: RunContext, form: VideoForm, key: str) -> None:
        self.paths: list[Path] = []
        self.num_frames = 0
        self._context, self._form, self._key = context, form, key
        self._open: VideoWriter | None = None

    @property
    def next_chunk(self) -> int:
        """The first chunk that no finished part holds."""
        return len(self.paths) * PART_CHUNKS

    @property
    def is_whole(self) -> bool:
        """Whether the last part is shorter than it could be: the video has ended in it."""
        return self.num_frames < frames_before(self.next_chunk)

    def find(self) -> None:
        """Take over what an earlier attempt of the task committed, up to the first part that is not whole."""
        while True:
            path = self._context.committed(self._name)
            num_frames = 0 if path is None else _count_of(path)
            if path is None or not num_frames:
                return
            self.paths.append(path)
            self.num_frames += num_frames

    def write(self, number: int, frames: np.ndarray, times_s: Sequence[Fraction]) -> None:
        """The frames (n, H, W, 3) uint8 of chunk `number`, which follows the one before."""
        if self._open is None:
            path = self._context.scratch_dir / self._name
            threads = max(1, self._context.threads // 2)
            self._open = VideoWriter(path, self._form, threads=threads, start_s=times_s[0])
        for frame, time_s in zip(frames, times_s, strict=True):
            self._context.check()
            self._open.write(frame, time_s)
        if (number + 1) % PART_CHUNKS == 0:
            self._close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._close()
        elif self._open is not None:
            unfinished, self._open = self._open, None
            unfinished.__exit__(kind, error, trace)

    def _close(self) -> None:
        writer, self._open = self._open, None
        if writer is None:
            return
        writer.close()
        self._context.commit(writer.path)
        self.paths.append(writer.path)
        self.num_frames += writer.num_frames

    @property
    def _name(self) -> str:
        return f"chunk-{len(self.paths):06d}-{self._key}.mp4"


def _count_of(path: Path) -> int:
    """The frames of a part; 0 if it cannot be read."""
    try:
        with av.open(str(path)) as container:
            return int(container.streams.video[0].frames)
    except (av.FFmpegError, IndexError):
        return 0
