from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import zipfile

import psutil
import pytest
from pydantic import ValidationError

from models.engine import Cancelled, DownloadUrl, InvalidInput, PermanentFailure
from models.frame_images import time_of
from models.zoo.ffmpeg_keyframes import KeyframeInputs
from tests import ffmpeg_jobs as jobs
from tests.run_context import LocalRunContext

KEYS = ["keyframe_dir", "keyframe_files_count", "keyframe_uploaded_files", "keyframe_minio_url"]
ARCHIVE_KEYS = ["keyframe_compressed_archive_url", "keyframe_compression_info"]


@pytest.fixture
def context(tmp_path):
    return LocalRunContext(tmp_path, threads=2)


def times(values):
    return [time_of(path) for path in values["keyframe_uploaded_files"]]


def test_samples_are_evenly_spread_named_by_time_and_of_full_size(context):
    values = jobs.run("extract_keyframes", context, video_path=jobs.BUNNY, keyframe_sample_count=6)
    assert list(values) == KEYS
    assert times(values) == [0.0, 0.88, 1.76, 2.64, 3.52, 4.4]
    assert values["keyframe_dir"] == context.output_dir / "keyframes"
    assert values["keyframe_minio_url"] == DownloadUrl(values["keyframe_dir"])
    assert {jobs.picture(path).shape for path in values["keyframe_uploaded_files"]} == {(720, 1280)}
    manifest = json.loads((context.output_dir / "keyframes.json").read_text())
    assert manifest["frames"][1] == {"index": 1, "time_s": 0.88, "file": "keyframe_000000880ms.jpg"}
    assert len(manifest["frames"]) == values["keyframe_files_count"] == 6


def test_samples_show_different_frames_of_the_right_time(context, tmp_path):
    """Frame n of the source is a grey of 10 n, so that a picture tells which frame it is."""
    shades = "geq=lum='10*N+20':cb=128:cr=128"
    source = jobs.make(
        tmp_path / "grey.mkv", "-f", "lavfi", "-i", "color=s=64x64:r=10:d=2", "-vf", shades, "-c:v", "ffv1"
    )
    values = jobs.run("extract_keyframes", context, video_path=source, interval=0.5)
    shown = [int(jobs.picture(path)[32, 32]) for path in values["keyframe_uploaded_files"]]
    full_range = [round((10 * frame + 20 - 16) * 255 / 219) for frame in (0, 5, 10, 15)]
    assert times(values) == [0.0, 0.5, 1.0, 1.5]
    assert shown == pytest.approx(full_range, abs=3)


@pytest.mark.parametrize(("count", "expected"), [(100, 100), (119, 119), (120, 120), (121, 120), (1000, 120)])
def test_more_samples_than_frames_gives_every_frame_once(context, count, expected):
    values = jobs.run("extract_keyframes", context, video_path=jobs.CARPHONE, keyframe_sample_count=count)
    assert values["keyframe_files_count"] == len(set(times(values))) == expected


@pytest.mark.parametrize(
    ("seconds", "fps", "expected"), [(1, 10, 10), (0.1, 10, 1)], ids=["one second", "one frame"]
)
def test_very_short_videos(context, tmp_path, seconds, fps, expected):
    source = jobs.make_video(tmp_path / "short.mp4", seconds=seconds, fps=fps)
    values = jobs.run("extract_keyframes", context, video_path=source)
    assert values["keyframe_files_count"] == expected


def test_a_recording_without_duration_is_measured_by_its_frames(context, tmp_path):
    source = tmp_path / "live.webm"
    command = [jobs.ffmpeg_path(), "-loglevel", "error", "-f", "lavfi", "-i", "testsrc2=s=64x64:r=10:d=3"]
    with source.open("wb") as file:  # what a browser records: a stream that nobody went back to finish
        subprocess.run([*command, "-c:v", "libvpx", "-f", "webm", "pipe:1"], check=True, stdout=file)
    assert jobs.probe(source).duration_s == 0
    values = jobs.run("extract_keyframes", context, video_path=source, keyframe_sample_count=3)
    assert times(values) == [0.0, 1.0, 2.0]


def test_far_samples_are_sought_and_equal_those_of_a_full_pass(context, tmp_path):
    seekable = jobs.make_video(tmp_path / "many_keys.mp4", seconds=40, gop=40)
    one_key = jobs.make_video(tmp_path / "one_key.mp4", seconds=40, gop=1000)
    sought = jobs.run("extract_keyframes", context, video_path=seekable, interval=9)
    passed = jobs.run("extract_keyframes", LocalRunContext(tmp_path / "pass"), video_path=one_key, interval=9)
    assert times(sought) == times(passed) == [0.0, 9.0, 18.0, 27.0, 36.0]
    assert {report.unit for report in context.reports} == {"frames"}  # by seeking


def test_progress_is_seconds_of_the_video(context):
    jobs.run("extract_keyframes", context, video_path=jobs.CARPHONE)
    done = [report.done for report in context.reports]
    assert done == sorted(done)
    assert 3.9 < done[-1] <= context.reports[-1].total == pytest.approx(4.004)


