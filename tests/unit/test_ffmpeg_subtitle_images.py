from __future__ import annotations

import hashlib
import zipfile

import psutil
import pytest
from pydantic import ValidationError

from models.engine import Cancelled, DownloadUrl, InvalidInput
from models.frame_images import time_of
from models.zoo.ffmpeg_subtitle_images import SubtitleImageInputs
from tests import ffmpeg_jobs as jobs
from tests.run_context import LocalRunContext


@pytest.fixture
def context(tmp_path):
    return LocalRunContext(tmp_path, threads=2)


def test_images_have_exactly_the_size_of_the_area(context):
    values = jobs.run(
        "crop_subtitle_images", context, video_path=jobs.BUNNY, subtitle_area=[101, 601, 1200, 712], fps=5
    )
    images = values["cropped_images_uploaded_files"]
    assert list(values) == [
        *("cropped_images_path", "cropped_images_files_count", "cropped_images_uploaded_files"),
    ]
    assert values["cropped_images_path"] == context.output_dir / "cropped_images"
    assert values["cropped_images_files_count"] == len(images) == 27
    assert {jobs.picture(path).shape for path in images} == {(111, 1099)}
    assert [time_of(path) for path in images[:4]] == [0.0, 0.2, 0.4, 0.6]


def test_images_show_the_pixels_of_the_area(context, tmp_path):
    """A white box on black: cut at its borders, everything inside is white."""
    box = "drawbox=x=21:y=51:w=70:h=23:color=white:t=fill"
    source = jobs.make(
        tmp_path / "box.mp4",
        *("-f", "lavfi", "-i", "color=black:s=128x96:r=5:d=1", "-vf", box, "-pix_fmt", "yuv444p"),
    )
    values = jobs.run("crop_subtitle_images", context, video_path=source, subtitle_area=[21, 51, 91, 74])
    for path in values["cropped_images_uploaded_files"]:
        assert jobs.picture(path).min() > 200


@pytest.mark.parametrize("fps", [None, 30, 240], ids=["default", "own rate", "above the rate"])
def test_every_frame_once_unless_fewer_are_asked(context, fps):
    values = jobs.run(
        "crop_subtitle_images", context, video_path=jobs.CARPHONE, subtitle_area=[0, 0, 176, 144], fps=fps
    )
    times = [time_of(path) for path in values["cropped_images_uploaded_files"]]
    assert len(set(times)) == 120
    assert times[-1] == pytest.approx(119 * 1001 / 30000, abs=0.001)


def test_the_archive_holds_all_images(context):
    values = jobs.run(
        "crop_subtitle_images",
        context,
        video_path=jobs.CARPHONE,
        subtitle_area=[10, 100, 160, 140],
        fps=10,
        decode_processes=16,
        compress_directory_before_upload=True,
    )
    archive = context.output_dir / "cropped_images.zip"
    assert values["compressed_archive_url"] == DownloadUrl(archive)
    assert values["compression_info"]["checksum"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    with zipfile.ZipFile(archive) as packed:
        assert packed.namelist() == [path.name for path in values["cropped_images_uploaded_files"]]
        assert packed.testzip() is None


@pytest.mark.parametrize(
    ("area", "text"),
    [
        ([0, 0, 177, 144], "the frame is 176x144 pixels"),
        ([0, 0, 176, 145], "the frame is 176x144 pixels"),
        ([50, 0, 50, 144], "x1 must be below x2"),
        ([0, 90, 176, 80], "y1 below y2"),
    ],
    ids=["right of the frame", "below the frame", "no width", "upside down"],
)
def test_an_area_outside_the_frame_is_refused_at_submit_and_at_run(context, area, text):
    for refuse in (
        lambda: jobs.check("crop_subtitle_images", video_path=jobs.CARPHONE, subtitle_area=area),
        lambda: jobs.run("crop_subtitle_images", context, video_path=jobs.CARPHONE, subtitle_area=area),
    ):
        with pytest.raises(InvalidInput, match=text) as caught:
            refuse()
        assert caught.value.field == "subtitle_area"


@pytest.mark.parametrize(
    "bad",
    [
        {"subtitle_area": [0, 0, 10]},
        {"subtitle_area": [-1, 0, 10, 10]},
        {"subtitle_area": [0, 0, 10.5, 10]},
        {"fps": 0},
        {"decode_processes": 17},
        {"decode_processes": 0},
    ],
    ids=str,
)
def test_inputs_outside_the_schema_are_refused(bad):
    with pytest.raises(ValidationError):
        SubtitleImageInputs(**{"video_path": "a.mp4", "subtitle_area": [0, 0, 10, 10], **bad})


def test_cancel_ends_ffmpeg(tmp_path):
    source = jobs.make_long_video(tmp_path / "long.mp4")
    context = LocalRunContext(tmp_path, cancel_at=0.1)
    with pytest.raises(Cancelled):
        jobs.run("crop_subtitle_images", context, video_path=source, subtitle_area=[0, 600, 1280, 720])
    assert context.reports[-1].done < context.reports[-1].total
    assert psutil.Process().children(recursive=True) == []
