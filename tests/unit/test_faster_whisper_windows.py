"""Where long speech is cut, how segments are put in order, and how a step of the network is waited for."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from faster_whisper import available_models
from faster_whisper.tokenizer import _LANGUAGE_CODES

from models import whisper_models
from models.engine import Cancelled, InvalidInput, ModelNotReady, Resources
from models.speech_windows import RATE_HZ, quiet_spans, quietest_place, speech_spans, spoken_s, windows
from models.transcript_writer import HeardSegment, HeardWord, TranscriptWriter, placed
from models.whisper_models import LoadedModel, LoadedModels, OneAtATime
from models.whisper_sizes import LANGUAGES, InstalledSizes, ModelSize, Wish
from models.zoo import faster_whisper
from models.zoo.faster_whisper import TranscribeInputs, _by_span, _is_loop, _watched, check

FILES = ("model.bin", "config.json", "tokenizer.json", "vocabulary.json")


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(5).normal(0, 0.1, round(seconds * RATE_HZ)).astype(np.float32)


def with_pauses(seconds: float, *pauses_s: float) -> np.ndarray:
    """Noise that is quiet for half a second around each of the moments."""
    sound = noise(seconds)
    for at_s in pauses_s:
        sound[round((at_s - 0.25) * RATE_HZ) : round((at_s + 0.25) * RATE_HZ)] *= 0.01
    return sound


class TestWindows:
    def test_follow_each_other_and_are_cut_in_pauses(self) -> None:
        sound = with_pauses(25, 8.5, 17)
        blocks = (sound[first : first + 5000][None] for first in range(0, len(sound), 5000))
        found = list(windows(blocks, window_s=10, search_s=4))
        assert np.array_equal(np.concatenate([samples for _, samples in found]), sound)
        assert [start / RATE_HZ for start, _ in found] == pytest.approx([0, 8.5, 17], abs=0.2)

    def test_are_never_longer_than_asked_however_large_the_search(self) -> None:
        found = list(windows([noise(7)[None]], window_s=2, search_s=30))
        assert sum(len(samples) for _, samples in found) == 7 * RATE_HZ
        assert all(RATE_HZ <= len(samples) <= 2 * RATE_HZ for _, samples in found[:-1])

    def test_no_sound_has_none(self) -> None:
        assert list(windows([], window_s=10, search_s=4)) == []

    def test_the_last_of_equally_quiet_places_is_taken(self) -> None:
        assert quietest_place(np.zeros(100)) == 91 * 512 + 9 * 256

    def test_quiet_spans_hold_everything_but_zeros(self) -> None:
        sound = with_pauses(25, 8, 16.5)
        spans = quiet_spans(sound, span_s=10)
        assert all(left[1] == right[0] for left, right in pairwise(spans))
        assert spans[-1][1] == len(sound)
        starts = [start / RATE_HZ for start, _ in spans]
        assert starts == pytest.approx([0, 8, 16.5], abs=0.2)
        assert quiet_spans(np.zeros(20 * RATE_HZ, np.float32), span_s=10) == []

    def test_what_is_no_speech_has_no_spans(self) -> None:
        samples, spans = speech_spans(noise(5), span_s=30)
        assert spans == []
        assert not samples.any()


class TestOrder:
    def test_times_are_moved_and_kept_in_order(self) -> None:
        words = (
            HeardWord(0.5, 1.2, " a", 0.9),
            HeardWord(1.0, 1.4, " b", 0.8),
            HeardWord(1.4, 9.0, " c", 0.7),
        )
        moved = placed(
            HeardSegment(0.4, 1.4, "a a a", -0.2, 0.1, words), offset_s=10, after_s=10.6, until_s=12
        )
        assert (moved.start_s, moved.end_s) == (10.6, 12)
        assert [(word.start_s, word.end_s) for word in moved.words] == [
            (10.6, 11.2),
            (11.2, 11.4),
            (11.4, 12),
        ]

    def test_the_file_is_json_with_ids_and_totals(self, tmp_path: Path) -> None:
        target = tmp_path / "t.json"
        with TranscriptWriter(target, tmp_path) as writer:
            writer.add(HeardSegment(0, 1, '"你好"', -0.1, 0.0, (HeardWord(0, 1, '"你好"', 0.5),)))
            writer.add(HeardSegment(1, 3, "b", -0.1, 0.0))
            statistics = writer.finish({"language": "zh"})
        content = json.loads(target.read_text())
        assert [(row["id"], row["text"]) for row in content["segments"]] == [(1, '"你好"'), (2, "b")]
        assert content["statistics"] == statistics
        assert statistics == {
            "total_segments": 2,
            "total_words": 1,
            "total_characters": 5,
            "speech_duration": 3,
            "average_word_probability": 0.5,
        }
        assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


def cancelled() -> None:
    raise Cancelled


class TestWatched:
    def test_items_come_in_order(self) -> None:
        assert list(_watched(iter([1, 2, 3]), OneAtATime(), lambda: None)) == [1, 2, 3]

    def test_an_error_of_a_step_arrives_and_the_next_goes_on(self) -> None:
        turns = OneAtATime()
        with pytest.raises(ZeroDivisionError):
            list(_watched((1 // number for number in (1, 0)), turns, lambda: None))
        assert list(_watched(iter([1]), turns, lambda: None)) == [1]

    def test_cancel_does_not_wait_for_the_step_under_way_but_the_next_attempt_does(self) -> None:
        may_end, ended = threading.Event(), threading.Event()
        turns = OneAtATime()

        def steps() -> Iterator[int]:
            may_end.wait()
            ended.set()
            yield 1

        with pytest.raises(Cancelled):
            list(_watched(steps(), turns, cancelled))
        assert not ended.is_set()
        begun: list[str] = []
        with pytest.raises(Cancelled):  # it waits, and can be cancelled while it does
            list(_watched(map(begun.append, "x"), turns, cancelled))
        assert not begun
        assert list(_watched(iter([2]), turns, may_end.set)) == [2]
        assert ended.is_set()

    def test_who_waits_for_a_model_that_opens_can_be_cancelled_and_it_is_opened_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        may_open, opened = threading.Event(), []

        def open_model(folder: Path, *_: object) -> Path:
            may_open.wait()
            opened.append(folder)
            return folder

        monkeypatch.setattr(whisper_models, "_open_model", open_model)
        for name in FILES:
            (tmp_path / "faster-whisper" / "base").mkdir(parents=True, exist_ok=True)
            (tmp_path / "faster-whisper" / "base" / name).touch()
        there = LoadedModels(InstalledSizes(Resources(models_dir=tmp_path)), "cpu", 1)
        for _ in range(2):
            with pytest.raises(Cancelled):
                there.get("base", cancelled)
        assert there.get("base", may_open.set) is there.get("base")
        assert len(opened) == 1


@dataclass(frozen=True)
class Part:
    seek: int


def test_every_segment_comes_to_the_span_it_was_made_of() -> None:
    """Spans begin on the grid of the VAD, before or after what it pads and what leads in, of 300 s."""
    size = 300 * RATE_HZ
    offsets = (0, -round(0.2 * RATE_HZ), -round(2.7 * RATE_HZ))
    starts = {at + offset for at in range(0, size, 512) for offset in offsets if at + offset >= 0}
    for start in starts:
        spans = [(start - 6400, start), (start, start + 6400), (start + 6400, start + 12800)]
        clip = int(start / RATE_HZ * RATE_HZ)  # as faster-whisper counts
        part = Part(int(clip / RATE_HZ * 100))
        assert _by_span([part], spans) == {spans[0]: [], spans[1]: [part], spans[2]: []}, start


def test_a_segment_from_anywhere_stays() -> None:
    parts = [Part(0), Part(900), Part(10**6)]
    found = _by_span(parts, [(1024320, 1040000), (2000000, 2100000)])
    assert sorted(part.seek for row in found.values() for part in row) == [0, 900, 10**6]


class TestSpans:
    @pytest.mark.parametrize(("vad_filter", "expected"), [(True, ["speech"]), (False, ["quiet"])])
    def test_a_window_is_cut_once(
        self, monkeypatch: pytest.MonkeyPatch, vad_filter: bool, expected: list[str]
    ) -> None:
        cut: list[str] = []

        def speech(sound: np.ndarray, **_: float) -> tuple[np.ndarray, list[tuple[int, int]]]:
            cut.append("speech")
            return sound, []

        def quiet(_: np.ndarray, **__: float) -> list[tuple[int, int]]:
            cut.append("quiet")
            return []

        monkeypatch.setattr(faster_whisper, "speech_spans", speech)
        monkeypatch.setattr(faster_whisper, "quiet_spans", quiet)
        inputs = TranscribeInputs(audio_path="x.wav", vad_filter=vad_filter)
        listener = faster_whisper._Listener(LoadedModel(None, OneAtATime()), inputs, "cpu")
        assert list(listener.heard(noise(1))) == []
        assert cut == expected


@dataclass(frozen=True)
class Said:
    text: str


@pytest.mark.parametrize(
    ("texts", "is_loop"),
    [
        pytest.param((" I'm sorry,",) * 50, True, id="the same again and again"),
        pytest.param((" 1" + ",5" * 100,), True, id="in one segment"),
        pytest.param((" Hello.", " Hello.", " Oh, hello."), False, id="people"),
        pytest.param((), False, id="nothing"),
    ],
)
def test_loops_are_known_by_how_well_they_pack(texts: tuple[str, ...], is_loop: bool) -> None:
    assert _is_loop([Said(text) for text in texts]) is is_loop


@dataclass(frozen=True)
class Decoded:
    text: str
    end: float
    avg_logprob: float


@pytest.mark.parametrize(
    ("answers", "texts"),
    [
        pytest.param([[Decoded("b", 8.5, -0.3)]], ["a", "b"], id="speech"),
        pytest.param([[Decoded("b", 6.0, -0.3)], [Decoded("c", 9.5, -0.4)]], ["a", "b", "c"], id="twice"),
        pytest.param([[]], ["a"], id="nothing"),
        pytest.param([[Decoded("Hello?", 8.0, -0.83)]], ["a"], id="unsure, as in music"),
        pytest.param([[Decoded("mm " * 60, 8.0, -0.1)]], ["a"], id="a loop"),
    ],
)
def test_a_network_that_stops_early_is_asked_for_the_rest(
    monkeypatch: pytest.MonkeyPatch, answers: list[list[Decoded]], texts: list[str]
) -> None:
    """Somebody speaks on until 9 s of 10; the network stopped at 4 s."""
    asked: list[tuple[int, int]] = []

    def transcribed(_samples, spans, _language):
        asked.extend(spans)
        return answers[len(asked) - 1], None

    monkeypatch.setattr(faster_whisper, "spoken_s", lambda rest: len(rest) / RATE_HZ - 1)
    listener = object.__new__(faster_whisper._Listener)
    monkeypatch.setattr(listener, "_transcribed", transcribed)
    samples, span = np.zeros(10 * RATE_HZ, np.float32), (0, 10 * RATE_HZ)
    heard = listener._to_its_end(samples, span, [Decoded("a", 4.0, -0.2)], "en")
    assert [segment.text for segment in heard] == texts
    assert asked[0] == (4 * RATE_HZ, 10 * RATE_HZ)
    assert len(asked) == len(answers)


class TestSizes:
    def install(self, root: Path, *names: str) -> InstalledSizes:
        for name in names:
            folder = root / "faster-whisper" / name
            folder.mkdir(parents=True)
            for file in FILES:
                (folder / file).touch()
        return InstalledSizes(Resources(models_dir=root))

    @pytest.mark.parametrize(
        ("installed", "wish", "chosen"),
        [
            (("tiny", "large-v3-turbo", "large-v3"), Wish(), "large-v3-turbo"),
            (("tiny", "turbo"), Wish(), "large-v3-turbo"),
            (("tiny", "small", "medium.en"), Wish(), "small"),
            (("large-v3-turbo", "small"), Wish(is_translation=True), "small"),
            (("medium.en", "tiny"), Wish(language="zh"), "tiny"),
            (("mine", "tiny.en"), Wish(), "tiny.en"),
            (("mine",), Wish(), "mine"),
            (("tiny", "large-v3"), Wish(size="large"), "large-v3"),
        ],
        ids=str,
    )
    def test_choice(self, tmp_path: Path, installed: tuple[str, ...], wish: Wish, chosen: str) -> None:
        assert self.install(tmp_path, *installed).choose(wish) == chosen

    def test_english_alone_cannot_hear_chinese(self, tmp_path: Path) -> None:
        source = self.install(tmp_path, "tiny.en")
        with pytest.raises(ModelNotReady, match=r"for language zh is installed .*; installed: tiny\.en"):
            source.choose(Wish(language="zh"))

    def test_names_are_those_of_the_library(self) -> None:
        assert set(ModelSize) == set(available_models())
        assert set(LANGUAGES) == set(_LANGUAGE_CODES)


class TestCheck:
    def test_an_unknown_language_names_the_known(self) -> None:
        with pytest.raises(
            InvalidInput, match=r"language 'klingon' is not known; known are af, .* zh"
        ) as refused:
            check(TranscribeInputs(audio_path="a", language="klingon"), {})
        assert refused.value.field == "language"

    def test_a_size_of_english_refuses_others(self) -> None:
        with pytest.raises(InvalidInput, match=r"knows English only, not de"):
            check(TranscribeInputs(audio_path="a", language="de", model_size="base.en"), {})
        check(TranscribeInputs(audio_path="a", language="en", model_size="base.en"), {})


@pytest.mark.parametrize("num_samples", [0, 511, 16000], ids=["nothing", "less than one answer", "silence"])
def test_nobody_speaks_in_little_or_silent_sound(num_samples):
    assert spoken_s(np.zeros(num_samples, np.float32)) == 0.0
