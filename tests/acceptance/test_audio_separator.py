"""Separation scored on a mix that the test makes, and what callers may throw at it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from models.audio_streams import AudioWriter, read_audio
from models.engine import (
    Cancelled,
    DownloadUrl,
    InvalidInput,
    MediaKind,
    PermanentFailure,
    Resources,
    file_fields,
)
from models.input_files import looked_at
from models.media import probe
from models.site import Site, ready_engine, resources_of
from models.zoo import audio_separator
from models.zoo.audio_separator import AudioFormat, MdxEngine, SeparateInputs, SpleeterEngine
from tests import ffmpeg_jobs as jobs
from tests.onnx_files import write_chain
from tests.run_context import LocalRunContext
from tests.speech_and_music import RATE_HZ, mixed, music, sdr_db, speech
from tests.unit.test_mdx import ENTRY, md5_of

(SPEC,) = audio_separator.MODELS
EMBEDDED = SPEC.engines[-1]
FIELDS = [
    *("vocal_audio", "accompaniment_audio", "all_audio_files", "audio_list", "model_used", "quality_mode"),
    *("vocal_audio_minio_url", "all_audio_minio_urls", "notes"),
]


@pytest.fixture(scope="module")
def engine():
    loaded = EMBEDDED.make()
    loaded.load(resources_of(EMBEDDED, Site(), device="cpu", threads=1))
    assert isinstance(loaded, SpleeterEngine)
    return loaded


@pytest.fixture(scope="module")
def voice():
    return speech()


@pytest.fixture
def context(tmp_path):
    return LocalRunContext(tmp_path)


def run(engine, context, **inputs):
    given = {
        key: value if key in {"quality_mode", "model_name"} else str(value) for key, value in inputs.items()
    }
    return engine.run(SeparateInputs(**given), context).values


def stereo(path, samples, rate_hz=RATE_HZ):
    with AudioWriter(path, AudioFormat.WAV, rate_hz=rate_hz, channels=samples.shape[0]) as writer:
        writer.write(samples)
    return path


def sound_of(path) -> np.ndarray:
    return read_audio(path, rate_hz=RATE_HZ, channels=2)


def power_db(samples) -> float:
    return float(10 * np.log10(np.sum(samples.astype(np.float64) ** 2)))


def part(voice, seconds: float) -> np.ndarray:
    band = music(voice.shape[1])
    mix, _ = mixed(voice, band, 0)
    return 0.5 * mix[:, : round(seconds * RATE_HZ)]


@pytest.mark.parametrize(("voice_db", "least_db"), [(0, 9.0), (-6, 8.0)], ids=["0 dB", "-6 dB"])
def test_a_voice_over_music_is_found(engine, context, tmp_path, voice, voice_db, least_db):
    mix, band = mixed(voice, music(voice.shape[1]), voice_db)
    gain = 0.9 / np.abs(mix).max()
    values = run(engine, context, audio_path=stereo(tmp_path / "mix.wav", gain * mix))
    assert list(values) == FIELDS
    vocals, accompaniment = sound_of(values["vocal_audio"]), sound_of(values["accompaniment_audio"])
    vocals_db, band_db = sdr_db(gain * voice, vocals), sdr_db(gain * band, accompaniment)
    print(  # noqa: T201 - the scores, shown by -s
        f"voice at {voice_db} dB: SDR vocals {vocals_db:.1f} dB, accompaniment {band_db:.1f} dB"
    )
    assert vocals_db >= least_db
    assert band_db >= least_db - voice_db  # as far below its reference as the voice's
    np.testing.assert_allclose(vocals + accompaniment, sound_of(tmp_path / "mix.wav"), atol=2.1 / 32768)


def test_the_result_names_every_file_and_what_stood_in(engine, context, tmp_path, voice):
    source = stereo(tmp_path / "song.wav", part(voice, 1.0))
    values = run(engine, context, audio_path=source, model_name="UVR-MDX-NET-Inst_HQ_5.onnx")
    vocals, accompaniment = (
        context.output_dir / "song_vocals.flac",
        context.output_dir / "song_accompaniment.flac",
    )
    assert (values["vocal_audio"], values["accompaniment_audio"]) == (vocals, accompaniment)
    assert values["all_audio_files"] == values["audio_list"] == [vocals, accompaniment]
    assert values["vocal_audio_minio_url"] == DownloadUrl(vocals)
    assert (values["model_used"], values["quality_mode"]) == ("Spleeter 2stems", "default")
    assert "model_name UVR-MDX-NET-Inst_HQ_5.onnx was not used: Spleeter is one model" in values["notes"]
    assert sorted(path.name for path in context.output_dir.iterdir()) == [accompaniment.name, vocals.name]


@pytest.mark.parametrize("quality_mode", list(audio_separator.QualityMode))
def test_every_sample_comes_back_in_every_quality_mode(engine, context, tmp_path, voice, quality_mode):
    mix = part(voice, 12.5)[:, :-7]  # a window and some more
    values = run(engine, context, audio_path=stereo(tmp_path / "a.wav", mix), quality_mode=quality_mode)
    vocals = sound_of(values["vocal_audio"])
    assert vocals.shape == mix.shape
    assert sdr_db(0.5 * voice[:, : mix.shape[1]], vocals) > 9


def test_the_same_input_gives_the_same_files(engine, tmp_path, voice):
    source = stereo(tmp_path / "a.wav", part(voice, 2.0))
    runs = [run(engine, LocalRunContext(tmp_path / name), audio_path=source) for name in "xy"]
    assert runs[0]["vocal_audio"].read_bytes() == runs[1]["vocal_audio"].read_bytes()


@pytest.mark.parametrize("output_format", list(AudioFormat))
def test_every_format_is_written(engine, context, tmp_path, voice, output_format):
    source = stereo(tmp_path / "a.wav", part(voice, 1.0))
    values = run(engine, context, audio_path=source, output_format=output_format)
    for path in values["all_audio_files"]:
        made = probe(path)
        assert path.suffix == f".{output_format}"
        assert made.audio is not None
        assert (made.audio.sample_rate_hz, made.audio.channels) == (RATE_HZ, 2)
        assert sound_of(path).shape[1] == pytest.approx(RATE_HZ, abs=2 * 1152 + 1105)
    assert power_db(sound_of(values["vocal_audio"])) == pytest.approx(
        power_db(0.5 * voice[:, :RATE_HZ]), abs=2
    )
    assert not list(context.scratch_dir.iterdir())


def test_a_mono_telephone_recording_stays_in_the_middle(engine, context):
    values = run(engine, context, audio_path=jobs.TALK)
    vocals = sound_of(values["vocal_audio"])
    assert vocals.shape == (2, sound_of(jobs.TALK).shape[1])
    assert np.array_equal(vocals[0], vocals[1])
    assert np.sum(vocals**2) > 0.5 * np.sum(sound_of(jobs.TALK) ** 2)  # talk is voice
    assert "resampled from 16000 Hz to 44100 Hz" in values["notes"]
    reports = [report for report in context.reports if report.stage == "separate"]
    assert {report.unit for report in reports} == {"s"}
    done = [report.done for report in reports]
    assert done == sorted(done)
    assert (done[0], done[-1], reports[-1].total) == (
        0.0,
        pytest.approx(30.0, abs=0.1),
        pytest.approx(30.0, abs=0.1),
    )
    assert len(done) > 3


def test_a_video_is_separated_by_its_sound(engine, context):
    values = run(engine, context, video_path=jobs.BUNNY)
    assert sound_of(values["vocal_audio"]).shape == sound_of(jobs.BUNNY).shape
    assert "6 channels were mixed to 2" in values["notes"]


def test_a_cancel_stops_before_the_next_window(engine, tmp_path, voice):
    source = stereo(tmp_path / "a.wav", np.tile(part(voice, 14.0), 3))
    context = LocalRunContext(tmp_path, cancel_at=5.0)
    with pytest.raises(Cancelled):
        run(engine, context, audio_path=source)
    assert context.reports[-1].done < 12


def test_a_cancel_inside_a_window_stops_between_two_layers(engine, tmp_path, voice):
    class LateCancel(LocalRunContext):
        calls = 0

        def check(self):
            self.calls += 1
            if self.calls == 100:
                self.cancel()
            super().check()

    context = LateCancel(tmp_path)
    with pytest.raises(Cancelled):
        run(engine, context, audio_path=stereo(tmp_path / "a.wav", np.tile(part(voice, 14.0), 3)))
    assert context.calls < 110  # checks on other threads, too


# What callers may throw at it


def test_silence_becomes_silence(engine, context, tmp_path):
    values = run(
        engine, context, audio_path=stereo(tmp_path / "a.wav", np.zeros((2, 3 * RATE_HZ), np.float32))
    )
    for path in values["all_audio_files"]:
        assert sound_of(path).shape == (2, 3 * RATE_HZ)
        assert not sound_of(path).any()


@pytest.mark.parametrize("length", [1, 441], ids=["one sample", "10 ms"])
def test_very_short_sound_comes_back_as_long(engine, context, tmp_path, length):
    click = np.full((2, length), 0.5, np.float32)
    values = run(engine, context, audio_path=stereo(tmp_path / "a.wav", click))
    vocals, accompaniment = (sound_of(path) for path in values["all_audio_files"])
    np.testing.assert_allclose(vocals + accompaniment, click, atol=2.1 / 32768)


@pytest.mark.parametrize(
    ("channels", "rate_hz"), [(8, 48_000), (2, 192_000), (1, 8000)], ids=["8 channels", "192 kHz", "8 kHz"]
)
def test_any_shape_of_sound_becomes_stereo_of_44100_hz(engine, context, tmp_path, channels, rate_hz):
    sine = f"sine=f=300:d=1:r={rate_hz}"
    source = jobs.make(tmp_path / "a.wav", "-f", "lavfi", "-i", sine, "-ac", str(channels))
    assert probe(source).audio.channels == channels
    values = run(engine, context, audio_path=source)
    assert sound_of(values["vocal_audio"]).shape == (2, RATE_HZ)


def test_text_is_refused_at_submit_and_at_run(engine, context, tmp_path):
    text = tmp_path / "song.wav"
    text.write_text("this is no sound")
    with pytest.raises(InvalidInput, match="not a media file"):
        looked_at("audio_path", MediaKind.AUDIO, text, 10**9)
    with pytest.raises(InvalidInput, match="not a media file") as caught:
        run(engine, context, audio_path=text)
    assert caught.value.field == "audio_path"


@pytest.mark.parametrize("field", ["audio_path", "video_path"])
def test_a_video_without_sound_is_refused_at_submit_and_at_run(engine, context, field):
    kind = file_fields(SeparateInputs)[field].kind
    with pytest.raises(InvalidInput, match=f"{field}: the file has no audio stream"):
        looked_at(field, kind, jobs.CARPHONE, 10**9)
    with pytest.raises(InvalidInput, match="no audio stream") as caught:
        run(engine, context, **{field: jobs.CARPHONE})
    assert caught.value.field == field


def test_sound_without_pictures_is_no_video(tmp_path):
    with pytest.raises(InvalidInput, match="no video stream"):
        looked_at("video_path", file_fields(SeparateInputs)["video_path"].kind, jobs.TALK, 10**9)


@pytest.mark.parametrize(
    ("inputs", "field", "text"),
    [
        ({}, "audio_path", "缺少必需参数: audio_path"),
        ({"audio_path": "a.wav", "video_path": "b.mp4"}, "video_path", "not both"),
    ],
    ids=["neither", "both"],
)
def test_exactly_one_input_is_taken(inputs, field, text):
    with pytest.raises(InvalidInput, match=text) as caught:
        SPEC.check(SeparateInputs(**inputs), {})
    assert caught.value.field == field


# The engine of the operator's models, with a model that passes half of everything


@pytest.fixture
def mdx_site(tmp_path):
    folder = tmp_path / "models" / "audio-separator"
    folder.mkdir(parents=True)
    model = write_chain(folder / "half.onnx", ("batch_size", 4, 1024, 64), [("Mul", 0.5)])
    (folder / "mdx_model_data.json").write_text(json.dumps({md5_of(model): ENTRY}))
    return Site(models_dir=folder.parent)


def test_the_operators_models_come_first(mdx_site, context, tmp_path, voice):
    spec = ready_engine(SPEC, mdx_site)
    assert (spec.name, ready_engine(SPEC, Site()).name) == ("mdx-net", "spleeter")
    engine = spec.make()
    assert isinstance(engine, MdxEngine)
    engine.load(resources_of(spec, mdx_site, device="cpu", threads=1))
    source = stereo(tmp_path / "a.wav", voice[:, : 4 * RATE_HZ])
    values = run(engine, context, audio_path=source, model_name="half")
    assert (values["model_used"], values["notes"]) == ("half.onnx", [])
    vocals, accompaniment = (sound_of(path) for path in values["all_audio_files"])
    np.testing.assert_allclose(vocals + accompaniment, sound_of(source), atol=2.1 / 32768)
    assert sdr_db(sound_of(source) / 2, vocals) > 25  # all but its lowest bins
    with pytest.raises(InvalidInput, match=r"is not installed; there are half\.onnx"):
        run(engine, context, audio_path=source, model_name="Kim_Vocal_2.onnx")


def test_weights_of_something_else_are_told(tmp_path):
    wrong = tmp_path / "net.ckpt"
    wrong.write_bytes(b"no pickle")
    with pytest.raises(PermanentFailure, match=r"net\.ckpt does not hold the weights of Spleeter"):
        SpleeterEngine().load(Resources(weights={weight.path: wrong for weight in EMBEDDED.weights}))


def test_weights_that_execute_code_are_refused(tmp_path):
    wrong = tmp_path / "net.ckpt"
    torch.save({"up7.0.bias": print}, wrong)
    with pytest.raises(PermanentFailure, match=r"net\.ckpt does not hold the weights of Spleeter"):
        SpleeterEngine().load(Resources(weights={weight.path: wrong for weight in EMBEDDED.weights}))
