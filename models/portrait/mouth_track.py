"""From sound to mouth: how far the lips open and how wide they are, 25 times a second.

A vowel's first formant opens the jaw, the second makes the lips wide or round; a short gap in the energy of
the formants is a closure, by the lips (m, b, p) or, where it ends in a hiss, by the tongue (t, k). What
sounds alike is shut alike: n, d and g often close the lips too. All levels count relative to the voice's
own, so a quiet recording moves the mouth like a loud one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_opening, gaussian_filter1d, uniform_filter1d

from models.portrait.speech_features import HOPS_PER_S, RATE_HZ, SpeechFeatures, speech_features

FPS = 25
_HOPS = HOPS_PER_S // FPS  # of one frame
_AHEAD_HOPS = 2  # lips move before they are heard

_REFERENCE_S = 8.0  # speakers who take turns each have their own level
_FAINTEST_DB = 15.0  # a part that is fainter than this below the whole is not raised to it
_GATE_DB = 32.0  # below the reference: no speech
_ABOVE_NOISE_DB = 7.0
_SHORTEST_SPEECH_HOPS = 6  # a click is shorter
_NOISE_SHARE = 0.1  # of the time that is noise alone, in any recording of speech
_STEADY_RANGE_DB = 12.0  # speech has pauses and closures; what varies less is noise, or one long sound
_PERIODIC = 0.55

_OPEN_RANGE_DB = 26.0  # from lips that just part to the loudest vowels
_LOUD_LEVEL = 0.88  # of the reference: emphasis opens the mouth wider still
_LEAST_JAW = 0.5  # of a close vowel (i, u), as a share of an open one's (a) of the same level
_TYPICAL_RANGE_DB = (-6.0, 6.0)  # of a shape measure, where the sound has too little voice to tell
_LEAST_RANGE_DB = 8.0
_SIBILANT_OPENING = 0.1
_SMOOTHING_HOPS = 1.5

_DIP_DB = 15.0
_DIP_REACH_HOPS = 12
_SHORTEST_DIP_HOPS = 2
_SHORTEST_PAUSE_HOPS = 18
_LIPS_CLOSE_EARLY_HOPS = 2
_RELEASE_HOPS = 2
_HISSING_DB = 12.0  # above the voice's own balance
_TONGUE_CLOSURE = 0.2  # what stays of the opening

_RELEASE = 0.5  # what stays of an opening a frame later, at least
_MAX_RISE, _MAX_FALL = 0.5, 0.7  # of the opening, per frame; what shuts in time begins early
_CLOSED = 0.03
_SPREAD_MEMORY = 0.5  # lips change their shape more slowly than the jaw its height


@dataclass(frozen=True)
class MouthTrack:
    """One value for each frame, (T,) float32, T = ceil(seconds * fps).

    opening: 0 lips closed .. 1 wide open. spread: -1 rounded .. 1 wide. loudness: 0 silence .. 1.
    """

    opening: np.ndarray
    spread: np.ndarray
    loudness: np.ndarray
    fps: int = FPS


@dataclass(frozen=True)
class _Voice:
    """Of each hop, (N,): `level` and `loudness` 0..1 of the voice's own, `is_speech`, and its weight."""

    level: np.ndarray
    loudness: np.ndarray
    is_speech: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class _Closure:
    """Hops [start, end) in which the mouth is shut, by the lips or by the tongue."""

    start: int
    end: int
    is_labial: bool


def mouth_track(path: Path, *, check: Callable[[], None] = lambda: None) -> MouthTrack:
    """Raises InvalidInput for what is no sound. A sound without samples gives a track of no frames."""
    return track_of(speech_features(path, check))


def track_of(features: SpeechFeatures) -> MouthTrack:
    """The whole track at once, in some 150 MB for an hour: voices are known by all that they say."""
    count = num_frames(features.num_samples)
    if not count:
        nothing = np.zeros(0, np.float32)
        return MouthTrack(nothing, nothing, nothing)
    voice = _voice(features)
    jaw = _between(features.level_db(500, 1100) - features.level_db(250, 500), voice.weight)
    opening = voice.level * (_LEAST_JAW + (1 - _LEAST_JAW) * jaw)
    spread = _spread(features, voice, jaw)
    is_sibilant = _is_sibilant(features) & voice.is_speech
    opening = np.where(is_sibilant, _SIBILANT_OPENING, opening)
    closures = list(_closures(features, voice))
    for closure in closures:
        opening[closure.start : closure.end] *= 0.0 if closure.is_labial else _TONGUE_CLOSURE
    opening = gaussian_filter1d(opening, _SMOOTHING_HOPS)
    lips = _moved(_framed(opening, count), _shut_frames(closures, count))
    shape = np.where(voice.is_speech, spread, 0.0)
    return MouthTrack(
        opening=lips,
        spread=_lagged(_framed(gaussian_filter1d(shape, 2 * _SMOOTHING_HOPS), count)),
        loudness=_framed(voice.loudness, count).astype(np.float32),
    )


