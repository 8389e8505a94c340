from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from models.audio_streams import read_audio
from models.networks import pyannet
from models.networks.pyannet import PyanNet, load_pyannet, voices
from models.weights import locate
from models.zoo.pyannote_audio import SEGMENTATION
from tests.diarization_error import read_rttm
from tests.stores import SAMPLES

WINDOW_AT_S = 15.0


@pytest.fixture(scope="module")
def network() -> PyanNet:
    return load_pyannet(locate(SEGMENTATION))


def test_a_window_of_real_talk_is_told_apart(network: PyanNet) -> None:
    sound = read_audio(SAMPLES / "conversation.wav", rate_hz=pyannet.RATE_HZ, channels=1)[0]
    start = round(WINDOW_AT_S * pyannet.RATE_HZ)
    activity = voices(network, sound[None, start : start + pyannet.WINDOW_SAMPLES])[0]  # (T, 3)
    truth = spoken(len(activity))  # (T, 2)
    found = activity[:, activity.sum(axis=0).argsort()[-2:]]
    agreement = max((found == truth).mean(), (found[:, ::-1] == truth).mean())
    print(f"\nframes of each voice that agree with the reference: {agreement:.3f}")  # noqa: T201 - the score
    assert agreement > 0.9


def spoken(num_frames: int) -> np.ndarray:
    """Who speaks in each frame of the window by the reference, (T, 2)."""
    turns = read_rttm(SAMPLES / "conversation.rttm")
    middle = pyannet.FRAME_SAMPLES / 2 + np.arange(num_frames) * pyannet.FRAME_STEP_SAMPLES
    times_s = WINDOW_AT_S + middle / pyannet.RATE_HZ
    names = sorted({turn.speaker for turn in turns})
    rows = [
        np.any([(t.start_s <= times_s) & (times_s < t.end_s) for t in turns if t.speaker == name], axis=0)
        for name in names
    ]
    return np.stack(rows, axis=1)


def test_shapes_and_windows_do_not_depend_on_each_other(network: PyanNet) -> None:
    noise = np.random.default_rng(0).normal(scale=0.1, size=(2, pyannet.WINDOW_SAMPLES)).astype(np.float32)
    both = voices(network, noise)
    assert both.shape == (2, pyannet.WINDOW_FRAMES, pyannet.MAX_VOICES)
    assert (both[1] == voices(network, noise[1:])[0]).all()


def test_frames_lie_where_the_convolutions_put_them() -> None:
    """A filter of 251 every 10 samples, then three pools of 3 with two convolutions of 5 between."""
    step, size, count = 10, 251, (pyannet.WINDOW_SAMPLES - 251) // 10 + 1
    for kernel, stride in ((3, 3), (5, 1), (3, 3), (5, 1), (3, 3)):
        size, step, count = size + (kernel - 1) * step, step * stride, (count - kernel) // stride + 1
    assert (step, size, count) == (
        pyannet.FRAME_STEP_SAMPLES,
        pyannet.FRAME_SAMPLES,
        pyannet.WINDOW_FRAMES,
    )


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    torch.save(
        {"state_dict": PyanNet().state_dict(), "extra": Hostile(tmp_path / "made")}, tmp_path / "w.bin"
    )
    with pytest.raises(pickle.UnpicklingError):
        load_pyannet(tmp_path / "w.bin")
    assert not (tmp_path / "made").exists()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    state = PyanNet().state_dict()
    state["classifier.weight"] = torch.zeros(4, 128)
    torch.save({"state_dict": state}, tmp_path / "w.bin")
    with pytest.raises(RuntimeError, match=r"classifier\.weight"):
        load_pyannet(tmp_path / "w.bin")
