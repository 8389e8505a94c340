"""flashvsr.upscale_video by its embedded engine: exact size, frames, times and sound; better than bicubic."""

from __future__ import annotations

import hashlib
import subprocess
import threading
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from models.engine import Cancelled, InvalidInput, Resources, TimedOut
from models.media import Color, count_frames, ffmpeg_path, probe
from models.span_weights import SPAN_WEIGHTS
from models.video_streams import VideoForm, VideoWriter, decode_video, tick_of
from models.weights import locate
from models.zoo.flashvsr import SpanEngine, UpscaleInputs
from tests.run_context import LocalRunContext

SAMPLES = Path(__file__).parents[2] / "samples"
BUNNY = SAMPLES / "bigbuckbunny.mp4"
CARPHONE = SAMPLES / "carphone_pristine.mp4"


@pytest.fixture(scope="module")
def engine() -> SpanEngine:
    loaded = SpanEngine()
    loaded.load(Resources(weights={weight.path: locate(weight) for weight in SPAN_WEIGHTS}))
    return loaded


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


def make(target: Path, *arguments: str) -> Path:
    subprocess.run([ffmpeg_path(), "-v", "error", "-y", *arguments, str(target)], check=True)
    return target


def clip(target: Path, size: str, frames: int, *arguments: str) -> Path:
    """A lossless piece of film of this size, with sound of the same length."""
    length = ["-frames:v", str(frames), "-t", str(frames / 25)]
    return make(
        target,
        "-i",
        str(BUNNY),
        "-vf",
        f"scale={size}:flags=area",
        *length,
        "-qp",
        "0",
        "-ac",
        "2",
        *arguments,
    )


def upscale(engine: SpanEngine, context: LocalRunContext, source: Path, **given) -> dict:
    return engine.run(UpscaleInputs(video_path=str(source), **given), context).values


def sound_of(path: Path) -> list[tuple[Fraction, str]]:
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        found = [packet for packet in container.demux(stream) if packet.dts is not None]
        return [(packet.pts * packet.time_base, hashlib.md5(bytes(packet)).hexdigest()) for packet in found]


def times_of(path: Path) -> list[Fraction]:
    return [time_s for _, time_s in decode_video(path)]


def luma(frame: np.ndarray) -> np.ndarray:
    """(H, W) uint8: what the eye sees of detail; colour has a quarter of the pixels in the input already."""
    return cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb)[..., 0]


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


def test_four_times_a_talking_man(engine, tmp_path):
    source = make(tmp_path / "phone call.mp4", "-i", str(CARPHONE), "-frames:v", "20", "-c", "copy")
    context = LocalRunContext(tmp_path, task_id="89abcdef-0123-4567-89ab-cdef01234567")
    values = upscale(engine, context, source, scale=4)

    output = values["video_path"]
    assert output == context.output_dir / "phone call_flashvsr_89abcdef.mp4"
    assert list(context.output_dir.iterdir()) == [output]
    assert (values["width"], values["height"], values["total_frames"]) == (704, 576, 20)
    assert (values["has_audio"], values["notes"]) == (False, [])
    video = probe(output).video
    assert video is not None
    assert (video.width_px, video.height_px, video.fps) == (704, 576, Fraction(30000, 1001))
    assert (video.codec, video.pixel_format) == ("h264", "yuv420p")
    assert video.sample_aspect_ratio == Fraction(128, 117)
    assert times_of(output) == times_of(source)
    content = output.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_progress_counts_frames_and_finished_parts_are_kept(engine, tmp_path, monkeypatch):
    monkeypatch.setattr("models.zoo.flashvsr._CHUNK_FRAMES", 8)
    source = clip(tmp_path / "clip.mp4", "48:32", 20)
    context = LocalRunContext(tmp_path)
    upscale(engine, context, source)
    done = [report.done for report in context.reports if report.stage == "upscale"]
    assert done == list(range(21))
    assert {(report.total, report.unit) for report in context.reports} == {(20, "frames")}
    assert [count_frames(part) for part in context.commits] == [8, 8, 4]


