"""A portrait is drawn in a pose: what must move does, by as much as asked, and nothing else does."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from PIL import Image

from models import face_topology as topology
from models.face_weights import FACE_WEIGHTS
from models.faces import Face, FaceFinder, load_face_finder
from models.portrait.pose import Pose
from models.portrait.renderer import PortraitRenderer
from models.weights import locate
from tests.stores import SAMPLES

TALKING = Pose(opening=0.7, spread=-0.4, blink=0.6, shift_x=0.012, shift_y=-0.01, roll_deg=1.0)
UPPER_FACE = [
    *topology.LEFT_EYE_UPPER,
    *topology.RIGHT_EYE_UPPER,
    *topology.LEFT_BROW_UPPER,
    *topology.RIGHT_BROW_UPPER,
    *topology.NOSE_BRIDGE,
]


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return load_face_finder({weight.path: locate(weight) for weight in FACE_WEIGHTS})


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.asarray(Image.open(SAMPLES / "portrait.png").convert("RGB"))


@pytest.fixture(scope="module")
def face(finder: FaceFinder, picture: np.ndarray) -> Face:
    return finder.find(picture)[0]


@pytest.fixture(scope="module")
def renderer(picture: np.ndarray, face: Face) -> PortraitRenderer:
    return PortraitRenderer(picture, face)


def moved(picture: np.ndarray, face: Face, matrix: np.ndarray) -> tuple[np.ndarray, Face]:
    """The picture and its face under a (2, 3) map of px (from pixels' edges), in a picture of 512x512."""
    of_middles = matrix.copy()
    of_middles[:, 2] += matrix[:, :2].sum(axis=1) / 2 - 0.5
    shown = cv2.warpAffine(picture, of_middles, (512, 512), flags=cv2.INTER_AREA)
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    xy = face.mesh_px[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    return shown, face_at(np.column_stack((xy, face.mesh_px[:, 2] * scale)).astype(np.float32))


def face_at(mesh_px: np.ndarray) -> Face:
    low, high = mesh_px[:, :2].min(axis=0).tolist(), mesh_px[:, :2].max(axis=0).tolist()
    return Face((*low, *high), 1.0, mesh_px)


def mesh_of(finder: FaceFinder, frame: np.ndarray, near: Face) -> np.ndarray:
    found = finder.mesh(frame, near)
    assert found is not None
    return found.mesh_px


def around(face: Face, points: tuple[int, ...], margin: float) -> tuple[slice, slice]:
    """Rows and columns around points of the mesh; `margin` in widths of the face."""
    at = face.mesh_px[list(points), :2]
    reach = margin * (face.box_px[2] - face.box_px[0])
    low, high = np.floor(at.min(axis=0) - reach).astype(int), np.ceil(at.max(axis=0) + reach).astype(int)
    return slice(max(low[1], 0), high[1]), slice(max(low[0], 0), high[0])


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(H, W) of the strongest channel."""
    return np.abs(a.astype(int) - b.astype(int)).max(axis=-1)


def dark_pixels(frame: np.ndarray, face: Face) -> int:
    """In the mouth: those darker than any lip or tooth."""
    inside = (*topology.INNER_LIP_UPPER[3:8], *topology.INNER_LIP_LOWER[3:8])
    return int((frame[around(face, inside, 0.1)].max(axis=-1) < 60).sum())


def white_share(pixels: np.ndarray) -> float:
    """Of bright pixels without the lips' red."""
    red, green, _ = np.moveaxis(pixels.astype(float), -1, 0)
    return float(((green > 0.9 * red) & (red > 180)).mean())


def test_frames_are_like_the_picture_and_leave_it_alone(
    renderer: PortraitRenderer, picture: np.ndarray
) -> None:
    before = picture.copy()
    frame = renderer.draw(TALKING)
    assert frame.shape == picture.shape
    assert frame.dtype == np.uint8
    assert np.array_equal(picture, before)
    assert not np.shares_memory(frame, renderer.draw(TALKING))


def test_outside_its_area_not_a_bit_changes_and_its_border_has_no_edge(
    renderer: PortraitRenderer, picture: np.ndarray
) -> None:
    changed = difference(renderer.draw(TALKING), picture)
    x0, y0, x1, y1 = renderer.area
    inside = changed[y0:y1, x0:x1].copy()
    changed[y0:y1, x0:x1] = 0
    assert not changed.any()
    assert inside.max() > 60
    for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
        assert edge.max() == 0


def test_the_picture_around_the_face_stays(
    renderer: PortraitRenderer, picture: np.ndarray, face: Face
) -> None:
    outline = face.mesh_px[list(topology.FACE_OVAL), :2].astype(int)
    mask = cv2.fillPoly(np.zeros(picture.shape[:2], np.uint8), [outline], 1)
    mask[outline[:, 1].max() - 20 :] = 1  # the chin moves the neck
    changed = difference(renderer.draw(TALKING), picture)
    assert changed[cv2.dilate(mask, np.ones((5, 5))) == 0].max() == 0


def test_the_same_pose_gives_the_same_frame(
    picture: np.ndarray, face: Face, renderer: PortraitRenderer
) -> None:
    frame = renderer.draw(TALKING)
    renderer.draw(Pose())
    assert np.array_equal(renderer.draw(TALKING), frame)
    assert np.array_equal(PortraitRenderer(picture, face).draw(TALKING), frame)


def test_the_mouth_opens_as_far_as_asked(
    renderer: PortraitRenderer, finder: FaceFinder, picture: np.ndarray, face: Face
) -> None:
    meshes = [
        mesh_of(finder, renderer.draw(Pose(opening=opening)), face) for opening in (0, 0.15, 0.3, 0.6, 1)
    ]
    openings = [topology.mouth_opening(mesh) for mesh in meshes]
    assert openings[0] < 0.08
    assert openings[-1] > 0.2  # the mesh network reads a gap of 0.45 as about this
    assert all(a < b for a, b in pairwise(openings)), openings
    source = mesh_of(finder, picture, face)
    for mesh in meshes:
        away = np.linalg.norm((mesh - source)[UPPER_FACE, :2], axis=-1)
        assert away.max() < 0.02 * face.size_px


def test_the_gap_grows_with_the_opening(renderer: PortraitRenderer, face: Face) -> None:
    dark = [dark_pixels(renderer.draw(Pose(opening=opening)), face) for opening in (0.3, 0.5, 0.7, 0.9)]
    assert all(a < b for a, b in pairwise(dark)), dark


def test_closed_lips_hide_the_teeth_that_the_picture_shows(
    renderer: PortraitRenderer, picture: np.ndarray, face: Face
) -> None:
    box = around(face, (13, 14, 82, 312, 87, 317), 0.0)
    shown, closed = (white_share(frame[box]) for frame in (picture, renderer.draw(Pose())))
    assert shown > 0.2
    assert closed < 0.1 * shown
    assert dark_pixels(renderer.draw(Pose()), face) == 0


def test_the_lips_go_round_and_wide(renderer: PortraitRenderer, finder: FaceFinder, face: Face) -> None:
    widths = [
        topology.mouth_width(mesh_of(finder, renderer.draw(Pose(opening=0.3, spread=spread)), face))
        for spread in (-1, 0, 1)
    ]
    assert widths[0] < 0.9 * widths[1]
    assert widths[2] > 1.005 * widths[1]


def test_a_blink_changes_the_eyes_alone(renderer: PortraitRenderer, face: Face) -> None:
    changed = difference(renderer.draw(Pose(blink=1)), renderer.draw(Pose()))
    for upper, lower, brow in (
        (topology.LEFT_EYE_UPPER, topology.LEFT_EYE_LOWER, topology.LEFT_BROW_LOWER),
        (topology.RIGHT_EYE_UPPER, topology.RIGHT_EYE_LOWER, topology.RIGHT_BROW_LOWER),
    ):
        eye = around(face, (*upper, *lower, *brow), 0.05)
        assert changed[eye].max() > 60
        changed[eye] = 0
    assert not changed.any()


def test_shut_eyes_show_no_white(renderer: PortraitRenderer, picture: np.ndarray, face: Face) -> None:
    for upper, lower in (
        (topology.LEFT_EYE_UPPER, topology.LEFT_EYE_LOWER),
        (topology.RIGHT_EYE_UPPER, topology.RIGHT_EYE_LOWER),
    ):
        box = around(face, (*upper[2:7], *lower[2:7]), 0.0)
        contrasts = [
            float(np.ptp(renderer.draw(Pose(blink=blink))[box].astype(float).mean(axis=-1)))
            for blink in (0, 1)
        ]
        assert contrasts[1] < 0.8 * contrasts[0]


def test_the_head_moves_the_face_but_not_its_border(renderer: PortraitRenderer, face: Face) -> None:
    cheeks = face.mesh_px[[topology.CHEEK_LEFT, topology.CHEEK_RIGHT], :2]
    shift = 5 / float(np.linalg.norm(cheeks[1] - cheeks[0]))
    still, shifted = renderer.draw(Pose()), renderer.draw(Pose(shift_x=shift))
    rows, columns = around(face, (topology.NOSE_TIP, 5, 195), 0.06)
    there = slice(columns.start + 5, columns.stop + 5)
    followed = difference(still[rows, columns], shifted[rows, there]).mean()
    assert followed < 0.4 * difference(still[rows, columns], shifted[rows, columns]).mean()
    hairline = around(face, (10, 338, 109), 0.0)
    assert difference(still, shifted)[hairline].max() < 60


SMALL, LARGE = 60 / 95, 4.5


@pytest.mark.parametrize(
    ("scale", "turn_deg", "middle"),
    [
        pytest.param(SMALL, 0, (256, 256), id="tiny"),
        pytest.param(0.1, 0, (256, 256), id="of a few pixels"),
        pytest.param(LARGE, 0, (256, 256), id="large"),
        pytest.param(1, 30, (256, 256), id="turned"),
        pytest.param(1, -30, (256, 256), id="turned the other way"),
        pytest.param(1, 0, (10, 256), id="half outside on the left"),
        pytest.param(1, 0, (256, 505), id="half outside below"),
        pytest.param(LARGE, 20, (500, 5), id="large in a corner"),
        pytest.param(1, 0, (-300, 256), id="wholly outside"),
    ],
)
def test_faces_of_any_size_turn_and_place(
    picture: np.ndarray, face: Face, scale: float, turn_deg: float, middle: tuple[int, int]
) -> None:
    nose = face.mesh_px[topology.NOSE_TIP, :2].astype(float)
    matrix = cv2.getRotationMatrix2D(nose.tolist(), turn_deg, scale)
    matrix[:, 2] += np.array(middle) - nose
    shown, there = moved(picture, face, matrix)
    renderer = PortraitRenderer(shown, there)
    frame = renderer.draw(TALKING)
    x0, y0, x1, y1 = renderer.area
    outside = difference(frame, shown)
    outside[y0:y1, x0:x1] = 0
    assert frame.shape == shown.shape
    assert not outside.any()
    if scale > 0.5 and middle[0] > -200:
        assert difference(frame, shown).max() > 40


def test_a_closed_mouth_stays_as_it_is_until_it_opens(picture: np.ndarray, face: Face) -> None:
    """The lips' points are put on one line: the picture's mouth then counts as closed already."""
    mesh_px = face.mesh_px.copy()
    upper, lower = list(topology.INNER_LIP_UPPER), list(topology.INNER_LIP_LOWER)
    mesh_px[upper] = mesh_px[lower] = (mesh_px[upper] + mesh_px[lower]) / 2
    renderer = PortraitRenderer(picture, face_at(mesh_px))
    rest, wide = (difference(renderer.draw(Pose(opening=opening)), picture) for opening in (0, 0.8))
    mouth = around(face, (*upper, *lower), 0.1)
    assert rest[mouth].mean() < 0.35 * wide[mouth].mean()
    assert wide[mouth].max() > 80
