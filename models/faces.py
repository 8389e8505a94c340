"""Faces in a picture: a detector of boxes and eyes, then a mesh of 468 points on each.

The networks are MediaPipe's (BlazeFace, arXiv 1907.05047; face mesh, arXiv 1907.06724). The detector sees
the whole picture as 256x256; the mesh network sees 192x192 cut out of the full picture, turned so that the
eyes are level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from models.errors import ModelNotReady
from models.face_topology import CHEEK_LEFT, CHEEK_RIGHT, NUM_POINTS, eye_centres
from models.face_weights import DETECTOR, MESH
from models.networks.tflite import TfliteFormatError, TfliteNetwork, load_tflite

MIN_SCORE = 0.5
_MAX_OVERLAP = 0.3
_SHARES = (1.0, 0.6)  # a face that overflows the picture is found when there is room around it
_CROP_FACTOR = 1.5
_MAX_REDUCTION = 8  # by averaging; what is left is done by picking pixels
_BOX_CELLS = ((16, 2), (8, 6))  # cells per side of each grid of the detector, and boxes per cell
_LEFT_EYE, _RIGHT_EYE = 0, 1  # of the detector's six points
_PLACES = [0, *range(2, 8)]  # of a detected (8, 2): all but its second row, which is a size


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face; px are those of the whole picture, whose first pixel is from 0 to 1."""

    box_px: tuple[float, float, float, float]
    """x0, y0, x1, y1 of the mesh's outline; may leave the picture."""
    score: float
    """How sure the mesh network is that it sees a face, 0..1."""
    mesh_px: np.ndarray
    """(468, 3) float32: x, y, and z in the same scale, smaller is nearer. Points: face_topology.py."""

    @property
    def size_px(self) -> float:
        """The longer side of the box."""
        return max(self.box_px[2] - self.box_px[0], self.box_px[3] - self.box_px[1])

    @property
    def roll_deg(self) -> float:
        """How far the eyes' line is turned, clockwise positive."""
        left, right = eye_centres(self.mesh_px)
        return math.degrees(math.atan2(right[1] - left[1], right[0] - left[0]))

    @property
    def yaw_deg(self) -> float:
        """How far the face looks to the side, towards the picture's right positive; an estimate."""
        x, y, z = self.mesh_px[CHEEK_RIGHT] - self.mesh_px[CHEEK_LEFT]
        return math.degrees(math.atan2(z, math.hypot(x, y)))


@dataclass(frozen=True, slots=True)
class _Crop:
    """A square of the picture: where its middle is, its side, and how far it is turned clockwise."""

    centre_px: tuple[float, float]
    side_px: float
    angle_rad: float

    def to_picture(self, size: int) -> np.ndarray:
        """(2, 3): from pixels of a `size` x `size` crop to pixels of the picture."""
        scale = self.side_px / size
        cos, sin = scale * math.cos(self.angle_rad), scale * math.sin(self.angle_rad)
        turn = np.array(((cos, -sin), (sin, cos)))
        shift = np.array(self.centre_px) - turn @ np.full(2, size / 2)
        return np.column_stack((turn, shift))


