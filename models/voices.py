"""Voices that read text: those of a Kokoro network, and a Piper voice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from models.networks.kokoro import RATE_HZ, Kokoro
from models.phonemes import Phonemizer
from models.piper_voice import Piper
from models.text_segments import ENGLISH, Reading

_QUIET = 0.01  # peak
_MARGIN_S = 0.03


class Voice(ABC):
    """One voice, and the languages it is offered for. Some leave out what is not in their language."""

    name: str
    languages: tuple[str, ...]
    rate_hz: int
    reads_all_scripts = True

    @abstractmethod
    def _spoken(self, text: str, reading: Reading, check: Callable[[], None]) -> np.ndarray:
        """(L,) float32 of a segment."""

    def speak(self, text: str, reading: Reading, check: Callable[[], None]) -> np.ndarray:
        """(L,) float32 of one segment, without the silence around it."""
        return trimmed(self._spoken(text, reading, check), self.rate_hz)


class KokoroVoice(Voice):
    """One of the voices of a Kokoro network."""

    def __init__(self, name: str, languages: tuple[str, ...], network: Kokoro, reader: Phonemizer) -> None:
        self.name, self.languages, self.rate_hz = name, languages, RATE_HZ
        self._network, self._reader = network, reader

    def _spoken(self, text: str, reading: Reading, check: Callable[[], None]) -> np.ndarray:
        return self._network.speak(self._reader.kokoro(text, reading), self.name, check)


class PiperVoice(Voice):
    """Reads English alone, whatever the script."""

    reads_all_scripts = False

    def __init__(self, name: str, network: Piper, reader: Phonemizer) -> None:
        self.name, self.languages, self.rate_hz = name, (ENGLISH,), network.rate_hz
        self._network, self._reader = network, reader

    def _spoken(self, text: str, _reading: Reading, check: Callable[[], None]) -> np.ndarray:
        return self._network.speak(self._reader.english(text), check)


def trimmed(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """(L,) without its quiet ends but for 30 ms; none when all of it is quiet."""
    loud = np.flatnonzero(np.abs(samples) > _QUIET)
    if not len(loud):
        return samples[:0]
    margin = round(_MARGIN_S * rate_hz)
    return samples[max(0, loud[0] - margin) : loud[-1] + margin]
