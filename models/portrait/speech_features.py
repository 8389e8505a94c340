"""What a sound tells of the mouth that makes it: energies of frequency bands, every 10 ms.

The sound passes as a stream; what stays is 56 bytes for each 10 ms, 20 MB an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.audio_streams import decode_audio

RATE_HZ = 16_000
HOP = 160  # samples from one row of features to the next
HOPS_PER_S = RATE_HZ // HOP
EDGES_HZ = (80, 250, 350, 500, 650, 850, 1100, 1400, 1800, 2400, 3200, 4500, 6000, 7800)
_WINDOW = 320  # 20 ms: two periods of a low voice, and short enough for the gap of a p
_FFT = 512
_BLOCK_S = 10.0
_SHORTEST_PERIOD, _LONGEST_PERIOD = 40, 200  # samples: voices of 80 to 400 Hz
_LEAST_POWER = 1e-12


@dataclass(frozen=True)
class SpeechFeatures:
    """Row i is about the 20 ms around i * 10 ms.

    bands: (N, 13) float32, mean power between neighbours of EDGES_HZ. periodicity: (N,) float32, 0 noise,
    1 a steady tone or vowel. num_samples: of the sound, at RATE_HZ.
    """

    bands: np.ndarray
    periodicity: np.ndarray
    num_samples: int

    def level_db(self, low_hz: int, high_hz: int) -> np.ndarray:
        """(N,) level of what lies between two of EDGES_HZ."""
        first, last = EDGES_HZ.index(low_hz), EDGES_HZ.index(high_hz)
        levels: np.ndarray = 10 * np.log10(self.bands[:, first:last].sum(axis=1) + _LEAST_POWER)
        return levels


def speech_features(path: Path, check: Callable[[], None]) -> SpeechFeatures:
    """Raises InvalidInput for what is no sound; a sound without samples has no rows."""
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    half = _WINDOW // 2
    waiting = np.zeros(half, np.float32)  # so that row 0 is about the beginning
    num_samples = 0
    for block in _blocks(path, check):
        num_samples += len(block)
        waiting = np.concatenate([waiting, block])
        count = max(0, (len(waiting) - _WINDOW) // HOP + 1)
        rows.append(_rows(waiting, count))
        waiting = waiting[count * HOP :]
    if num_samples:
        count = -(-len(waiting) // HOP)
        rows.append(_rows(np.pad(waiting, (0, _WINDOW)), count))
    bands = [np.zeros((0, len(EDGES_HZ) - 1), np.float32), *(band for band, _ in rows)]
    periodicity = [np.zeros(0, np.float32), *(period for _, period in rows)]
    return SpeechFeatures(np.concatenate(bands), np.concatenate(periodicity), num_samples)


def _blocks(path: Path, check: Callable[[], None]) -> Iterator[np.ndarray]:
    """(L,) float32, mono."""
    for block in decode_audio(path, rate_hz=RATE_HZ, channels=1, block_s=_BLOCK_S, check=check):
        check()
        yield block[0]


def _rows(samples: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Bands (count, 13) and periodicity (count,) of windows HOP samples apart."""
    if not count:
        return np.zeros((0, len(EDGES_HZ) - 1), np.float32), np.zeros(0, np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::HOP][:count]  # (count, window)
    steady = (windows - windows.mean(axis=1, keepdims=True)) * _HANN
    power = np.abs(np.fft.rfft(steady, _FFT)) ** 2 / _WINDOW  # (count, bins)
    bands = np.add.reduceat(power[:, : _BINS[-1]], _BINS[:-1], axis=1)
    correlation = np.fft.irfft(power, _FFT)[:, : _LONGEST_PERIOD + 1]
    ratio = correlation[:, _SHORTEST_PERIOD:] / (correlation[:, :1] + _LEAST_POWER) * _HANN_CORRECTION
    return bands.astype(np.float32), np.clip(ratio.max(axis=1), 0, 1).astype(np.float32)


_HANN = np.hanning(_WINDOW).astype(np.float32)
_BINS = np.round(np.array(EDGES_HZ) * _FFT / RATE_HZ).astype(int)
_HANN_ITSELF = np.correlate(_HANN, _HANN, "full")[_WINDOW - 1 :]  # of a signal that repeats exactly
_HANN_CORRECTION = _HANN_ITSELF[0] / _HANN_ITSELF[_SHORTEST_PERIOD : _LONGEST_PERIOD + 1]
