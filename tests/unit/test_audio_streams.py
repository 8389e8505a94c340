"""Sound as a stream: times of the file, odd files, and what is written is what is read."""

from __future__ import annotations

import subprocess
import wave
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from models.audio_formats import AudioFormat
from models.audio_streams import AudioWriter, decode_audio, read_audio, stated_length_s, transcode
from models.engine import InvalidInput
from models.media import ffmpeg_path
from tests.run_context import LocalRunContext
from tests.stores import SAMPLES

RATE_HZ = 16000
BEEP = "sine=frequency=440:sample_rate=16000"


def make(target: Path, *arguments: str) -> Path:
    subprocess.run([ffmpeg_path(), "-v", "error", "-y", *arguments, str(target)], check=True)
    return target


def beep(target: Path, *arguments: str, duration_s: float = 2.0) -> Path:
    return make(target, "-f", "lavfi", "-t", str(duration_s), "-i", BEEP, *arguments)


def mono(path: Path) -> np.ndarray:
    return read_audio(path, rate_hz=RATE_HZ, channels=1)[0]


def loud_s(samples: np.ndarray) -> list[tuple[float, float]]:
    """(start, end) in seconds of what is no silence; pauses below 50 ms are part of it."""
    at = np.flatnonzero(np.abs(samples) > 0.01)
    cuts = [0, *(np.flatnonzero(np.diff(at) > 0.05 * RATE_HZ) + 1), len(at)]
    return [(at[first] / RATE_HZ, at[last - 1] / RATE_HZ) for first, last in pairwise(cuts)]


def remuxed(source: Path, target: Path, moved: Callable[[float], float | None]) -> Path:
    """The packets of a file at other times; None leaves a packet out."""
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        stream = read.streams.audio[0]
        copy = write.add_stream_from_template(stream)
        for packet in read.demux(stream):
            time_s = None if packet.dts is None else moved(float(packet.pts * packet.time_base))
            if time_s is not None:
                packet.pts = packet.dts = round(time_s / packet.time_base)
                packet.stream = copy
                write.mux(packet)
    return target


def test_blocks_have_their_length_and_join_to_the_whole() -> None:
    path = SAMPLES / "conversation.wav"
    blocks = list(decode_audio(path, rate_hz=RATE_HZ, channels=1, block_s=0.7))
    assert {block.shape for block in blocks[:-1]} == {(1, 11200)}
    assert 0 < blocks[-1].shape[1] <= 11200
    assert np.array_equal(np.concatenate(blocks, axis=1)[0], mono(path))
    assert sum(block.shape[1] for block in blocks) == round(stated_length_s(path) * RATE_HZ)


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "flac"), ("ts", "mp2")])
def test_sound_that_starts_late_is_where_the_video_has_it(tmp_path: Path, suffix: str, codec: str) -> None:
    late = make(
        tmp_path / f"late.{suffix}",
        *("-f", "lavfi", "-t", "15", "-i", "color=size=64x64:rate=10"),
        *("-itsoffset", "12.5", "-f", "lavfi", "-t", "2", "-i", BEEP, "-c:a", codec),
    )
    assert loud_s(mono(late)) == [pytest.approx((12.5, 14.5), abs=0.06)]


@pytest.mark.parametrize("gap_s", [0.5, 40.0], ids=["short", "long"])
def test_a_gap_is_silence(tmp_path: Path, gap_s: float) -> None:
    whole = beep(tmp_path / "whole.mka", "-c:a", "flac")
    holed = remuxed(whole, tmp_path / "holed.mka", lambda at_s: at_s if at_s < 1 else at_s + gap_s)
    heard = loud_s(mono(holed))
    assert [end_s - start_s for start_s, end_s in heard] == pytest.approx([1.0, 1.0], abs=0.3)
    assert heard[1][0] - heard[0][1] == pytest.approx(gap_s, abs=0.01)
    assert heard[1][1] == pytest.approx(2.0 + gap_s, abs=0.01)


def test_the_silence_of_a_long_gap_comes_in_pieces(tmp_path: Path) -> None:
    whole = beep(tmp_path / "whole.mka", "-c:a", "flac")
    holed = remuxed(whole, tmp_path / "holed.mka", lambda at_s: at_s if at_s < 1 else at_s + 4000)
    sizes = [
        block.shape[1] for block in decode_audio(holed, rate_hz=RATE_HZ, channels=1, block_s=30, check=list)
    ]
    assert max(sizes) == 30 * RATE_HZ
    assert sum(sizes) / RATE_HZ == pytest.approx(4002, abs=0.1)


def test_a_long_gap_can_be_stopped(tmp_path: Path) -> None:
    """All of it lies in one packet's step, and in one block."""
    whole = beep(tmp_path / "whole.mka", "-c:a", "flac")
    holed = remuxed(whole, tmp_path / "holed.mka", lambda at_s: at_s if at_s < 1 else at_s + 400)
    checks: list[None] = []
    list(decode_audio(holed, rate_hz=RATE_HZ, channels=1, block_s=500, check=lambda: checks.append(None)))
    assert len(checks) >= 400


def test_times_that_count_from_hours_start_at_zero(tmp_path: Path) -> None:
    broadcast = beep(tmp_path / "b.ts", "-c:a", "mp2", "-output_ts_offset", "36000")
    assert loud_s(mono(broadcast)) == [pytest.approx((0.0, 2.0), abs=0.06)]


