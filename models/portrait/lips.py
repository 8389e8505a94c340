"""How the lips and the jaw of one face move with a pose: the ways of the mesh's points.

The unit is half the mouth's width in the picture, x to the right and y down along the face. The lips of the
picture are one state among others: `Pose.opening` 0 brings the inner lips together from wherever they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.face_topology import (
    CHIN,
    FACE_OVAL,
    INNER_LIP_LOWER,
    INNER_LIP_UPPER,
    MOUTH_LEFT,
    MOUTH_RIGHT,
    OUTER_LIP_LOWER,
    OUTER_LIP_UPPER,
)
from models.portrait.geometry import Frame, face_width_px, points_of, smooth_line, smooth_step, upright
from models.portrait.pose import Pose

_OPEN_GAP = 0.74  # between the inner lips at opening 1
_UPPER_SHARE = 0.16  # of the gap that the upper lip makes; the jaw makes the rest
_SEAM = 0.3  # where closed lips meet: from the upper inner lip (0) to the lower one (1)
_CHIN_SHARE = 0.42  # of the gap that the chin goes down
_ROUND_NARROWING, _WIDE_WIDENING, _OPEN_NARROWING = 0.30, 0.07, 0.07
_ROUND_GAP_LOSS = 0.25
_CLOSED_SWELL = 0.55  # of the lips of an open mouth, when they come together
_FLATTENING = (0.12, 0.5)  # of a smile's bow: at rest, and rounded
_CLOSED_GAP = 0.06  # below it the picture's mouth counts as closed
_INSET = 0.14  # of a lip's thickness: an open mouth's lips end a little before the teeth begin
_JAW_REACH = 0.46  # of the face's width to the side, where the jaw's way has ended
_CHEEK_SHARE = 0.35

_CHEEKS = (205, 425)
_JAW = (*FACE_OVAL[10:27], 199, 200, 175, 18, 32, 262, 211, 431)
_SKULL = (
    *FACE_OVAL[:10], *FACE_OVAL[27:], 168, 6, 197, 195, 5, 4, 1, 2, 98, 327, 94, 33, 133, 263, 362,
    159, 145, 386, 374, 70, 63, 105, 66, 107, 336, 296, 334, 293, 300, 50, 280, 101, 330, 117, 346, 118, 347,
    151, 9,
)  # fmt: skip
_CONTOUR_POINTS = 41


@dataclass(frozen=True, eq=False)
class LipPoints:
    """(11, 2) each, left corner to right corner."""

    upper_outer: np.ndarray
    upper_inner: np.ndarray
    lower_inner: np.ndarray
    lower_outer: np.ndarray


class Lips:
    """The points that hold or move the lower face, and where a pose takes them.

    Points come in groups: the skull's (never move), the jaw's, the cheeks', then one lip's two lines.
    """

    def __init__(self, mesh_px: np.ndarray) -> None:
        """`mesh_px`: (468, 2 or more)."""
        self.frame = _mouth_frame(mesh_px)
        self._face_width = face_width_px(mesh_px) / self.frame.scale_px
        self._skull = self._inside(mesh_px, _SKULL)
        self._jaw = self._inside(mesh_px, _JAW)
        self._cheeks = self._inside(mesh_px, _CHEEKS)
        self._chin_y = float(self._inside(mesh_px, (CHIN,))[0, 1])
        seen = LipPoints(
            *(
                self._inside(mesh_px, line)
                for line in (OUTER_LIP_UPPER, INNER_LIP_UPPER, INNER_LIP_LOWER, OUTER_LIP_LOWER)
            )
        )
        self.seen_gap = float(np.mean(seen.lower_inner[3:8, 1] - seen.upper_inner[3:8, 1]))
        self.openness = float(np.clip((self.seen_gap - _CLOSED_GAP) / _CLOSED_GAP, 0, 1))
        self.lips = _inset(seen, self.openness)
        self._jaw_weights = self._weigh_jaw()

    @property
    def moving(self) -> np.ndarray:
        """(N,) bool for the points of one side."""
        count = len(self._jaw) + len(self._cheeks) + 22
        return np.concatenate((np.zeros(len(self._skull), bool), np.ones(count, bool)))

    def points_px(self, *, upper: bool) -> np.ndarray:
        """(N, 2): all points with the upper or with the lower lip."""
        lip = (self.lips.upper_outer, self.lips.upper_inner)
        if not upper:
            lip = (self.lips.lower_outer, self.lips.lower_inner)
        return self.frame.to_picture(np.concatenate((self._skull, self._jaw, self._cheeks, *lip)))

    def contours_px(self) -> tuple[np.ndarray, np.ndarray]:
        """The inner lips of the picture as fine lines: (M, 2) upper, (M, 2) lower."""
        upper, lower = (
            self.frame.to_picture(_softened(smooth_line(line, _CONTOUR_POINTS)))
            for line in (self.lips.upper_inner, self.lips.lower_inner)
        )
        return upper, lower

    def gap(self, pose: Pose) -> float:
        """Between the inner lips at the middle."""
        return _OPEN_GAP * pose.opening * (1 + _ROUND_GAP_LOSS * min(pose.spread, 0.0))

    def ways_px(self, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
        """(moving, 2) with the upper lip and (moving, 2) with the lower one."""
        target = self._target(pose)
        corner = (target.upper_outer - self.lips.upper_outer)[[0, -1]]  # (2, 2)
        down = self._jaw_weights * _CHIN_SHARE * self.gap(pose)
        common = (np.column_stack((np.zeros_like(down), down)), corner * _CHEEK_SHARE)
        upper = (target.upper_outer - self.lips.upper_outer, target.upper_inner - self.lips.upper_inner)
        lower = (target.lower_outer - self.lips.lower_outer, target.lower_inner - self.lips.lower_inner)
        return (
            self.frame.vectors_px(np.concatenate((*common, *upper))),
            self.frame.vectors_px(np.concatenate((*common, *lower))),
        )

    def _inside(self, mesh_px: np.ndarray, indices: tuple[int, ...]) -> np.ndarray:
        return self.frame.inside(points_of(mesh_px, indices))

    def _weigh_jaw(self) -> np.ndarray:
        """(J,): how much of the chin's way each jaw point goes: less to the sides, none at the ears."""
        middle = self._skull[:, 0].mean()
        aside = np.abs(self._jaw[:, 0] - middle) / (_JAW_REACH * self._face_width)
        low = smooth_step(self._jaw[:, 1] / (0.4 * max(self._chin_y, 1e-3)))
        return np.clip(1 - aside**2.5, 0, 1) * low

    def _target(self, pose: Pose) -> LipPoints:
        """Where the lips are in a pose."""
        lips, rounding = self.lips, max(-pose.spread, 0.0)
        seam = lips.upper_inner + _SEAM * (lips.lower_inner - lips.upper_inner)  # (11, 2)
        bow = self._bow(seam, _FLATTENING[0] + rounding * (_FLATTENING[1] - _FLATTENING[0]))
        arch = self.gap(pose) * _arch(seam[:, 0])
        upper_y = seam[:, 1] + bow - _UPPER_SHARE * arch
        lower_y = seam[:, 1] + bow + (1 - _UPPER_SHARE) * arch
        swell = 1 + 0.3 * rounding - 0.08 * max(pose.spread, 0.0) - 0.1 * pose.opening
        swell += _CLOSED_SWELL * self.openness * max(1 - 2 * pose.opening, 0.0)
        above = swell * (lips.upper_inner - lips.upper_outer)[:, 1]
        below = swell * (lips.lower_outer - lips.lower_inner)[:, 1]
        width = self._width(pose)
        return LipPoints(
            _line(lips.upper_outer[:, 0] * width, upper_y - above),
            _line(lips.upper_inner[:, 0] * width, upper_y),
            _line(lips.lower_inner[:, 0] * width, lower_y),
            _line(lips.lower_outer[:, 0] * width, lower_y + below),
        )

    def _width(self, pose: Pose) -> float:
        """Of the mouth, by its width in the picture."""
        to_side = _WIDE_WIDENING if pose.spread > 0 else _ROUND_NARROWING
        return 1 + to_side * pose.spread - _OPEN_NARROWING * pose.opening

    def _bow(self, seam: np.ndarray, share: float) -> np.ndarray:
        """(11,): how far each place goes down so that a smile's raised corners come down by `share`."""
        corners = seam[[0, -1], 1].mean()
        depth = max(float(seam[5, 1] - corners), 0.0)
        return share * depth * np.clip(seam[:, 0] ** 2, 0, 1)


