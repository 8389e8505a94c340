"""Faces are found anywhere, at any size and turn, and nowhere else; their points lie where they belong."""

from __future__ import annotations

import math
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from models import face_topology as topology
from models.errors import ModelNotReady
from models.face_weights import DETECTOR, FACE_WEIGHTS, MESH
from models.faces import Face, FaceFinder, load_face_finder
from models.weights import locate
from tests.stores import SAMPLES

WEIGHTS = {weight.path: locate(weight) for weight in FACE_WEIGHTS}
# Read off the portrait by eye, in px.
SEEN_PX = {
    topology.NOSE_TIP: (222.5, 129.5),
    topology.MOUTH_LEFT: (200.5, 140.5),
    topology.MOUTH_RIGHT: (245.5, 142.5),
    topology.CHIN: (221.5, 179),
}
SEEN_PUPILS_PX = ((203, 102), (246.5, 104.5))
FACE_PX = 108  # the longer side of the face in the portrait


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return load_face_finder(WEIGHTS)


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    return np.asarray(Image.open(SAMPLES / "portrait.png").convert("RGB"))


@pytest.fixture(scope="module")
def face(finder: FaceFinder, portrait: np.ndarray) -> Face:
    (only,) = finder.find(portrait)
    return only


def test_the_points_of_the_portrait_lie_where_they_are_seen(face: Face) -> None:
    assert face.mesh_px.shape == (468, 3)
    assert face.mesh_px.dtype == np.float32
    assert face.score > 0.9
    assert face.size_px == pytest.approx(FACE_PX, abs=4)
    for point, seen_px in SEEN_PX.items():
        assert face.mesh_px[point, :2] == pytest.approx(seen_px, abs=4)
    for eye, seen_px in zip(topology.eye_centres(face.mesh_px), SEEN_PUPILS_PX, strict=True):
        assert eye == pytest.approx(seen_px, abs=2)
    x0, y0, x1, y1 = face.box_px
    assert (x0, y0) == tuple(face.mesh_px[:, :2].min(axis=0))
    assert (x1, y1) == tuple(face.mesh_px[:, :2].max(axis=0))


def test_the_portrait_looks_ahead(face: Face) -> None:
    assert abs(face.yaw_deg) < 5
    assert face.roll_deg == pytest.approx(3, abs=2)  # the right eye is 2.5 px lower, 43.5 px away


@pytest.mark.parametrize("angle_deg", [-40, 25])
def test_yaw_and_roll_are_the_angles_of_the_mesh(angle_deg: float, face: Face) -> None:
    angle = math.radians(angle_deg)
    cos, sin = math.cos(angle), math.sin(angle)
    aside = face.mesh_px @ np.array(((cos, 0, sin), (0, 1, 0), (-sin, 0, cos)))
    tilted = face.mesh_px @ np.array(((cos, sin, 0), (-sin, cos, 0), (0, 0, 1)))
    assert Face(face.box_px, 1, aside).yaw_deg - face.yaw_deg == pytest.approx(angle_deg, abs=1)
    assert Face(face.box_px, 1, tilted).roll_deg - face.roll_deg == pytest.approx(angle_deg, abs=0.1)


def _turned(angle_deg: float, scale: float = 1.0) -> np.ndarray:
    """(2, 3): clockwise, around a point below the face."""
    return cv2.getRotationMatrix2D((226, 180), -angle_deg, scale)


def _scaled(scale: float, left_px: float, top_px: float) -> np.ndarray:
    """(2, 3): enlarged, and this much cut off."""
    return np.array(((scale, 0, -left_px), (0, scale, -top_px)), np.float64)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_turned(20), id="turned 20 degrees"),
        pytest.param(_turned(-60), id="turned -60 degrees"),
        pytest.param(_turned(0, 0.4), id="a face of 43 px"),
        pytest.param(_scaled(2, 180, 0), id="a face of nearly half the picture"),
        pytest.param(_scaled(4.6, 784, 300), id="a face that fills the picture"),
        pytest.param(_scaled(7, 1330, 620), id="a face that overflows the picture"),
    ],
)
def test_a_moved_face_has_the_points_moved_with_it(
    change: np.ndarray, finder: FaceFinder, portrait: np.ndarray, face: Face
) -> None:
    method = cv2.INTER_AREA if np.linalg.det(change[:, :2]) < 1 else cv2.INTER_CUBIC
    moved = cv2.warpAffine(portrait, change, (512, 512), flags=method, borderMode=cv2.BORDER_CONSTANT)
    found = finder.find(moved)[0]
    expected = face.mesh_px[:, :2] @ change[:, :2].T + change[:, 2]
    scale = math.sqrt(np.linalg.det(change[:, :2]))
    assert np.linalg.norm(found.mesh_px[:, :2] - expected, axis=1).mean() < 0.025 * FACE_PX * scale