def test_joined_broadcasts_that_count_anew_lose_nothing(tmp_path: Path) -> None:
    parts = [
        beep(tmp_path / f"{offset_s}.ts", "-c:a", "mp2", "-output_ts_offset", str(offset_s))
        for offset_s in (5000, 100)
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert len(mono(joined)) / RATE_HZ == pytest.approx(4.0, abs=0.15)


def test_a_change_of_rate_and_channels_keeps_the_clock(tmp_path: Path) -> None:
    parts = [
        beep(tmp_path / "a.ts", "-c:a", "mp2", "-ar", "44100", "-ac", "1"),
        beep(tmp_path / "b.ts", "-c:a", "mp2", "-ar", "48000", "-ac", "2", "-output_ts_offset", "3"),
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    heard = loud_s(mono(joined))
    assert heard[0] == pytest.approx((0.0, 2.0), abs=0.06)
    assert heard[-1] == pytest.approx((3.0, 5.0), abs=0.1)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("-ac", "8", "-channel_layout", "7.1"), id="7.1"),
        pytest.param(("-af", "pan=8c|" + "|".join(f"c{n}=c0" for n in range(8))), id="8 without a layout"),
        pytest.param(("-ar", "192000"), id="192 kHz"),
        pytest.param(("-ar", "8000", "-c:a", "pcm_u8"), id="8 kHz of 8 bits"),
        pytest.param(("-c:a", "pcm_f64le"), id="doubles"),
    ],
)
def test_any_form_of_sound_is_heard(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    samples = mono(beep(tmp_path / "x.wav", *arguments))
    assert loud_s(samples) == [pytest.approx((0.0, 2.0), abs=0.02)]
    spectrum = np.abs(np.fft.rfft(samples[RATE_HZ // 2 :][:RATE_HZ]))
    assert int(np.argmax(spectrum)) == 440


def test_packets_that_do_not_decode_become_silence(tmp_path: Path) -> None:
    path = beep(tmp_path / "x.flac", duration_s=4)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + len(content) // 10] = bytes(len(content) // 10)
    path.write_bytes(content)
    samples = mono(path)
    assert len(samples) / RATE_HZ == pytest.approx(4.0, abs=0.01)
    heard = loud_s(samples)
    assert heard[0][0] < 0.01
    assert heard[-1][1] == pytest.approx(4.0, abs=0.01)
    assert 0.2 < 4.0 - sum(end_s - start_s for start_s, end_s in heard) < 1.5


def test_a_file_that_breaks_off_ends_there(tmp_path: Path) -> None:
    path = beep(tmp_path / "x.wav")
    path.write_bytes(path.read_bytes()[: 44 + RATE_HZ * 2])
    assert len(mono(path)) / RATE_HZ == pytest.approx(1.0, abs=0.01)


def test_numbers_that_are_none_are_silence(tmp_path: Path) -> None:
    path = beep(tmp_path / "x.wav", "-c:a", "pcm_f32le")
    content = path.read_bytes()
    path.write_bytes(content[:-400] + np.array([np.nan, np.inf] * 50, "<f4").tobytes())
    samples = mono(path)
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() < 1


def test_a_sound_of_no_samples_has_no_blocks(tmp_path: Path) -> None:
    path = tmp_path / "empty.wav"
    with AudioWriter(path, AudioFormat.WAV, rate_hz=RATE_HZ, channels=1) as writer:
        writer.write(np.zeros((1, 0), np.float32))
    with wave.open(str(path)) as empty:
        assert (empty.getframerate(), empty.getnframes()) == (RATE_HZ, 0)
    assert list(decode_audio(path, rate_hz=RATE_HZ, channels=1, block_s=1)) == []
    assert read_audio(path, rate_hz=RATE_HZ, channels=2).shape == (2, 0)


def test_a_video_without_sound_is_refused() -> None:
    with pytest.raises(InvalidInput, match="has no audio stream"):
        mono(SAMPLES / "carphone_pristine.mp4")


def test_check_stops_a_stream() -> None:
    class Stop(Exception):
        pass

    def check() -> None:
        raise Stop

    with pytest.raises(Stop):
        read_audio(SAMPLES / "conversation.wav", rate_hz=RATE_HZ, channels=1, check=check)


@pytest.mark.parametrize("audio_format", [AudioFormat.WAV, AudioFormat.FLAC])
def test_what_is_written_is_what_is_read(tmp_path: Path, audio_format: AudioFormat) -> None:
    rng = np.random.default_rng(7)
    samples = rng.uniform(-1.2, 1.2, (2, 44100)).astype(np.float32)
    path = tmp_path / f"x.{audio_format}"
    with AudioWriter(path, audio_format, rate_hz=44100, channels=2) as writer:
        for first in range(0, 44100, 7919):
            writer.write(samples[:, first : first + 7919])
    read = read_audio(path, rate_hz=44100, channels=2)
    assert read.shape == samples.shape
    assert np.abs(read - samples.clip(-1, 1)).max() < 2 / 32768


def test_other_formats_are_transcoded(tmp_path: Path) -> None:
    context = LocalRunContext(tmp_path)
    target = tmp_path / "x.mp3"
    transcode(context, beep(tmp_path / "x.wav"), target, AudioFormat.MP3, "audio_path")
    assert loud_s(mono(target)) == [pytest.approx((0.0, 2.0), abs=0.06)]
