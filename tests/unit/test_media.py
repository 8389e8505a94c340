"""Probing, counting, decoding, encoding and joining, on real files."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from models.engine import InvalidInput
from models.media import BT601, BT709, count_frames, ffmpeg_path, ffmpeg_version, input_arguments, probe
from models.video_streams import (
    ChunkWriter,
    VideoForm,
    VideoWriter,
    concat_chunks,
    decode_video,
    even,
    mux,
    tick_of,
)

SAMPLES = Path(__file__).parents[2] / "samples"
BUNNY = SAMPLES / "bigbuckbunny.mp4"
CARPHONE = SAMPLES / "carphone_pristine.mp4"


def make(target: Path, *arguments: str) -> Path:
    subprocess.run([ffmpeg_path(), "-v", "error", "-y", *arguments, str(target)], check=True)
    return target


def short_clip(target: Path, *arguments: str) -> Path:
    """One second of 160x90 with sound."""
    return make(target, "-t", "1", "-i", str(BUNNY), "-vf", "scale=160:90", "-ac", "2", *arguments)


def packets(path: Path, kind: str) -> list[tuple[Fraction, str]]:
    """Presentation time and content hash of each packet of the first stream of a kind."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        found = [packet for packet in container.demux(stream) if packet.dts is not None]
        return [(packet.pts * packet.time_base, hashlib.md5(bytes(packet)).hexdigest()) for packet in found]


def atoms(path: Path) -> list[str]:
    """The names of an MP4's top-level boxes, in order."""
    names, content, at = [], path.read_bytes(), 0
    while at < len(content):
        names.append(content[at + 4 : at + 8].decode())
        at += int.from_bytes(content[at : at + 4], "big")
    return names


def rewrite(source: Path, folder: Path, *, chunk_frames: int = 10) -> tuple[Path, list[Path]]:
    """Decode, encode in chunks at the same size, and join with the source's sound."""
    info = probe(source)
    assert info.video is not None
    form = VideoForm(
        even(info.video.width_px),
        even(info.video.height_px),
        info.video.fps,
        tick_of(source),
        info.video.color,
    )
    with ChunkWriter(folder, form, chunk_frames=chunk_frames, on_chunk=lambda _: None, threads=1) as writer:
        for frame, time_s in decode_video(source):
            writer.write(frame, time_s)
    output = folder / "joined.mp4"
    mux(writer.chunks, source if info.audio else None, output)
    return output, writer.chunks


def test_a_film_is_told_as_it_is() -> None:
    info = probe(BUNNY)
    assert info.video is not None
    assert info.audio is not None
    assert (info.video.width_px, info.video.height_px, info.video.fps) == (1280, 720, 25)
    assert (info.video.num_frames, info.video.codec, info.video.color) == (132, "h264", BT709)
    assert (info.audio.codec, info.audio.sample_rate_hz, info.audio.channels) == ("aac", 48000, 6)
    assert info.size_bytes == BUNNY.stat().st_size
    assert not info.is_image


def test_an_open_file_is_probed_like_its_path() -> None:
    with CARPHONE.open("rb") as file:
        assert probe(file) == probe(CARPHONE)


def test_sound_alone_has_no_video() -> None:
    info = probe(SAMPLES / "conversation.wav")
    assert info.video is None
    assert info.audio is not None
    assert info.audio.duration_s == 30.0


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    sound = make(tmp_path / "a.mp3", "-t", "1", "-i", str(BUNNY), "-vn")
    cover = make(tmp_path / "cover.jpg", "-i", str(BUNNY), "-frames:v", "1", "-update", "1")
    tagged = make(
        tmp_path / "tagged.mp3",
        *("-i", str(sound), "-i", str(cover), "-map", "0", "-map", "1", "-c", "copy"),
        *("-disposition:v", "attached_pic"),
    )
    assert probe(tagged).video is None


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tiff"])
def test_pictures_are_images(tmp_path: Path, suffix: str) -> None:
    picture = (
        make(tmp_path / f"picture.{suffix}", "-i", str(CARPHONE), "-frames:v", "1", "-update", "1")
        if suffix != "gif"
        else make(tmp_path / "picture.gif", "-i", str(CARPHONE), "-frames:v", "1")
    )
    info = probe(picture)
    assert info.is_image
    assert info.video is not None
    assert (info.video.width_px, info.video.height_px, info.video.num_frames) == (176, 144, 1)
    assert info.duration_s == 0


def test_an_animation_is_no_image(tmp_path: Path) -> None:
    assert not probe(make(tmp_path / "moving.gif", "-i", str(CARPHONE), "-frames:v", "3")).is_image


