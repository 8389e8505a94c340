"""Frames and curves on a face: upright coordinates for a face that is turned in its picture.

Positions are OpenCV's: whole numbers are the middles of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.face_topology import CHEEK_LEFT, CHEEK_RIGHT, CHIN, FOREHEAD, eye_centres


@dataclass(frozen=True, eq=False)
class Frame:
    """An upright coordinate system on the picture: x along `right`, y down, `scale_px` to the unit."""

    origin_px: np.ndarray  # (2,)
    right: np.ndarray  # (2,), of length 1
    scale_px: float

    @property
    def _axes(self) -> np.ndarray:
        """(2, 2): its rows are right and down."""
        return np.array((self.right, (-self.right[1], self.right[0])))

    def inside(self, points_px: np.ndarray) -> np.ndarray:
        """(..., 2) of the picture in this frame; floats, whose width stays."""
        to_frame = (self._axes.T / self.scale_px).astype(points_px.dtype)
        return (points_px - self.origin_px.astype(points_px.dtype)) @ to_frame

    def to_picture(self, points: np.ndarray) -> np.ndarray:
        return self.vectors_px(points) + self.origin_px

    def vectors_px(self, vectors: np.ndarray) -> np.ndarray:
        """(..., 2): directions and lengths only, without the origin."""
        return vectors @ (self._axes * self.scale_px).astype(vectors.dtype)

    def affine_from(self, unit_px: float, corner: tuple[float, float]) -> np.ndarray:
        """(2, 3): from the pixels of an upright drawing to those of the picture.

        `unit_px`: pixels of the drawing to the frame's unit; `corner`: where its first pixel is in the frame.
        """
        turn = self._axes.T * (self.scale_px / unit_px)
        return np.column_stack((turn, self.to_picture(np.array(corner))))


def upright(mesh_px: np.ndarray) -> np.ndarray:
    """(2,) of length 1: the face's own right, by the line of its eyes."""
    left, right = eye_centres(mesh_px)
    across = np.asarray(right - left, np.float64)
    return across / max(float(np.linalg.norm(across)), 1e-6)


def face_width_px(mesh_px: np.ndarray) -> float:
    """Cheek to cheek; of a face that looks aside, what it would be from the front."""
    width = math.dist(mesh_px[CHEEK_LEFT, :2], mesh_px[CHEEK_RIGHT, :2])
    height = math.dist(mesh_px[FOREHEAD, :2], mesh_px[CHIN, :2])
    return max(width, 0.75 * height, 1.0)


def smooth_line(points: np.ndarray, count: int) -> np.ndarray:
    """(count, 2): a round line through (N, 2) points, by Catmull and Rom's rule."""
    padded = np.concatenate((2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]))
    place = np.linspace(0, len(points) - 1, count)
    first = np.minimum(place.astype(int), len(points) - 2)
    t = (place - first)[:, None]
    a, b, c, d = (padded[first + step] for step in range(4))
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def smooth_step(values: np.ndarray) -> np.ndarray:
    """0 up to 0, 1 from 1, and no corner in between."""
    values = np.clip(values, 0, 1)
    return values * values * (3 - 2 * values)


def points_of(mesh_px: np.ndarray, indices: Sequence[int]) -> np.ndarray:
    """(N, 2) float64."""
    return mesh_px[list(indices), :2].astype(np.float64)
