"""A voice that tells when it says which phoneme: Piper's network, asked for its durations as well."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from models.audio_formats import AudioFormat
from models.audio_streams import AudioWriter
from models.espeak import Espeak
from models.phonemes import Phonemizer
from models.weights import locate
from models.zoo.indextts_weights import PIPER_CONFIG, PIPER_MODEL

DURATIONS = "/Ceil_output_0"
STRESS_AND_PAUSES = "ˈˌː .,!?"
PEAK = 0.8


@dataclass(frozen=True)
class Phoneme:
    sign: str
    start_s: float
    end_s: float


class PhonemeVoice:
    """English. The times are those that the network lays its sound out by."""

    def __init__(self):
        told = json.loads(locate(PIPER_CONFIG).read_text(encoding="utf-8"))
        self._ids = told["phoneme_id_map"]
        self.rate_hz = told["audio"]["sample_rate"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        network = with_output(locate(PIPER_MODEL).read_bytes(), DURATIONS)
        self._session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
        self._reader = Phonemizer(Espeak())

    def say(self, text: str, path: Path) -> list[Phoneme]:
        """Writes a WAV of one sentence."""
        ipa = self._reader.english(text)
        signs = [sign for sign in unicodedata.normalize("NFD", ipa) if sign in self._ids]
        pad = self._ids["_"]
        ids = [*self._ids["^"], *pad, *(token for sign in signs for token in (*self._ids[sign], *pad))]
        ids += self._ids["$"]
        feeds = {
            "input": np.array([ids], np.int64),
            "input_lengths": np.array([len(ids)], np.int64),
            "scales": np.array([0, 1, 0], np.float32),
        }
        sound, durations = (values.reshape(-1) for values in self._session.run(None, feeds))
        with AudioWriter(path, AudioFormat.WAV, rate_hz=self.rate_hz, channels=1) as writer:
            writer.write(sound[None] * (PEAK / np.abs(sound).max()))
        ends_s = np.cumsum(durations) * (len(sound) / durations.sum() / self.rate_hz)
        return [
            Phoneme(sign, float(ends_s[2 * number + 1]), float(ends_s[2 * number + 2]))
            for number, sign in enumerate(signs)
            if sign not in STRESS_AND_PAUSES
        ]


def with_output(onnx: bytes, name: str) -> bytes:
    """An ONNX file whose graph also gives the float tensor `name`: appended protobuf fields are merged in."""
    tensor_of_floats = _field(1, bytes([1 << 3, 1]))
    value = _field(1, name.encode()) + _field(2, tensor_of_floats)
    return onnx + _field(7, _field(12, value))


def _field(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content