def test_a_file_name_with_a_pattern_is_only_a_name(tmp_path: Path) -> None:
    picture = make(tmp_path / "p.jpg", "-i", str(CARPHONE), "-frames:v", "1", "-update", "1")
    assert probe(Path(shutil.copy(picture, tmp_path / "p%03d.jpg"))).is_image


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"", "zero bytes", id="empty"),
        pytest.param(b"this is text\n" * 50, "is not a media file", id="text"),
        pytest.param(BUNNY.read_bytes()[:200_000], "is truncated", id="index-cut-off"),
        pytest.param(bytes(range(256)) * 100, "is not a media file", id="noise"),
    ],
)
def test_what_cannot_be_decoded_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "upload.mp4"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=said) as caught:
        probe(path)
    assert str(tmp_path) not in str(caught.value)
    with path.open("rb") as file, pytest.raises(InvalidInput, match=said):
        probe(file)


def test_a_picture_of_any_size_is_refused_for_its_size(tmp_path: Path) -> None:
    """Neither as a path nor as an upload is it called damaged."""
    huge = tmp_path / "huge.png"
    Image.new("1", (20_000, 20_000)).save(huge)
    with huge.open("rb") as upload:
        for source in (huge, upload):
            with pytest.raises(
                InvalidInput, match=r"huge\.png has more than 134217728 pixels: make it small"
            ):
                probe(source)


