"""Which points of the 468-point face mesh are what, and measures of a face that are taken from them.

Indices of MediaPipe's canonical face model (github.com/google-ai-edge/mediapipe, modules/face_geometry/data).
Left and right are those of the picture, for an upright face: the left eye is the person's right one. Lines
of points run from left to right unless they say otherwise. A mesh is (468, 2 or more): x and y in px.
"""

from __future__ import annotations

import numpy as np

NUM_POINTS = 468

MOUTH_LEFT, MOUTH_RIGHT = 61, 291
OUTER_LIP_UPPER = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
OUTER_LIP_LOWER = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)
INNER_LIP_LEFT, INNER_LIP_RIGHT = 78, 308
INNER_LIP_UPPER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
INNER_LIP_LOWER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)

LEFT_EYE_UPPER = (33, 246, 161, 160, 159, 158, 157, 173, 133)
LEFT_EYE_LOWER = (33, 7, 163, 144, 145, 153, 154, 155, 133)
RIGHT_EYE_UPPER = (362, 398, 384, 385, 386, 387, 388, 466, 263)
RIGHT_EYE_LOWER = (362, 382, 381, 380, 374, 373, 390, 249, 263)

LEFT_BROW_UPPER = (70, 63, 105, 66, 107)
LEFT_BROW_LOWER = (46, 53, 52, 65, 55)
RIGHT_BROW_UPPER = (336, 296, 334, 293, 300)
RIGHT_BROW_LOWER = (285, 295, 282, 283, 276)

NOSE_TIP = 1
NOSE_BRIDGE = (168, 6, 197, 195, 5, 4, 1)
"""From between the eyes down to the tip."""
FOREHEAD, CHIN = 10, 152
CHEEK_LEFT, CHEEK_RIGHT = 234, 454
"""Where the face's outline is widest, before the ears."""
FACE_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
"""From the forehead clockwise, not closed."""

MIRRORED_LINES = (
    (LEFT_EYE_UPPER, RIGHT_EYE_UPPER),
    (LEFT_EYE_LOWER, RIGHT_EYE_LOWER),
    (LEFT_BROW_UPPER, RIGHT_BROW_UPPER),
    (LEFT_BROW_LOWER, RIGHT_BROW_LOWER),
    (OUTER_LIP_UPPER, OUTER_LIP_UPPER),
    (OUTER_LIP_LOWER, OUTER_LIP_LOWER),
    (INNER_LIP_UPPER, INNER_LIP_UPPER),
    (INNER_LIP_LOWER, INNER_LIP_LOWER),
)
"""Lines and their mirror images: the first from left to right is the second from right to left."""

_LIP_MIDDLE = slice(3, 8)  # of the eleven points of a lip
_LID_MIDDLE = slice(2, 7)  # of the nine points of a lid


def mouth_opening(mesh: np.ndarray) -> float:
    """The gap between the inner lips at the middle, by the mouth's width: 0 is closed."""
    return _gap_px(mesh, INNER_LIP_UPPER, INNER_LIP_LOWER, _LIP_MIDDLE) / _distance(
        mesh, MOUTH_LEFT, MOUTH_RIGHT
    )


def mouth_width(mesh: np.ndarray) -> float:
    """Corner to corner, by the distance between the eyes' middles."""
    return _distance(mesh, MOUTH_LEFT, MOUTH_RIGHT) / eye_distance_px(mesh)


def eye_opening(mesh: np.ndarray) -> tuple[float, float]:
    """Of the left and the right eye: the gap between the lids at the middle, by the eye's width."""
    return _lid_gap(mesh, LEFT_EYE_UPPER, LEFT_EYE_LOWER), _lid_gap(mesh, RIGHT_EYE_UPPER, RIGHT_EYE_LOWER)


def eye_distance_px(mesh: np.ndarray) -> float:
    """Between the middles of the two eyes."""
    left, right = eye_centres(mesh)
    return max(float(np.linalg.norm(right - left)), 1e-6)


def eye_centres(mesh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(2,) of the left and of the right eye, in px: halfway between its corners."""
    points = mesh[:, :2]
    left = points[[LEFT_EYE_UPPER[0], LEFT_EYE_UPPER[-1]]].mean(axis=0)
    right = points[[RIGHT_EYE_UPPER[0], RIGHT_EYE_UPPER[-1]]].mean(axis=0)
    return left, right


def _lid_gap(mesh: np.ndarray, upper: tuple[int, ...], lower: tuple[int, ...]) -> float:
    return _gap_px(mesh, upper, lower, _LID_MIDDLE) / _distance(mesh, upper[0], upper[-1])


def _gap_px(mesh: np.ndarray, upper: tuple[int, ...], lower: tuple[int, ...], middle: slice) -> float:
    """Mean over `middle`, along the face's own direction down; lines that have swapped count as closed."""
    across = np.subtract(*reversed(eye_centres(mesh)))  # (2,) from the left eye to the right one
    down = np.array((-across[1], across[0])) / max(float(np.linalg.norm(across)), 1e-6)  # (2,)
    gaps = (mesh[list(lower[middle]), :2] - mesh[list(upper[middle]), :2]) @ down  # (N,)
    return max(float(gaps.mean()), 0.0)


def _distance(mesh: np.ndarray, a: int, b: int) -> float:
    return max(float(np.linalg.norm(mesh[a, :2] - mesh[b, :2])), 1e-6)
