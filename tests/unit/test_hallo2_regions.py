"""What Hallo2 is told of a picture: the square, the masks, the embedding."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from models.engine import InvalidInput, ModelNotReady
from models.face_topology import FACE_OVAL, NUM_POINTS, OUTER_LIP_LOWER, OUTER_LIP_UPPER
from models.face_weights import FACE_WEIGHTS
from models.faces import Face, load_face_finder
from models.hallo2.face_embedding import ACCEPTANCE, load_face_embedder, similarity
from models.hallo2.portrait_reader import PortraitReader
from models.hallo2.regions import Square, regions_of, square_around
from models.weights import locate
from tests.onnx_files import write_chain
from tests.stores import SAMPLES

PORTRAIT = SAMPLES / "portrait.png"


def go_on() -> None:
    pass


def face(box_px: tuple[float, float, float, float], yaw_z: float = 0.0) -> Face:
    """A mesh of which only outline and lips lie where they should."""
    x0, y0, x1, y1 = box_px
    mesh = np.zeros((NUM_POINTS, 3), np.float32)
    mesh[:, :2] = (x0 + x1) / 2, (y0 + y1) / 2
    turns = np.linspace(0, 2 * np.pi, len(FACE_OVAL), endpoint=False)
    mesh[list(FACE_OVAL), 0] += np.sin(turns) * (x1 - x0) / 2
    mesh[list(FACE_OVAL), 1] -= np.cos(turns) * (y1 - y0) / 2
    mesh[454, 2] = yaw_z
    lips = list({*OUTER_LIP_UPPER, *OUTER_LIP_LOWER})
    mesh[lips, 0] += np.linspace(-0.1, 0.1, len(lips)) * (x1 - x0)
    mesh[lips, 1] += (y1 - y0) * (0.3 + np.linspace(-0.05, 0.05, len(lips)))
    return Face(box_px, 1.0, mesh)


@pytest.mark.parametrize(
    ("size", "box_px", "expected"),
    [
        ((400, 400), (100, 100, 300, 300), Square(0, 0, 400)),
        ((400, 600), (350, 100, 550, 300), Square(200, 0, 400)),
        ((800, 600), (200, 60, 500, 380), Square(0, 0, 600)),
        ((1000, 1000), (400, 400, 700, 700), Square(300, 300, 500)),
        ((1000, 1000), (0, 0, 300, 300), Square(0, 0, 500)),
        ((1000, 1000), (800, 850, 950, 1000), Square(750, 750, 250)),
        ((300, 300), (-20, -20, 320, 320), Square(0, 0, 300)),
    ],
    ids=["whole", "wide", "tall", "small face", "in a corner", "in the other corner", "beyond the edges"],
)
def test_the_square_holds_the_face_and_stays_inside(size, box_px, expected):
    assert square_around(face(box_px), np.zeros((*size, 3), np.uint8)) == expected


def test_points_follow_the_square():
    square = Square(100, 50, 200)
    picture = np.zeros((300, 400, 3), np.uint8)
    picture[150, 250] = 255

    cut = square.picture(picture, 400)
    (point,) = square.points(np.array([[250.5, 150.5, 7.0]]), 400)

    assert cut.shape == (400, 400, 3)
    assert np.abs(np.argwhere(cut[:, :, 0] == cut.max()).mean(axis=0) + 0.5 - point[::-1]).max() < 1


def test_masks_are_the_published_ones():
    """Against the steps of the published preprocessing, written out once more."""
    mesh = face((140, 100, 380, 420)).mesh_px
    found = regions_of(mesh[:, :2], 512)
    blurred = {}
    for name, points, factor, kernel in (
        ("head", FACE_OVAL, 1.2, 51),
        ("lips", (*OUTER_LIP_UPPER, *OUTER_LIP_LOWER), 2.0, 31),
    ):
        low, high = mesh[list(points), :2].min(axis=0), mesh[list(points), :2].max(axis=0)
        middle, half = (low + high) / 2, (high - low) * factor / 2
        (x0, y0), (x1, y1) = np.round(middle - half).astype(int), np.round(middle + half).astype(int)
        box = np.zeros((512, 512), np.uint8)
        box[y0:y1, x0:x1] = 255
        small = cv2.GaussianBlur(cv2.resize(box, (64, 64)), (kernel, kernel), 0)
        blurred[name] = cv2.normalize(small, None, 0, 255, cv2.NORM_MINMAX).astype(np.float32) / 255
        if name == "head":
            assert np.array_equal(found.face_box, box > 0)

    assert [mask.shape for mask in found.face] == [(64, 64), (32, 32), (16, 16), (8, 8)]
    np.testing.assert_allclose(found.background[0], 1 - blurred["head"], atol=1e-6)
    np.testing.assert_allclose(found.lips[0], blurred["lips"], atol=1e-6)
    np.testing.assert_allclose(found.face[0], np.clip(blurred["head"] - blurred["lips"], 0, None), atol=1e-6)


def test_a_box_at_the_edge_is_moved_inside_and_keeps_its_size():
    found = regions_of(face((0, 0, 250, 250)).mesh_px[:, :2], 512).face_box

    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    assert (rows[0], rows[-1] + 1) == (0, 300)
    assert (columns[0], columns[-1] + 1) == (0, 300)


def test_a_face_larger_than_the_picture_is_all_of_it():
    assert regions_of(face((-100, -100, 600, 600)).mesh_px[:, :2], 512).face_box.all()


@pytest.fixture(scope="module")
def finder():
    return load_face_finder({weight.path: locate(weight) for weight in FACE_WEIGHTS})


class CountingFinder:
    def __init__(self, finder) -> None:
        self.calls, self._finder = 0, finder

    def find(self, picture):
        self.calls += 1
        return self._finder.find(picture)


def reader(finder, folder: Path) -> PortraitReader:
    return PortraitReader(finder, load_face_embedder(folder, device="cpu", threads=1), 512)


def test_a_portrait_is_read_once_where_that_is_wanted(finder, tmp_path):
    counting = CountingFinder(finder)
    portraits = reader(counting, tmp_path)
    copy = tmp_path / "copy.png"
    copy.write_bytes(PORTRAIT.read_bytes())

    first = portraits.read(PORTRAIT, use_cache=True, check=go_on)
    assert portraits.read(copy, use_cache=True, check=go_on) is first
    again = portraits.read(copy, use_cache=False, check=go_on)

    assert counting.calls == 2
    assert again.look.picture.equal(first.look.picture)
    assert first.look.picture.shape == (3, 512, 512)
    assert first.look.picture.min() >= -1
    assert first.look.picture.max() <= 1
    assert [mask.shape for mask in first.look.masks.lip] == [(64 * 64,), (32 * 32,), (16 * 16,), (8 * 8,)]
    assert not first.look.embedding.any()
    assert any("zeros" in note for note in first.notes)


def test_of_several_faces_the_largest_is_taken_and_it_is_said(finder, tmp_path):
    picture = Image.open(PORTRAIT).convert("RGB")
    small = picture.resize((picture.width // 2, picture.height // 2))
    both = Image.new("RGB", (picture.width + small.width, picture.height), "white")
    both.paste(picture, (0, 0))
    both.paste(small, (picture.width, 0))
    both.save(tmp_path / "two.png")

    found = reader(finder, tmp_path).read(tmp_path / "two.png", use_cache=True, check=go_on)

    assert any("2 faces" in note for note in found.notes)
    assert any("squares" in note for note in found.notes)
    alone = reader(finder, tmp_path).read(PORTRAIT, use_cache=True, check=go_on)
    assert (found.look.picture - alone.look.picture).abs().mean() < 0.3


@pytest.mark.parametrize("content", ["grey", "1x1", "text"])
def test_without_a_face_the_picture_is_refused(finder, tmp_path, content):
    path = tmp_path / "picture.png"
    if content == "text":
        path.write_text("no picture")
    else:
        Image.new("RGB", (1, 1) if content == "1x1" else (300, 200), "grey").save(path)

    with pytest.raises(InvalidInput) as caught:
        reader(finder, tmp_path).read(path, use_cache=True, check=go_on)

    assert caught.value.field == "image_path"


def save_network(folder: Path) -> Path:
    """An ONNX network in glintr100's place, which tells what it was given."""
    place = folder / "face_analysis/models"
    place.mkdir(parents=True)
    write_chain(place / "glintr100.onnx", ("N", 3, 112, 112), [("Flatten", None)])
    return place


