"""Recognition scored on people and on made voices, and what callers may throw at it."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import jiwer
import numpy as np
import pytest

from models.audio_formats import AudioFormat
from models.audio_streams import AudioWriter, read_audio
from models.cues import read_cues
from models.engine import Cancelled, InvalidInput, MediaKind, ModelNotReady, Resources, file_fields
from models.input_files import looked_at
from models.segments_file import read_transcript
from models.site import Site, ready_engine, resources_of
from models.speech_windows import speech_spans
from models.whisper_sizes import FOLDER, WheelBase, Wish
from models.zoo import faster_whisper, indextts
from models.zoo.faster_whisper import TranscribeInputs
from models.zoo.indextts_inputs import SpeechInputs
from tests import ffmpeg_jobs as jobs
from tests.run_context import LocalRunContext
from tests.speech_and_music import speech
from tests.stores import SAMPLES

(SPEC,) = faster_whisper.MODELS
FULL, EMBEDDED = SPEC.engines
RATE_HZ = 16000
SPOKEN = (
    "Every morning the old lighthouse keeper walked along the shore and counted the boats. "
    "He knew each of them by the color of its sails, and by the songs that the crews used to sing. "
    "When the storm came, nobody was surprised that his lamp was the only one still burning."
)
SOUNDS = Path(__file__).parents[1] / "sounds"
ODD_START = 1049216  # the span of speech from here begins at sample 1024320
MANDARIN = "今天天气很好，我们一起去学校学习汉语。"
FIELDS = [
    *("segments_file", "segments_count", "audio_duration", "language", "model_name", "device"),
    *("transcribe_duration", "statistics", "notes"),
]


@pytest.fixture(scope="module")
def engine():
    return loaded(EMBEDDED, Site())


@pytest.fixture(scope="module")
def talk(engine, tmp_path_factory):
    """What one run makes of the conversation: its context, result and file."""
    context = LocalRunContext(tmp_path_factory.mktemp("talk"))
    values = run(engine, context, jobs.TALK)
    return context, values, json.loads(values["segments_file"].read_text())


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    """17 s of a made English voice."""
    sound = speech()
    return sound_file(tmp_path_factory.mktemp("voice") / "voice.wav", sound, rate_hz=44100)


@pytest.fixture(scope="module")
def mandarin(tmp_path_factory):
    """A sentence of a made voice."""
    spec = indextts.MODELS[0].engines[-1]
    context = LocalRunContext(tmp_path_factory.mktemp("mandarin"))
    return loaded(spec, Site()).run(SpeechInputs(text=MANDARIN, language="zh"), context).values["audio_path"]


@pytest.fixture
def context(tmp_path):
    return LocalRunContext(tmp_path)


@pytest.fixture
def models_dir(tmp_path):
    """An operator's folder with Whisper base, from the files of the wheels."""
    folder = tmp_path / "models" / "faster-whisper" / "base"
    folder.mkdir(parents=True)
    with WheelBase(resources_of(EMBEDDED, Site(), device="cpu", threads=1)).folder("base") as files:
        for path in files.iterdir():
            path.rename(folder / path.name)
    return tmp_path / "models"


def loaded(spec, site):
    engine = spec.make()
    engine.load(resources_of(spec, site, device="cpu", threads=1))
    return engine


def run(engine, context, path, **inputs):
    return engine.run(TranscribeInputs(audio_path=str(path), **inputs), context).values


def sound_file(path, samples, rate_hz=RATE_HZ):
    with AudioWriter(path, AudioFormat.WAV, rate_hz=rate_hz, channels=samples.shape[0]) as writer:
        writer.write(samples)
    return path


def segments_of(values):
    return json.loads(values["segments_file"].read_text())["segments"]


def text_of(values):
    return " ".join(segment["text"] for segment in segments_of(values))


def words(text):
    """Lower case, without punctuation: how both sides of a word error rate are compared."""
    return " ".join(re.sub(r"[^\w\s']", "", text.lower()).split())


def stm_rows():
    lines = (SAMPLES / "conversation.stm").read_text().splitlines()
    return [(float(row[3]), float(row[4]), row[5]) for row in (line.split(None, 5) for line in lines)]


