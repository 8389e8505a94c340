"""A smooth displacement of the picture that follows some points and dies out at the border of an area.

Thin-plate splines (Bookstein 1989) spread the points' ways over a coarse grid. The spline is linear in the
ways, so that it is solved once: a frame costs a small matrix product and the search for the inverse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from models.portrait.geometry import smooth_step

_STIFFNESS = 1e-4  # lets close points with different ways agree instead of making a ripple
_INVERSE_STEPS = 5


@dataclass(frozen=True, eq=False)
class Grid:
    """Nodes over a rectangle of the picture, `step_px` apart; the first lies on the first pixel."""

    left: int
    top: int
    width: int
    height: int
    step_px: float

    @property
    def rows_columns(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def nodes_px(self) -> np.ndarray:
        """(rows, columns, 2) float32, the last ones at or behind the last pixel."""
        rows = math.ceil((self.height - 1) / self.step_px) + 1
        columns = math.ceil((self.width - 1) / self.step_px) + 1
        x, y = np.meshgrid(np.arange(columns), np.arange(rows))
        corner = np.array((self.left, self.top), np.float32)
        return (np.stack((x, y), axis=-1) * self.step_px + corner).astype(np.float32)

    def pixels_px(self) -> np.ndarray:
        """(height, width, 2) float32: where each pixel of the rectangle is."""
        x, y = np.meshgrid(np.arange(self.width), np.arange(self.height))
        return np.stack((x + self.left, y + self.top), axis=-1).astype(np.float32)

    def sample(self, values: np.ndarray, at_px: np.ndarray) -> np.ndarray:
        """`values` (rows, columns, C) of the nodes, at (..., 2) px of the picture: (..., C)."""
        return between_nodes(values, self.places(at_px))

    def places(self, at_px: np.ndarray) -> np.ndarray:
        """(..., 2) float32: px of the picture, counted in nodes."""
        corner = np.array((self.left, self.top), np.float32)
        return np.asarray((at_px - corner) * np.float32(1 / self.step_px), np.float32)


def between_nodes(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """`values` (rows, columns, C) of the nodes, at (h, w, 2) of `Grid.places`: (h, w, C)."""
    if not places.size:
        return np.zeros((*places.shape[:-1], values.shape[-1]), np.float32)
    return cv2.remap(values, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def grid_around(outline_px: np.ndarray, step_px: float, picture_shape: tuple[int, ...]) -> Grid:
    """Holds the (N, 2) outline with a node to spare, inside the picture; at least one pixel."""
    low = np.floor(outline_px.min(axis=0) - 2 * step_px).astype(int)
    high = np.ceil(outline_px.max(axis=0) + 2 * step_px).astype(int) + 1
    height_px, width_px = picture_shape[:2]
    left, top = (int(x) for x in np.clip(low, 0, (width_px - 1, height_px - 1)))
    right, bottom = (int(x) for x in np.clip(high, (left + 1, top + 1), (width_px, height_px)))
    return Grid(left, top, right - left, bottom - top, step_px)


def fade(points_px: np.ndarray, outline_px: np.ndarray, width_px: float) -> np.ndarray:
    """(...,) float32: 1 deep inside the closed outline, falling to 0 at it over `width_px`; 0 outside."""
    outline = outline_px.astype(np.float32)[:, None]
    flat = points_px.reshape(-1, 2).astype(np.float64)
    depth_px = np.array([cv2.pointPolygonTest(outline, (x, y), measureDist=True) for x, y in flat.tolist()])
    return smooth_step(depth_px / width_px).reshape(points_px.shape[:-1]).astype(np.float32)


class ThinPlate:
    """How each of some points' ways is felt elsewhere. `moving`: which of the (N, 2) points ever move."""

    def __init__(self, points_px: np.ndarray, moving: np.ndarray, unit_px: float) -> None:
        self._points = points_px / unit_px
        self._unit_px = unit_px
        count = len(points_px)
        system = np.zeros((count + 3, count + 3))
        system[:count, :count] = _bending(self._points, self._points) + _STIFFNESS * np.eye(count)
        system[:count, count:] = _plane(self._points)
        system[count:, :count] = system[:count, count:].T
        self._solution = np.linalg.inv(system)[:, :count][:, moving]  # (N + 3, moving)

    def weights(self, at_px: np.ndarray) -> np.ndarray:
        """(M, moving) float32 for (M, 2) px: the share of each moving point's way."""
        at = at_px / self._unit_px
        return (np.hstack((_bending(at, self._points), _plane(at))) @ self._solution).astype(np.float32)


def _bending(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(M, N): r^2 log r between (M, 2) and (N, 2)."""
    squared = ((a[:, None] - b[None]) ** 2).sum(axis=-1)
    return 0.5 * squared * np.log(np.maximum(squared, 1e-12))


def _plane(points: np.ndarray) -> np.ndarray:
    return np.column_stack((np.ones(len(points)), points))


class Layer:
    """One smooth displacement over a grid. `window`: (rows, columns), what is left of it at each node."""

    def __init__(self, plate: ThinPlate, grid: Grid, window: np.ndarray) -> None:
        self._plate, self._grid, self._window = plate, grid, window
        self._nodes_px = grid.nodes_px()
        self._weights = plate.weights(self._nodes_px.reshape(-1, 2)) * window.reshape(-1, 1)

    def weights_at(self, points_px: np.ndarray) -> np.ndarray:
        """(M, moving): the same field as the grid's, at (M, 2) px."""
        window = self._grid.sample(self._window, points_px[None].astype(np.float32))[0]
        return self._plate.weights(points_px) * window.reshape(-1, 1)

    def backwards(self, ways_px: np.ndarray) -> np.ndarray:
        """(rows, columns, 2) float32: what to add at each node to find where it came from."""
        forwards = (self._weights @ ways_px.astype(np.float32)).reshape(self._nodes_px.shape)
        way = forwards
        for _ in range(_INVERSE_STEPS):
            way = self._grid.sample(forwards, self._nodes_px - way)
        return -way
