"""Blinking: one eye's lids come together, as skin that slides over the eye."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from models.portrait.geometry import Frame, points_of, smooth_line, smooth_step, upright
from models.portrait.pixels import sampled

_MEETING = 0.76  # where the lids meet: from the open upper lid (0) to the open lower one (1)
_SKIN_ABOVE = 0.62  # of the way from the lid up to the brow: the skin that slides
_SKIN_BELOW = 0.45  # of the eye's half width
_LASHES = 0.24  # of the eye's half width: what stays whole along the upper lid
_CURVE = 1.6
_LINE_WIDTH = 0.06
_LINE_STRENGTH = 0.5
_POINTS = 65
_REACH = 1.25
_WIDER = (0.14, 0.1)  # up, down: the mesh's lids lie a little inside the eye
_OVERLAP_PX = 0.8
_SOFTNESS = 0.2  # of the stretched skin, so that lashes do not become streaks


class Lids:
    """The two lids of one eye. The unit is half the eye's width, x along the face's right, y down."""

    def __init__(
        self, mesh_px: np.ndarray, upper: Sequence[int], lower: Sequence[int], brow: Sequence[int]
    ) -> None:
        """`upper`, `lower` and `brow`: points of the mesh from left to right."""
        corners = points_of(mesh_px, (upper[0], upper[-1]))
        half_px = max(float(np.linalg.norm(corners[1] - corners[0])) / 2, 1.0)
        self._frame = Frame(corners.mean(axis=0), upright(mesh_px), half_px)
        upper_line, lower_line, brow_line = (
            self._frame.inside(points_of(mesh_px, line)) for line in (upper, lower, brow)
        )
        self._x = np.linspace(-_REACH, _REACH, 4 * _POINTS)
        upper_y, lower_y = self._along(upper_line), self._along(lower_line)
        wider = np.sqrt(np.clip(1 - self._x**2, 0, 1))
        self._upper = upper_y - _WIDER[0] * wider
        self._lower = np.maximum(lower_y, upper_y) + _WIDER[1] * wider
        self._above = max(_SKIN_ABOVE * float(self._upper.min() - brow_line[:, 1].mean()), 0.3)
        self._dark: np.ndarray | None = None

    def outline_px(self) -> np.ndarray:
        """(4, 2): corners of what a blink may touch."""
        top, bottom = self._upper.min() - self._above, self._lower.max() + _SKIN_BELOW
        box = np.array(((-_REACH, top), (_REACH, top), (_REACH, bottom), (-_REACH, bottom)))
        return self._frame.to_picture(box)

    def draw(self, drawn: np.ndarray, picture: np.ndarray, rest_px: np.ndarray, blink: float) -> None:
        """Shut the eye by `blink` in `drawn`, in place.

        `drawn`: (h, w, 3) float32; `rest_px`: (h, w, 2), where each of its pixels is with the head at rest.
        """
        at = self._frame.inside(rest_px)
        x, y = at[..., 0], at[..., 1]
        upper, lower = self._line_at(self._upper, x), self._line_at(self._lower, x)
        gap = lower - upper
        overlap = _OVERLAP_PX / self._frame.scale_px * np.clip(gap / 0.1, 0, 1)
        down, up = blink * (_MEETING * gap + overlap), blink * (1 - _MEETING) * gap
        in_front = y <= upper + down + 0.5 / self._frame.scale_px
        way = np.where(in_front, self._upper_way(y, upper, down), -self._lower_way(y, lower, up))
        source = rest_px - self._frame.vectors_px(np.stack((np.zeros_like(way), way), axis=-1))
        lids = self._lid_skin(picture, source, y, upper + down)
        sharp = self._frame.scale_px
        between = np.minimum((y - upper - down) * sharp, (lower - up - y) * sharp) + 0.5
        lids = self._with_line(lids, picture, (x, y - upper - down), blink)
        slides = (down + up > 0) & (y > upper - self._above) & (y < lower + _SKIN_BELOW)
        drawn += (slides * (1 - np.clip(between, 0, 1)))[..., None] * (lids - drawn)

    def _lid_skin(
        self, picture: np.ndarray, source: np.ndarray, y: np.ndarray, edge: np.ndarray
    ) -> np.ndarray:
        """(h, w, 3) float32 at `source`; smoother where the upper lid is stretched, above its `edge`."""
        sharp = sampled(picture, source).astype(np.float32)
        soft = cv2.GaussianBlur(sharp, (0, 0), max(_SOFTNESS * self._frame.scale_px, 0.3))
        above = edge - _LASHES - y
        stretched = smooth_step(above / 0.1) * smooth_step((self._above - above) / 0.4)
        stretched *= np.clip((edge - self._line_at(self._upper, np.zeros(1))) / 0.3, 0, 1)
        return sharp + (0.8 * stretched)[..., None] * (soft - sharp)

    def _upper_way(self, y: np.ndarray, upper: np.ndarray, down: np.ndarray) -> np.ndarray:
        """How far down the upper lid's skin has come, at each place of the drawn frame."""
        top = upper - self._above
        reach = np.maximum(self._above + down - _LASHES, 1e-3)
        return np.asarray(down * np.clip((y - top) / reach, 0, 1) ** _CURVE)

    def _lower_way(self, y: np.ndarray, lower: np.ndarray, up: np.ndarray) -> np.ndarray:
        place = (y - lower + up) / _SKIN_BELOW
        way = up * (1 - smooth_step(place))
        return np.where(y >= lower - up - 0.5 / self._frame.scale_px, way, 0)

    def _with_line(
        self, lids: np.ndarray, picture: np.ndarray, at: tuple[np.ndarray, np.ndarray], blink: float
    ) -> np.ndarray:
        """The dark line of the lashes along the upper lid's edge, as strong as the eye is shut."""
        x, below_edge = at
        if self._dark is None:
            self._dark = self._lash_colour(picture)
        width = max(_LINE_WIDTH, 0.9 / self._frame.scale_px)
        strength = _LINE_STRENGTH * float(
            np.clip(self._frame.scale_px / 10, 0.4, 1) * smooth_step(np.array(blink))
        )
        line = np.exp(-((below_edge / width) ** 2)) * np.clip(1 - x**4, 0, 1)
        return lids + (strength * line)[..., None] * (self._dark - lids)

    def _lash_colour(self, picture: np.ndarray) -> np.ndarray:
        """(3,): the darkest third along the open upper lid."""
        inside = np.abs(self._x) < 0.8
        edge = self._frame.to_picture(np.column_stack((self._x, self._upper - 0.03))[inside])
        colours = sampled(picture, edge[None])[0].astype(np.float32)
        luma = colours.mean(axis=-1)
        return np.asarray(colours[luma <= np.percentile(luma, 34)].mean(axis=0))

    def _along(self, line: np.ndarray) -> np.ndarray:
        """The y of a lid at each of `self._x`; level beyond its corners."""
        fine = smooth_line(line, _POINTS)
        fine = fine[np.argsort(fine[:, 0], kind="stable")]
        return np.interp(self._x, fine[:, 0], fine[:, 1])

    def _line_at(self, line: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.interp(x, self._x, line)


def eye_white(picture: np.ndarray, mesh_px: np.ndarray, outlines: Sequence[Sequence[int]]) -> np.ndarray:
    """(3,) float32: what white is in this picture's light, by the brightest pixels of the eyes."""
    mask = np.zeros(picture.shape[:2], np.uint8)
    for outline in outlines:
        cv2.fillPoly(mask, [np.rint(points_of(mesh_px, outline)).astype(np.int32)], 1)
    pixels = picture[mask > 0].astype(np.float32)
    if not len(pixels):
        return np.full(3, 190, np.float32)
    luma = pixels.mean(axis=-1)
    white = pixels[luma >= np.percentile(luma, 85)].mean(axis=0)
    grey = white.mean()
    return np.asarray(np.clip(0.5 * (white + grey) * 1.12, 70, 235), np.float32)