class TestConversation:
    def test_score(self, talk):
        _, values, _ = talk
        wer = jiwer.wer(words(" ".join(text for *_, text in stm_rows())), words(text_of(values)))
        print(f"\nconversation.wav: WER {wer:.3f}")  # noqa: T201 - the score
        assert wer <= 0.22

    def test_result(self, talk):
        context, values, content = talk
        assert sorted(values) == sorted(FIELDS)
        assert values["segments_file"].parent == context.output_dir
        assert re.fullmatch(r"transcribe_data_\w+\.json", values["segments_file"].name)
        assert (values["audio_duration"], values["language"]) == (30.0, "en")
        assert (values["model_name"], values["device"], values["notes"]) == ("base", "cpu", [])
        assert values["segments_count"] == len(content["segments"]) == values["statistics"]["total_segments"]
        assert values["statistics"] == content["statistics"]
        assert content["metadata"]["language_probability"] > 0.9

    def test_times_are_in_order_and_words_make_the_text(self, talk):
        _, _, content = talk
        rows = content["segments"]
        assert [row["id"] for row in rows] == list(range(1, len(rows) + 1))
        times = [at for row in rows for word in row["words"] for at in (word["start"], word["end"])]
        assert times == sorted(times)
        assert all(left["end"] <= right["start"] for left, right in pairwise(rows))
        for row in rows:
            assert "".join(word["word"] for word in row["words"]).strip() == row["text"]
            assert row["start"] <= row["words"][0]["start"]
            assert row["words"][-1]["end"] <= row["end"]

    def test_sentences_begin_where_they_are_spoken(self, talk):
        _, _, content = talk
        heard = {words(row["text"]): row["start"] for row in reversed(content["segments"])}
        said = {words(text): start_s for start_s, _, text in reversed(stm_rows())}
        common = [(said[text], heard[text]) for text in said.keys() & heard.keys()]
        assert len(common) >= 4
        assert max(abs(said_s - heard_s) for said_s, heard_s in common) < 0.4

    def test_the_other_tasks_read_the_file(self, talk):
        _, values, content = talk
        cues = read_cues(values["segments_file"], "segments_file")
        transcript = read_transcript(values["segments_file"], "segments_file")
        assert [cue.text for cue in cues] == [row["text"] for row in content["segments"]]
        assert transcript.language == "en"
        assert not any(segment.are_times_estimated for segment in transcript.segments)

    def test_progress_ends_at_the_end(self, talk):
        context, _, _ = talk
        done = [report.done for report in context.reports]
        assert done == sorted(done)
        assert (done[0], done[-1]) == (0.0, 30.0)
        assert {(report.total, report.stage, report.unit) for report in context.reports} == {
            (30.0, "transcribe", "s")
        }
        assert not list(context.scratch_dir.iterdir())


class TestWindows:
    def test_cuts_lose_no_word(self, engine, context, voice, monkeypatch):
        monkeypatch.setattr(faster_whisper, "WINDOW_S", 8.0)
        monkeypatch.setattr(faster_whisper, "_SEARCH_S", 5.0)
        values = run(engine, context, voice, language="en", model_size="small")
        wer = jiwer.wer(words(SPOKEN), words(text_of(values)))
        print(f"\nmade English voice, three windows: WER {wer:.3f}")  # noqa: T201 - the score
        assert wer <= 0.1
        rows = segments_of(values)
        assert all(left["end"] <= right["start"] for left, right in pairwise(rows))
        assert 13 < rows[-1]["end"] <= values["audio_duration"]
        assert values["notes"] == [
            "model_size small was asked for; Whisper base, which ships with the server, stood in"
        ]

    def test_cancel_stops_after_the_segment_that_came(self, engine, tmp_path, monkeypatch):
        monkeypatch.setattr(faster_whisper, "WINDOW_S", 8.0)
        context = LocalRunContext(tmp_path, cancel_at=0.5)
        with pytest.raises(Cancelled):
            run(engine, context, jobs.TALK, language="en", word_timestamps=False)
        assert context.reports[-1].done <= 8
        assert not list(context.output_dir.iterdir())


