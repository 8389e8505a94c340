"""How a video of any length and size fits the network, without losing a frame or a border. No torch.

The network makes 21 frames from 25 and then 8 from each further 8: its projector looks 4 frames ahead. The
last frame is repeated until a chunk is full, and what was made of repetitions is not shown. Sides are
multiples of 128 pixels (a window of attention): the picture lies at the top left, its last row and column
are repeated, and what was made of repetitions is cut away. It was trained for 4 times the size and bears 2;
any other scale is an antialiased resize of one of these two.

Facts: OpenImagingLab/FlashVSR, diffsynth/pipelines/flashvsr_tiny.py at
0a4ff08ab04bd24b745804befe32803ae53b5208.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Generic, TypeVar

import numpy as np

FIRST_FRAMES = 21
NEXT_FRAMES = 8
AHEAD_FRAMES = 4
SIDE_PX = 128
OVERLAP_PX = 128  # of neighbouring tiles, at least
_SMALLEST_CUT_PX = SIDE_PX + OVERLAP_PX  # the smallest side of a tile that does not span the picture

Frame = TypeVar("Frame")


@dataclass(frozen=True, slots=True)
class Chunk(Generic[Frame]):
    """What the network sees next, and the times of the frames that come of it.

    `frames` are those since the chunk before, 25 or 8; the first chunk of a stream that begins at a later
    one has 12: the 4 that the chunk before it would have held, and its own 8.
    """

    number: int
    frames: tuple[Frame, ...]
    times_s: tuple[Fraction, ...]

    @property
    def is_padded(self) -> bool:
        """Whether frames were repeated, which only the last chunks are."""
        return len(self.times_s) < chunk_frames(self.number)


def chunk_frames(number: int) -> int:
    """How many frames come of a full chunk."""
    return NEXT_FRAMES if number else FIRST_FRAMES


def frames_before(number: int) -> int:
    """How many frames come of the chunks before this one."""
    return FIRST_FRAMES + NEXT_FRAMES * (number - 1) if number else 0


def chunk_count(num_frames: int) -> int:
    """How many chunks a video of at least one frame takes."""
    return 1 + max(0, -(-(num_frames - FIRST_FRAMES) // NEXT_FRAMES))


def chunks_of(frames: Iterable[tuple[Frame, Fraction]], first: int = 0) -> Iterator[Chunk[Frame]]:
    """The chunks of timed frames from chunk `first` on, as they come."""
    source = iter(frames)
    deque(islice(source, frames_before(first)), maxlen=0)
    waiting_s: deque[Fraction] = deque()
    number, needed = first, chunk_frames(first) + AHEAD_FRAMES
    last: tuple[Frame, ...] = ()
    while True:
        taken = list(islice(source, needed))
        waiting_s.extend(time_s for _, time_s in taken)
        if not waiting_s:
            return
        seen = tuple(frame for frame, _ in taken)
        last = seen[-1:] or last
        times_s = tuple(waiting_s.popleft() for _ in range(min(chunk_frames(number), len(waiting_s))))
        yield Chunk(number, seen + last * (needed - len(seen)), times_s)
        number, needed = number + 1, NEXT_FRAMES


@dataclass(frozen=True, slots=True)
class Canvas:
    """What the network works on: the enlarged picture, and the sides with what is repeated beside it."""

    picture_width_px: int
    picture_height_px: int
    width_px: int
    height_px: int

    @property
    def area_px(self) -> int:
        return self.width_px * self.height_px


def network_factor(scale: float | Fraction) -> int:
    """How many times the network enlarges for this scale; the rest is a resize of what it made."""
    return 2 if scale <= 2 else 4


def canvas_of(width_px: int, height_px: int, scale: float | Fraction) -> Canvas:
    """The canvas of a preprocessed picture."""
    factor = network_factor(scale)
    width_px, height_px = width_px * factor, height_px * factor
    return Canvas(width_px, height_px, _whole_sides(width_px), _whole_sides(height_px))


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of a canvas; all four numbers are multiples of 128 pixels."""

    top_px: int
    left_px: int
    height_px: int
    width_px: int

    @property
    def area_px(self) -> int:
        return self.width_px * self.height_px


@dataclass(frozen=True, slots=True)
class Grid:
    """Tiles of one size that cover a canvas row by row and overlap by at least 128 pixels."""

    tops_px: tuple[int, ...]
    lefts_px: tuple[int, ...]
    tile_height_px: int
    tile_width_px: int

    @property
    def tiles(self) -> tuple[Tile, ...]:
        height_px, width_px = self.tile_height_px, self.tile_width_px
        return tuple(Tile(top, left, height_px, width_px) for top in self.tops_px for left in self.lefts_px)

    @property
    def tile_area_px(self) -> int:
        return self.tile_width_px * self.tile_height_px

    @property
    def area_px(self) -> int:
        """Of all tiles: what the network has to do."""
        return self.tile_area_px * len(self.tops_px) * len(self.lefts_px)

    def weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each tile what its rows (h,) and columns (w,) count, float32; in sum 1."""
        rows = feathers(self.tops_px, self.tile_height_px)
        columns = feathers(self.lefts_px, self.tile_width_px)
        return [(row, column) for row in rows for column in columns]


def grids_of(canvas: Canvas) -> Iterator[Grid]:
    """Every way to cover a canvas, from one tile to the smallest ones."""
    for tops_px, height_px in _cuts(canvas.height_px):
        for lefts_px, width_px in _cuts(canvas.width_px):
            yield Grid(tops_px, lefts_px, height_px, width_px)


def feathers(starts_px: tuple[int, ...], size_px: int) -> list[np.ndarray]:
    """What each part of a line counts along itself, (size,) float32: a ramp where it overlaps another."""
    total_px = starts_px[-1] + size_px
    ramp = (np.arange(size_px, dtype=np.float64) + 0.5) / OVERLAP_PX
    sums, raw = np.zeros(total_px), []
    for start_px in starts_px:
        rise = np.ones(size_px) if start_px == 0 else np.minimum(1, ramp)
        fall = np.ones(size_px) if start_px + size_px == total_px else np.minimum(1, ramp[::-1])
        raw.append(rise * fall)
        sums[start_px : start_px + size_px] += raw[-1]
    return [
        (part / sums[start_px : start_px + size_px]).astype(np.float32)
        for start_px, part in zip(starts_px, raw, strict=True)
    ]


def _cuts(total_px: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """The starts and the size of equal parts of a line, fewer first; each number of parts once."""
    sizes = {total_px}
    yield (0,), total_px
    count = 2
    while min(sizes) > _SMALLEST_CUT_PX:
        size_px = _whole_sides(-(-(total_px + (count - 1) * OVERLAP_PX) // count))
        if size_px not in sizes:
            sizes.add(size_px)
            room_px = total_px - size_px
            yield tuple(room_px * part // (count - 1) // SIDE_PX * SIDE_PX for part in range(count)), size_px
        count += 1


def _whole_sides(size_px: int) -> int:
    return -(-size_px // SIDE_PX) * SIDE_PX
