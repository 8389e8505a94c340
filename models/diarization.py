"""Who speaks when, from what overlapping windows of a recording tell: speakers, timeline, turns. Pure.

Each window knows up to three voices by numbers of its own. Their vectors are clustered into the speakers of
the whole recording; the windows then vote, frame by frame, on how many speak and who (the method of
pyannote.audio 2.1, Bredin 2023, with windows that count less towards their ends, where they hear less).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.optimize import linear_sum_assignment

MAX_AT_ONCE = 2  # speakers in one frame
SAME_SPEAKER_DISTANCE = 0.55  # mean cosine distance up to which clusters of CAM++ vectors are one speaker
MAX_CLUSTERED = 3000  # vectors that the clusters are made of; the condensed distances of these take 36 MB
_MIN_CLUSTER = 8  # vectors; less is a voice heard in passing, or two at once
_MIN_CLUSTER_SHARE = 0.1  # of all vectors, where that is less
_MIN_LONG_SHARE = 0.02  # of all vectors in long recordings, where voices in passing come together
_MAX_EXTRA_CUTS = 50
_MIN_TURN_S = 0.1
_MAX_GAP_S = 0.1  # a shorter silence does not end a turn
_NOBODY = -1
_CHECK_WINDOWS = 256  # 20 ms of work
_CHECK_FRAMES = 1 << 17  # 0.1 s of work

Item = TypeVar("Item")


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Frames:
    """Where frames lie: frame i of window w is frame `w * hop + i` of the recording.

    The middle of frame 0 is at `first_s`, each other `step_s` after the one before.
    """

    window: int
    hop: int
    step_s: float
    first_s: float

    def edge_s(self, frame: int) -> float:
        """Where a frame of the recording begins; the first begins with the recording."""
        return self.first_s + (frame - 0.5) * self.step_s if frame else 0.0


@dataclass(frozen=True, slots=True)
class WindowSpeech:
    """What one window tells: `activity` (T, voices) bool, packed to bits, and a vector for some voices.

    `numbers` (N,) are the voices that have a vector, `vectors` (N, D) those vectors, of length 1; `is_clean`
    (N,) tells which were made of a voice that nobody spoke over.
    """

    activity: np.ndarray
    numbers: np.ndarray
    vectors: np.ndarray
    is_clean: np.ndarray

    @staticmethod
    def packed(activity: np.ndarray) -> np.ndarray:
        """The bits of a (T, voices) bool array."""
        return np.packbits(activity, axis=0)

    def unpacked(self, num_frames: int) -> np.ndarray:
        """(num_frames, voices) bool."""
        return np.unpackbits(self.activity, axis=0, count=num_frames).astype(bool)


@dataclass(frozen=True, slots=True)
class SpeakerLimits:
    """How many speakers there may be."""

    at_least: int
    at_most: int


@dataclass(frozen=True, slots=True)
class Turn:
    """A stretch in which one speaker is heard."""

    start_s: float
    end_s: float
    speaker: str

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Diarization:
    """All turns by start, which may overlap, and the same without overlaps.

    Where two speak, the time is that of the one whom more windows hear.
    """

    turns: tuple[Turn, ...]
    exclusive: tuple[Turn, ...]

    @property
    def speakers(self) -> list[str]:
        return sorted({turn.speaker for turn in self.turns})


def diarize(
    windows: Sequence[WindowSpeech],
    frames: Frames,
    limits: SpeakerLimits,
    length_s: float,
    check: Callable[[], None] = _nothing,
) -> Diarization:
    """The speakers of a recording of `length_s`, named SPEAKER_00, SPEAKER_01, … by first speech.

    What `check` raises ends the work; the longest time between two calls is that of making the clusters of
    `MAX_CLUSTERED` vectors, about 1 s.
    """
    labels = speaker_labels(windows, limits, check)
    num_speakers = 1 + max((int(row.max()) for row in labels if len(row)), default=_NOBODY)
    if not num_speakers:
        return Diarization((), ())
    active, main = timeline(windows, labels, frames, num_speakers, check)
    alone = (main == speaker for speaker in range(num_speakers))  # (T,) each
    turns, exclusive = (_turns(_checked(rows, check, 1), frames, length_s) for rows in (active.T, alone))
    check()
    found = Diarization(turns, _without_overlap(exclusive))
    check()
    return named(found)


def named(found: Diarization) -> Diarization:
    """The same with speakers numbered by first speech."""
    order = dict.fromkeys(turn.speaker for turn in (*_by_start(found.turns), *_by_start(found.exclusive)))
    names = {speaker: f"SPEAKER_{number:02d}" for number, speaker in enumerate(order)}
    return Diarization(
        *(
            tuple(Turn(turn.start_s, turn.end_s, names[turn.speaker]) for turn in _by_start(turns))
            for turns in (found.turns, found.exclusive)
        )
    )


def speaker_labels(
    windows: Sequence[WindowSpeech], limits: SpeakerLimits, check: Callable[[], None] = _nothing
) -> list[np.ndarray]:
    """The speaker, from 0, of each of the `numbers` of each window.

    Time grows with the square of the vectors up to `MAX_CLUSTERED`, and linearly beyond: of more vectors, as
    many are taken evenly from the whole recording. Who speaks less than 2 % of the time of a long recording
    is taken for the most alike of the others.
    """
    kept = [window for window in windows if len(window.numbers)]
    if not kept:
        return [np.zeros(0, int) for _ in windows]
    vectors = np.concatenate([window.vectors for window in kept])  # (N, D)
    is_clean = np.concatenate([window.is_clean for window in kept])  # (N,)
    chosen = vectors[is_clean] if is_clean.any() else vectors
    if len(chosen) > MAX_CLUSTERED:
        chosen = chosen[np.linspace(0, len(chosen) - 1, MAX_CLUSTERED).round().astype(int)]
    centres = _centres(chosen, clusters(chosen, limits))  # (speakers, D)
    return [_assigned(window.vectors @ centres.T) for window in _checked(windows, check, _CHECK_WINDOWS)]


def clusters(vectors: np.ndarray, limits: SpeakerLimits) -> np.ndarray:
    """The cluster of each of (N, D) vectors, from 0; -1 for those of clusters too small to be a speaker.

    There are as many as `limits` ask for, unless there are fewer vectors.
    """
    if len(vectors) == 1:
        return np.zeros(1, int)
    tree = linkage(vectors, "average", metric="cosine")
    smallest = _smallest(len(vectors))
    labels = _large(fcluster(tree, SAME_SPEAKER_DISTANCE, "distance"), smallest)
    wanted = min(max(int(labels.max()) + 1, limits.at_least), limits.at_most)
    for number in range(wanted, wanted + _MAX_EXTRA_CUTS):
        if labels.max() + 1 == wanted:
            return labels
        labels = _large(fcluster(tree, number, "maxclust"), smallest)
    return _large(fcluster(tree, wanted, "maxclust"), 1)


def timeline(
    windows: Sequence[WindowSpeech],
    labels: Sequence[np.ndarray],
    frames: Frames,
    num_speakers: int,
    check: Callable[[], None] = _nothing,
) -> tuple[np.ndarray, np.ndarray]:
    """Who speaks in each frame, (T, speakers) bool, and whom the windows hear most, (T,) or -1."""
    weights = np.hanning(frames.window + 2)[1:-1].astype(np.float32)  # (window,), above 0
    num_frames = frames.hop * (len(windows) - 1) + frames.window
    votes = np.zeros((num_frames, num_speakers), np.float32)
    speaking, heard = np.zeros(num_frames, np.float32), np.zeros(num_frames, np.float32)
    told = zip(windows, labels, strict=True)
    for index, (window, found) in enumerate(_checked(told, check, _CHECK_WINDOWS)):
        here = slice(index * frames.hop, index * frames.hop + frames.window)
        activity = window.unpacked(frames.window)  # (window, voices)
        weighted = weights[:, None] * activity  # (window, voices)
        for speaker in set(found.tolist()):
            votes[here, speaker] += weighted[:, window.numbers[found == speaker]].max(axis=1)
        speaking[here] += weights * activity.sum(axis=1)
        heard[here] += weights
    counts = np.floor(speaking / heard + 0.5)
    parts = [slice(first, first + _CHECK_FRAMES) for first in range(0, num_frames, _CHECK_FRAMES)]
    elected = [_elected(votes[part], counts[part]) for part in _checked(parts, check, 1)]
    return np.concatenate([active for active, _ in elected]), np.concatenate([main for _, main in elected])


def _checked(items: Iterable[Item], check: Callable[[], None], period: int) -> Iterator[Item]:
    """The items; `check` is called before every so many."""
    for index, item in enumerate(items):
        if not index % period:
            check()
        yield item


def _elected(votes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each frame as many speakers as `counts` says, those with the most votes; the first of them."""
    active = np.zeros(votes.shape, bool)
    rows = np.arange(len(votes))
    main = np.full(len(votes), _NOBODY)
    for rank in range(min(MAX_AT_ONCE, votes.shape[1])):
        best = votes.argmax(axis=1)  # (T,)
        chosen = (counts > rank) & (votes[rows, best] > 0)
        active[rows[chosen], best[chosen]] = True
        main = np.where(chosen & (rank == 0), best, main)
        votes[rows, best] = 0
    return active, main


