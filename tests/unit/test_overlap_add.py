from __future__ import annotations

import itertools

import numpy as np
import pytest

from models.overlap_add import Windows, overlap_add

WINDOWS = Windows(size=100, overlap=30, margin=5)


def sound(length: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, length)).astype(np.float32)


def blocks_of(samples: np.ndarray, size: int) -> list[np.ndarray]:
    return [samples[:, at : at + size] for at in range(0, samples.shape[1], size)]


def joined(samples: np.ndarray, process, *, block: int = 70) -> tuple[np.ndarray, np.ndarray]:
    pieces = list(overlap_add(blocks_of(samples, block), WINDOWS, process))
    mixes, results = zip(*pieces, strict=True)
    return np.concatenate(mixes, axis=1), np.concatenate(results, axis=1)


@pytest.mark.parametrize("block", [1, 70, 100, 1000])
@pytest.mark.parametrize("length", [1, 29, 30, 31, 99, 100, 101, 169, 170, 171, 999])
def test_a_network_that_changes_nothing_gives_every_sample_back_once(length, block):
    samples = sound(length)
    mix, result = joined(samples, np.copy, block=block)
    assert np.array_equal(mix, samples)
    np.testing.assert_allclose(result, samples, atol=1e-6)


def test_the_network_sees_whole_windows_and_a_shorter_last_one():
    seen = []
    joined(sound(250), lambda window: seen.append(window.shape[1]) or window.copy())
    assert seen == [100, 100, 100, 40]


def test_windows_fade_into_each_other_and_their_margins_are_not_heard():
    numbers = iter(range(10))

    def process(window: np.ndarray) -> np.ndarray:
        processed = np.full_like(window, next(numbers))
        processed[:, :5] = processed[:, -5:] = 99.0  # what a network makes of its borders
        return processed

    _, result = joined(sound(240), process)
    inner = result[0, 5:-5]
    assert inner.max() == 2.0
    assert np.abs(np.diff(inner)).max() < 0.06  # no step where the output goes from 0 to 1 to 2
    assert (
        np.unique(inner[inner % 1 > 0]).size == 2 * 20
    )  # the fade is as long as the overlap less its margins


def test_a_stream_without_end_is_read_no_further_than_a_window_ahead():
    taken = []
    endless = (taken.append(number) or np.zeros((1, 50), np.float32) for number in itertools.count())
    done = 0
    for mix, _ in itertools.islice(overlap_add(endless, WINDOWS, np.copy), 1000):
        done += mix.shape[1]
        assert len(taken) * 50 - done <= WINDOWS.size + 50


def test_nothing_in_nothing_out():
    assert list(overlap_add([], WINDOWS, np.copy)) == []


@pytest.mark.parametrize(
    ("share", "overlap"), [(0.0, 30), (0.25, 250), (0.5, 500)], ids=["margins only", "quarter", "half"]
)
def test_overlap_is_a_share_of_the_window_and_never_less_than_a_fade_between_margins(share, overlap):
    windows = Windows.of(1000, share, 10)
    assert (windows.overlap, windows.step) == (overlap, 1000 - overlap)
    fade = windows.fade_in
    assert fade[:10].max() == 0.0
    assert fade[-10:].min() == 1.0
    np.testing.assert_allclose(fade + fade[::-1], 1.0, atol=1e-6)
