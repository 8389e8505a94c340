"""Any length and size: no frame and no border is lost, tiles cover a canvas exactly."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from models.flashvsr.geometry import (
    OVERLAP_PX,
    Canvas,
    canvas_of,
    chunk_count,
    chunk_frames,
    chunks_of,
    frames_before,
    grids_of,
)


def timed(num_frames):
    return [(number, Fraction(number, 25)) for number in range(num_frames)]


@pytest.mark.parametrize("num_frames", range(1, 46))
def test_every_frame_is_shown_once_in_its_place(num_frames):
    chunks = list(chunks_of(timed(num_frames)))
    assert [chunk.number for chunk in chunks] == list(range(chunk_count(num_frames)))
    assert [time for chunk in chunks for time in chunk.times_s] == [time for _, time in timed(num_frames)]
    assert [len(chunk.frames) for chunk in chunks] == [25] + [8] * (len(chunks) - 1)
    seen = [frame for chunk in chunks for frame in chunk.frames]
    assert seen == [min(frame, num_frames - 1) for frame in range(len(seen))], "the last frame is repeated"
    assert len(seen) == frames_before(len(chunks)) + 4, "the projector looks 4 frames ahead"


def test_chunks_are_as_upstream_counts_them():
    """F = 8 n + 1 frames with the last one repeated give 8 n - 3, in (F - 1) / 8 - 2 chunks."""
    for n in range(3, 40):
        num_frames = 8 * n - 3
        chunks = list(chunks_of(timed(num_frames)))
        assert len(chunks) == n - 2
        assert not any(chunk.is_padded for chunk in chunks)
        assert sum(len(chunk.frames) for chunk in chunks) == 8 * n + 1


@pytest.mark.parametrize("first", [1, 2, 3])
@pytest.mark.parametrize("num_frames", [20, 21, 28, 29, 30, 37, 38, 45, 60])
def test_a_stream_that_begins_later_shows_the_rest(num_frames, first):
    whole = [chunk for chunk in chunks_of(timed(num_frames)) if chunk.number >= first]
    rest = list(chunks_of(timed(num_frames), first))
    assert [(chunk.number, chunk.times_s) for chunk in rest] == [
        (chunk.number, chunk.times_s) for chunk in whole
    ]
    if rest:
        assert rest[0].frames[-8:] == whole[0].frames
        assert rest[0].frames[:4] == tuple(
            min(frames_before(first) + step, num_frames - 1) for step in range(4)
        )
        assert [chunk.frames for chunk in rest[1:]] == [chunk.frames for chunk in whole[1:]]


def test_no_frame_gives_no_chunk():
    assert not list(chunks_of([]))


def test_frames_are_read_no_further_than_a_chunk_needs():
    read = []

    def source():
        for item in timed(100):
            read.append(item)
            yield item

    chunks = chunks_of(source())
    for number in range(3):
        next(chunks)
        assert len(read) == frames_before(number) + chunk_frames(number) + 4


@pytest.mark.parametrize(
    ("scale", "factor"), [(1, 2), (1.5, 2), (2, 2), (2.1, 4), (3, 4), (4, 4), (6.5, 4), (8, 4)]
)
def test_a_canvas_holds_the_picture_and_is_whole_windows(scale, factor):
    for width_px, height_px in ((1, 1), (63, 65), (64, 64), (333, 187), (640, 360)):
        canvas = canvas_of(width_px, height_px, scale)
        assert (canvas.picture_width_px, canvas.picture_height_px) == (width_px * factor, height_px * factor)
        assert canvas.width_px % 128 == canvas.height_px % 128 == 0
        assert 0 <= canvas.width_px - canvas.picture_width_px < 128
        assert 0 <= canvas.height_px - canvas.picture_height_px < 128


@pytest.mark.parametrize("size", [(128, 128), (256, 384), (512, 640), (1408, 768), (1920, 1152)])
def test_tiles_cover_a_canvas_and_count_1_in_all(size):
    canvas = Canvas(*size, *size)
    grids = list(grids_of(canvas))
    assert grids[0].tile_area_px == canvas.area_px
    assert grids[-1].tile_width_px == min(size[0], 256)
    assert grids[-1].tile_height_px == min(size[1], 256)
    assert len({(grid.tile_width_px, grid.tile_height_px) for grid in grids}) == len(grids)
    for grid in grids:
        numbers = (*grid.tops_px, *grid.lefts_px, grid.tile_width_px, grid.tile_height_px)
        assert not any(number % 128 for number in numbers)
        for starts_px, size_px in ((grid.tops_px, grid.tile_height_px), (grid.lefts_px, grid.tile_width_px)):
            assert all(before + size_px - after >= OVERLAP_PX for before, after in pairwise(starts_px))
        total = np.zeros((canvas.height_px, canvas.width_px))
        for tile, (rows, columns) in zip(grid.tiles, grid.weights(), strict=True):
            assert rows.min() > 0
            assert columns.min() > 0
            area = np.s_[
                tile.top_px : tile.top_px + tile.height_px, tile.left_px : tile.left_px + tile.width_px
            ]
            total[area] += np.outer(rows, columns)
        assert np.abs(total - 1).max() < 1e-6


def test_where_tiles_meet_neither_jumps():
    grid = next(grid for grid in grids_of(Canvas(640, 128, 640, 128)) if len(grid.tiles) == 2)
    for _, columns in grid.weights():
        assert np.abs(np.diff(columns)).max() < 0.02
