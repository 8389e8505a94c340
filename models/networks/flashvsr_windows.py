"""FlashVSR's windows: which blocks of tokens attend to which, and the keys that a stream remembers.

A window is 2 frames x 8 x 8 tokens: 128 tokens that attention keeps or leaves out together. Two frames of
windows are a slice; a chunk is one slice (the first chunk three), and sees itself and the slices before it.
Tokens are kept in window order, so that a window is 128 rows in a row.

Facts: OpenImagingLab/FlashVSR, diffsynth/models/wan_video_dit.py at 11af50bc57fc603cd339766835de2cfd30e79d17
and diffsynth/pipelines/flashvsr_tiny.py at 0a4ff08ab04bd24b745804befe32803ae53b5208.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.networks.flashvsr_config import TOKEN_SIDE_PX

WINDOW_FRAMES, WINDOW_SIDE = 2, 8
WINDOW_TOKENS = WINDOW_FRAMES * WINDOW_SIDE**2
KEPT_SLICES = 4  # a chunk's own slice and the three before it
_MEASURE_PX = (
    768,
    1280,
)  # the size at which a sparse ratio of 1 keeps as many pairs as a slice has with itself


@dataclass(frozen=True, slots=True)
class WindowGrid:
    """The windows of one slice."""

    rows: int
    columns: int

    @classmethod
    def of(cls, height_tokens: int, width_tokens: int) -> WindowGrid:
        """Raises ValueError unless both sides are multiples of 8 tokens (128 pixels)."""
        if min(height_tokens, width_tokens) < 1 or height_tokens % WINDOW_SIDE or width_tokens % WINDOW_SIDE:
            raise ValueError(
                f"{height_tokens} x {width_tokens} tokens are not windows of {WINDOW_SIDE} a side"
            )
        return cls(height_tokens // WINDOW_SIDE, width_tokens // WINDOW_SIDE)

    @property
    def count(self) -> int:
        """How many."""
        return self.rows * self.columns

    @property
    def tokens(self) -> int:
        """Of one slice."""
        return self.count * WINDOW_TOKENS

    def most_kept(self, sparse_ratio: float) -> int:
        """How many (query window, key window) pairs a head may keep for a slice of queries.

        It comes to 60 x `sparse_ratio` key windows for each query window, less one pair, at every size.
        The order of the operations decides how the last pair rounds: it is upstream's.
        """
        size_px = (self.rows * WINDOW_SIDE * TOKEN_SIDE_PX) * (self.columns * WINDOW_SIDE * TOKEN_SIDE_PX)
        share = sparse_ratio * _MEASURE_PX[0] * _MEASURE_PX[1] / size_px
        most = int(self.count**2 * share) - 1
        if most < 1:
            raise ValueError(f"a sparse ratio of {sparse_ratio} keeps nothing")
        return most

    def neighbours(self, local_range: int, device: torch.device) -> Tensor:
        """(count, count) bool: whether a key window (second axis) lies in a query window's neighbourhood.

        It is `local_range` windows a side and centred (an even one reaches further up and left); what lies
        beyond a border is lost, the neighbourhood does not move inwards.
        """
        if local_range < 1:
            raise ValueError(f"a local range of {local_range} windows holds none")
        near_rows, near_columns = (_near(side, local_range, device) for side in (self.rows, self.columns))
        near = near_rows[:, None, :, None] & near_columns[None, :, None, :]  # (rows, columns, rows, columns)
        return near.reshape(self.count, self.count)

    def to_windows(self, tokens: Tensor) -> Tensor:
        """(f, h, w, C), f even, to (f * h * w, C) in window order."""
        width = tokens.shape[-1]
        split = tokens.view(
            -1, WINDOW_FRAMES, self.rows, WINDOW_SIDE, self.columns, WINDOW_SIDE, width
        )  # (slices, 2, rows, 8, columns, 8, C)
        return split.permute(0, 2, 4, 1, 3, 5, 6).reshape(-1, width)

    def from_windows(self, tokens: Tensor) -> Tensor:
        """The way back: (f * h * w, C) in window order to (f, h, w, C)."""
        width = tokens.shape[-1]
        split = tokens.view(
            -1, self.rows, self.columns, WINDOW_FRAMES, WINDOW_SIDE, WINDOW_SIDE, width
        )  # (slices, rows, columns, 2, 8, 8, C)
        frames = split.permute(0, 3, 1, 4, 2, 5, 6)  # (slices, 2, rows, 8, columns, 8, C)
        return frames.reshape(-1, self.rows * WINDOW_SIDE, self.columns * WINDOW_SIDE, width)


def _near(side: int, local_range: int, device: torch.device) -> Tensor:
    """(side, side) bool."""
    positions = torch.arange(side, device=device)
    distance = positions[None, :] - positions[:, None] + local_range // 2
    return (distance >= 0) & (distance < local_range)


def window_means(tokens: Tensor) -> Tensor:
    """(windows * 128, heads, d) in window order to (windows, heads, d), in the tokens' precision."""
    return tokens.view(-1, WINDOW_TOKENS, *tokens.shape[1:]).mean(dim=1)


