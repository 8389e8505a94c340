"""Draws a portrait in a pose: the picture, warped around mouth and eyes, with a mouth's inside painted in.

What moves is the mesh's face and a little of the neck below the chin. Outside `PortraitRenderer.area` every
frame is the picture itself, bit for bit. A frame is sampled from the picture once, so that it stays as
sharp as it was.
"""

from __future__ import annotations

import math

import numpy as np

from models import face_topology as mesh_lines
from models.faces import Face
from models.portrait.eyes import Lids, eye_white
from models.portrait.geometry import Frame, face_width_px, points_of, smooth_step, upright
from models.portrait.lips import Lips
from models.portrait.mouth import Mouth
from models.portrait.pixels import as_bytes, box_of, sampled
from models.portrait.pose import Pose
from models.portrait.warp import Layer, ThinPlate, between_nodes, fade, grid_around

_NODES_PER_WIDTH = 48
_BELOW_CHIN = 0.2  # of the face's width: how much of the neck gives way to the chin
_WARP_FADE, _HEAD_FADE = 0.18, 0.2  # of the face's width, from the border inwards
_SEAM_SOFTNESS = 0.35  # of half the mouth's width, for each such half beyond its corners
_MOUTH_REACH = (1.4, 0.9, 1.6)  # aside, up and down: around the mouth in half its widths
_WHOLE = (slice(None), slice(None))
_Pair = tuple[np.ndarray, np.ndarray]
"""What the upper lip's side has, and the lower lip's."""
_EYES = (
    (mesh_lines.LEFT_EYE_UPPER, mesh_lines.LEFT_EYE_LOWER, mesh_lines.LEFT_BROW_LOWER),
    (mesh_lines.RIGHT_EYE_UPPER, mesh_lines.RIGHT_EYE_LOWER, mesh_lines.RIGHT_BROW_LOWER),
)


