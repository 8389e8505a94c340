"""The mouth that a sound moves: vowels made here, a voice that tells its phonemes, a real conversation."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from models.audio_formats import AudioFormat
from models.audio_streams import AudioWriter, read_audio
from models.engine import Cancelled, InvalidInput
from models.portrait import speech_features as features_module
from models.portrait.mouth_track import FPS, mouth_track, num_frames
from tests.spoken_phonemes import PhonemeVoice
from tests.stores import SAMPLES

RATE_HZ = 16_000
FRAME = RATE_HZ // FPS
CONVERSATION = SAMPLES / "conversation.wav"
FORMANTS_HZ = {"a": (750, 1200, 2500), "i": (290, 2250, 3000), "u": (300, 850, 2300)}
SENTENCES = (
    "Bob and Pam may buy a big map.",
    "My mother put a pumpkin pie by the lamp, and my baby brother jumped up.",
    "She sells sea shells, but Peter Piper picked a peck of pickled peppers.",
    "People may become members by the end of November.",
)
CLOSED = 0.05


def vowel(name, seconds, *, pitch_hz=120.0):
    """Harmonics of a falling source, each as loud as three resonances make it."""
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    sound = np.zeros_like(time_s)
    for harmonic_hz in np.arange(pitch_hz, 3800, pitch_hz):
        gain = 1 / harmonic_hz
        for formant_hz in FORMANTS_HZ[name]:
            width = 0.05 * formant_hz + 30
            gain *= formant_hz**2 / math.hypot(formant_hz**2 - harmonic_hz**2, 2 * width * harmonic_hz)
        sound += gain * np.sin(2 * np.pi * harmonic_hz * time_s)
    return faded(0.3 * sound / np.abs(sound).max())


def murmur(seconds):
    """An m: the voice through the nose, all of it low."""
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return faded(0.08 * np.sin(2 * np.pi * 120 * time_s) + 0.08 * np.sin(2 * np.pi * 240 * time_s))


def hiss(seconds):
    """An s: noise above 4.5 kHz."""
    noise = np.random.default_rng(1).standard_normal(round(seconds * RATE_HZ))
    spectrum = np.fft.rfft(noise)
    spectrum[np.fft.rfftfreq(len(noise), 1 / RATE_HZ) < 4500] = 0
    return faded(0.05 * np.fft.irfft(spectrum, len(noise)))


def faded(sound):
    ramp = np.minimum(1, np.arange(len(sound)) / 80)
    return sound * ramp * ramp[::-1]


def silence(seconds):
    return np.zeros(round(seconds * RATE_HZ))


def written(path, *parts, rate_hz=RATE_HZ):
    with AudioWriter(path, AudioFormat.WAV, rate_hz=rate_hz, channels=1) as writer:
        writer.write(np.concatenate(parts)[None].astype(np.float32))
    return path


def frames(start_s, end_s):
    """Those that lie between two moments."""
    return slice(math.ceil(start_s * FPS), math.floor(end_s * FPS))


def envelope(path, count):
    """(T,) RMS of what is heard during each frame."""
    sound = read_audio(path, rate_hz=RATE_HZ, channels=1)[0]
    padded = np.pad(sound, (0, max(0, count * FRAME - len(sound))))[: count * FRAME]
    return np.sqrt((padded.reshape(count, FRAME) ** 2).mean(axis=1))


@pytest.fixture(scope="module")
def conversation():
    return mouth_track(CONVERSATION)


@pytest.fixture
def spoken(tmp_path):
    """a i u s, each after a pause."""
    parts = [silence(0.4)]
    for sound in (vowel("a", 0.4), vowel("i", 0.4), vowel("u", 0.4), hiss(0.4)):
        parts += [sound, silence(0.4)]
    return mouth_track(written(tmp_path / "vowels.wav", *parts))


HELD = {"a": frames(0.5, 0.75), "i": frames(1.3, 1.55), "u": frames(2.1, 2.35), "s": frames(2.9, 3.15)}


def test_an_open_vowel_opens_the_jaw_more_than_close_ones_of_the_same_level(spoken):
    opening = {name: spoken.opening[held].mean() for name, held in HELD.items()}
    assert opening["a"] > 0.7
    assert opening["a"] > 1.4 * max(opening["i"], opening["u"])
    assert min(opening["i"], opening["u"]) > 0.2
    assert 0 < opening["s"] < 0.2, "the teeth are nearly together"


def test_lips_are_wide_for_i_and_s_and_round_for_u(spoken):
    spread = {name: spoken.spread[held].mean() for name, held in HELD.items()}
    assert spread["i"] > 0.4
    assert spread["s"] > 0.3
    assert spread["u"] < -0.4
    assert abs(spread["a"]) < 0.4


def test_the_mouth_is_shut_in_pauses(spoken):
    for pause in (frames(0, 0.35), frames(0.95, 1.15), frames(1.75, 1.95), frames(3.35, 3.6)):
        assert not spoken.opening[pause].any()
        assert np.abs(spoken.spread[pause]).max() < 0.35
        assert not spoken.loudness[pause].any()


@pytest.mark.parametrize(
    "closure", [murmur(0.08), silence(0.07), 0.1 * murmur(0.07)], ids=["m", "p", "b: a faint murmur"]
)
def test_lips_meet_between_vowels(closure, tmp_path):
    begin = [silence(0.3), vowel("a", 0.31)]
    end = [vowel("a", 0.33), silence(0.3)]
    track = mouth_track(written(tmp_path / "closure.wav", *begin, closure, *end))
    shut = np.flatnonzero(track.opening[8:22] == 0) + 8
    middle = (0.61 + len(closure) / RATE_HZ / 2) * FPS
    assert len(shut) in {1, 2, 3}
    assert np.abs(shut - middle).min() <= 1
    assert track.opening[shut[0] - 3] > 0.5
    assert track.opening[shut[-1] + 3] > 0.5


def test_a_quiet_recording_moves_the_mouth_like_a_loud_one(conversation, tmp_path):
    sound = read_audio(CONVERSATION, rate_hz=RATE_HZ, channels=1)[0]
    quiet = mouth_track(written(tmp_path / "quiet.wav", sound / 10))
    assert np.abs(quiet.opening - conversation.opening).mean() < 0.01
    assert np.quantile(np.abs(quiet.opening - conversation.opening), 0.98) < 0.1
    assert np.abs(quiet.spread - conversation.spread).mean() < 0.03


def test_a_conversation_moves_the_mouth_as_it_is_spoken(conversation):
    heard = envelope(CONVERSATION, len(conversation.opening))
    correlation = np.corrcoef(conversation.opening, heard)[0, 1]
    print(f"\nopening and envelope: r = {correlation:.2f}")  # noqa: T201 - the score
    assert correlation >= 0.75
    assert not conversation.opening[: 2 * FPS].any(), "nobody speaks yet"
    assert conversation.opening[7 * FPS :].max() > 0.9
    changes = np.abs(np.diff(conversation.opening))
    assert changes.max() <= 1
    assert np.quantile(conversation.spread, 0.95) > 0.25
    assert np.quantile(conversation.spread, 0.05) < -0.25


def test_lips_close_for_most_of_m_b_and_p(tmp_path):
    voice, least, vowels = PhonemeVoice(), [], []
    for number, text in enumerate(SENTENCES):
        path = tmp_path / f"{number}.wav"
        said = voice.say(text, path)
        opening = mouth_track(path).opening
        assert len(opening) == math.ceil(len(read_audio(path, rate_hz=RATE_HZ, channels=1)[0]) / FRAME)
        for before, phoneme in pairwise(said):
            # The network tells where a phoneme is released; its closure begins in the one before.
            start_s = max((before.start_s + before.end_s) / 2, phoneme.start_s - 0.08)
            held = opening[int(start_s * FPS) : int((phoneme.end_s + 0.02) * FPS) + 1]
            if phoneme.sign in "mbp":
                least.append(held.min())
            elif phoneme.sign in "aæɑɔʌɛe":
                vowels.append(held.max())
    share = np.mean(np.array(least) <= CLOSED)
    print(f"\nclosed on {share:.2f} of {len(least)} m, b and p")  # noqa: T201 - the score
    assert len(least) > 30
    assert share >= 0.75
    assert np.mean(np.array(vowels) > 0.25) >= 0.8, "or it would just be shut"


@pytest.mark.parametrize(
    "sound",
    [
        silence(2),
        np.random.default_rng(0).normal(0, 0.1, 3 * RATE_HZ),
        np.random.default_rng(0).normal(0, 1e-4, 3 * RATE_HZ),
        np.full(RATE_HZ, 0.2),
    ],
    ids=["silence", "noise", "faint noise", "a constant"],
)
def test_what_is_no_voice_leaves_the_mouth_shut(sound, tmp_path):
    track = mouth_track(written(tmp_path / "sound.wav", sound))
    assert len(track.opening) == len(sound) // FRAME
    assert not track.opening.any()


def test_noise_behind_speech_does_not_open_the_mouth(conversation, tmp_path):
    sound = read_audio(CONVERSATION, rate_hz=RATE_HZ, channels=1)[0]
    level = np.sqrt((sound[7 * RATE_HZ :] ** 2).mean())
    noise = np.random.default_rng(0).normal(0, level / 10, len(sound))
    track = mouth_track(written(tmp_path / "noisy.wav", sound + noise))
    assert not track.opening[: 2 * FPS].any()
    assert np.corrcoef(track.opening, conversation.opening)[0, 1] > 0.85


def test_music_moves_the_mouth_less_than_speech(conversation, tmp_path):
    notes = []
    for pitch_hz in (262, 330, 392, 523) * 4:
        time_s = np.arange(round(0.25 * RATE_HZ)) / RATE_HZ
        tone = sum(np.sin(2 * np.pi * pitch_hz * n * time_s) / n for n in range(1, 6))
        notes.append(0.1 * tone * np.exp(-3 * time_s) * np.minimum(1, time_s * 100))
    music = mouth_track(written(tmp_path / "music.wav", *notes))
    moves = [np.abs(np.diff(opening)).mean() for opening in (music.opening, conversation.opening[7 * FPS :])]
    assert moves[0] < moves[1]


@pytest.mark.parametrize("rate_hz", [8000, 11025, 44100, 48000])
@pytest.mark.parametrize("num_samples", [400, 44_100, 48_000, 100_001], ids="{} samples".format)
def test_there_is_a_frame_for_each_begun_25th_of_a_second(rate_hz, num_samples, tmp_path):
    path = written(tmp_path / "sound.wav", np.full(num_samples, 0.1), rate_hz=rate_hz)
    track = mouth_track(path)
    assert len(track.opening) == math.ceil(num_samples * FPS / rate_hz)
    assert len(track.spread) == len(track.loudness) == len(track.opening)
    assert {values.dtype for values in (track.opening, track.spread, track.loudness)} == {np.dtype("float32")}


def test_a_sound_without_samples_has_no_frames(tmp_path):
    assert not len(mouth_track(written(tmp_path / "empty.wav", silence(0))).opening)
    assert num_frames(0) == 0


def test_text_is_no_sound(tmp_path):
    path = tmp_path / "notes.wav"
    path.write_text("this is no sound at all\n" * 50)
    with pytest.raises(InvalidInput, match=r"notes\.wav"):
        mouth_track(path)


def test_the_track_does_not_depend_on_how_the_sound_is_cut_into_blocks(conversation, monkeypatch):
    monkeypatch.setattr(features_module, "_BLOCK_S", 0.73)
    again = mouth_track(CONVERSATION)
    np.testing.assert_allclose(again.opening, conversation.opening, atol=1e-5)
    np.testing.assert_allclose(again.spread, conversation.spread, atol=1e-5)


def test_listening_stops_when_it_is_told_to():
    calls = []

    def check():
        calls.append(1)
        if len(calls) > 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        mouth_track(CONVERSATION, check=check)
    assert len(calls) == 6
