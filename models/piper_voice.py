"""A Piper voice (VITS, arXiv 2106.06103): one network, one speaker, one language.

Runs without noise, so that the same text is always the same sound.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np

from models.onnx_sessions import OnnxSession
from models.text_segments import SENTENCE_PAUSE_S

_START, _END, _PAD = "^", "$", "_"
_SENTENCE = re.compile(r"\S.*?(?:[.!?…]+(?=\s|$)|$)")
_NOISE, _NOISE_OF_DURATIONS = 0.0, 0.0


class Piper:
    """The network at `model`, with the table of phonemes in `config`. `rate_hz` is that of its sound."""

    def __init__(self, model: Path, config: Path, *, device: str, threads: int) -> None:
        told = json.loads(config.read_text(encoding="utf-8"))
        self._ids: dict[str, list[int]] = told["phoneme_id_map"]
        self._scales = np.array([_NOISE, told["inference"]["length_scale"], _NOISE_OF_DURATIONS], np.float32)
        self.rate_hz: int = told["audio"]["sample_rate"]
        self._session = OnnxSession(model, device=device, threads=threads)

    def speak(self, ipa: str, check: Callable[[], None]) -> np.ndarray:
        """(L,) float32 of the IPA that espeak-ng makes of a text, a sentence at a time."""
        pause = np.zeros(round(SENTENCE_PAUSE_S * self.rate_hz), np.float32)
        blocks: list[np.ndarray] = []
        for sentence in _SENTENCE.findall(ipa):
            blocks += [*([pause] if blocks else []), self._spoken(sentence, check)]
        return np.concatenate(blocks) if blocks else pause[:0]

    def _spoken(self, ipa: str, check: Callable[[], None]) -> np.ndarray:
        signs = [sign for sign in unicodedata.normalize("NFD", ipa) if sign in self._ids]
        ids = [*self._ids[_START], *self._ids[_PAD]]
        for sign in signs:
            ids += [*self._ids[sign], *self._ids[_PAD]]
        ids += self._ids[_END]
        feeds: dict[str, np.ndarray] = {
            "input": np.array([ids], np.int64),
            "input_lengths": np.array([len(ids)], np.int64),
            "scales": self._scales,
        }
        return self._session.run(feeds, check).reshape(-1)