class PortraitRenderer:
    """One picture and its face, ready to be drawn in any pose. Not safe for several threads at a time.

    `Pose()` is the face at rest: lips that the picture shows open are closed.
    """

    def __init__(self, picture: np.ndarray, face: Face) -> None:
        """`picture`: (H, W, 3) uint8 RGB; `face`: found in it."""
        mesh_px = face.mesh_px[:, :2].astype(np.float64) - 0.5  # the mesh counts from the pixels' edges
        self._picture = np.ascontiguousarray(picture)
        self._width_px = face_width_px(mesh_px)
        outline = _moving_outline(mesh_px, self._width_px)
        step_px = max(self._width_px / _NODES_PER_WIDTH, 1.0)
        self._grid = grid_around(outline, step_px, picture.shape)
        self._pixels = self._grid.pixels_px()
        self._places = self._grid.places(self._pixels)
        self._pivot = points_of(mesh_px, (mesh_lines.CHIN,))[0]
        self._right = upright(mesh_px)
        self._lips = Lips(mesh_px)
        self._prepare_layers(outline)
        white = eye_white(picture, mesh_px, [(*upper, *lower[::-1]) for upper, lower, _ in _EYES])
        self._mouth = Mouth(picture, self._lips, white)
        self._around_mouth = self._mouth_box()
        self._lids = [Lids(mesh_px, *eye) for eye in _EYES]

    @property
    def area(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 px: nothing outside this box ever changes."""
        grid = self._grid
        return grid.left, grid.top, grid.left + grid.width, grid.top + grid.height

    def draw(self, pose: Pose) -> np.ndarray:
        """(H, W, 3) uint8 RGB: a new array each time."""
        frame = self._picture.copy()
        rest = self._rest_px(pose)
        ways = self._lips.ways_px(pose)
        contours = self._contours_px(ways)
        part = sampled(self._picture, self._source_px(rest, ways, contours))
        self._paint_mouth(part, pose, contours)
        self._blink(part, pose, rest)
        frame[self._grid.rows_columns] = part
        return frame

    def _prepare_layers(self, outline: np.ndarray) -> None:
        nodes = self._grid.nodes_px()
        window = fade(nodes, outline, _WARP_FADE * self._width_px)
        still = fade(nodes, outline, _HEAD_FADE * self._width_px)
        self._nodes, self._head_share = nodes, still[..., None]
        unit_px = self._lips.frame.scale_px
        plates = [
            ThinPlate(self._lips.points_px(upper=upper), self._lips.moving, unit_px)
            for upper in (True, False)
        ]
        self._layers = [Layer(plate, self._grid, window) for plate in plates]
        self._contours = self._lips.contours_px()
        self._contour_weights = [
            layer.weights_at(contour) for layer, contour in zip(self._layers, self._contours, strict=True)
        ]

    def _mouth_box(self) -> tuple[slice, slice]:
        aside, up, down = _MOUTH_REACH
        box = np.array(((-aside, -up), (aside, -up), (aside, down), (-aside, down)))
        corners = self._lips.frame.to_picture(box) - (self._grid.left, self._grid.top)
        return box_of(corners, self._pixels.shape)

    def _head(self, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
        """The head's turn about the chin (2, 2) and its shift (2,) px."""
        angle = math.radians(pose.roll_deg)
        turn = np.array(((math.cos(angle), -math.sin(angle)), (math.sin(angle), math.cos(angle))))
        frame = Frame(self._pivot, self._right, self._width_px)
        return turn, frame.vectors_px(np.array((pose.shift_x, pose.shift_y)))

    def _rest_px(self, pose: Pose) -> np.ndarray:
        """(rows, columns, 2) float32: where each node's place of the face is when the head has not moved."""
        turn, shift = self._head(pose)
        # Inverse of pivot + turn (p - pivot) + shift, as a way that the border fades out.
        back = turn - np.eye(2)
        offset = (self._pivot + shift) @ back + shift
        way = self._nodes @ back.astype(np.float32) - offset.astype(np.float32)
        return self._nodes + self._head_share * way

    def _contours_px(self, ways: _Pair) -> _Pair:
        """The inner lips in this pose, the head not moved: (M, 2) each."""
        upper, lower = (
            contour + weights @ way
            for contour, weights, way in zip(self._contours, self._contour_weights, ways, strict=True)
        )
        return upper, lower

    def _source_px(self, rest: np.ndarray, ways: _Pair, contours: _Pair) -> np.ndarray:
        """(h, w, 2) float32: where each pixel's skin is in the picture.

        All is smooth enough for the nodes, but that the lips part: around them each pixel chooses its side.
        """
        upper, lower = (
            rest + self._grid.sample(layer.backwards(way), rest) - self._nodes
            for layer, way in zip(self._layers, ways, strict=True)
        )
        below = self._below_seam(rest, contours)[..., None]
        source = self._pixels + self._at_pixels(upper + below * (lower - upper))
        box = self._around_mouth
        near = self._at_pixels(np.concatenate((upper, lower, rest), axis=-1), box)  # (h, w, 6)
        below = self._below_seam(near[..., 4:], contours)[..., None]
        source[box] = self._pixels[box] + near[..., :2] + below * (near[..., 2:4] - near[..., :2])
        return source

    def _at_pixels(self, values: np.ndarray, box: tuple[slice, slice] = _WHOLE) -> np.ndarray:
        """The nodes' values (rows, columns, C) at the area's pixels: (h, w, C)."""
        return between_nodes(values, self._places[box])

    def _below_seam(self, rest: np.ndarray, contours: _Pair) -> np.ndarray:
        """(h, w) float32 at (h, w, 2): 0 on the upper lip's side, 1 on the lower one's; soft aside."""
        frame = self._lips.frame
        at = frame.inside(rest)
        upper, lower = (frame.inside(contour) for contour in contours)
        middle = (upper + lower) / 2
        x = at[..., 0]
        table = np.interp(np.linspace(-2, 2, 513), middle[:, 0], middle[:, 1]).astype(np.float32)
        seam = table[np.clip(np.rint(x * 128 + 256), 0, 512).astype(np.int32)]
        beyond = np.maximum(float(middle[0, 0]) - x, x - float(middle[-1, 0]))
        softness = 0.4 / frame.scale_px + _SEAM_SOFTNESS * np.clip(beyond, 0, 1)
        return smooth_step(0.5 + (at[..., 1] - seam) / (2 * softness))

    def _paint_mouth(self, part: np.ndarray, pose: Pose, contours: _Pair) -> None:
        turn, shift = self._head(pose)
        frame = self._lips.frame
        origin = self._pivot + turn @ (frame.origin_px - self._pivot) + shift
        moved = Frame(origin, turn @ frame.right, frame.scale_px)
        upper, lower = (frame.inside(contour) for contour in contours)
        patch = self._mouth.draw(upper, lower, 0.8 * self._lips.gap(pose))
        self._mouth.lay_in(part, (self._grid.left, self._grid.top), patch, moved)

    def _blink(self, part: np.ndarray, pose: Pose, rest: np.ndarray) -> None:
        if pose.blink <= 0:
            return
        turn, shift = self._head(pose)
        for lids in self._lids:
            outline = self._pivot + (lids.outline_px() - self._pivot) @ turn.T + shift
            box = box_of(outline - (self._grid.left, self._grid.top), part.shape)
            drawn = part[box].astype(np.float32)
            if drawn.size:
                lids.draw(drawn, self._picture, self._at_pixels(rest, box), min(pose.blink, 1.0))
                part[box] = as_bytes(drawn)


def _moving_outline(mesh_px: np.ndarray, width_px: float) -> np.ndarray:
    """(36, 2): the face's oval, carried a little below the chin."""
    oval = points_of(mesh_px, mesh_lines.FACE_OVAL)
    frame = Frame(oval.mean(axis=0), upright(mesh_px), width_px)
    inside = frame.inside(oval)
    lowest = max(float(inside[:, 1].max()), 1e-3)
    inside[:, 1] += _BELOW_CHIN * smooth_step(inside[:, 1] / lowest)
    return frame.to_picture(inside)