def bicubic_film(source: Path, target: Path, size: tuple[int, int]) -> Path:
    """What a plain resize delivers, written by the same writer."""
    form = VideoForm(*size, Fraction(25), tick_of(source), color_of_first(source))
    with VideoWriter(target, form, threads=1) as writer:
        for frame, time_s in decode_video(source):
            writer.write(cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC), time_s)
    return target


def color_of_first(source: Path) -> Color:
    video = probe(source).video
    assert video is not None
    return video.color


@pytest.mark.parametrize(("scale", "gain_db"), [(2, 0.7), (4, 0.3)])
def test_the_delivered_film_is_better_than_bicubic(engine, tmp_path, scale, gain_db):
    """Both as delivered, after H.264, of a film reduced by area averaging; measured +0.81 and +0.37 dB."""
    source = clip(tmp_path / "small.mkv", f"{640 // scale}:{360 // scale}", 3)
    whole = clip(tmp_path / "whole.mkv", "640:360", 3)
    plain = bicubic_film(source, tmp_path / "plain.mp4", (640, 360))
    values = upscale(engine, LocalRunContext(tmp_path), source, scale=scale)
    gains = []
    for (original, _), (bicubic, _), (enlarged, _) in zip(
        *(decode_video(path) for path in (whole, plain, values["video_path"])), strict=True
    ):
        gains.append(psnr_db(luma(enlarged), luma(original)) - psnr_db(luma(bicubic), luma(original)))
        assert np.abs(enlarged.reshape(-1, 3).mean(0) - original.reshape(-1, 3).mean(0)).max() < 1.5
        (shift_x, shift_y), _ = cv2.phaseCorrelate(
            *(picture.mean(2).astype(np.float32) for picture in (original, enlarged))
        )
        assert max(abs(shift_x), abs(shift_y)) < 0.1
    assert min(gains) > gain_db


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        pytest.param("64:48", 1, (64, 48), id="same-size"),
        pytest.param("65:47", 1, (66, 48), id="odd-same-size"),
        pytest.param("64:48", 1.5, (96, 72), id="x1.5"),
        pytest.param("65:47", 3, (196, 142), id="odd-x3"),
        pytest.param("64:48", 8, (512, 384), id="x8"),
    ],
)
def test_any_scale_and_odd_sizes(engine, tmp_path, size, scale, expected):
    source = clip(tmp_path / "clip.mkv", size, 4, "-pix_fmt", "yuv444p")
    values = upscale(engine, LocalRunContext(tmp_path), source, scale=scale)
    video = probe(values["video_path"]).video
    assert video is not None
    assert (video.width_px, video.height_px) == expected == (values["width"], values["height"])
    assert count_frames(values["video_path"]) == 4
    exact = tuple(int(side) * scale for side in size.split(":"))
    assert any("rounded to even" in note for note in values["notes"]) == (exact != expected)
    assert any("scale 1:" in note for note in values["notes"]) == (scale == 1)
    (first, _), (enlarged, _) = next(decode_video(source)), next(decode_video(values["video_path"]))
    as_before = cv2.resize(enlarged, (first.shape[1], first.shape[0]), interpolation=cv2.INTER_AREA)
    assert psnr_db(as_before, first) > 25, "the picture is the same one"


def test_a_wide_film_is_reduced_first(engine, tmp_path):
    source = make(tmp_path / "wide.mp4", "-i", str(BUNNY), "-frames:v", "2", "-an", "-c:v", "copy")
    values = upscale(engine, LocalRunContext(tmp_path), source, preprocess_width=128, scale=2)
    info = values["video_info"]
    assert (info["width"], info["height"], info["preprocess_applied"]) == (1280, 720, True)
    assert (info["preprocess_result_width"], info["preprocess_result_height"]) == (128, 72)
    assert (info["predicted_output_width"], info["predicted_output_height"]) == (256, 144)
    video = probe(values["video_path"]).video
    assert video is not None
    assert (video.width_px, video.height_px) == (256, 144)
    assert values["notes"] == ["reduced from 1280x720 to 128x72 before upscaling"]