class FaceFinder:
    """Finds faces. One thread at a time."""

    def __init__(self, detector: TfliteNetwork, mesh: TfliteNetwork) -> None:
        self._detector, self._mesh = detector, mesh

    def find(self, picture: np.ndarray) -> list[Face]:
        """The faces of a (H, W, 3) uint8 RGB picture, largest first; [] where there is none."""
        found = (self._find_at(picture, share) for share in _SHARES)
        faces = next(filter(None, found), [])
        return sorted(faces, key=lambda face: face.size_px, reverse=True)

    def mesh(self, picture: np.ndarray, near: Face) -> Face | None:
        """The face that is about where `near` was; None where there is none. Much faster than `find`.

        A cut around the mesh of a first look is truer than one around the detector's box: its points came
        out 0.3 % of the face's size from where they are in pictures of other sizes instead of 0.7 %.
        """
        return self._face_in(picture, _crop_of_mesh(near.mesh_px))

    def _find_at(self, picture: np.ndarray, share: float) -> list[Face]:
        """With the picture's longer side over this share of the detector's input. Two looks: see `mesh`."""
        crops = [_crop_of_points(points) for points in self._detect(picture, share)]
        first = [face for crop in crops if (face := self._face_in(picture, crop))]
        return [face for seen in first if (face := self.mesh(picture, seen))]

    def _detect(self, picture: np.ndarray, share: float) -> list[np.ndarray]:
        """(8, 2) px of the picture for each face: its box's middle and size, then six points."""
        size = self._detector.input_shape[1]
        square, reduction, margin_px = _letterboxed(picture, size, share)
        outputs = _run(self._detector, square / 127.5 - 1)
        scores = torch.sigmoid(outputs["classificators"]).flatten().numpy()  # (N,)
        boxes = _decoded(outputs["regressors"][0].numpy(), size)  # (N, 8, 2)
        found = (scores >= MIN_SCORE) & (boxes[:, 1] >= 1).all(axis=1)
        boxes[:, _PLACES] -= margin_px
        return _merged(boxes[found] / reduction, scores[found])

    def _face_in(self, picture: np.ndarray, crop: _Crop) -> Face | None:
        size = self._mesh.input_shape[1]
        outputs = _run(self._mesh, _cut(picture, crop, size) / 255)
        points, presence = (values.flatten() for values in outputs.values())
        score = float(torch.sigmoid(presence)[0])
        if score < MIN_SCORE:
            return None
        points_px = _placed(points.reshape(NUM_POINTS, 3).numpy(), crop, size)
        low, high = points_px.min(axis=0).tolist(), points_px.max(axis=0).tolist()
        return Face((low[0], low[1], high[0], high[1]), score, points_px)


def load_face_finder(weights: Mapping[str, Path], *, threads: int = 1) -> FaceFinder:
    """From the files of `FACE_WEIGHTS` by path. Raises ModelNotReady for a file that is no such network."""
    torch.set_num_threads(threads)
    try:
        return FaceFinder(load_tflite(weights[DETECTOR.path]), load_tflite(weights[MESH.path]))
    except TfliteFormatError as error:
        raise ModelNotReady(str(error)) from error


def _run(network: TfliteNetwork, pixels: np.ndarray) -> Mapping[str, Tensor]:
    """`pixels`: (H, W, 3) in the network's range."""
    with torch.inference_mode():
        return network(torch.from_numpy(pixels.astype(np.float32))[None])


def _letterboxed(picture: np.ndarray, size: int, share: float) -> tuple[np.ndarray, float, np.ndarray]:
    """(size, size, 3) with the whole picture in its middle; its reduction; (2,) margins left and above."""
    height_px, width_px = picture.shape[:2]
    reduction = share * size / max(height_px, width_px)
    shown = max(round(width_px * reduction), 1), max(round(height_px * reduction), 1)
    method = cv2.INTER_AREA if reduction < 1 else cv2.INTER_LINEAR
    left, top = (size - shown[0]) // 2, (size - shown[1]) // 2
    square = np.zeros((size, size, 3), np.uint8)
    square[top : top + shown[1], left : left + shown[0]] = cv2.resize(picture, shown, interpolation=method)
    return square, reduction, np.array((left, top), np.float32)


def _decoded(raw: np.ndarray, size: int) -> np.ndarray:
    """(N, 8, 2) px of the input from (N, 16): all but a box's size count from the middle of its cell."""
    boxes = raw.reshape(-1, 8, 2).copy()
    boxes[:, _PLACES] += _cell_middles()[:, None] * size
    return boxes


def _cell_middles() -> np.ndarray:
    """(N, 2) of 0..1: x, y for each box, in the order of the detector's outputs."""
    grids = []
    for cells, boxes in _BOX_CELLS:
        y, x = np.divmod(np.arange(cells * cells).repeat(boxes), cells)
        grids.append((np.column_stack((x, y)) + 0.5) / cells)
    return np.concatenate(grids).astype(np.float32)


