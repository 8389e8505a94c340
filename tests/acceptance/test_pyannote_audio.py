"""pyannote_audio.diarize_speakers: scored on real talk and synthetic dialogues, and given bad input.

The full engine loads from a clone and a package that the tests lay out.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models.audio_formats import AudioFormat
from models.audio_streams import AudioWriter, read_audio
from models.engine import Cancelled, Engine, EngineKind, InvalidInput, ModelNotReady, OutOfMemory
from models.media import ffmpeg_path, probe
from models.networks import campplus
from models.site import Site, missing, ready_engine, resources_of
from models.speaker_turns import read_turns
from models.zoo import pyannote_audio
from models.zoo.pyannote_audio import COMMUNITY, MODELS, RATE_HZ, DiarizeInputs, check
from tests.diarization_error import DiarizationError, Turn, diarization_error, read_rttm
from tests.run_context import LocalRunContext
from tests.stores import SAMPLES

SOUNDS = Path(__file__).parents[1] / "sounds"
(MODEL,) = MODELS
FULL, EMBEDDED = MODEL.engines
RESULT_FIELDS = {
    "diarization_file",
    "detected_speakers",
    "speaker_statistics",
    "total_speakers",
    "total_segments",
    "summary",
    "execution_method",
    "execution_time",
    "audio_source",
    "api_type",
    "model_name",
}


@pytest.fixture(scope="module")
def engine() -> Engine:
    made = EMBEDDED.make()
    made.load(resources_of(EMBEDDED, Site(), device="cpu", threads=1))
    return made


@dataclass(frozen=True, slots=True)
class Diarized:
    """What a run returned, wrote and reported."""

    values: dict[str, Any]
    content: dict[str, Any]
    context: LocalRunContext

    def turns(self, key: str = "segments") -> list[Turn]:
        return [Turn(row["start"], row["end"], row["speaker"]) for row in self.content[key]]

    def error(self, reference: Path, collar_s: float = 0.0) -> DiarizationError:
        return diarization_error(read_rttm(reference), self.turns(), collar_s=collar_s)


def run(engine: Engine, path: Path, root: Path, **inputs: Any) -> Diarized:
    context = LocalRunContext(root)
    values = engine.run(DiarizeInputs(audio_path=str(path), **inputs), context).values
    return Diarized(values, json.loads(values["diarization_file"].read_text()), context)


@pytest.fixture(scope="module")
def conversation(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Diarized:
    return run(engine, SAMPLES / "conversation.wav", tmp_path_factory.mktemp("conversation"))


def show(name: str, found: Diarized, reference: Path) -> None:
    strict, collar = found.error(reference), found.error(reference, collar_s=0.25)
    print(f"\n{name}: {strict}; with a collar of 0.25 s {collar.rate:.3f}")  # noqa: T201 - the score


# --- scores ---------------------------------------------------------------------------------------


def test_real_telephone_talk(conversation: Diarized) -> None:
    reference = SAMPLES / "conversation.rttm"
    show("conversation.wav", conversation, reference)
    assert conversation.values["total_speakers"] == 2
    assert conversation.error(reference).rate <= 0.12  # the issue asks for 0.25
    assert conversation.error(reference, collar_s=0.25).rate <= 0.03


@pytest.mark.parametrize(
    ("name", "num_speakers", "highest"), [("two_voices", 2, 0.05), ("three_voices", 3, 0.10)]
)
def test_synthetic_dialogues(
    engine: Engine, tmp_path: Path, name: str, num_speakers: int, highest: float
) -> None:
    found = run(engine, SOUNDS / f"{name}.opus", tmp_path)
    show(name, found, SOUNDS / f"{name}.rttm")
    assert found.values["total_speakers"] == num_speakers
    assert found.error(SOUNDS / f"{name}.rttm").rate <= highest


def test_one_speaker_stays_one(engine: Engine, tmp_path: Path) -> None:
    """The sentences of one voice, one after another."""
    sound = read_audio(SOUNDS / "two_voices.opus", rate_hz=RATE_HZ, channels=1)
    turns = [turn for turn in read_rttm(SOUNDS / "two_voices.rttm") if turn.speaker == "joe"]
    alone = [sound[:, round(t.start_s * RATE_HZ) : round((t.end_s + 0.3) * RATE_HZ)] for t in turns]
    found = run(engine, wav(tmp_path, np.concatenate(alone, axis=1)), tmp_path)
    assert found.values["detected_speakers"] == ["SPEAKER_00"]
    assert sum(turn.end_s - turn.start_s for turn in found.turns()) > 0.8 * sum(
        turn.end_s - turn.start_s for turn in turns
    )


# --- what is returned and written -------------------------------------------------------------------


def test_the_result_has_the_fields_of_the_contract(conversation: Diarized) -> None:
    values = conversation.values
    assert values.keys() == RESULT_FIELDS
    assert values["detected_speakers"] == ["SPEAKER_00", "SPEAKER_01"]
    assert values["total_segments"] == len(conversation.turns())
    assert "embedded" in values["model_name"]
    assert values["audio_source"] == "conversation.wav"
    assert values["summary"].startswith(f"2 speakers in {values['total_segments']} segments")
    for speaker, row in values["speaker_statistics"].items():
        own = [turn for turn in conversation.turns() if turn.speaker == speaker]
        assert row["segments"] == len(own)
        assert row["words"] is None
        assert row["duration"] == pytest.approx(sum(t.end_s - t.start_s for t in own), abs=0.01)


def test_the_file_is_the_documented_one(conversation: Diarized) -> None:
    content = conversation.content
    assert content.keys() == {"metadata", "speakers", "segments", "exclusive"}
    assert content["metadata"]["version"] == 1
    assert content["metadata"]["duration"] == pytest.approx(30.0, abs=0.001)
    for row in (*content["segments"], *content["exclusive"]):
        assert row.keys() == {"start", "end", "duration", "speaker"}
        assert 0 <= row["start"] < row["end"] <= 30.0
        assert row["duration"] == pytest.approx(row["end"] - row["start"], abs=0.0011)
    assert content["segments"] == sorted(content["segments"], key=lambda row: row["start"])
    assert content["segments"][0]["speaker"] == content["speakers"][0] == "SPEAKER_00"
    assert any(one["end"] > two["start"] for one, two in pairwise(content["segments"]))
    assert all(one["end"] <= two["start"] for one, two in pairwise(content["exclusive"]))


def test_the_rttm_beside_it_says_the_same(conversation: Diarized) -> None:
    path = conversation.values["diarization_file"].with_suffix(".rttm")
    assert path.name == conversation.content["metadata"]["rttm_file"]
    assert diarization_error(conversation.turns(), read_rttm(path)).rate < 0.002


def test_the_subtitle_service_reads_the_file(conversation: Diarized) -> None:
    turns = read_turns(conversation.values["diarization_file"], "diarization_file")
    assert [(t.start_s, t.end_s, t.speaker) for t in turns] == [
        (t.start_s, t.end_s, t.speaker) for t in conversation.turns("exclusive")
    ]


def test_progress_is_seconds_of_sound(conversation: Diarized) -> None:
    done = [report.done for report in conversation.context.reports]
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] == pytest.approx(30.0, abs=0.01)
    assert {report.unit for report in conversation.context.reports} == {"s"}
    assert {report.stage for report in conversation.context.reports} == {"listen", "cluster"}


# --- what is asked for ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first three turns of the two voices."""
    sound = read_audio(SOUNDS / "two_voices.opus", rate_hz=RATE_HZ, channels=1)
    return wav(tmp_path_factory.mktemp("short"), sound[:, : round(12.4 * RATE_HZ)])


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param({"num_speakers": 1}, 1, id="one"),
        pytest.param({"num_speakers": 3}, 3, id="three"),
        pytest.param({"max_speakers": 1}, 1, id="at most one"),
        pytest.param({"min_speakers": 2, "max_speakers": 5}, 2, id="limits that hold"),
    ],
)
def test_numbers_of_speakers_are_kept(
    engine: Engine, short: Path, tmp_path: Path, asked: dict[str, int], expected: int
) -> None:
    assert run(engine, short, tmp_path, **asked).values["total_speakers"] == expected


