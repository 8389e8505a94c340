"""What the networks are told of the picture: a square with the face, and where face and lips are.

Sizes and blurs are those of the published preprocessing (fudan-generative-vision/hallo: hallo/utils/util.py
at 1002056, hallo/datasets/image_processor.py at 01d7fa2). It expects a square picture which the face fills
by half or more, and squeezes any other; here a square is cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from models.face_topology import FACE_OVAL, OUTER_LIP_LOWER, OUTER_LIP_UPPER
from models.faces import Face

MIN_FACE_SHARE = 0.5
_FACE_SHARE = 0.6
_FACE_FACTOR, _LIP_FACTOR = 1.2, 2.0
_BLUR_SIDE = 64
_FACE_KERNEL, _LIP_KERNEL = 51, 31
_LEVELS = (8, 16, 32, 64)  # the picture's side over that of a mask
_LIPS = (*OUTER_LIP_UPPER, *OUTER_LIP_LOWER)

Box = tuple[int, int, int, int]  # x0, y0, x1, y1; the last column and row are not in it


@dataclass(frozen=True, slots=True)
class Square:
    """A square of a picture."""

    left_px: int
    top_px: int
    side_px: int

    def picture(self, whole: np.ndarray, side_px: int) -> np.ndarray:
        """(side_px, side_px, 3) uint8 of (H, W, 3) uint8."""
        box = (self.left_px, self.top_px, self.left_px + self.side_px, self.top_px + self.side_px)
        cut = Image.fromarray(whole).crop(box)
        return np.asarray(cut.resize((side_px, side_px), Image.Resampling.BILINEAR))

    def points(self, points_px: np.ndarray, side_px: int) -> np.ndarray:
        """(N, 2) in `picture` of (N, 2 or more) in the whole picture."""
        return (points_px[:, :2] - (self.left_px, self.top_px)) * (side_px / self.side_px)


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Masks of a square picture; those of four sizes have 1/8 to 1/64 of its side, float32, 0..1."""

    face_box: np.ndarray
    """(side, side) bool: the rectangle around the face, 1.2 times as large as the face."""
    background: tuple[np.ndarray, ...]
    face: tuple[np.ndarray, ...]
    """Without the lips."""
    lips: tuple[np.ndarray, ...]


def square_around(face: Face, picture: np.ndarray) -> Square:
    """The square to animate.

    Where the face (the longer side of its outline) is at least half as large as the picture's shorter side:
    the largest square. Else one that the face fills to 60 %. Its middle is that of the face, as far as it
    stays inside the picture.
    """
    height_px, width_px = picture.shape[:2]
    largest_px = min(height_px, width_px)
    wanted_px = largest_px if face.size_px >= MIN_FACE_SHARE * largest_px else face.size_px / _FACE_SHARE
    side_px = max(1, min(largest_px, round(wanted_px)))
    x0, y0, x1, y1 = face.box_px
    left_px = min(max(0, round((x0 + x1 - side_px) / 2)), width_px - side_px)
    top_px = min(max(0, round((y0 + y1 - side_px) / 2)), height_px - side_px)
    return Square(left_px, top_px, side_px)


def regions_of(mesh_px: np.ndarray, side_px: int) -> Regions:
    """`mesh_px` is (468, 2) in a square picture of `side_px`, a multiple of 64."""
    face_box = _filled(_enlarged(mesh_px[list(FACE_OVAL)], _FACE_FACTOR, side_px), side_px)
    lip_box = _filled(_enlarged(mesh_px[list(_LIPS)], _LIP_FACTOR, side_px), side_px)
    head, lips = _blurred(face_box, _FACE_KERNEL), _blurred(lip_box, _LIP_KERNEL)
    return Regions(
        face_box=face_box > 0,
        background=_levels(255 - head, side_px),
        face=_levels(cv2.subtract(head, lips), side_px),
        lips=_levels(lips, side_px),
    )


def _enlarged(points_px: np.ndarray, factor: float, side_px: int) -> Box:
    """The box around (N, 2) points, `factor` times as large about its middle, moved into the picture."""
    low, high = points_px.min(axis=0), points_px.max(axis=0)
    sides = np.minimum((high - low) * factor, side_px)
    starts = np.clip((low + high - sides) / 2, 0, side_px - sides)
    x0, y0, x1, y1 = (round(float(edge)) for edge in (*starts, *(starts + sides)))
    return x0, y0, x1, y1


def _filled(box: Box, side_px: int) -> np.ndarray:
    """(side_px, side_px) uint8: 255 in the box."""
    x0, y0, x1, y1 = box
    mask = np.zeros((side_px, side_px), np.uint8)
    mask[y0:y1, x0:x1] = 255
    return mask


def _blurred(mask: np.ndarray, kernel: int) -> np.ndarray:
    """(64, 64) uint8, stretched to 0..255."""
    small = cv2.resize(mask, (_BLUR_SIDE, _BLUR_SIDE))
    blurred = cv2.GaussianBlur(small, (kernel, kernel), 0)
    stretched: np.ndarray = cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX)
    return stretched


def _levels(mask: np.ndarray, side_px: int) -> tuple[np.ndarray, ...]:
    image = Image.fromarray(mask)
    sides = [side_px // level for level in _LEVELS]
    shrunk = [image.resize((side, side), Image.Resampling.BILINEAR) for side in sides]
    return tuple(np.asarray(level, np.float32) / 255 for level in shrunk)
