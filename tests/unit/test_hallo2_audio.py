"""Windows of wav2vec2's hidden states: as the published arrangement makes them, however long the sound."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from transformers import Wav2Vec2Config, Wav2Vec2Model  # noqa: E402 - torch first

from models.engine import InvalidInput  # noqa: E402
from models.hallo2 import audio_windows as module  # noqa: E402
from models.hallo2.audio_windows import (  # noqa: E402
    FRAME_SAMPLES,
    RATE_HZ,
    AudioWindows,
    Sound,
    decode_sound,
)

CLIP = 16
LAYERS, WIDTH = 3, 16


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def model() -> Wav2Vec2Model:
    config = Wav2Vec2Config(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Wav2Vec2Model(config).eval()


def sound(folder: Path, num_samples: int) -> Sound:
    """Noise whose loudness swells, so that no two frames are alike."""
    draw = np.random.default_rng(1)
    swell = np.sin(np.arange(num_samples) / 5000) * 0.3
    path = folder / f"{num_samples}.f32"
    (draw.standard_normal(num_samples) * swell).astype(np.float32).tofile(path)
    return Sound(path, num_samples)


def write_wav(path: Path, num_samples: int, rate_hz: int = RATE_HZ) -> Path:
    with wave.open(str(path), "wb") as writer:
        writer.setparams((1, 2, rate_hz, 0, "NONE", ""))
        writer.writeframes((np.arange(num_samples) % 100 * 50).astype("<i2").tobytes())
    return path


@pytest.mark.parametrize(
    ("num_samples", "num_frames"),
    [(1, 1), (639, 1), (640, 1), (641, 2), (16_000, 25), (16_001, 26), (10_240, 16), (31_999, 50)],
)
def test_there_are_as_many_frames_as_seconds_times_25_rounded_up(tmp_path, num_samples, num_frames):
    found = decode_sound(write_wav(tmp_path / "a.wav", num_samples), tmp_path / "a.f32", lambda: None)

    assert (found.num_samples, found.num_frames) == (num_samples, num_frames)
    assert found.samples.shape == (num_samples,)


@pytest.mark.parametrize("content", [b"these are words", None], ids=["text", "no samples"])
def test_what_holds_no_sound_is_refused(tmp_path, content):
    path = tmp_path / "speech.wav"
    if content is None:
        write_wav(path, 0)
    else:
        path.write_bytes(content)

    with pytest.raises(InvalidInput) as caught:
        decode_sound(path, tmp_path / "a.f32", lambda: None)

    assert caught.value.field == "audio_path"


def test_features_are_those_of_transformers_behind_convolutions_at_the_frame_rate(tmp_path, model):
    whole = sound(tmp_path, 2 * CLIP * FRAME_SAMPLES)
    values = torch.from_numpy(np.array(whole.samples))
    values = (values - values.mean()) / values.std(unbiased=False)
    with torch.inference_mode():
        every_second = model.feature_extractor(values[None])[:, :, ::2]  # 50 a second -> 25
        expected = _behind(model, every_second)

    windows = AudioWindows(model, whole, clip_frames=CLIP)
    found = torch.cat([windows.clip(0), windows.clip(1)])

    assert found.shape == (2 * CLIP, 5, LAYERS, WIDTH)
    torch.testing.assert_close(found[:, 2], expected, rtol=1e-4, atol=1e-5)


def _behind(model: Wav2Vec2Model, convolved: torch.Tensor) -> torch.Tensor:
    """(frames, layers, channels): transformers' own collection of hidden states, without the first."""

    class Convolved(torch.nn.Module):
        def forward(self, _values: torch.Tensor) -> torch.Tensor:
            return convolved

    extractor, model.feature_extractor = model.feature_extractor, Convolved()
    try:
        states = model(torch.zeros(1, 400), output_hidden_states=True).hidden_states
    finally:
        model.feature_extractor = extractor
    return torch.stack(states[1:], dim=2)[0]