def _mouth_frame(mesh_px: np.ndarray) -> Frame:
    left, right = points_of(mesh_px, (MOUTH_LEFT, MOUTH_RIGHT))
    half_px = max(float(np.linalg.norm(right - left)) / 2, 0.12 * face_width_px(mesh_px), 1.0)
    return Frame((left + right) / 2, upright(mesh_px), half_px)


def _inset(seen: LipPoints, openness: float) -> LipPoints:
    """The inner lines moved into the lips, so that no teeth come along with an open mouth's lips."""
    share = _INSET * openness
    upper = seen.upper_inner + share * (seen.upper_outer - seen.upper_inner) * _only_y(seen)
    lower = seen.lower_inner + share * (seen.lower_outer - seen.lower_inner) * _only_y(seen)
    return LipPoints(seen.upper_outer, upper, lower, seen.lower_outer)


def _only_y(seen: LipPoints) -> np.ndarray:
    """(11, 2): nothing to the side, and nothing at the corners."""
    return np.column_stack((np.zeros(11), _arch(seen.upper_inner[:, 0])))


def _arch(x: np.ndarray) -> np.ndarray:
    """The outline of an open mouth: 1 in the middle, 0 at its corners; `x` from corner to corner."""
    low, high = x[0], x[-1]
    place = (2 * x - low - high) / max(high - low, 1e-6)
    return np.clip(1 - np.abs(place) ** 2.2, 0, 1) ** 0.8


def _softened(line: np.ndarray) -> np.ndarray:
    """(N, 2): without the small corners of a measured line; its ends stay."""
    for _ in range(6):
        inner = 0.25 * line[:-2] + 0.5 * line[1:-1] + 0.25 * line[2:]
        line = np.concatenate((line[:1], inner, line[-1:]))
    return line


def _line(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.column_stack((x, y))