class TestUnfinishedSpans:
    @pytest.mark.parametrize("vad_filter", [True, False], ids=["vad", "no vad"])
    def test_what_is_said_after_the_network_stopped_is_heard(self, engine, context, vad_filter):
        """Whisper base ends this span of 28 s after 22 s, before the sixth sentence."""
        values = run(engine, context, SOUNDS / "two_voices.opus", language="en", vad_filter=vad_filter)
        last = segments_of(values)[-1]
        assert "my name begins with a W" in last["text"]
        assert 21.5 < last["start"] < 22.4
        assert 27 < last["end"] <= values["audio_duration"]


class TestMandarin:
    def test_is_detected_and_written_in_simplified_characters(self, engine, context, mandarin):
        values = run(engine, context, mandarin, word_timestamps=False)
        cer = jiwer.cer(words(MANDARIN).replace(" ", ""), words(text_of(values)).replace(" ", ""))
        print(f"\nmade Mandarin voice: CER {cer:.3f}: {text_of(values)}")  # noqa: T201 - the score
        assert values["language"] == "zh"
        assert cer <= 0.2
        assert not set("氣學習漢語們") & set(text_of(values))
        assert all(row["words"] == [] for row in segments_of(values))

    def test_prompt_of_the_caller_comes_first(self, engine, context, mandarin):
        values = run(
            engine, context, mandarin, language="zh", initial_prompt="以下是國語的句子，天氣、學習。"
        )
        assert set("氣學習漢語們") & set(text_of(values))

    def test_is_translated(self, engine, context, mandarin):
        values = run(engine, context, mandarin, language="zh", task="translate", word_timestamps=False)
        assert text_of(values).isascii()
        assert re.search("school|weather|Chinese", text_of(values))