def test_a_mirrored_face_has_mirrored_points(finder: FaceFinder, portrait: np.ndarray, face: Face) -> None:
    (mirrored,) = finder.find(np.ascontiguousarray(portrait[:, ::-1]))
    for line, opposite in topology.MIRRORED_LINES:
        expected = face.mesh_px[list(opposite)][::-1, :2] * (-1, 1) + (512, 0)
        assert np.abs(mirrored.mesh_px[list(line), :2] - expected).max() < 2
    assert mirrored.roll_deg == pytest.approx(-face.roll_deg, abs=1)


def test_the_largest_of_two_faces_comes_first(finder: FaceFinder, portrait: np.ndarray, face: Face) -> None:
    both = np.full((512, 800, 3), 128, np.uint8)
    both[:256, :256] = cv2.resize(portrait, (256, 256), interpolation=cv2.INTER_AREA)
    both[:, 288:] = portrait
    large, small = finder.find(both)
    assert large.box_px == pytest.approx(np.add(face.box_px, (288, 0, 288, 0)), abs=3)
    assert small.box_px == pytest.approx(np.divide(face.box_px, 2), abs=3)


@pytest.fixture(scope="module")
def faceless(portrait: np.ndarray) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    with av.open(SAMPLES / "bigbuckbunny.mp4") as film:
        frame = next(film.decode(video=0)).to_ndarray(format="rgb24")
    return {
        "flat": np.full((512, 512, 3), 90, np.uint8),
        "noise": noise,
        "soft noise": cv2.resize(noise[:16, :16], (512, 512), interpolation=cv2.INTER_CUBIC),
        "flag": portrait[:, :95],
        "suit without head": portrait[200:],
        "patch": portrait[330:440, 110:230],
        "drawn scenery": frame,
        "one pixel": portrait[:1, :1],
        "one row": portrait[100:101],
    }


@pytest.mark.parametrize(
    "name",
    [
        "flat", "noise", "soft noise", "flag", "suit without head", "patch", "drawn scenery",
        "one pixel", "one row",
    ],
)  # fmt: skip
def test_no_face_is_found_where_there_is_none(
    name: str, finder: FaceFinder, faceless: dict[str, np.ndarray]
) -> None:
    assert finder.find(faceless[name]) == []


def test_a_very_large_picture(finder: FaceFinder, portrait: np.ndarray, face: Face) -> None:
    (found,) = finder.find(cv2.resize(portrait, (8000, 8000), interpolation=cv2.INTER_LINEAR))
    assert np.abs(found.mesh_px[:, :2] / (8000 / 512) - face.mesh_px[:, :2]).mean() < 0.01 * FACE_PX


def test_a_face_far_to_the_right_of_a_very_wide_picture(
    finder: FaceFinder, portrait: np.ndarray, face: Face
) -> None:
    wide = np.zeros((256, 40_000, 3), np.uint8)
    wide[:, -512:] = portrait[:256]
    moved = face.mesh_px + np.array((40_000 - 512, 0, 0), np.float32)
    found = finder.mesh(wide, Face(face.box_px, 1, moved))
    assert found is not None
    assert np.abs(found.mesh_px - moved).mean() < 0.01 * FACE_PX


def test_a_mesh_follows_a_face_without_detection(
    finder: FaceFinder, portrait: np.ndarray, face: Face
) -> None:
    moved = np.roll(portrait, (6, -8), axis=(0, 1))
    found = finder.mesh(moved, face)
    assert found is not None
    assert np.abs(found.mesh_px[:, :2] - face.mesh_px[:, :2] - (-8, 6)).mean() < 0.01 * FACE_PX


def test_a_mesh_is_not_seen_where_the_face_has_gone(
    finder: FaceFinder, portrait: np.ndarray, face: Face
) -> None:
    assert finder.mesh(np.roll(portrait, 256, axis=0), face) is None


def test_the_same_picture_gives_the_same_points(finder: FaceFinder, portrait: np.ndarray, face: Face) -> None:
    assert np.array_equal(finder.find(portrait)[0].mesh_px, face.mesh_px)


def test_weights_that_are_no_network_are_named(tmp_path: Path) -> None:
    text = tmp_path / "mesh.tflite"
    text.write_text("not a network")
    with pytest.raises(ModelNotReady, match=r"mesh\.tflite"):
        load_face_finder({DETECTOR.path: WEIGHTS[DETECTOR.path], MESH.path: text})