def test_an_mp4_cut_before_its_first_picture_is_refused(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole.mp4", "-i", str(BUNNY), "-c", "copy", "-movflags", "+faststart")
    path = tmp_path / "cut.mp4"
    content = whole.read_bytes()
    path.write_bytes(content[: content.index(b"mdat") + 100])
    with pytest.raises(InvalidInput, match="is empty, truncated or damaged: no picture and no sound"):
        probe(path)


PLAYLISTS = {
    "hls-file": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n",
    "hls-http": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{target}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
}


@pytest.mark.parametrize("suffix", [".m3u8", ".mp4", ".ffconcat", ".sdp"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_playlists_never_reach_what_they_name(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"list{suffix}"
    path.write_text(PLAYLISTS[kind].format(target=BUNNY))
    with pytest.raises(InvalidInput, match="is not a media file"):
        probe(path)
    with path.open("rb") as file, pytest.raises(InvalidInput, match="is not a media file"):
        probe(file)


def test_the_ffmpeg_program_refuses_playlists_too(tmp_path: Path) -> None:
    path = tmp_path / "list.m3u8"
    path.write_text(PLAYLISTS["hls-file"].format(target=make(tmp_path / "a.ts", "-i", str(CARPHONE))))
    tail = ["-f", "null", "-"]
    trusting = subprocess.run([ffmpeg_path(), "-v", "error", "-i", str(path), *tail], check=False)
    careful = subprocess.run(
        [ffmpeg_path(), "-v", "error", *input_arguments(path), *tail], check=False, capture_output=True
    )
    assert trusting.returncode == 0, "the playlist itself must be a good one"
    assert careful.returncode != 0
    good = subprocess.run([ffmpeg_path(), "-v", "error", *input_arguments(CARPHONE), *tail], check=False)
    assert good.returncode == 0


@pytest.fixture
def program_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Makes a shell script the only ffmpeg on PATH."""

    def put(script: str) -> str:
        program = tmp_path / "bin" / "ffmpeg"
        program.parent.mkdir()
        program.write_text(script)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent))
        return str(program)

    ffmpeg_path.cache_clear()
    yield put
    ffmpeg_path.cache_clear()


@pytest.mark.parametrize(
    ("version", "is_taken"),
    [
        ("4.4.2-0ubuntu0.22.04.1", False),
        ("5.0.3", False),
        ("n4.4", False),
        ("5.1", True),
        ("5.1.6-0+deb12u1", True),
        ("n7.1.1-12-gdeadbeef", True),
        ("10.0", True),
        ("N-118193-g5f38c82536", True),
        ("2024-05-20-git-127ded5078-full_build", True),
        ("git-2020-01-01-abcdef0", True),
    ],
)
def test_an_ffmpeg_on_path_must_be_new_enough(
    program_on_path: Callable[[str], str], version: str, is_taken: bool
) -> None:
    program = program_on_path(f"#!/bin/sh\necho 'ffmpeg version {version} Copyright (c) FFmpeg 3.1'\n")
    assert (ffmpeg_path() == program) is is_taken
    assert (ffmpeg_version() == version) is is_taken
    assert Path(ffmpeg_path()).is_file()


@pytest.mark.parametrize(
    "script", ["#!/bin/sh\necho 'no libx264.so' >&2; exit 127\n", "\0"], ids=["exits", "cannot start"]
)
def test_an_ffmpeg_on_path_that_does_not_run_is_skipped(
    program_on_path: Callable[[str], str], script: str
) -> None:
    program = program_on_path(script)
    assert ffmpeg_path() != program


@pytest.mark.parametrize("turn_deg", [90, 180, 270])
def test_rotation_is_applied(tmp_path: Path, turn_deg: int) -> None:
    turned = make(
        tmp_path / "turned.mp4", "-display_rotation", str(turn_deg), "-i", str(CARPHONE), "-c", "copy"
    )
    video = probe(turned).video
    assert video is not None
    assert (video.width_px, video.height_px) == ((176, 144) if turn_deg == 180 else (144, 176))
    upright, _ = next(decode_video(CARPHONE))
    shown, _ = next(decode_video(turned))
    np.testing.assert_array_equal(shown, np.rot90(upright, turn_deg // 90))
    as_ffmpeg = make(tmp_path / "shown.png", "-i", str(turned), "-frames:v", "1", "-update", "1")
    reference, _ = next(decode_video(as_ffmpeg))
    assert np.abs(shown.astype(int) - reference).mean() < 2


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "webm", "avi"])
def test_frames_are_counted_without_decoding(tmp_path: Path, suffix: str) -> None:
    codec = "libvpx-vp9" if suffix == "webm" else "libx264"
    clip = make(
        tmp_path / f"clip.{suffix}", "-i", str(CARPHONE), "-frames:v", "31", "-c:v", codec, "-cpu-used", "8"
    )
    assert count_frames(clip) == 31 == sum(1 for _ in decode_video(clip))


def test_sound_has_no_frames_to_count() -> None:
    assert count_frames(SAMPLES / "conversation.wav") == 0


def test_times_of_a_constant_rate_are_exact() -> None:
    times = [time_s for _, time_s in decode_video(CARPHONE)]
    assert times == [index * Fraction(1001, 30000) for index in range(120)]


def test_a_video_with_holes_keeps_its_times(tmp_path: Path) -> None:
    irregular = make(
        tmp_path / "vfr.mp4",
        *("-i", str(CARPHONE), "-vf", r"select='lt(n\,20)+not(mod(n\,7))'", "-fps_mode", "vfr"),
    )
    times = [time_s for _, time_s in decode_video(irregular)]
    assert len({later - earlier for earlier, later in pairwise(times)}) > 1
    joined, chunks = rewrite(irregular, tmp_path)
    assert len(chunks) > 1
    assert [time_s for _, time_s in decode_video(joined)] == times


@pytest.mark.parametrize(
    ("suffix", "arguments"),
    [
        pytest.param("mp4", ["-c:a", "aac"], id="aac"),
        pytest.param("mkv", ["-c:a", "libmp3lame"], id="mp3"),
        pytest.param("webm", ["-c:v", "libvpx-vp9", "-cpu-used", "8", "-c:a", "libopus"], id="opus"),
        pytest.param("mkv", ["-c:a", "ac3"], id="ac3"),
        pytest.param("mkv", ["-c:a", "flac"], id="flac"),
    ],
)
def test_sound_that_mp4_carries_is_copied_bit_by_bit(
    tmp_path: Path, suffix: str, arguments: list[str]
) -> None:
    clip = short_clip(tmp_path / f"clip.{suffix}", *arguments)
    joined, _ = rewrite(clip, tmp_path)
    assert [content for _, content in packets(joined, "audio")] == [
        content for _, content in packets(clip, "audio")
    ]
    drifts = [
        abs(copied - original)
        for (copied, _), (original, _) in zip(packets(joined, "audio"), packets(clip, "audio"), strict=True)
    ]
    assert max(drifts) <= Fraction(1, 1000)
    assert count_frames(joined) == 25


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mov", "pcm_s16le"), ("mkv", "libvorbis"), ("ts", "mp2")], ids=lambda value: value
)
def test_other_sound_becomes_aac_of_the_same_length(tmp_path: Path, suffix: str, codec: str) -> None:
    clip = short_clip(tmp_path / f"clip.{suffix}", "-c:a", codec)
    joined, _ = rewrite(clip, tmp_path)
    before, after = probe(clip).audio, probe(joined).audio
    assert before is not None
    assert after is not None
    assert after.codec == "aac"
    assert after.duration_s == pytest.approx(before.duration_s, abs=0.05)


@pytest.mark.parametrize("late", ["audio", "video"])
def test_sound_keeps_its_offset(tmp_path: Path, late: str) -> None:
    inputs = {"video": ["-t", "1", "-i", str(CARPHONE)], "audio": ["-t", "1", "-i", str(BUNNY)]}
    inputs[late] = ["-itsoffset", "0.5", *inputs[late]]
    clip = make(
        tmp_path / "clip.mp4",
        *inputs["video"],
        *inputs["audio"],
        *("-map", "0:v", "-map", "1:a", "-c", "copy"),
    )
    joined, _ = rewrite(clip, tmp_path)
    assert packets(joined, "audio") == packets(clip, "audio")
    with av.open(str(clip)) as before, av.open(str(joined)) as after:
        starts = [c.streams.video[0].start_time * c.streams.video[0].time_base for c in (before, after)]
    assert starts[0] == pytest.approx(0.5 if late == "video" else 0, abs=0.03)
    assert starts[0] == starts[1]


def test_the_start_of_a_transport_stream_is_taken_off(tmp_path: Path) -> None:
    clip = short_clip(tmp_path / "clip.ts", "-c:v", "libx264", "-c:a", "aac")
    assert packets(clip, "video")[0][0] > 1
    joined, _ = rewrite(clip, tmp_path)
    assert min(packets(joined, "video")[0][0], packets(joined, "audio")[0][0]) < Fraction(1, 10)
    assert count_frames(joined) == 25


def test_what_was_finished_is_joined_with_as_much_sound(tmp_path: Path) -> None:
    clip = short_clip(tmp_path / "clip.mp4", "-c:a", "aac")
    _, chunks = rewrite(clip, tmp_path)
    assert [count_frames(chunk) for chunk in chunks] == [10, 10, 5]
    partial = tmp_path / "partial.mp4"
    assert concat_chunks(list(reversed(chunks[:1])), clip, partial) == 10
    info = probe(partial)
    assert info.audio is not None
    assert info.audio.duration_s == pytest.approx(0.4, abs=0.03)
    assert [time_s for _, time_s in decode_video(partial)] == [Fraction(index, 25) for index in range(10)]


def test_joining_decodes_nothing(tmp_path: Path) -> None:
    joined, chunks = rewrite(CARPHONE, tmp_path, chunk_frames=50)
    separate = [content for chunk in chunks for _, content in packets(chunk, "video")]
    assert [content for _, content in packets(joined, "video")] == separate


def test_a_browser_can_play_what_is_written(tmp_path: Path) -> None:
    joined, _ = rewrite(short_clip(tmp_path / "clip.mp4", "-c:a", "aac"), tmp_path)
    video = probe(joined).video
    assert video is not None
    assert (video.codec, video.pixel_format, video.color) == ("h264", "yuv420p", BT601)
    order = atoms(joined)
    assert order.index("moov") < order.index("mdat")


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m"])
@pytest.mark.parametrize("color_range", ["tv", "pc"])
def test_colours_stay_what_they_are(tmp_path: Path, matrix: str, color_range: str) -> None:
    orange = tmp_path / "orange.mp4"
    scale = f"scale=out_color_matrix={matrix}:out_range={color_range},format=yuv444p"
    tags = [
        "-colorspace",
        matrix,
        "-color_range",
        color_range,
        "-color_primaries",
        matrix,
        "-color_trc",
        matrix,
    ]
    make(orange, "-f", "lavfi", "-i", "color=0xE07020:s=64x64:d=0.2:r=25,format=rgb24", "-vf", scale, *tags)
    joined, _ = rewrite(orange, tmp_path)
    for path in (orange, joined):
        frame, _ = next(decode_video(path))
        assert np.abs(frame.reshape(-1, 3).mean(0) - (0xE0, 0x70, 0x20)).max() < 2.5


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    form = VideoForm(64, 48, Fraction(25), Fraction(1, 25))
    path = tmp_path / "out.mp4"

    def write_two_sizes() -> None:
        with VideoWriter(path, form, threads=1) as writer:
            writer.write(np.zeros((48, 64, 3), np.uint8), Fraction(0))
            writer.write(np.zeros((50, 64, 3), np.uint8), Fraction(1, 25))

    with pytest.raises(ValueError, match="does not fit"):
        write_two_sizes()
    assert not path.exists()


@pytest.mark.parametrize(
    ("size_px", "expected"), [(175, 176), (174.9, 174), (176, 176), (0.5, 2), (Fraction(527, 2), 264)]
)
def test_even_takes_the_nearest(size_px: float, expected: int) -> None:
    assert even(size_px) == expected