def _smallest(num_vectors: int) -> int:
    """How many vectors make a speaker."""
    in_short = min(_MIN_CLUSTER, round(_MIN_CLUSTER_SHARE * num_vectors))
    return max(1, in_short, round(_MIN_LONG_SHARE * num_vectors))


def _large(labels: np.ndarray, smallest: int) -> np.ndarray:
    """Clusters of at least `smallest` members, numbered from 0, the rest -1; the largest always stays."""
    _, members, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    is_large = sizes >= min(smallest, sizes.max())
    numbers = np.where(is_large, np.cumsum(is_large) - 1, _NOBODY)
    return numbers[members]


def _centres(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    means = np.stack([vectors[labels == number].mean(axis=0) for number in range(labels.max() + 1)])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def _assigned(likeness: np.ndarray) -> np.ndarray:
    """The speaker of each voice of a window, by (voices, speakers) likeness: different ones if there are."""
    labels = likeness.argmax(axis=1)
    rows, columns = linear_sum_assignment(likeness, maximize=True)
    labels[rows] = columns
    return labels


def _turns(active: Iterable[np.ndarray], frames: Frames, length_s: float) -> tuple[Turn, ...]:
    """The turns of each speaker from (T,) bool arrays, one a speaker."""
    found = (
        Turn(start_s, end_s, str(speaker))
        for speaker, is_heard in enumerate(active)
        for start_s, end_s in _joined(_runs(is_heard, frames, length_s))
    )
    return _by_start(turn for turn in found if turn.duration_s >= _MIN_TURN_S)


def _runs(active: np.ndarray, frames: Frames, length_s: float) -> list[tuple[float, float]]:
    """The stretches of a (T,) bool array that are true, in seconds within the recording."""
    borders = np.flatnonzero(np.diff(active.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    edges = ((frames.edge_s(int(start)), frames.edge_s(int(stop))) for start, stop in borders)
    return [(start_s, min(stop_s, length_s)) for start_s, stop_s in edges if start_s < length_s]


def _joined(runs: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    joined: list[tuple[float, float]] = []
    for start_s, end_s in runs:
        if joined and start_s - joined[-1][1] <= _MAX_GAP_S:
            joined[-1] = (joined[-1][0], end_s)
        else:
            joined.append((start_s, end_s))
    return joined


def _without_overlap(turns: Iterable[Turn]) -> tuple[Turn, ...]:
    """Turns that joining made overlap begin where the one before ends."""
    kept: list[Turn] = []
    for turn in turns:
        start_s = max(turn.start_s, kept[-1].end_s if kept else 0.0)
        if turn.end_s > start_s:
            kept.append(turn if start_s == turn.start_s else replace(turn, start_s=start_s))
    return tuple(kept)


def _by_start(turns: Iterable[Turn]) -> tuple[Turn, ...]:
    return tuple(sorted(turns, key=lambda turn: (turn.start_s, turn.end_s, turn.speaker)))
