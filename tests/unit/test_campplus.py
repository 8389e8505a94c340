from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from models.audio_streams import read_audio
from models.networks.campplus import MIN_SAMPLES, CamPlusPlus, embed, filter_bank, load_campplus
from models.voice_weights import CAMPPLUS
from models.weights import locate
from tests.stores import SAMPLES

RATE_HZ = 16_000
DIANE_S, SHEILA_S = ((10.7, 12.7), (19.0, 21.0)), ((15.2, 17.2), (24.2, 26.2))


@pytest.fixture(scope="module")
def network() -> CamPlusPlus:
    return load_campplus(locate(CAMPPLUS))


def test_a_voice_is_nearer_to_itself_than_to_another(network: CamPlusPlus) -> None:
    sound = read_audio(SAMPLES / "conversation.wav", rate_hz=RATE_HZ, channels=1)[0]
    stretches = [sound[round(a * RATE_HZ) : round(b * RATE_HZ)] for a, b in (*DIANE_S, *SHEILA_S)]
    vectors = np.stack([embed(network, stretch) for stretch in stretches])  # (4, 192)
    likeness = vectors @ vectors.T
    print(f"\ncosines of Diane, Diane, Sheila, Sheila:\n{likeness.round(2)}")  # noqa: T201 - the score
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    assert min(likeness[0, 1], likeness[2, 3]) > 0.6
    assert likeness[:2, 2:].max() < 0.5


def test_loudness_does_not_matter(network: CamPlusPlus) -> None:
    noise = np.random.default_rng(0).normal(size=RATE_HZ).astype(np.float32)
    assert float(embed(network, noise) @ embed(network, noise * 0.05)) > 0.999


def test_too_little_sound_is_refused(network: CamPlusPlus) -> None:
    with pytest.raises(ValueError, match=str(MIN_SAMPLES)):
        embed(network, np.zeros(MIN_SAMPLES - 1, np.float32))
    assert embed(network, np.ones(MIN_SAMPLES, np.float32)).shape == (192,)


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_weights_of_another_network_are_refused(change: str, tmp_path: Path) -> None:
    state = CamPlusPlus().state_dict()
    if change == "missing":
        del state["xvector.dense.linear.weight"]
    else:
        state["xvector.block4.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(RuntimeError, match=r"xvector\.(dense|block4)"):
        load_campplus(tmp_path / "other.pt")


def test_the_filter_bank_is_kaldis() -> None:
    """Against the definition, written out frame by frame and band by band in double precision."""
    samples = np.random.default_rng(1).normal(scale=0.1, size=1000).astype(np.float32)
    bands = filter_bank(torch.from_numpy(samples)).numpy()
    assert bands.shape == (1 + (1000 - 400) // 160, 80)
    for frame in range(len(bands)):
        assert bands[frame] == pytest.approx(kaldi_frame(samples[frame * 160 :][:400]), abs=2e-3)


def kaldi_frame(samples: np.ndarray) -> list[float]:
    frame = samples.astype(float) - samples.astype(float).mean()
    frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
    window = [(0.5 - 0.5 * math.cos(2 * math.pi * at / 399)) ** 0.85 for at in range(400)]
    power = np.abs(np.fft.rfft(frame * window, 512)) ** 2
    low, high = mel(20.0), mel(8000.0)
    width = (high - low) / 81
    return [
        math.log(sum(p * triangle(k, low + i * width, width) for k, p in enumerate(power))) for i in range(80)
    ]


def triangle(fft_bin: int, left: float, width: float) -> float:
    at = (mel(fft_bin * RATE_HZ / 512) - left) / width
    return max(0.0, min(at, 2 - at))


def mel(hz: float) -> float:
    return 1127 * math.log(1 + hz / 700)