def test_the_same_sound_gives_the_same_file(engine: Engine, short: Path, tmp_path: Path) -> None:
    files = [run(engine, short, tmp_path / name).content for name in ("one", "two")]
    assert files[0] == files[1]


def test_a_device_without_memory_is_told_as_such(
    engine: Engine, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> np.ndarray:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(campplus, "embed", full)
    with pytest.raises(OutOfMemory, match=r"no memory for a window of sound: CUDA out of memory\."):
        run(engine, short, tmp_path)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        pytest.param({"min_speakers": 3, "max_speakers": 2}, "min_speakers", id="least above most"),
        pytest.param({"num_speakers": 2, "min_speakers": 3}, "num_speakers", id="below the least"),
        pytest.param({"num_speakers": 4, "max_speakers": 3}, "num_speakers", id="above the most"),
    ],
)
def test_contradictory_numbers_are_refused_at_submit(asked: dict[str, int], field: str) -> None:
    with pytest.raises(InvalidInput, match=field) as refused:
        check(DiarizeInputs(audio_path="a.wav", **asked), {})
    assert refused.value.field == field


@pytest.mark.parametrize("field", ["num_speakers", "min_speakers", "max_speakers"])
@pytest.mark.parametrize("value", [0, 21, "many"])
def test_numbers_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        DiarizeInputs.model_validate({"audio_path": "a.wav", field: value})