@pytest.mark.parametrize("is_published", [True, False], ids=["with frames", "archive only"])
def test_the_archive_holds_the_frames_and_its_facts_are_true(context, is_published):
    values = jobs.run(
        "extract_keyframes",
        context,
        video_path=jobs.BUNNY,
        keyframe_sample_count=4,
        compress_keyframes_before_upload=True,
        upload_keyframes_to_minio=is_published,
    )
    assert list(values) == KEYS + ARCHIVE_KEYS
    archive, info = context.output_dir / "keyframes.zip", values["keyframe_compression_info"]
    assert values["keyframe_compressed_archive_url"] == DownloadUrl(archive)
    with zipfile.ZipFile(archive) as packed:
        assert packed.testzip() is None
        assert [time_of(archive.parent / name) for name in packed.namelist()] == [0.0, 1.32, 2.64, 3.96]
        assert sum(entry.file_size for entry in packed.infolist()) == info["original_size"]
    assert info["checksum"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert info["compressed_size"] == archive.stat().st_size
    assert info["compression_ratio"] == pytest.approx(
        info["compressed_size"] / info["original_size"], abs=1e-4
    )
    assert (info["files_count"], info["format"]) == (4, "zip")
    assert list(info) == [
        *("original_size", "compressed_size", "compression_ratio", "files_count"),
        *("compression_time", "checksum", "format"),
    ]
    assert len(values["keyframe_uploaded_files"]) == (4 if is_published else 0)


def test_unpublished_frames_are_counted_and_nothing_is_left_to_publish(context):
    values = jobs.run(
        "extract_keyframes",
        context,
        video_path=jobs.BUNNY,
        keyframe_sample_count=4,
        upload_keyframes_to_minio=False,
    )
    assert values == {
        "keyframe_dir": None,
        "keyframe_files_count": 4,
        "keyframe_uploaded_files": [],
        "keyframe_minio_url": None,
    }
    assert list(context.output_dir.rglob("*")) == []


def test_a_file_name_is_never_an_option_a_pattern_or_an_address(tmp_path):
    source = tmp_path / "-vf 50%d: a,b'c.mp4"
    shutil.copy(jobs.CARPHONE, source)
    context = LocalRunContext(tmp_path / "100%d")
    values = jobs.run("extract_keyframes", context, video_path=source, keyframe_sample_count=2)
    assert times(values) == [0.0, pytest.approx(2.002)]


def test_cancel_ends_ffmpeg(tmp_path):
    source = jobs.make_long_video(tmp_path / "long.mp4")
    context = LocalRunContext(tmp_path, cancel_at=0.1)
    with pytest.raises(Cancelled):
        jobs.run("extract_keyframes", context, video_path=source, interval=0.2)
    assert context.reports[-1].done < context.reports[-1].total
    assert psutil.Process().children(recursive=True) == []


def test_damage_found_while_decoding_is_the_callers(context, tmp_path):
    source = jobs.corrupted(tmp_path / "corrupt.mp4")
    assert jobs.probe(source).video is not None  # submit could not see it
    with pytest.raises(InvalidInput, match=r"video_path cannot be decoded: \w") as caught:
        jobs.run("extract_keyframes", context, video_path=source)
    assert caught.value.field == "video_path"
    assert str(tmp_path) not in str(caught.value)


def test_text_named_mp4_is_refused(context, tmp_path):
    source = tmp_path / "text.mp4"
    source.write_text("not a video\n" * 100)
    with pytest.raises(InvalidInput, match=r"text\.mp4") as caught:
        jobs.run("extract_keyframes", context, video_path=source)
    assert caught.value.field == "video_path"


def test_sound_alone_has_no_frames(context):
    with pytest.raises(InvalidInput, match="no video stream"):
        jobs.run("extract_keyframes", context, video_path=jobs.TALK)


def test_an_interval_of_too_many_frames_is_refused(context, tmp_path):
    source = jobs.make_long_video(tmp_path / "long.mp4")
    duration_s = float(jobs.probe(source).duration_s)
    with pytest.raises(
        InvalidInput, match=rf"interval: 0.01 s would be .* of {duration_s:.0f} s; at most 10,000"
    ):
        jobs.run("extract_keyframes", context, video_path=source, interval=0.01)
    assert not list(context.output_dir.iterdir())


def test_a_full_disk_under_the_archive_is_said(context):
    (context.output_dir / "keyframes.zip").symlink_to("/dev/full")
    with pytest.raises(PermanentFailure, match="disk of the worker is full: No space left on device"):
        jobs.run(
            "extract_keyframes",
            context,
            video_path=jobs.CARPHONE,
            compress_keyframes_before_upload=True,
        )


@pytest.mark.parametrize(
    "bad",
    [
        {"keyframe_sample_count": 0},
        {"keyframe_sample_count": 10_001},
        {"interval": 0.009},
        {"interval": float("nan")},
        {"keyframe_compression_format": "rar"},
        {"keyframe_count": 3},
        {"video_path": ""},
    ],
    ids=lambda bad: next(iter(bad)),
)
def test_inputs_outside_the_schema_are_refused(bad):
    with pytest.raises(ValidationError) as caught:
        KeyframeInputs(**{"video_path": "a.mp4", **bad})
    assert caught.value.errors()[0]["loc"] == (next(iter(bad)),)