def test_a_non_commercial_embedding_needs_the_operators_word(tmp_path):
    place = save_network(tmp_path)
    refused = load_face_embedder(tmp_path, device="cpu", threads=1)
    (place / ACCEPTANCE).touch()
    accepted = load_face_embedder(tmp_path, device="cpu", threads=1)
    picture = np.full((512, 512, 3), 255, np.uint8)

    assert "not accepted" in refused.note
    assert not refused.embed(picture, face((100, 100, 400, 400)), go_on).any()
    assert "not for commercial use" in accepted.note
    embedding = accepted.embed(picture, face((100, 100, 400, 400)), go_on)
    assert embedding.shape == (3 * 112 * 112,)
    np.testing.assert_allclose(embedding, 1.0)


def test_a_broken_network_is_told_when_the_engine_loads(tmp_path):
    place = save_network(tmp_path)
    (place / ACCEPTANCE).touch()
    (place / "glintr100.onnx").write_bytes(b"broken")

    with pytest.raises(ModelNotReady, match="glintr100"):
        load_face_embedder(tmp_path, device="cpu", threads=1)


def test_similarity_undoes_shift_turn_and_scale():
    points = np.array([[0.0, 0.0], [10.0, 0.0], [5.0, 8.0]])
    turn = 2.5 * np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    found = similarity(points, points @ turn.T + (3, -4))

    np.testing.assert_allclose(found, np.column_stack((turn, (3, -4))), atol=1e-9)