def test_a_cancel_stops_between_windows(engine: Engine, tmp_path: Path) -> None:
    context = LocalRunContext(tmp_path, cancel_at=11.0)
    with pytest.raises(Cancelled):
        engine.run(DiarizeInputs(audio_path=str(SAMPLES / "conversation.wav")), context)
    assert context.reports[-1].done < 12.1
    assert not list(context.output_dir.iterdir())


# --- bad input --------------------------------------------------------------------------------------


def wav(folder: Path, samples: np.ndarray, rate_hz: int = RATE_HZ) -> Path:
    path = folder / "sound.wav"
    with AudioWriter(path, AudioFormat.WAV, rate_hz=rate_hz, channels=1) as writer:
        writer.write(samples)
    return path


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: np.zeros((1, 12 * RATE_HZ)), id="silence"),
        pytest.param(lambda: np.full((1, RATE_HZ // 100), 0.1), id="10 ms"),
        pytest.param(lambda: np.random.default_rng(0).normal(scale=1e-3, size=(1, RATE_HZ)), id="hiss"),
    ],
)
def test_no_speech_is_an_honest_empty_result(
    engine: Engine, tmp_path: Path, make: Callable[[], np.ndarray]
) -> None:
    found = run(engine, wav(tmp_path, make()), tmp_path)
    assert found.values["total_speakers"] == found.values["total_segments"] == 0
    assert found.values["detected_speakers"] == []
    assert found.values["speaker_statistics"] == {}
    assert found.content["segments"] == found.content["exclusive"] == found.content["speakers"] == []
    assert found.values["diarization_file"].with_suffix(".rttm").read_text() == ""


@pytest.mark.parametrize(
    "options", [pytest.param(("-ac", "8"), id="8 channels"), pytest.param(("-ar", "192000"), id="192 kHz")]
)
def test_unusual_sound_is_heard_as_well(
    engine: Engine, short: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    path = tmp_path / "unusual.wav"
    subprocess.run([ffmpeg_path(), "-loglevel", "error", "-i", short, *options, path], check=True)
    assert run(engine, path, tmp_path).values["total_speakers"] == 2


def test_a_video_without_sound_is_refused_at_submit() -> None:
    silent = SAMPLES / "carphone_pristine.mp4"
    with pytest.raises(InvalidInput, match="audio_path has no audio stream") as refused:
        check(DiarizeInputs(audio_path="a.mp4"), {"audio_path": probe(silent)})
    assert refused.value.field == "audio_path"


# --- the full engine ----------------------------------------------------------------------------------

PACKAGE = {
    "pyannote/__init__.py": "",
    "pyannote/audio/__init__.py": """
from types import SimpleNamespace
calls = []
class Annotation:
    def __init__(self, rows): self.rows = rows
    def itertracks(self, yield_label=False):
        return ((SimpleNamespace(start=a, end=b), "track", name) for a, b, name in self.rows)
class Pipeline:
    @classmethod
    def from_pretrained(cls, checkpoint):
        from pyannote.audio import telemetry
        calls.append(("load", str(checkpoint), telemetry.is_enabled))
        return cls()
    def to(self, device): calls.append(("to", str(device)))
    def __call__(self, file, hook=None, **counts):
        samples = file["waveform"]
        calls.append(("run", tuple(samples.shape), str(samples.dtype), file["sample_rate"], counts))
        for step in (1, 2):
            hook("segmentation", None, file=file, total=2, completed=step)
        hook("discrete_diarization", None, file=file)
        return SimpleNamespace(
            speaker_diarization=Annotation([(4.0, 6.0, "SPEAKER_00"), (0.5, 4.5, "SPEAKER_01")]),
            exclusive_speaker_diarization=Annotation([(4.5, 6.0, "SPEAKER_00"), (0.5, 4.5, "SPEAKER_01")]),
        )
""",
    "pyannote/audio/telemetry/__init__.py": """
is_enabled = True
def set_telemetry_metrics(enabled, save_choice_as_default=False):
    global is_enabled
    is_enabled = enabled
""",
    "pyannote_audio-4.0.7.dist-info/METADATA": "Metadata-Version: 2.1\nName: pyannote.audio\nVersion: 4\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that takes and returns what pyannote.audio 4 does, installed where Python looks."""
    folder = tmp_path / "packages"
    for name, text in PACKAGE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "pyannote"]:
        del sys.modules[name]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A models directory with the files of a clone of community-1."""
    folder = tmp_path / "models" / COMMUNITY.path
    for name in COMMUNITY.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return tmp_path / "models"


def test_the_full_engine_is_preferred_where_all_is_there(package: Path, clone: Path) -> None:
    assert ready_engine(MODEL, Site(models_dir=clone)) is FULL
    assert FULL.kind is EngineKind.FULL


def test_without_the_clone_the_embedded_engine_runs(package: Path, tmp_path: Path) -> None:
    assert ready_engine(MODEL, Site(models_dir=tmp_path)) is EMBEDDED


def test_the_full_engine_asks_pyannote_and_words_its_answer(
    package: Path, clone: Path, tmp_path: Path
) -> None:
    engine = FULL.make()
    engine.load(resources_of(FULL, Site(models_dir=clone), device="cpu", threads=1))
    found = run(engine, SAMPLES / "conversation.wav", tmp_path, min_speakers=2, max_speakers=4)
    calls = sys.modules["pyannote.audio"].calls
    assert calls == [
        ("load", str(clone / COMMUNITY.path), False),  # telemetry was off before the pipeline was made
        ("to", "cpu"),
        ("run", (1, 480_000), "torch.float32", RATE_HZ, {"min_speakers": 2, "max_speakers": 4}),
    ]
    assert found.turns() == [Turn(0.5, 4.5, "SPEAKER_00"), Turn(4.0, 6.0, "SPEAKER_01")]
    assert found.turns("exclusive") == [Turn(0.5, 4.5, "SPEAKER_00"), Turn(4.5, 6.0, "SPEAKER_01")]
    assert found.values["model_name"] == COMMUNITY.path
    assert found.values.keys() == RESULT_FIELDS
    assert ("segmentation", 2, 2) in [(r.stage, r.done, r.total) for r in found.context.reports]


def test_a_cancel_stops_the_full_engine_between_steps(package: Path, clone: Path, tmp_path: Path) -> None:
    engine = FULL.make()
    engine.load(resources_of(FULL, Site(models_dir=clone), device="cpu", threads=1))
    context = LocalRunContext(tmp_path, cancel_at=2)
    with pytest.raises(Cancelled):
        engine.run(DiarizeInputs(audio_path=str(SAMPLES / "conversation.wav")), context)
    assert not list(context.output_dir.iterdir())


def test_the_full_engine_refuses_what_would_not_fit_in_memory(
    package: Path, clone: Path, tmp_path: Path
) -> None:
    path = tmp_path / "long.flac"
    source = ("-f", "lavfi", "-i", "anullsrc=r=8000:cl=mono", "-t", "7201")
    subprocess.run([ffmpeg_path(), "-loglevel", "error", *source, path], check=True)
    engine = FULL.make()
    engine.load(resources_of(FULL, Site(models_dir=clone), device="cpu", threads=1))
    with pytest.raises(InvalidInput, match="lasts 7201 s") as refused:
        run(engine, path, tmp_path)
    assert refused.value.field == "audio_path"


@pytest.mark.parametrize("name", COMMUNITY.files)
def test_each_missing_file_of_the_clone_is_named(package: Path, clone: Path, name: str) -> None:
    (clone / COMMUNITY.path / name).unlink()
    assert missing(FULL, Site(models_dir=clone)) == [
        f"weights are not installed: put {name} into MEDIARAY_MODELS_DIR/{COMMUNITY.path}"
    ]


def test_a_missing_package_is_named(clone: Path) -> None:
    assert missing(FULL, Site(models_dir=clone)) == ["a package is not installed: pip install pyannote.audio"]


def test_an_older_pyannote_is_not_ready(package: Path, clone: Path) -> None:
    (package / "pyannote/audio/telemetry/__init__.py").write_text("")
    with pytest.raises(ModelNotReady, match=re.escape("pip install 'pyannote.audio>=4'")):
        FULL.make().load(resources_of(FULL, Site(models_dir=clone), device="cpu", threads=1))


def test_a_file_that_states_no_length_is_bounded_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "live.mkv"
    tone = ("-f", "lavfi", "-t", "60", "-i", "sine=r=8000", "-c:a", "libopus", "-f", "matroska", "-live", "1")
    with path.open("wb") as file:
        subprocess.run([ffmpeg_path(), "-v", "error", *tone, "-"], stdout=file, check=True)
    info = probe(path)
    assert info.duration_s == 0
    context = LocalRunContext(tmp_path)
    assert pyannote_audio._whole(path, info, context).shape[1] / RATE_HZ == pytest.approx(60, abs=0.1)
    monkeypatch.setattr(pyannote_audio, "_MAX_FULL_S", 25.0)
    with pytest.raises(InvalidInput, match="audio_path lasts 30 s or more; this engine takes 25") as refused:
        pyannote_audio._whole(path, info, context)
    assert refused.value.field == "audio_path"