def kept_pairs(queries: Tensor, keys: Tensor, neighbours: Tensor, most: int) -> Tensor:
    """Which key windows each query window attends to: (heads, Q, K) bool.

    From means (Q, heads, d) and (K, heads, d): scores are a softmax over a row's neighbours, and a slice of
    queries keeps the pairs that score strictly above its (`most` + 1)-th best; so equals of that pair go, the
    least of all pairs goes even where `most` allows every one, and a row may keep nothing.
    Scores are taken in the means' precision up to the softmax, which is float32, as upstream does.
    """
    heads, width = queries.shape[1:]
    windows = len(neighbours)
    scores = torch.einsum("qhd,khd->hqk", queries, keys) / math.sqrt(width)
    slices = scores.float().view(heads, -1, windows, len(keys) // windows, windows)
    slices = slices.masked_fill(
        ~neighbours[:, None, :], -math.inf
    )  # (heads, Q slices, windows, K slices, windows)
    shares = slices.flatten(3).softmax(dim=-1).flatten(2)  # (heads, Q slices, windows * K)
    num_pairs = shares.shape[-1]
    rank = num_pairs - min(most, num_pairs - 1)  # counted from the least
    threshold = shares.kthvalue(rank, dim=-1, keepdim=True).values
    return (shares > threshold).view(heads, len(queries), len(keys))


class KeyArena:
    """Keys and values of every layer's last slices, in memory taken once.

    Between two chunks a layer needs three slices, and one place more serves all layers in turn: a layer's
    newest slice goes there, and the place of the slice that it has then seen for the last time is free for
    the next layer.
    """

    def __init__(self, grid: WindowGrid, layers: int, heads: int, head_width: int, like: Tensor) -> None:
        num_places = (KEPT_SLICES - 1) * layers + 1
        self.tokens = grid.tokens  # of one slice
        self.keys = like.new_empty(num_places * grid.tokens, heads, head_width)
        self.values = torch.empty_like(self.keys)
        self.means = like.new_empty(num_places, grid.count, heads, head_width)  # of the keys
        numbers = torch.arange(num_places * grid.count, dtype=torch.int32, device=like.device)
        self.windows = numbers.view(num_places, grid.count)  # of each place
        self.free = list(range(num_places))

    def put(self, keys: Tensor, values: Tensor) -> int:
        """Copies a slice (tokens, heads, d) to a free place and gives its number."""
        place = self.free.pop()
        rows = slice(place * self.tokens, (place + 1) * self.tokens)
        self.keys[rows].copy_(keys)
        self.values[rows].copy_(values)
        self.means[place].copy_(window_means(self.keys[rows]))
        return place


class KeySlices:
    """One layer's slices in an arena, the oldest first."""

    def __init__(self, arena: KeyArena) -> None:
        self.arena = arena
        self._places: list[int] = []

    def push(self, keys: Tensor, values: Tensor) -> None:
        """Takes (n * tokens, heads, d) of the next n slices; a layer holds four at most."""
        tokens = self.arena.tokens
        for part_keys, part_values in zip(
            torch.split(keys, tokens), torch.split(values, tokens), strict=True
        ):
            self._places.append(self.arena.put(part_keys, part_values))

    def forget(self) -> None:
        """Leaves the place of what the next chunk does not see to the next layer."""
        if len(self._places) == KEPT_SLICES:
            self.arena.free.append(self._places.pop(0))

    @property
    def means(self) -> Tensor:
        """Of the keys: (slices * windows, heads, d)."""
        return torch.cat([self.arena.means[place] for place in self._places])

    @property
    def windows(self) -> Tensor:
        """Where the slices' windows are in the arena: (slices * windows) int32."""
        return torch.cat([self.arena.windows[place] for place in self._places])