@pytest.mark.parametrize("codec", ["aac", "libmp3lame"])
def test_sound_is_copied_bit_by_bit(engine, tmp_path, codec):
    source = clip(tmp_path / "clip.mp4", "48:32", 20, "-c:a", codec)
    values = upscale(engine, LocalRunContext(tmp_path), source)
    assert values["has_audio"]
    assert sound_of(values["video_path"]) == sound_of(source)


def test_a_variable_rate_is_kept(engine, tmp_path):
    source = make(
        tmp_path / "vfr.mkv",
        *("-i", str(CARPHONE), "-vf", r"select='lt(n\,6)+not(mod(n\,11))',scale=48:32", "-fps_mode", "vfr"),
    )
    values = upscale(engine, LocalRunContext(tmp_path), source)
    assert times_of(values["video_path"]) == times_of(source)


def test_one_frame_is_a_film_too(engine, tmp_path):
    source = clip(tmp_path / "one.mp4", "48:32", 1)
    values = upscale(engine, LocalRunContext(tmp_path), source)
    assert values["total_frames"] == 1 == count_frames(values["video_path"])


def test_a_turned_film_comes_out_upright(engine, tmp_path):
    lying = clip(tmp_path / "lying.mp4", "64:32", 2)
    source = make(tmp_path / "turned.mp4", "-display_rotation", "90", "-i", str(lying), "-c", "copy")
    values = upscale(engine, LocalRunContext(tmp_path), source)
    video = probe(values["video_path"]).video
    assert video is not None
    assert (video.width_px, video.height_px, video.rotation_deg) == (64, 128, 0)


def test_a_cut_off_film_is_delivered_as_far_as_it_goes(engine, tmp_path):
    whole = clip(tmp_path / "whole.mp4", "48:32", 40, "-movflags", "+faststart")
    source = tmp_path / "cut.mp4"
    content = whole.read_bytes()
    source.write_bytes(content[: content.index(b"mdat") + (len(content) - content.index(b"mdat")) // 2])
    values = upscale(engine, LocalRunContext(tmp_path), source)
    assert 0 < values["total_frames"] < 40
    assert values["total_frames"] == count_frames(values["video_path"])
    assert f"{values['total_frames']} of 40 frames could be decoded" in values["notes"]


def test_cancel_stops_between_frames_and_keeps_what_was_finished(engine, tmp_path, monkeypatch):
    monkeypatch.setattr("models.zoo.flashvsr._CHUNK_FRAMES", 4)
    source = clip(tmp_path / "clip.mp4", "48:32", 60)
    context = LocalRunContext(tmp_path, cancel_at=30)
    with pytest.raises(Cancelled):
        upscale(engine, context, source)
    assert max(report.done for report in context.reports) == 30
    assert list(context.output_dir.iterdir()) == []
    assert set(context.scratch_dir.iterdir()) == set(context.commits)
    assert all(count_frames(part) == 4 for part in context.commits)


def test_a_deadline_stops_it_like_cancel(engine, tmp_path):
    context = LocalRunContext(tmp_path)
    context.time_out()
    with pytest.raises(TimedOut):
        upscale(engine, context, clip(tmp_path / "clip.mp4", "48:32", 2))


@pytest.mark.parametrize("name", ["portrait.png", "conversation.wav"])
def test_what_is_no_video_is_refused(engine, tmp_path, name):
    with pytest.raises(InvalidInput, match="video") as caught:
        upscale(engine, LocalRunContext(tmp_path), SAMPLES / name)
    assert caught.value.field == "video_path"
