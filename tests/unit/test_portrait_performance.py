"""A performance follows its track, blinks, sways within bounds, never jumps, and is the same for a seed."""

from __future__ import annotations

from dataclasses import astuple
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import ArrayLike

from models.portrait.mouth_track import FPS, MouthTrack
from models.portrait.performance import MAX_FALL, MAX_RISE, MAX_SPREAD_CHANGE, SWAY_LIMITS, poses
from models.portrait.pose import Pose

MINUTE = 60 * FPS


def track(
    opening: ArrayLike, spread: ArrayLike | None = None, loudness: ArrayLike | None = None
) -> MouthTrack:
    jaw = np.asarray(opening, np.float32)
    width = np.zeros_like(jaw) if spread is None else np.asarray(spread, np.float32)
    return MouthTrack(jaw, width, jaw if loudness is None else np.asarray(loudness, np.float32))


def noisy(count: int, seed: int = 0) -> MouthTrack:
    random = np.random.default_rng(seed)
    return track(random.random(count), random.uniform(-1, 1, count), random.random(count))


def changes(played: list[Pose]) -> np.ndarray:
    """(T - 1, 6), in the order of Pose's fields."""
    return np.diff(np.array([astuple(pose) for pose in played]), axis=0)


def blinks(played: list[Pose]) -> list[int]:
    """The frames in which the eyes begin to shut."""
    return [i for i, (a, b) in enumerate(pairwise(played), 1) if a.blink == 0 < b.blink]


def test_every_frame_has_a_pose_within_its_ranges() -> None:
    played = list(poses(noisy(MINUTE), seed=1))
    assert len(played) == MINUTE
    for pose in played:
        assert 0 <= pose.opening <= 1
        assert -1 <= pose.spread <= 1
        assert 0 <= pose.blink <= 1
        assert abs(pose.shift_x) <= SWAY_LIMITS.shift_x
        assert abs(pose.shift_y) <= SWAY_LIMITS.shift_y
        assert abs(pose.roll_deg) <= SWAY_LIMITS.roll_deg


def test_no_sound_gives_no_frames() -> None:
    assert list(poses(track([]), seed=1)) == []


def test_nothing_jumps_however_wild_the_track_is() -> None:
    step = changes(list(poses(noisy(MINUTE), seed=1)))
    assert step[:, 0].max() <= MAX_RISE + 1e-6
    assert step[:, 0].min() >= -MAX_FALL - 1e-6
    assert np.abs(step[:, 1]).max() <= MAX_SPREAD_CHANGE + 1e-6
    assert np.abs(step[:, 2]).max() <= 0.4
    assert np.abs(step[:, 3:5]).max() <= 0.001
    assert np.abs(step[:, 5]).max() <= 0.06


@pytest.mark.parametrize("frames_shut", [1, 2, 5])
def test_lips_that_shut_in_the_sound_shut_in_the_picture(frames_shut: int) -> None:
    opening = np.full(40, 0.9)
    opening[20 : 20 + frames_shut] = 0
    played = list(poses(track(opening), seed=1))
    assert all(pose.opening < 0.02 for pose in played[20 : 20 + frames_shut])
    assert played[18].opening > 0.6
    assert played[24 + frames_shut].opening > 0.6


def test_a_louder_vowel_opens_further() -> None:
    widest = [max(pose.opening for pose in poses(track([level] * 20), seed=1)) for level in (0, 0.3, 0.6, 1)]
    assert widest[0] == 0
    assert all(a < b for a, b in pairwise(widest))


@pytest.mark.parametrize("seed", range(5))
def test_blinks_come_every_few_seconds_and_are_short(seed: int) -> None:
    played = list(poses(track(np.zeros(2 * MINUTE)), seed=seed))
    starts = blinks(played)
    assert 2 * FPS <= starts[0] <= 6 * FPS + 1
    assert 20 <= len(starts) <= 75
    assert max(b - a for a, b in pairwise(starts)) <= 6 * FPS + 1
    for start in starts[:-1]:
        shape = [pose.blink for pose in played[start : start + 9]]
        assert max(shape[:4]) == 1
        assert shape[-1] == 0


def test_some_blinks_are_double() -> None:
    starts = blinks(list(poses(track(np.zeros(5 * MINUTE)), seed=0)))
    gaps = np.diff(starts)
    assert 0 < (gaps < FPS).sum() < len(gaps) / 3


def test_the_head_moves_slowly_and_starts_from_its_place() -> None:
    played = np.array([astuple(pose)[3:] for pose in poses(track(np.zeros(4 * MINUTE)), seed=2)])
    assert not played[0].any()
    settled = played[3 * FPS :]
    energy = np.abs(np.fft.rfft(settled * np.hanning(len(settled))[:, None], axis=0)) ** 2
    hz = np.fft.rfftfreq(len(settled), 1 / FPS)
    assert (energy[hz < 0.5].sum(axis=0) > 0.999 * energy.sum(axis=0)).all()
    assert (settled.std(axis=0) > 0.15 * np.array(astuple(SWAY_LIMITS)[3:])).all()


def test_the_voice_nods_the_head() -> None:
    quiet, loud = (
        np.mean([pose.shift_y for pose in poses(track(np.zeros(500), loudness=np.full(500, level)), seed=3)])
        for level in (0.0, 1.0)
    )
    assert loud > quiet + 0.004


def test_a_seed_gives_the_same_poses_however_long_the_track_goes_on() -> None:
    long = noisy(MINUTE)
    short = MouthTrack(long.opening[:200], long.spread[:200], long.loudness[:200])
    whole = list(poses(long, seed=7))
    assert whole == list(poses(long, seed=7))
    assert whole[:199] == list(poses(short, seed=7))[:199]
    assert whole != list(poses(long, seed=8))