class TestOddInput:
    @pytest.mark.parametrize("vad_filter", [True, False], ids=["vad", "no vad"])
    @pytest.mark.parametrize(
        "num_samples", [40 * RATE_HZ, RATE_HZ // 100, 0], ids=["silence", "10 ms", "none"]
    )
    def test_nothing_to_hear_is_an_empty_result(self, engine, context, tmp_path, num_samples, vad_filter):
        path = sound_file(tmp_path / "x.wav", np.zeros((1, num_samples), np.float32))
        values = run(engine, context, path, vad_filter=vad_filter)
        assert (values["segments_count"], values["language"]) == (0, None)
        assert values["audio_duration"] == num_samples / RATE_HZ
        assert values["notes"] == ["no speech was found"]
        assert segments_of(values) == []

    @pytest.mark.parametrize(
        "form", [("-ac", "8", "-channel_layout", "7.1"), ("-ar", "192000")], ids=["8 channels", "192 kHz"]
    )
    def test_any_form_of_sound(self, engine, context, tmp_path, form):
        path = jobs.make(tmp_path / "x.wav", "-ss", "12.3", "-t", "2.2", "-i", str(jobs.TALK), *form)
        values = run(engine, context, path, language="en", word_timestamps=False)
        assert "New Jersey" in text_of(values)

    def test_a_video_without_sound_is_refused_at_submit(self):
        kind = file_fields(TranscribeInputs)["audio_path"].kind
        assert kind is MediaKind.AUDIO
        with pytest.raises(InvalidInput, match="audio_path: the file has no audio stream") as refused:
            looked_at("audio_path", kind, jobs.CARPHONE, 8192**2)
        assert refused.value.field == "audio_path"

    def test_a_file_that_holds_no_sound_names_its_field(self, engine, context, tmp_path):
        """Behind a URL nobody looks before the engine does."""
        text = tmp_path / "x.wav"
        text.write_text("no sound")
        for path in (text, jobs.CARPHONE):
            with pytest.raises(InvalidInput) as refused:
                run(engine, context, path)
            assert refused.value.field == "audio_path"

    def test_speech_at_an_odd_hundredth_is_not_lost(self, engine, context, tmp_path):
        """The second span begins at sample 1024320, which faster-whisper counts as one earlier."""
        said = read_audio(jobs.TALK, rate_hz=RATE_HZ, channels=1)[:, round(12.2 * RATE_HZ) :][
            :, : 3 * RATE_HZ
        ]
        sound = np.zeros((1, 70 * RATE_HZ), np.float32)
        for at in (0, ODD_START):
            sound[:, at : at + said.shape[1]] = said
        path = sound_file(tmp_path / "x.wav", sound)
        spans = speech_spans(sound[0], span_s=30)[1]
        assert [start for start, _ in spans] == [0, 1024320]
        rows = segments_of(run(engine, context, path, language="en", word_timestamps=False))
        assert sum("New Jersey" in row["text"] for row in rows) == 2

    def test_a_language_that_the_model_lacks_is_refused(self, engine, context):
        with pytest.raises(InvalidInput, match=r"language yue .* large-v3") as refused:
            run(engine, context, jobs.TALK, language="yue")
        assert refused.value.field == "language"


class TestFullEngine:
    def test_runs_on_the_folder_of_the_operator(self, models_dir, context, tmp_path):
        (models_dir / "faster-whisper" / "base" / "preprocessor_config.json").write_text(
            '{"feature_size": 128}'  # of another size: the model itself says how many bands it takes
        )
        site = Site(models_dir=models_dir)
        assert ready_engine(SPEC, site) is FULL
        engine = loaded(FULL, site)
        path = jobs.make(tmp_path / "x.wav", "-ss", "12.3", "-t", "2.2", "-i", str(jobs.TALK))
        values = run(engine, context, path, model_size="base", language="en", word_timestamps=False)
        assert "New Jersey" in text_of(values)
        assert (values["model_name"], values["notes"]) == ("base", [])
        lacks = "model.bin, config.json, tokenizer.json, vocabulary.*"
        with pytest.raises(ModelNotReady, match=re.escape(lacks)) as missing:
            run(engine, context, path, model_size="turbo")
        assert "MEDIARAY_MODELS_DIR/faster-whisper/large-v3-turbo; installed: base" in str(missing.value)

    @pytest.mark.parametrize("name", ["model.bin", "config.json", "tokenizer.json", "vocabulary.json"])
    def test_a_missing_file_is_named(self, tmp_path, name):
        folder = tmp_path / "faster-whisper" / "large-v3"
        folder.mkdir(parents=True)
        for other in {"model.bin", "config.json", "tokenizer.json", "vocabulary.json"} - {name}:
            (folder / other).touch()
        pattern = name.replace("vocabulary.json", "vocabulary.*")
        site = Site(models_dir=tmp_path)
        with pytest.raises(ModelNotReady, match=rf"put {re.escape(pattern)} into .*faster-whisper/large-v3"):
            resources_of(FULL, site, device="cpu", threads=1)
        assert ready_engine(SPEC, site) is EMBEDDED

    def test_a_file_that_is_no_model_is_told(self, tmp_path):
        folder = tmp_path / "faster-whisper" / "tiny"
        folder.mkdir(parents=True)
        for name in ("model.bin", "config.json", "tokenizer.json", "vocabulary.json"):
            (folder / name).write_text("{}")
        with pytest.raises(ModelNotReady, match="Whisper tiny cannot be loaded: "):
            loaded(FULL, Site(models_dir=tmp_path))


def test_no_folder_of_the_joined_model_is_left(engine, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source = WheelBase(resources_of(EMBEDDED, Site(), device="cpu", threads=1))
    with source.folder(source.choose(Wish(size="large"))) as folder:
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o077 == 0
        assert (folder / "model.bin").stat().st_size == 145_217_607
    assert not list(tmp_path.iterdir())


def test_folders_and_models_dir_are_needed_for_the_full_engine():
    with pytest.raises(ModelNotReady, match="set MEDIARAY_MODELS_DIR"):
        FULL.make().load(Resources())
    assert FULL.folders == (FOLDER,)


def test_sound_of_a_video_is_read_at_its_times(engine, context, tmp_path):
    talk = read_audio(jobs.TALK, rate_hz=RATE_HZ, channels=1)[
        :, round(12.4 * RATE_HZ) : round(14.3 * RATE_HZ)
    ]
    sound = sound_file(tmp_path / "x.wav", talk)
    video = jobs.make(
        tmp_path / "x.mkv",
        *("-f", "lavfi", "-t", "8", "-i", "color=size=64x64:rate=10", "-itsoffset", "5", "-i", str(sound)),
    )
    (row,) = segments_of(run(engine, context, video, language="en"))
    assert row["start"] == pytest.approx(5.1, abs=0.3)
    assert row["end"] == pytest.approx(6.8, abs=0.4)
