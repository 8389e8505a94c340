from __future__ import annotations

import json

import pytest
from PIL import Image

from models.engine import InvalidInput
from models.ocr_frames import OcrFrame, frames_of_folder, frames_of_manifest
from models.ocr_languages import KNOWN_LANGUAGES, language_code


def no_check() -> None:
    pass


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "frames"
    path.mkdir()
    for name in ("keyframe_000000000ms.jpg", "keyframe_000001500ms.jpg", "cover.png"):
        Image.new("RGB", (8, 8)).save(path / name)
    (path / "notes.txt").write_text("no picture")
    (path / "fake.png").write_text("no picture")
    return path


def manifest(tmp_path, content):
    path = tmp_path / "manifest.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_folder_gives_its_pictures_with_the_times_in_their_names(folder):
    found = frames_of_folder(folder, "keyframe_dir", no_check)
    assert found.num_others == 2
    assert [(frame.name, frame.time_s) for frame in found.frames] == [
        ("cover.png", None),
        ("keyframe_000000000ms.jpg", 0.0),
        ("keyframe_000001500ms.jpg", 1.5),
    ]


def test_a_folder_is_looked_through_under_control(folder):
    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        frames_of_folder(folder, "keyframe_dir", stop)


@pytest.mark.parametrize(
    ("files", "text"), [([], "the folder is empty"), (["a.txt", "b.png"], "none of the 2 files is a picture")]
)
def test_a_folder_without_pictures(tmp_path, files, text):
    for name in files:
        (tmp_path / name).write_text("no picture")
    with pytest.raises(InvalidInput, match=f"keyframe_dir: {text}") as caught:
        frames_of_folder(tmp_path, "keyframe_dir", no_check)
    assert caught.value.field == "keyframe_dir"


def test_a_manifest_says_order_and_times(folder, tmp_path):
    entries = [{"index": 4, "time_s": 7.25, "file": "cover.png"}, {"file": "keyframe_000001500ms.jpg"}]
    found = frames_of_manifest(manifest(tmp_path, {"frames": entries}), folder)
    assert found.frames == (
        OcrFrame(folder / "cover.png", "cover.png", 7.25),
        OcrFrame(folder / "keyframe_000001500ms.jpg", "keyframe_000001500ms.jpg", 1.5),
    )


@pytest.mark.parametrize("content", [["cover.png"], [{"file": "cover.png"}], {"frames": ["cover.png"]}])
def test_a_manifest_may_be_a_list_of_names(folder, tmp_path, content):
    assert [frame.name for frame in frames_of_manifest(manifest(tmp_path, content), folder).frames] == [
        "cover.png"
    ]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (["cover.png", "gone.png"], r"not in multi_frames_path: gone\.png$"),
        ([f"{n}.png" for n in range(8)], r"0\.png, 1\.png, 2\.png, 3\.png, 4\.png and 3 more$"),
        (["../secret.png"], "'../secret.png' is no name below multi_frames_path"),
        (["/etc/passwd"], "is no name below multi_frames_path"),
        ([f"{'a' * 300}.jpg"], "'a{80}' is no name below multi_frames_path"),
        ([f"{'字' * 90}.jpg"], "is no name below multi_frames_path"),
        (["a/" * 600 + "b.jpg"], "is no name below multi_frames_path"),
        (["a\0b.jpg"], "is no name below multi_frames_path"),
        (["\ud800.jpg"], "no JSON of the form"),
        ([""], "no JSON of the form"),
        ({"frames": []}, "names no frame"),
        ({"frames": [{"time_s": 1}]}, "no JSON of the form"),
        ({"frames": [{"file": "a.png", "time_s": "soon"}]}, "no JSON of the form"),
        ("[1, 2]", "no JSON of the form"),
        ("{", "no JSON of the form"),
        ("[" * 100_000, "no JSON of the form"),
    ],
    ids=[
        "gone",
        "many gone",
        "out",
        "absolute",
        "long",
        "long in bytes",
        "deep folders",
        "NUL",
        "half a character",
        "no letter",
        "none",
        "no file",
        "no time",
        "numbers",
        "cut",
        "deep",
    ],
)
def test_a_manifest_that_cannot_be_followed(folder, tmp_path, content, text):
    with pytest.raises(InvalidInput, match=text) as caught:
        frames_of_manifest(manifest(tmp_path, content), folder)
    assert caught.value.field == "manifest_path"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("chinese", "ch"),
        ("Chinese", "ch"),
        (" zh ", "ch"),
        ("zh-TW", "chinese_cht"),
        ("Traditional Chinese", "chinese_cht"),
        ("en", "en"),
        ("ja", "japan"),
        ("klingon", None),
        ("", None),
        ("korean", None),
    ],
)
def test_languages_have_names_and_codes(name, code):
    assert language_code(name) == code


def test_the_languages_are_those_of_the_network():
    from rapidocr import RapidOCR
    from rapidocr.utils.typings import ModelType, OCRVersion, TaskType

    listed = RapidOCR.list_supported_langs(TaskType.REC, OCRVersion.PPOCRV6, ModelType.SMALL)
    # RapidOCR lists French and German twice
    assert {language_code(name) for name in KNOWN_LANGUAGES} == set(listed) - {"french", "german"}