def test_a_window_is_two_frames_either_side_and_ends_repeat(tmp_path, model):
    windows = AudioWindows(model, sound(tmp_path, 3 * CLIP * FRAME_SAMPLES), clip_frames=CLIP)
    clips = torch.cat([windows.clip(number) for number in range(3)])
    frames = clips[:, 2]

    for reach in range(-2, 3):
        wanted = (torch.arange(3 * CLIP) + reach).clamp(0, 3 * CLIP - 1)
        assert torch.equal(clips[:, reach + 2], frames[wanted])


def test_the_last_clip_is_filled_up_with_silence(tmp_path, model):
    windows = AudioWindows(model, sound(tmp_path, CLIP * FRAME_SAMPLES + 1), clip_frames=CLIP)

    assert windows.num_clips == 2
    assert windows.clip(1).isfinite().all()


def test_silence_has_features(tmp_path, model):
    path = tmp_path / "silence.f32"
    np.zeros(FRAME_SAMPLES * CLIP, np.float32).tofile(path)

    assert AudioWindows(model, Sound(path, FRAME_SAMPLES * CLIP), clip_frames=CLIP).clip(0).isfinite().all()


def test_a_clip_is_the_same_whether_or_not_those_before_it_were_asked_for(tmp_path, model):
    whole = sound(tmp_path, 6 * CLIP * FRAME_SAMPLES - 99)
    sizes = {"clip_frames": CLIP, "piece_frames": 20, "context_frames": 10}
    in_order = AudioWindows(model, whole, **sizes)
    clips = [in_order.clip(number) for number in range(in_order.num_clips)]

    for number in reversed(range(6)):
        assert torch.equal(AudioWindows(model, whole, **sizes).clip(number), clips[number])


def test_pieces_that_hear_their_neighbours_are_nearer_to_the_whole(tmp_path, model):
    whole = sound(tmp_path, 8 * CLIP * FRAME_SAMPLES)

    def features(**sizes: int) -> torch.Tensor:
        windows = AudioWindows(model, whole, clip_frames=CLIP, **sizes)
        return torch.cat([windows.clip(number) for number in range(8)])

    one = features()
    apart = (features(piece_frames=32, context_frames=0) - one).abs().mean()
    overlapped = (features(piece_frames=32, context_frames=32) - one).abs().mean()

    assert torch.equal(features(piece_frames=8 * CLIP, context_frames=0), one)
    assert overlapped < apart


def test_what_is_held_does_not_grow_with_the_sound(tmp_path, model, monkeypatch):
    encoded: list[int] = []
    hidden_states = module.hidden_states

    def counted(model_, values, *rest):
        encoded.append(len(values))
        return hidden_states(model_, values, *rest)

    monkeypatch.setattr(module, "hidden_states", counted)
    held: dict[int, set[int]] = {}
    for clips in (4, 40):
        windows = AudioWindows(
            model,
            sound(tmp_path, clips * CLIP * FRAME_SAMPLES),
            clip_frames=CLIP,
            piece_frames=20,
            context_frames=4,
        )
        for number in range(clips):
            windows.clip(number)
            held.setdefault(clips, set()).add(sum(len(piece) for piece in windows._pieces.values()))

    assert max(encoded) == (20 + 2 * 4) * FRAME_SAMPLES
    assert max(held[4]) == max(held[40]) == 2 * 20


def test_a_wish_to_stop_is_heard_between_layers(tmp_path, model):
    calls, hooks = [], [len(layer._forward_hooks) for layer in model.encoder.layers]

    def check() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise Stopped

    windows = AudioWindows(model, sound(tmp_path, CLIP * FRAME_SAMPLES), clip_frames=CLIP, check=check)
    with pytest.raises(Stopped):
        windows.clip(0)

    assert len(calls) == 2
    assert [len(layer._forward_hooks) for layer in model.encoder.layers] == hooks
