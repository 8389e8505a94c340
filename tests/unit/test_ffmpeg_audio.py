from __future__ import annotations

import wave

import numpy as np
import psutil
import pytest
from pydantic import ValidationError

from models.audio_formats import ENCODINGS
from models.engine import Cancelled, InvalidInput, PermanentFailure, TransientFailure
from models.media import probe
from models.zoo.ffmpeg_audio import AudioInputs
from tests import ffmpeg_jobs as jobs
from tests.run_context import LocalRunContext


@pytest.fixture
def context(tmp_path):
    return LocalRunContext(tmp_path, threads=2)


def samples_of(path):
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())


def test_wav_by_default_with_facts_of_the_written_file(context):
    values = jobs.run("extract_audio", context, video_path=jobs.BUNNY)
    assert list(values) == ["audio_path", "duration", "format", "sample_rate", "channels", "bit_rate"]
    assert values["audio_path"] == context.output_dir / "bigbuckbunny_audio.wav"
    sound = samples_of(values["audio_path"])
    assert sound.shape == (round(values["duration"] * 16000), 1)
    assert values["duration"] == pytest.approx(5.312, abs=0.03)
    assert np.abs(sound).max() > 1000  # it is not silence
    assert values["bit_rate"] == pytest.approx(256_000, rel=0.01)


def test_wav_of_a_wav_is_the_same_samples(context):
    values = jobs.run("extract_audio", context, video_path=jobs.TALK)
    assert np.array_equal(samples_of(values["audio_path"]), samples_of(jobs.TALK))


@pytest.mark.parametrize("audio_format", list(ENCODINGS))
def test_every_format_carries_its_extremes(context, tmp_path, audio_format):
    source = jobs.make(tmp_path / "second.wav", "-i", str(jobs.BUNNY), "-t", "1")
    encoding = ENCODINGS[audio_format]
    rate = encoding.rates_hz[-1] if encoding.rates_hz else 192_000
    values = jobs.run(
        "extract_audio",
        context,
        video_path=source,
        audio_format=audio_format,
        sample_rate=rate,
        channels=encoding.max_channels,
    )
    made = probe(values["audio_path"])
    assert values["audio_path"].suffix == f".{audio_format}"
    assert made.audio is not None
    assert (made.audio.sample_rate_hz, made.audio.channels) == (rate, encoding.max_channels)
    assert (values["format"], values["sample_rate"], values["channels"]) == (
        *(audio_format, rate, encoding.max_channels),
    )
    assert values["duration"] == pytest.approx(1.0, abs=0.1)
    assert values["bit_rate"] > 0


def test_sound_that_starts_late_stays_on_the_clock_of_the_video(context, tmp_path):
    """Transcripts of the sound are laid over the video, so its times must be those of the video."""
    source = jobs.make(
        tmp_path / "late.mkv",
        *("-f", "lavfi", "-i", "testsrc2=s=64x64:r=10:d=3", "-itsoffset", "1"),
        *("-f", "lavfi", "-i", "sine=f=440:d=2:r=16000", "-c:a", "pcm_s16le"),
    )
    sound = samples_of(jobs.run("extract_audio", context, video_path=source)["audio_path"])
    first = int(np.flatnonzero(np.abs(sound[:, 0]) > 100)[0])
    assert first / 16000 == pytest.approx(1.0, abs=0.01)
    assert len(sound) / 16000 == pytest.approx(3.0, abs=0.01)


@pytest.mark.parametrize(
    ("bad", "field", "text"),
    [
        ({"audio_format": "mp3", "sample_rate": 96000}, "sample_rate", "48000"),
        ({"audio_format": "aac", "sample_rate": 192_000}, "sample_rate", "96000"),
        ({"audio_format": "m4a", "sample_rate": 9000}, "sample_rate", "8000, 11025"),
        ({"audio_format": "mp3", "channels": 3}, "channels", "at most 2"),
        ({"audio_format": "aac", "channels": 7}, "channels", "at most 6"),
    ],
    ids=["mp3 rate", "aac rate", "m4a rate", "mp3 channels", "aac channels"],
)
def test_what_a_format_cannot_carry_is_refused_at_submit(bad, field, text):
    with pytest.raises(InvalidInput, match=text) as caught:
        jobs.check("extract_audio", video_path=jobs.BUNNY, **bad)
    assert caught.value.field == field


def test_a_silent_video_is_refused_at_submit_and_at_run(context):
    with pytest.raises(InvalidInput, match="no audio stream"):
        jobs.check("extract_audio", video_path=jobs.CARPHONE)
    with pytest.raises(InvalidInput, match="no audio stream") as caught:
        jobs.run("extract_audio", context, video_path=jobs.CARPHONE)
    assert caught.value.field == "video_path"


@pytest.mark.parametrize(
    "bad",
    [
        {"sample_rate": 7999},
        {"sample_rate": 192_001},
        {"channels": 0},
        {"channels": 9},
        {"audio_format": "wma"},
    ],
    ids=str,
)
def test_inputs_outside_the_schema_are_refused(bad):
    with pytest.raises(ValidationError):
        AudioInputs(video_path="a.mp4", **bad)


def test_cancel_ends_ffmpeg(tmp_path):
    source = jobs.make(tmp_path / "long.wav", "-f", "lavfi", "-i", "sine=d=3000:r=8000")
    context = LocalRunContext(tmp_path, cancel_at=0.1)
    with pytest.raises(Cancelled):
        jobs.run("extract_audio", context, video_path=source, audio_format="ogg", sample_rate=48000)
    assert context.reports[-1].done < 3000
    assert psutil.Process().children(recursive=True) == []


def test_ffmpeg_killed_from_outside_may_be_tried_again(tmp_path):
    """As the kernel does when memory runs out."""

    class KillingContext(LocalRunContext):
        def report(self, *args, **kwargs):
            for child in psutil.Process().children():
                child.kill()

    source = jobs.make(tmp_path / "long.wav", "-f", "lavfi", "-i", "sine=d=3000:r=8000")
    with pytest.raises(TransientFailure, match="killed from outside"):
        jobs.run("extract_audio", KillingContext(tmp_path), video_path=source, audio_format="ogg")


def test_a_full_disk_under_ffmpeg_is_said(context):
    (context.output_dir / "bigbuckbunny_audio.flac").symlink_to("/dev/full")
    with pytest.raises(PermanentFailure, match=r"disk of the worker is full: .*No space left on device"):
        jobs.run("extract_audio", context, video_path=jobs.BUNNY, audio_format="flac")


def test_a_name_of_many_bytes_leaves_room_for_the_ending(context, tmp_path):
    source = tmp_path / ("声" * 83 + ".wav")
    source.write_bytes(jobs.TALK.read_bytes())
    name = jobs.run("extract_audio", context, video_path=source)["audio_path"].name
    assert name.startswith("声声")
    assert len(name.encode()) <= 255
