"""The tables of the face mesh's points, and the measures taken from them, on the sample portrait."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from PIL import Image

from models import face_topology as topology
from models.face_weights import FACE_WEIGHTS
from models.faces import load_face_finder
from models.weights import locate
from tests.stores import SAMPLES

LINES = {
    name: line
    for name, line in vars(topology).items()
    if name.endswith(("_UPPER", "_LOWER")) and isinstance(line, tuple)
}


@pytest.fixture(scope="module")
def mesh() -> np.ndarray:
    """(468, 2) px with the eyes level."""
    picture = np.asarray(Image.open(SAMPLES / "portrait.png").convert("RGB"))
    finder = load_face_finder({weight.path: locate(weight) for weight in FACE_WEIGHTS})
    face = finder.find(picture)[0]
    angle = math.radians(face.roll_deg)
    turn = np.array(((math.cos(angle), -math.sin(angle)), (math.sin(angle), math.cos(angle))))
    return face.mesh_px[:, :2] @ turn


@pytest.mark.parametrize("name", LINES)
def test_a_line_runs_from_left_to_right(name: str, mesh: np.ndarray) -> None:
    assert (np.diff(mesh[list(LINES[name]), 0]) > 0).all()


@pytest.mark.parametrize("part", [name.removesuffix("_UPPER") for name in LINES if name.endswith("_UPPER")])
def test_the_upper_line_lies_above_the_lower_one(part: str, mesh: np.ndarray) -> None:
    upper, lower = LINES[f"{part}_UPPER"], LINES[f"{part}_LOWER"]
    assert (mesh[list(upper[1:-1]), 1] < mesh[list(lower[1:-1]), 1]).all()


def test_parts_lie_in_order_from_above(mesh: np.ndarray) -> None:
    heights = [
        mesh[topology.FOREHEAD, 1],
        mesh[list(topology.LEFT_BROW_UPPER), 1].mean(),
        mesh[list(topology.LEFT_EYE_UPPER), 1].mean(),
        mesh[topology.NOSE_TIP, 1],
        mesh[list(topology.OUTER_LIP_UPPER), 1].mean(),
        mesh[list(topology.INNER_LIP_UPPER), 1].mean(),
        mesh[list(topology.INNER_LIP_LOWER), 1].mean(),
        mesh[list(topology.OUTER_LIP_LOWER), 1].mean(),
        mesh[topology.CHIN, 1],
    ]
    assert heights == sorted(heights)


def test_the_oval_runs_clockwise_around_all_points(mesh: np.ndarray) -> None:
    oval = mesh[list(topology.FACE_OVAL)].astype(np.float32)
    inside_px = [cv2.pointPolygonTest(oval, (float(x), float(y)), measureDist=True) for x, y in mesh]
    assert len(set(topology.FACE_OVAL)) == 36
    assert cv2.contourArea(oval, oriented=True) > 0  # y points down
    assert min(inside_px) > -0.03 * np.ptp(mesh[:, 1])


@pytest.mark.parametrize(
    ("a", "b"),
    [
        *topology.MIRRORED_LINES,
        ((topology.CHEEK_LEFT,), (topology.CHEEK_RIGHT,)),
        ((topology.MOUTH_LEFT, topology.INNER_LIP_LEFT), (topology.INNER_LIP_RIGHT, topology.MOUTH_RIGHT)),
        (topology.NOSE_BRIDGE, topology.NOSE_BRIDGE[::-1]),
        ((topology.CHIN, topology.FOREHEAD), (topology.FOREHEAD, topology.CHIN)),
    ],
)
def test_left_and_right_mirror_each_other(a: tuple[int, ...], b: tuple[int, ...], mesh: np.ndarray) -> None:
    middle = np.mean(topology.eye_centres(mesh), axis=0)[0]
    mirrored = np.column_stack((2 * middle - mesh[:, 0], mesh[:, 1]))[list(b)][::-1]
    assert np.abs(mesh[list(a)] - mirrored).max() < 0.06 * np.ptp(mesh[:, 1])


def test_the_measures_of_a_smile(mesh: np.ndarray) -> None:
    assert 0.08 < topology.mouth_opening(mesh) < 0.2
    assert 0.9 < topology.mouth_width(mesh) < 1.3
    assert topology.eye_opening(mesh) == pytest.approx((0.2, 0.2), abs=0.06)


def test_measures_follow_lips_and_lids_and_nothing_else(mesh: np.ndarray) -> None:
    width_px = abs(mesh[topology.MOUTH_RIGHT, 0] - mesh[topology.MOUTH_LEFT, 0])
    opened = mesh.copy()
    opened[list(topology.INNER_LIP_LOWER[1:-1]), 1] += 0.2 * width_px
    closed = mesh.copy()
    closed[list(topology.INNER_LIP_LOWER)] = closed[list(topology.INNER_LIP_UPPER)]
    closed[list(topology.LEFT_EYE_LOWER)] = closed[list(topology.LEFT_EYE_UPPER)]
    assert topology.mouth_opening(opened) == pytest.approx(topology.mouth_opening(mesh) + 0.2, abs=0.01)
    assert topology.mouth_opening(closed) == 0
    assert topology.eye_opening(closed) == (0, topology.eye_opening(mesh)[1])
    assert topology.mouth_opening(3 * mesh + 50) == pytest.approx(topology.mouth_opening(mesh), rel=1e-4)
    quarter_turn = np.column_stack((-mesh[:, 1], mesh[:, 0]))
    assert topology.mouth_opening(quarter_turn) == pytest.approx(topology.mouth_opening(mesh), rel=1e-4)