def _merged(boxes: np.ndarray, scores: np.ndarray) -> list[np.ndarray]:
    """One (8, 2) for each group of overlapping boxes (N, 8, 2): their mean, by score."""
    merged = []
    left = np.argsort(-scores, kind="stable")
    while left.size:
        overlaps = _overlaps(boxes[left[0]], boxes[left]) > _MAX_OVERLAP
        overlaps[0] = True
        group = left[overlaps]
        merged.append(np.average(boxes[group], axis=0, weights=scores[group]))
        left = left[~overlaps]
    return merged


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,): shared area by joint area of one (8, 2) with (N, 8, 2)."""
    low = np.maximum(box[0] - box[1] / 2, others[:, 0] - others[:, 1] / 2)
    high = np.minimum(box[0] + box[1] / 2, others[:, 0] + others[:, 1] / 2)
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    return shared / np.maximum(np.prod(box[1]) + np.prod(others[:, 1], axis=1) - shared, 1e-9)


def _crop_of_points(points: np.ndarray) -> _Crop:
    """Around a detected face: (8, 2) as the detector gives it."""
    centre, size, eyes = points[0], points[1], points[2:]
    across = eyes[_RIGHT_EYE] - eyes[_LEFT_EYE]
    angle_rad = math.atan2(across[1], across[0])
    return _Crop((float(centre[0]), float(centre[1])), _CROP_FACTOR * float(size.max()), angle_rad)


def _crop_of_mesh(mesh_px: np.ndarray) -> _Crop:
    """Around a face whose points are known: the square that holds them along the eyes' line, with room."""
    left, right = eye_centres(mesh_px)
    angle_rad = math.atan2(right[1] - left[1], right[0] - left[0])
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    turn = np.array(((cos, -sin), (sin, cos)))  # from level to the picture
    level = mesh_px[:, :2] @ turn  # (468, 2)
    low, high = level.min(axis=0), level.max(axis=0)
    x, y = turn @ ((low + high) / 2)
    return _Crop((float(x), float(y)), _CROP_FACTOR * float((high - low).max()), angle_rad)


def _cut(picture: np.ndarray, crop: _Crop, size: int) -> np.ndarray:
    """(size, size, 3) uint8; the picture's edge goes on outside it, and what is reduced is averaged."""
    fine = size * min(max(round(crop.side_px / size), 1), _MAX_REDUCTION)
    to_picture = crop.to_picture(fine)
    reach = crop.side_px * 0.75 + 2  # half of the diagonal, and the neighbours of its last pixels
    (left, right), (top, bottom) = (
        _clipped(middle - reach, middle + reach, length)
        for middle, length in zip(crop.centre_px, (picture.shape[1], picture.shape[0]), strict=True)
    )
    to_part = to_picture.copy()
    to_part[:, 2] += (
        to_picture[:, :2].sum(axis=1) / 2 - 0.5 - (left, top)
    )  # OpenCV counts from pixels' middles
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    part = np.ascontiguousarray(picture[top:bottom, left:right])
    square = cv2.warpAffine(part, to_part, (fine, fine), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return square if fine == size else cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)


def _clipped(low: float, high: float, length: int) -> tuple[int, int]:
    """At least one pixel of 0..length."""
    start = min(max(math.floor(low), 0), length - 1)
    return start, max(min(math.ceil(high), length), start + 1)


def _placed(points: np.ndarray, crop: _Crop, size: int) -> np.ndarray:
    """(468, 3) float32 px of the picture from those of the crop.

    The network counts from the middle of a pixel: without the half, points of mirrored pictures were 1.0 px
    of the crop off each other's mirror image on average, with it 0.1 px.
    """
    to_picture = crop.to_picture(size)
    xy = (points[:, :2] + 0.5) @ to_picture[:, :2].T + to_picture[:, 2]  # (468, 2)
    return np.column_stack((xy, points[:, 2] * (crop.side_px / size))).astype(np.float32)
