from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from models.engine import InvalidInput, MediaKind
from models.input_files import looked_at
from models.pictures import files_below, is_picture, read_picture

MAX_PIXELS = 8192 * 8192
HALVES = np.zeros((40, 60, 3), np.uint8)
HALVES[:, 30:] = (200, 100, 50)


def halves(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(HALVES).convert(mode)


def saved(tmp_path, image: Image.Image, name: str, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        *[("RGB", f"a.{suffix}") for suffix in ("png", "jpg", "webp", "bmp", "tiff")],
        *[("CMYK", "a.jpg"), ("CMYK", "a.tiff"), ("P", "a.png"), ("P", "a.gif"), ("YCbCr", "a.jpg")],
    ],
    ids=lambda value: value,
)
def test_every_form_is_read_as_rgb(tmp_path, mode, name):
    path = saved(tmp_path, halves(mode), name)
    picture = read_picture(path)
    assert picture.dtype == np.uint8
    assert picture.shape == (40, 60, 3)
    assert (
        np.abs(picture[:, [5, 55]].astype(int) - HALVES[:, [5, 55]]).max() < 52
    )  # the nearest colour of a palette of 216
    assert looked_at("image_path", MediaKind.IMAGE, path, MAX_PIXELS) is not None


@pytest.mark.parametrize("low", [0, 30_000], ids=["full range", "a part of it"])
def test_sixteen_bits_are_not_cut_off(tmp_path, low):
    values = np.full((40, 60), low, np.uint16)
    values[:, 30:] = 60_000
    picture = read_picture(saved(tmp_path, Image.fromarray(values), "deep.png"))
    assert (picture[:, :30] == 0).all()
    assert (picture[:, 30:] == 255).all()


def test_one_bit(tmp_path):
    picture = read_picture(saved(tmp_path, halves("L").point(lambda v: 255 * (v > 60)).convert("1"), "a.png"))
    assert (picture[:, 0] == 0).all()
    assert (picture[:, -1] == 255).all()


@pytest.mark.parametrize(("ink", "behind"), [(0, 255), (255, 0)], ids=["dark ink", "bright ink"])
def test_ink_stands_out_from_what_is_see_through(tmp_path, ink, behind):
    image = Image.new("RGBA", (20, 10), (ink, ink, ink, 0))
    image.paste((ink, ink, ink, 255), (0, 0, 5, 10))
    picture = read_picture(saved(tmp_path, image, "ink.png"))
    assert (picture[:, :5] == ink).all()
    assert (picture[:, 5:] == behind).all()


def test_exif_turns_the_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    picture = read_picture(saved(tmp_path, halves(), "turned.png", exif=exif))
    assert picture.shape == (60, 40, 3)
    assert (picture[0] == 0).all()
    assert (picture[-1] == HALVES[0, -1]).all()


def test_one_pixel(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (1, 1), "red"), "dot.png")
    assert read_picture(path).tolist() == [[[255, 0, 0]]]
    assert looked_at("image_path", MediaKind.IMAGE, path, MAX_PIXELS) is not None


@pytest.mark.parametrize("side", [8193, 10_000], ids=["a row too many", "where Pillow warns"])
def test_too_many_pixels(tmp_path, side):
    path = saved(tmp_path, Image.new("1", (side, side)), "huge.png")
    with pytest.raises(InvalidInput, match="67108864"):
        read_picture(path)


def test_a_submit_refuses_20000_by_20000_pixels(tmp_path):
    path = saved(tmp_path, Image.new("1", (20_000, 20_000)), "huge.png")
    with pytest.raises(InvalidInput, match="image_path: "):
        looked_at("image_path", MediaKind.IMAGE, path, MAX_PIXELS)
    with pytest.raises(InvalidInput, match="67108864"):  # the same file in a folder
        read_picture(path)


def animation(tmp_path):
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue", "green")]
    return saved(tmp_path, frames[0], "moving.gif", save_all=True, append_images=frames[1:], duration=100)


def test_an_animation_is_no_still_picture(tmp_path):
    path = animation(tmp_path)
    with pytest.raises(InvalidInput, match="animation"):
        read_picture(path)
    with pytest.raises(InvalidInput, match="image_path: the file has no still image"):
        looked_at("image_path", MediaKind.IMAGE, path, MAX_PIXELS)


@pytest.mark.parametrize(
    "content", [b"not a picture", b"", b"\x89PNG\r\n\x1a\n"], ids=["text", "empty", "head only"]
)
def test_what_is_no_picture(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert not is_picture(path)
    with pytest.raises(InvalidInput, match=r"a\.png is not a picture"):
        read_picture(path)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tiff"])
def test_a_cut_file_is_damaged(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), name)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(InvalidInput, match=r"a\.\w+ is (damaged|not a picture)"):
        read_picture(path)


def test_files_are_in_the_order_that_people_count(tmp_path):
    for name in ("f10.png", "f9.png", "b/f1.png", "f09b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path)]
    assert names == ["b/f1.png", "f9.png", "f09b.png", "f10.png"]