def num_frames(num_samples: int) -> int:
    """Frames that show all of a sound; the resampler may have made a sample or two more than it was given."""
    return -(-max(0, num_samples - 2) * FPS // RATE_HZ) if num_samples > 2 else min(num_samples, 1)


def _voice(features: SpeechFeatures) -> _Voice:
    formant_db, total_db = features.level_db(250, 1100), features.level_db(80, 7800)
    top_db, total_top_db = _reference_db(formant_db), _reference_db(total_db)
    floor_db = float(np.quantile(total_db, _NOISE_SHARE))
    is_steady = float(np.quantile(total_db, 0.95)) - floor_db < _STEADY_RANGE_DB
    is_periodic = features.periodicity >= _PERIODIC
    if is_steady:
        floor_db = -np.inf if is_periodic.mean() > 0.5 else np.inf
    is_heard = (total_db > total_top_db - _GATE_DB) & (total_db > floor_db + _ABOVE_NOISE_DB)
    is_speech = binary_opening(is_heard, np.ones(_SHORTEST_SPEECH_HOPS, bool))
    level = np.clip((formant_db - top_db) / _OPEN_RANGE_DB + _LOUD_LEVEL, 0, 1) * is_speech
    loudness = np.clip((total_db - total_top_db) / _GATE_DB + 1, 0, 1) * is_speech
    return _Voice(level, loudness, is_speech, level * is_periodic)


def _reference_db(level_db: np.ndarray) -> np.ndarray:
    """(N,) level of the loud parts around each hop: the mean power, weighted by power."""
    power = 10 ** (level_db / 10)
    whole = (power**2).mean() / power.mean()
    size = round(_REFERENCE_S * HOPS_PER_S)
    squares = uniform_filter1d(power**2, size, mode="nearest")
    near = np.maximum(squares, 0) / np.maximum(uniform_filter1d(power, size, mode="nearest"), 1e-30)
    reference: np.ndarray = 10 * np.log10(np.maximum(near, whole * 10 ** (-_FAINTEST_DB / 10)) + 1e-30)
    return reference


def _between(measure_db: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(N,) 0..1: where a measure lies between the least and the most that this voice does."""
    low, high = _quantiles(measure_db, weight, (0.15, 0.85))
    range_db = max(high - low, _LEAST_RANGE_DB)
    return np.clip((measure_db - (low + high) / 2) / range_db + 0.5, 0, 1)


def _quantiles(values: np.ndarray, weight: np.ndarray, shares: tuple[float, ...]) -> list[float]:
    """Of values that count by weight; `_TYPICAL_RANGE_DB` where there is no weight."""
    order = np.argsort(values)
    sums = np.cumsum(weight[order])
    if not sums[-1]:
        return [float(np.interp(share, (0.15, 0.85), _TYPICAL_RANGE_DB)) for share in shares]
    places = np.searchsorted(sums, np.array(shares) * sums[-1])
    return [float(values[order[min(place, len(order) - 1)]]) for place in places]


def _spread(features: SpeechFeatures, voice: _Voice, jaw: np.ndarray) -> np.ndarray:
    """(N,) -1..1; an open jaw leaves lips neither round nor very wide."""
    front_db = features.level_db(1800, 3200) - features.level_db(650, 1400)  # where the second formant is
    low, middle, high = _quantiles(front_db, voice.weight, (0.1, 0.5, 0.9))
    half = np.where(front_db > middle, high - middle, middle - low)
    spread = np.clip((front_db - middle) / np.maximum(half, _LEAST_RANGE_DB / 2), -1, 1)
    spread = spread * (1 - 0.7 * jaw)
    hiss = features.level_db(4500, 7800) - features.level_db(2400, 4500)
    return np.where(_is_sibilant(features), np.where(hiss > 0, 0.6, -0.3), spread)


def _is_sibilant(features: SpeechFeatures) -> np.ndarray:
    hiss_db, voice_db = features.level_db(2400, 7800), features.level_db(250, 1100)
    is_hiss: np.ndarray = (hiss_db > voice_db + 3) & (features.periodicity < _PERIODIC)
    return is_hiss


def _closures(features: SpeechFeatures, voice: _Voice) -> Iterator[_Closure]:
    """Short dips in the level of the formants that speech surrounds."""
    formants_db = features.level_db(500, 3200)
    depth_db = _depth(formants_db, np.where(_is_pause(voice.is_speech), formants_db.max(), formants_db))
    is_dip = depth_db >= _DIP_DB
    hiss_db = features.level_db(4500, 7800) - features.level_db(500, 1100)
    (usual_db,) = _quantiles(hiss_db, voice.weight, (0.5,))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_dip, [False]])))
    for start, end in edges.reshape(-1, 2).tolist():
        if end - start < _SHORTEST_DIP_HOPS:
            continue
        released = hiss_db[end : end + _RELEASE_HOPS]
        is_labial = not len(released) or float(released.mean()) - usual_db < _HISSING_DB
        yield _Closure(max(0, start - _LIPS_CLOSE_EARLY_HOPS), end, is_labial)


def _is_pause(is_speech: np.ndarray) -> np.ndarray:
    """(N,) bool: silence that is longer than the gap of any consonant."""
    pause: np.ndarray = binary_opening(~is_speech, np.ones(_SHORTEST_PAUSE_HOPS, bool))
    return pause


def _depth(level_db: np.ndarray, around_db: np.ndarray) -> np.ndarray:
    """(N,) how far each hop lies below the highest near it, before and after, the lower of both."""
    reach = _DIP_REACH_HOPS
    padded = np.pad(around_db, reach, mode="edge")
    highest = np.lib.stride_tricks.sliding_window_view(padded, reach).max(axis=1)  # from hop i - reach on
    count = len(level_db)
    depth: np.ndarray = np.minimum(highest[:count], highest[reach + 1 : reach + 1 + count]) - level_db
    return depth


def _shut_frames(closures: list[_Closure], count: int) -> np.ndarray:
    """(T,) bool: the frames that a closure by the lips fills at least half, or else the one it fills most."""
    shut = np.zeros(count, bool)
    for closure in closures:
        if not closure.is_labial:
            continue
        first, last = (max(0, hop - _AHEAD_HOPS) // _HOPS for hop in (closure.start, closure.end - 1))
        filled = {
            frame: min(closure.end, (frame + 1) * _HOPS + _AHEAD_HOPS)
            - max(closure.start, frame * _HOPS + _AHEAD_HOPS)
            for frame in range(first, min(last, count - 1) + 1)
        }
        most = max(filled.values(), default=0)
        shut[[frame for frame, hops in filled.items() if hops >= min(most, _HOPS / 2)]] = True
    return shut


def _framed(values: np.ndarray, count: int) -> np.ndarray:
    """(T,) means over the hops of each frame, a little ahead of it."""
    lacking = max(0, count * _HOPS + _AHEAD_HOPS - len(values))
    ahead = np.pad(values, (0, lacking), mode="edge")[_AHEAD_HOPS : _AHEAD_HOPS + count * _HOPS]
    means: np.ndarray = ahead.reshape(count, _HOPS).mean(axis=1)
    return means


def _moved(target: np.ndarray, shut: np.ndarray) -> np.ndarray:
    """(T,) float32 opening: quick to open, a little slower to close, shut where it must be."""
    moved = np.zeros(len(target), np.float32)
    opening = 0.0
    for frame, (wanted, is_shut) in enumerate(zip(target.tolist(), shut.tolist(), strict=True)):
        opening = 0.0 if is_shut else min(max(wanted, opening * _RELEASE), opening + _MAX_RISE)
        opening = opening if opening >= _CLOSED else 0.0
        moved[frame] = min(opening, 1.0)
    for frame in range(len(moved) - 2, -1, -1):
        moved[frame] = min(moved[frame], moved[frame + 1] + _MAX_FALL)
    return moved


def _lagged(values: np.ndarray) -> np.ndarray:
    """(T,) float32."""
    lagged = np.zeros(len(values), np.float32)
    shape = 0.0
    for frame, wanted in enumerate(values.tolist()):
        shape += (1 - _SPREAD_MEMORY) * (wanted - shape)
        lagged[frame] = shape if abs(shape) >= _CLOSED else 0.0
    return lagged
