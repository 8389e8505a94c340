"""The inside of a talking mouth: teeth, tongue and the dark behind them, seen between the inner lips.

It is drawn upright in the mouth's own frame (see lips.py), finer than the picture where the mouth is small,
and then turned into the picture. Upper teeth stay with the skull; lower teeth and tongue go with the jaw.
Teeth that the picture shows are kept and carried on to where a lip covers them; others are painted in the
eyes' white.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from models.portrait.geometry import Frame, smooth_step
from models.portrait.lips import Lips
from models.portrait.pixels import as_bytes, box_of

_UNIT_PX = 76  # half a mouth's width is drawn at least about so large
_MAX_FINENESS = 4
_REACH = 1.2  # of the drawing to each side
_MARGIN = 0.3
_SUBPIXEL_BITS = 4
_TOOTH_TINT = np.array((1.0, 0.965, 0.9), np.float32)
_DARK = np.array((0.17, 0.055, 0.05), np.float32)  # of a white's brightness, far inside
_SHADOW = np.array((0.36, 0.23, 0.21), np.float32)  # of the lips' colour, where they all but meet
_TONGUE = np.array((0.60, 0.25, 0.24), np.float32)
_UPPER_HEIGHT = 0.26  # of upper teeth that the picture does not show
_MIN_TEETH_SHARE = 0.25  # of the seen mouth's inside that is bright, for it to count as teeth
_LEAST_LIGHT, _LIT_GAP = (
    0.25,
    0.3,
)  # on what shows between lips that just part; the gap that lets all light in
_BOUNCES = 1.0  # of light that enters a narrow gap, from lip to lip, which makes it their colour
_SEAM_WIDTH = 0.022  # of the shadow where closed lips meet


@dataclass(frozen=True, eq=False)
class Patch:
    """Colour to lay over something: (h, w, 3) float32 0..255, and how much of it, (h, w, 1) float32 0..1.

    `first_row`: of the whole drawing, which the patch is a stripe of.
    """

    colour: np.ndarray
    alpha: np.ndarray
    first_row: int = 0


class Mouth:
    """Draws the mouth's inside for given inner lips. All coordinates are units of `lips.frame`."""

    def __init__(self, picture: np.ndarray, lips: Lips, white: np.ndarray) -> None:
        """`picture`: (H, W, 3) uint8 RGB; `white`: (3,) the eyes' white in this light."""
        self.fineness = int(np.clip(round(_UNIT_PX / lips.frame.scale_px), 1, _MAX_FINENESS))
        self._unit_px = lips.frame.scale_px * self.fineness
        self._seam_always = lips.openness
        inner = np.concatenate((lips.lips.upper_inner, lips.lips.lower_inner))
        self._corner = (-_REACH, float(inner[:, 1].min()) - _MARGIN)
        bottom = float(inner[:, 1].max()) + 0.95 + _MARGIN
        size = np.array((2 * _REACH, bottom - self._corner[1])) * self._unit_px
        self._size = int(size[0]) + 1, int(size[1]) + 1
        self._x, self._y = self._coordinates()
        seam = 0.55 * lips.lips.upper_inner + 0.45 * lips.lips.lower_inner
        self._seam_y = np.interp(self._x[0], seam[:, 0], seam[:, 1]).astype(np.float32)
        self._dark = _DARK * white
        seen = self._upright(picture, lips.frame)
        lip = self._lip_colour(seen, lips)
        self._shadow = _SHADOW * lip
        self._glow = np.clip(lip / max(float(lip.max()), 1.0), 0.05, 1)
        self._upper = self._upper_teeth(seen, lips, white)
        self._lower = self._below(white)

    def draw(self, upper: np.ndarray, lower: np.ndarray, jaw_way: float) -> Patch:
        """Between the inner lips (M, 2), upper and lower from left to right, with the jaw `jaw_way` down."""
        outline = self._outline(upper, lower)
        rows = self._rows(outline)
        mask = self._filled(outline, rows)
        shift = np.array(((1, 0, 0), (0, 1, jaw_way * self._unit_px - rows.start)), np.float32)
        size = self._size[0], rows.stop - rows.start
        behind = cv2.warpAffine(self._lower, shift, size, borderValue=self._dark.tolist())
        colour = behind + self._upper.alpha[rows] * (self._upper.colour[rows] - behind)
        light = self._light(upper, lower) * self._shade(mask, upper)
        colour *= self._glow ** (_BOUNCES * (1 - light))
        return Patch(self._shadow + light * (colour - self._shadow), mask[..., None], rows.start)

    def _coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        """(h, w) float32 x and y of each of the drawing's pixels."""
        x, y = np.meshgrid(np.arange(self._size[0]), np.arange(self._size[1]))
        return (
            (x / self._unit_px + self._corner[0]).astype(np.float32),
            (y / self._unit_px + self._corner[1]).astype(np.float32),
        )

    def _outline(self, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """(2 M, 2) px of the drawing: what lies between the lips, with the shadow of closed ones."""
        gap = float(np.clip((lower[:, 1] - upper[:, 1]).max(), 0, None))
        strength = max(self._seam_always, min(gap / 0.1, 1.0))
        taper = np.sqrt(np.clip(1 - np.linspace(-1, 1, len(upper)) ** 2, 0, 1)) * _SEAM_WIDTH / 2 * strength
        outline = np.concatenate((upper - _down(taper), (lower + _down(taper))[::-1]))
        return np.asarray((outline - self._corner) * self._unit_px)

    def _rows(self, outline: np.ndarray) -> slice:
        """Of the drawing: those that the outline touches."""
        low, high = outline[:, 1].min() - 2 * self.fineness, outline[:, 1].max() + 2 * self.fineness
        first, last = (int(np.clip(row, 0, self._size[1] - 1)) for row in (low, high))
        return slice(first, last + 1)

    def _filled(self, outline: np.ndarray, rows: slice) -> np.ndarray:
        """(rows, w) float32 0..1: inside the outline."""
        mask = np.zeros((rows.stop - rows.start, self._size[0]), np.uint8)
        pixels = (outline - (0, rows.start)) * (1 << _SUBPIXEL_BITS)
        cv2.fillPoly(mask, [np.rint(pixels).astype(np.int32)], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        soft = cv2.GaussianBlur(mask, (0, 0), 0.35 * self.fineness)
        return soft.astype(np.float32) / 255

    def _light(self, upper: np.ndarray, lower: np.ndarray) -> float:
        """How much light comes in between the lips."""
        gap = float((lower[:, 1] - upper[:, 1]).max())
        return _LEAST_LIGHT + (1 - _LEAST_LIGHT) * float(smooth_step(np.array(gap / _LIT_GAP)))

    def _shade(self, mask: np.ndarray, upper: np.ndarray) -> np.ndarray:
        """(h, w, 1): the lips' shadow on what is behind them; deeper in the corners and in a narrow gap."""
        near = cv2.blur(mask, (_odd(0.2 * self._unit_px),) * 2, borderType=cv2.BORDER_CONSTANT)
        lit = smooth_step((near - 0.12) / 0.7)
        half = max(float(upper[-1, 0] - upper[0, 0]) / 2, 1e-3)
        aside = (self._x[0] - float(upper[:, 0].mean())) / half
        return (lit * np.clip(1 - 0.8 * aside**4, 0.2, 1))[..., None]

    def _upper_teeth(self, seen: np.ndarray, lips: Lips, white: np.ndarray) -> Patch:
        shown = self._shown_teeth(seen, lips)
        if shown is None:
            bottom = self._seam_y + _UPPER_HEIGHT / 2
            return Patch(self._painted_row(white * _TOOTH_TINT, bottom), self._row_alpha(bottom, (-0.9, 0.9)))
        columns = self._x[0, shown.any(axis=0)]
        ends = float(columns[0]) - 0.2, float(columns[-1]) + 0.2
        return Patch(self._carried_on(seen, shown), self._row_alpha(self._lower_edge(shown), ends))

    def _lip_colour(self, seen: np.ndarray, lips: Lips) -> np.ndarray:
        """(3,) float32: of the lower lip in the picture."""
        middle = (lips.lips.lower_inner + lips.lips.lower_outer)[3:8] / 2
        place = ((middle - self._corner) * self._unit_px).round().astype(int)
        x, y = np.clip(place, 0, np.array(self._size) - 1).T
        return np.asarray(np.median(seen[y, x], axis=0), np.float32)

    def _upright(self, picture: np.ndarray, frame: Frame) -> np.ndarray:
        """(h, w, 3) float32: the picture's mouth in the drawing."""
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        affine = frame.affine_from(self._unit_px, self._corner)
        drawn = cv2.warpAffine(picture, affine, self._size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return drawn.astype(np.float32)

    def _shown_teeth(self, seen: np.ndarray, lips: Lips) -> np.ndarray | None:
        """(h, w) float32 0..1: where the picture shows upper teeth; None where it shows (almost) none."""
        upper, lower = lips.lips.upper_inner, lips.lips.lower_inner
        top = np.interp(self._x[0], upper[:, 0], upper[:, 1])
        bottom = np.interp(self._x[0], lower[:, 0], lower[:, 1])
        depth = np.minimum(self._y - top, np.minimum(bottom, top + 0.45) - self._y)
        inside = (depth > 0.05) & (np.abs(self._x) < 0.8)
        if lips.openness < 1 or not inside.any():
            return None
        luma = seen.mean(axis=-1)
        pale = seen.min(axis=-1) > 0.62 * seen.max(axis=-1)
        teeth = inside & pale & (luma > 0.6 * np.percentile(luma[inside], 95))
        return teeth.astype(np.float32) if teeth.sum() > _MIN_TEETH_SHARE * inside.sum() else None

    def _lower_edge(self, shown: np.ndarray) -> np.ndarray:
        """(w,) y: a round line along the lowest teeth seen."""
        columns = np.flatnonzero(shown.any(axis=0))
        lowest = shown.shape[0] - 1 - np.argmax(shown[::-1, columns] > 0, axis=0)
        x = self._x[0]
        line = np.polynomial.Polynomial.fit(x[columns], self._y[lowest, 0], 2)
        return np.asarray(line(np.clip(x, x[columns[0]], x[columns[-1]])), np.float32) + 0.05

    def _carried_on(self, seen: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """(h, w, 3): the teeth seen, and their colours spread up, down and aside."""
        spread = seen
        for across, along in ((0.5, 0.9), (0.25, 0.5), (0.04, 0.35)):
            size = _odd(across * self._unit_px), _odd(along * self._unit_px)
            share = cv2.blur(shown, size)[..., None]
            mean = cv2.blur(seen * shown[..., None], size) / np.maximum(share, 1e-3)
            known = smooth_step(share / 0.15)
            start = seen[shown > 0].mean(axis=0) if spread is seen else spread
            spread = start + known * (mean - start)
        soft = cv2.GaussianBlur(cv2.erode(shown, np.ones((3, 3), np.uint8)), (0, 0), 0.02 * self._unit_px)
        return (spread + soft[..., None] * (seen - spread)).astype(np.float32)

    def _painted_row(self, colour: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        """(h, w, 3): a row of teeth that ends at `bottom` (w,)."""
        to_side = np.clip(np.abs(self._x) / 0.95, 0, 1)
        round_off = np.sqrt(1 - 0.85 * to_side**2)
        upwards = np.clip((bottom - self._y) / (2 * _UPPER_HEIGHT), 0, 1)
        between = np.exp(-((self._tooth_phase() / 0.1) ** 2))
        light = round_off * (1 - 0.18 * upwards) * (1 - 0.16 * between)
        return (colour * light[..., None]).astype(np.float32)

    def _tooth_phase(self) -> np.ndarray:
        """(h, w) -0.5..0.5: 0 between two teeth; teeth look narrower to the sides."""
        place = np.arcsin(np.clip(self._x / 0.98, -1, 1)) / 0.29
        return place - np.rint(place)

    def _row_alpha(self, bottom: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
        """(h, w, 1): a row of teeth down to `bottom`, each a little round below, from one x to another."""
        gap = 0.025 * np.exp(-((self._tooth_phase() / 0.14) ** 2))
        edge = np.clip((bottom - gap - self._y) * self._unit_px / (0.9 * self.fineness) + 0.5, 0, 1)
        sides = smooth_step(np.minimum(self._x - ends[0], ends[1] - self._x) / 0.3)
        return (edge * sides)[..., None].astype(np.float32)

    def _below(self, white: np.ndarray) -> np.ndarray:
        """(h, w, 3) float32: tongue and lower teeth before the dark, the jaw being up."""
        middle = float(self._seam_y[len(self._seam_y) // 2])
        away = (self._x / 0.62) ** 2 + ((self._y - middle - 0.12) / 0.36) ** 2
        tongue_alpha = 0.9 * smooth_step((1.1 - away) / 0.7)
        height = smooth_step((self._y - middle + 0.25) / 0.5)
        tongue = _TONGUE * white * (0.45 + 0.55 * height[..., None])
        top = self._seam_y - 0.02 - 0.1 * self._x[0] ** 2
        teeth_alpha = np.clip((self._y - top) * self._unit_px / self.fineness + 0.5, 0, 1)
        teeth_alpha = teeth_alpha * smooth_step((0.66 - np.abs(self._x)) / 0.2)
        teeth = self._painted_row(0.55 * white * _TOOTH_TINT, top)
        colour = tongue + (0.85 * teeth_alpha)[..., None] * (teeth - tongue)
        alpha = np.maximum(tongue_alpha, 0.85 * teeth_alpha)[..., None]
        return (self._dark + alpha * (colour - self._dark)).astype(np.float32)

    def lay_in(self, part: np.ndarray, corner_px: tuple[int, int], patch: Patch, frame: Frame) -> None:
        """Lay what `draw` gave over a part of the picture, in place.

        `corner_px`: x, y of the part's first pixel; `frame`: where the mouth's own frame is by now.
        """
        corner = self._corner[0], self._corner[1] + patch.first_row / self._unit_px
        affine = frame.affine_from(self._unit_px, corner)  # (2, 3)
        affine[:, 2] -= corner_px
        rows, columns = box_of(_corners(patch) @ affine[:, :2].T + affine[:, 2], part.shape)
        height_px, width_px = rows.stop - rows.start, columns.stop - columns.start
        if not (height_px and width_px):
            return
        fine = self.fineness
        affine[:, 2] -= columns.start, rows.start
        affine[:, 2] += 0.5 - 0.5 / fine  # the first of the finer pixels is that far from their middle
        drawing = np.dstack((patch.colour * patch.alpha, patch.alpha))
        turned = cv2.warpAffine(drawing, affine * fine, (width_px * fine, height_px * fine))
        turned = cv2.resize(turned, (width_px, height_px), interpolation=cv2.INTER_AREA)
        below = part[rows, columns].astype(np.float32)
        part[rows, columns] = as_bytes(below * (1 - turned[..., 3:]) + turned[..., :3])


def _down(way: np.ndarray) -> np.ndarray:
    return np.column_stack((np.zeros_like(way), way))


def _corners(patch: Patch) -> np.ndarray:
    """(4, 2): x, y of its corner pixels."""
    height, width = patch.alpha.shape[:2]
    return np.array(((0, 0), (width, 0), (width, height), (0, height)))


def _odd(size_px: float) -> int:
    return 2 * int(size_px / 2) + 1
