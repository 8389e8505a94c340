"""Clusters, votes and turns, on windows that the tests make up."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from models.diarization import (
    MAX_CLUSTERED,
    Diarization,
    Frames,
    SpeakerLimits,
    Turn,
    WindowSpeech,
    clusters,
    diarize,
    named,
    speaker_labels,
)
from models.engine import Cancelled

FRAMES = Frames(window=100, hop=20, step_s=0.1, first_s=0.05)
ANY = SpeakerLimits(1, 20)
RNG_SEED = 7
SIZE = 32


def voices(num: int, each: int, spread: float = 0.3) -> np.ndarray:
    """(num * each, SIZE) unit vectors around `num` directions, one voice after another."""
    rng = np.random.default_rng(RNG_SEED)
    middles = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0][:num]
    vectors = np.repeat(middles, each, axis=0) + spread / np.sqrt(SIZE) * rng.normal(size=(num * each, SIZE))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def recording(turns: list[tuple[int, int, int]], num_frames: int) -> list[WindowSpeech]:
    """Windows over turns of (start frame, stop frame, speaker), whose voices are numbered anew in each."""
    truth = np.zeros((num_frames + FRAMES.window, 3), bool)
    for start, stop, speaker in turns:
        truth[start:stop, speaker] = True
    middles = voices(3, 1, 0.0)
    windows = []
    for index in range(1 + max(0, -(-(num_frames - FRAMES.window) // FRAMES.hop))):
        order = np.roll(np.arange(3), index)
        activity = truth[index * FRAMES.hop :][: FRAMES.window, order]
        numbers = np.flatnonzero(activity.any(axis=0))
        clean = np.array([activity[activity.sum(axis=1) == 1, number].any() for number in numbers], bool)
        windows.append(WindowSpeech(WindowSpeech.packed(activity), numbers, middles[order][numbers], clean))
    return windows


def test_turns_and_overlap_come_back() -> None:
    said = [(10, 60, 2), (70, 150, 0), (140, 200, 2), (205, 260, 1)]
    found = diarize(recording(said, 300), FRAMES, ANY, 30.0)
    assert [(round(t.start_s, 3), round(t.end_s, 3), t.speaker) for t in found.turns] == [
        (1.0, 6.0, "SPEAKER_00"),
        (7.0, 15.0, "SPEAKER_01"),
        (14.0, 20.0, "SPEAKER_00"),
        (20.5, 26.0, "SPEAKER_02"),
    ]
    assert found.speakers == ["SPEAKER_00", "SPEAKER_01", "SPEAKER_02"]
    assert all(one.end_s <= other.start_s for one, other in pairwise(found.exclusive))
    assert sum(turn.duration_s for turn in found.exclusive) == pytest.approx(5 + 13 + 5.5)


def test_a_short_pause_does_not_end_a_turn_and_a_blip_is_none() -> None:
    frames = Frames(window=400, hop=50, step_s=0.02, first_s=0.01)
    activity = np.zeros((400, 3), bool)
    activity[10:100, 0] = activity[104:200, 0] = activity[300:303, 0] = True
    window = WindowSpeech(WindowSpeech.packed(activity), np.array([0]), voices(1, 1), np.array([True]))
    assert [(t.start_s, t.end_s) for t in diarize([window], frames, ANY, 8.0).turns] == [
        pytest.approx((0.2, 4.0))
    ]


def test_turns_end_with_the_recording_and_begin_with_it() -> None:
    found = diarize(recording([(0, 95, 0)], 95), FRAMES, ANY, 9.3)
    assert [(turn.start_s, turn.end_s) for turn in found.turns] == [(0.0, 9.3)]


def test_the_work_can_be_stopped_anywhere() -> None:
    """In labels and votes of the windows, in the frames, and in the turns of each speaker."""
    windows = recording([(10, 60, 2), (70, 150, 0), (140, 200, 2)], 300) * 60
    calls: list[None] = []
    diarize(windows, FRAMES, ANY, 5000.0, lambda: calls.append(None))
    assert len(calls) >= 2 * len(windows) / 256 + 1 + 2 * 2

    def stop() -> None:
        if not calls:
            raise Cancelled
        calls.pop()

    for allowed in range(len(calls)):
        calls[:] = [None] * allowed
        with pytest.raises(Cancelled):
            diarize(windows, FRAMES, ANY, 5000.0, stop)


def test_silence_has_no_speaker() -> None:
    assert diarize(recording([], 300), FRAMES, ANY, 30.0) == Diarization((), ())
    assert diarize([], FRAMES, ANY, 0.0) == Diarization((), ())


@pytest.mark.parametrize("num", [1, 2, 5, 9])
def test_as_many_clusters_as_voices(num: int) -> None:
    labels = clusters(voices(num, 12), ANY)
    assert len({tuple(labels[at : at + 12]) for at in range(0, len(labels), 12)}) == num
    assert labels.max() + 1 == num


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        pytest.param(SpeakerLimits(1, 2), 2, id="at most two of three"),
        pytest.param(SpeakerLimits(4, 6), 4, id="at least four of three"),
        pytest.param(SpeakerLimits(2, 5), 3, id="limits that hold"),
        pytest.param(SpeakerLimits(1, 1), 1, id="one"),
        pytest.param(SpeakerLimits(20, 20), 20, id="twenty"),
    ],
)
def test_limits_are_kept(limits: SpeakerLimits, expected: int) -> None:
    assert clusters(voices(3, 20), limits).max() + 1 == expected


def test_fewer_vectors_than_speakers_asked_for() -> None:
    assert sorted(clusters(voices(3, 1), SpeakerLimits(5, 5))) == [0, 1, 2]
    assert list(clusters(voices(1, 1), SpeakerLimits(2, 2))) == [0]


@pytest.mark.parametrize(
    ("each", "passing", "expected"),
    [
        pytest.param(40, 3, 2, id="short recording, in passing"),
        pytest.param(40, 8, 3, id="short recording, a sentence"),
        pytest.param(500, 15, 2, id="long recording, in passing"),
        pytest.param(500, 30, 3, id="long recording, some sentences"),
    ],
)
def test_a_voice_heard_in_passing_is_no_speaker_of_its_own(each: int, passing: int, expected: int) -> None:
    vectors = np.concatenate([voices(2, each), -voices(2, each)[:passing]])
    labels = clusters(vectors, ANY)
    assert labels.max() + 1 == expected
    assert len(set(labels[-passing:])) == 1
    assert (labels[-1] == -1) == (expected == 2)


def test_two_voices_of_a_window_are_two_speakers_while_there_are_two() -> None:
    middles = voices(2, 1, 0.0)
    between = middles[0] * 0.8 + middles[1] * 0.6
    windows = [
        *(one_window(middles[:1]) for _ in range(9)),
        *(one_window(middles[1:]) for _ in range(9)),
        one_window(np.stack([middles[0], between])),
    ]
    labels = speaker_labels(windows, ANY)
    assert list(labels[-1]) == [labels[0][0], labels[9][0]]
    assert labels[0][0] != labels[9][0]
    assert list(speaker_labels(windows, SpeakerLimits(1, 1))[-1]) == [0, 0]


def test_more_vectors_than_can_be_clustered_are_thinned_out() -> None:
    vectors = voices(4, MAX_CLUSTERED // 2)
    labels = speaker_labels([one_window(vector[None]) for vector in vectors], ANY)
    blocks = np.concatenate(labels).reshape(4, -1)
    assert [set(block) for block in blocks] == [{blocks[i, 0]} for i in range(4)]
    assert len(set(blocks[:, 0])) == 4


def test_names_follow_first_speech() -> None:
    turns = (Turn(5, 6, "b"), Turn(1, 2, "z"), Turn(3, 4, "a"))
    assert [(t.start_s, t.speaker) for t in named(Diarization(turns, turns[:1])).turns] == [
        (1, "SPEAKER_00"),
        (3, "SPEAKER_01"),
        (5, "SPEAKER_02"),
    ]
    assert [t.speaker for t in named(Diarization(turns, turns[:1])).exclusive] == ["SPEAKER_02"]


def one_window(vectors: np.ndarray) -> WindowSpeech:
    numbers = np.arange(len(vectors))
    activity = WindowSpeech.packed(np.ones((FRAMES.window, 3), bool))
    return WindowSpeech(activity, numbers, vectors, np.ones(len(vectors), bool))
