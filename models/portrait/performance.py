"""From a mouth's track to a whole face's poses: quiet lips, blinks and a head that is never quite still."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from models.portrait.mouth_track import MouthTrack
from models.portrait.pose import Pose

_SPEAKING = 0.75  # of the widest mouth: what the loudest vowels take, so that talk is no shouting
MAX_RISE, MAX_FALL, MAX_SPREAD_CHANGE = 0.35, 0.4, 0.3  # from one frame to the next
SWAY_LIMITS = Pose(shift_x=0.009, shift_y=0.0105, roll_deg=0.85)
"""The most that the head leaves its place: to either side, up or down, turned."""

_BLINK_S = (0.0, 0.12, 0.16, 0.26, 0.36)
_BLINK_SHUT = (0.0, 1.0, 1.0, 0.35, 0.0)
_BLINK_INTERVAL_S = (2.0, 6.0)
_DOUBLE_SHARE = 0.15
_DOUBLE_AFTER_S = 0.44
_SWAY_HZ = (0.07, 0.13, 0.21, 0.34)
_SWAY_WEIGHTS = (0.4, 0.3, 0.2, 0.1)
_START_S = 1.5
_NOD_SHARE = 0.5  # of the way up and down that follows the voice
_NOD_S = 0.5


@dataclass(frozen=True)
class _Wave:
    """A slow movement within -1..1."""

    phases: tuple[float, ...]

    def at(self, time_s: float) -> float:
        return sum(
            weight * math.sin(math.tau * (hz * time_s + phase))
            for weight, hz, phase in zip(_SWAY_WEIGHTS, _SWAY_HZ, self.phases, strict=True)
        )


def poses(track: MouthTrack, *, seed: int) -> Iterator[Pose]:
    """One pose for each frame of the track; the head starts from its place in the picture.

    The same seed gives the same poses, however long the track goes on; a frame's lips know the next frame.
    """
    blinks = _blinks(np.random.default_rng((seed, 0)), track.fps)
    head = _head(track, np.random.default_rng((seed, 1)))
    for (opening, spread), blink, place in zip(_lips(track), blinks, head, strict=False):
        yield Pose(opening, spread, blink, *place)


def _lips(track: MouthTrack) -> Iterator[tuple[float, float]]:
    """Opening and spread, with jumps spread over frames; lips begin a frame early, to shut in time."""
    opening, spread = 0.0, 0.0
    openings = (_SPEAKING * track.opening).tolist()
    following = (*openings[1:], *openings[-1:])
    for wanted, coming, next_spread in zip(openings, following, track.spread.tolist(), strict=True):
        opening = _towards(min(wanted, coming + MAX_FALL), opening, MAX_FALL, MAX_RISE)
        spread = _towards(next_spread, spread, MAX_SPREAD_CHANGE, MAX_SPREAD_CHANGE)
        yield min(max(opening, 0.0), 1.0), min(max(spread, -1.0), 1.0)


def _towards(target: float, before: float, max_fall: float, max_rise: float) -> float:
    return before + min(max(target - before, -max_fall), max_rise)


def _blinks(random: np.random.Generator, fps: int) -> Iterator[float]:
    """How far the eyes are shut in each frame, without end: fast down, slower up, sometimes twice."""
    frame, start = 0, _wait(random, fps)
    while True:
        shown_s = (frame - start) / fps
        yield float(np.interp(shown_s, _BLINK_S, _BLINK_SHUT))
        frame += 1
        if shown_s > _BLINK_S[-1]:
            is_double = random.random() < _DOUBLE_SHARE
            start += round(_DOUBLE_AFTER_S * fps) if is_double else _wait(random, fps)


def _wait(random: np.random.Generator, fps: int) -> int:
    """Frames from one blink's start to the next one's."""
    return round(random.uniform(*_BLINK_INTERVAL_S) * fps)


def _head(track: MouthTrack, random: np.random.Generator) -> Iterator[tuple[float, float, float]]:
    """shift_x, shift_y and roll_deg of each frame."""
    phases = random.random((3, len(_SWAY_HZ))).tolist()
    aside, upright, turned = (_Wave(tuple(row)) for row in phases)
    nod = 0.0
    for frame, loudness in enumerate(track.loudness.tolist()):
        time_s = frame / track.fps
        nod += (min(max(loudness, 0.0), 1.0) - nod) / (_NOD_S * track.fps)
        start = math.sin(min(time_s / _START_S, 1.0) * math.pi / 2) ** 2
        up_down = (1 - _NOD_SHARE) * upright.at(time_s) + _NOD_SHARE * nod
        yield (
            SWAY_LIMITS.shift_x * start * aside.at(time_s),
            SWAY_LIMITS.shift_y * start * up_down,
            SWAY_LIMITS.roll_deg * start * turned.at(time_s),
        )
