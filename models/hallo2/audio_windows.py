"""What each video frame hears: hidden states of wav2vec2 at 25 frames a second, in windows of five frames.

Arrangement of the published inference (fudan-generative-vision/hallo: hallo/datasets/audio_processor.py at
25f032f, hallo/models/wav2vec.py at 1002056; upstarter/hallo2: scripts/inference_long.py at e90685c): the
sound is cut every 60 s, each piece is brought to mean 0 and deviation 1, wav2vec2's convolutions are
interpolated to the frame rate *before* its transformer, and the outputs of its layers 1..12 are kept.
Two things differ. A piece hears up to two seconds of its neighbours, so that there is no seam, nor a last
piece too short for the convolutions. And the sound ends on a whole frame, so that frame i is convolution 2i
exactly, where the published code stretches it by up to one frame.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.audio_streams import decode_audio, of_field
from models.disk import disk_errors
from models.engine import InvalidInput

RATE_HZ = 16_000
FPS = 25
FRAME_SAMPLES = RATE_HZ // FPS
PIECE_FRAMES = 60 * FPS
CONTEXT_FRAMES = 2 * FPS
REACH_FRAMES = 2  # a window is so many frames before and after its own
_NORM_EPSILON = 1e-7  # of transformers' Wav2Vec2FeatureExtractor
_BLOCK_S = 10.0


@dataclass(frozen=True)
class Sound:
    """Mono float32 samples at 16 kHz in a file of nothing else."""

    path: Path
    num_samples: int

    @property
    def duration_s(self) -> float:
        return self.num_samples / RATE_HZ

    @property
    def num_frames(self) -> int:
        """Video frames that last as long: the last one may be heard in part."""
        return -(-self.num_samples // FRAME_SAMPLES)

    @cached_property
    def samples(self) -> np.ndarray:
        """(L,) float32, read from disk where it is looked at."""
        return np.memmap(self.path, np.float32, mode="r", shape=(self.num_samples,))


def decode_sound(source: Path, target: Path, check: Callable[[], None]) -> Sound:
    """Decodes `audio_path` to `target`, 64 kB for a second. Raises InvalidInput, also without any sample."""
    num_samples = 0
    with of_field("audio_path"), disk_errors(), target.open("wb") as file:
        blocks = decode_audio(source, rate_hz=RATE_HZ, channels=1, block_s=_BLOCK_S, check=check)
        for block in blocks:  # (1, L)
            file.write(np.ascontiguousarray(block[0]).tobytes())
            num_samples += block.shape[1]
    if not num_samples:
        raise InvalidInput(f"{source.name} holds no sound", field="audio_path")
    return Sound(target, num_samples)


class AudioWindows:
    """The windows of any clip of a sound; for one thread.

    Memory does not grow with the sound: at most the features of two pieces are kept (for wav2vec2-base 55 MB
    each), and one piece with its context, 64 s, is encoded at a time (float32: 0.4 GB for each of the first
    convolution's activations).
    """

    def __init__(
        self,
        model: Any,
        sound: Sound,
        *,
        clip_frames: int,
        piece_frames: int = PIECE_FRAMES,
        context_frames: int = CONTEXT_FRAMES,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`model` is a transformers Wav2Vec2Model in eval mode; the frames are filled up to whole clips."""
        self.num_clips = -(-sound.num_frames // clip_frames)
        self._model, self._sound, self._check = model, sound, check
        self._clip_frames = clip_frames
        self._piece_frames, self._context_frames = piece_frames, context_frames
        self._num_frames = self.num_clips * clip_frames
        self._pieces: dict[int, Tensor] = {}

    def clip(self, number: int) -> Tensor:
        """(clip frames, 5, layers, channels) float32 on the CPU; what lies beyond an end repeats it."""
        frames = torch.arange(number * self._clip_frames, (number + 1) * self._clip_frames)
        reach = torch.arange(-REACH_FRAMES, REACH_FRAMES + 1)
        wanted = (frames[:, None] + reach).clamp(0, self._num_frames - 1)  # (clip frames, 5)
        first, last = (int(frame) // self._piece_frames for frame in (wanted.min(), wanted.max()))
        self._pieces = {piece: kept for piece, kept in self._pieces.items() if first <= piece <= last}
        for piece in range(first, last + 1):
            if piece not in self._pieces:
                self._pieces[piece] = self._features(piece)
        joined = torch.cat([self._pieces[piece] for piece in range(first, last + 1)])
        return joined[wanted - first * self._piece_frames]

    def _features(self, piece: int) -> Tensor:
        """(frames, layers, channels) of one piece."""
        start = piece * self._piece_frames
        stop = min(start + self._piece_frames, self._num_frames)
        heard_from = max(0, start - self._context_frames)
        heard_to = min(stop + self._context_frames, self._num_frames)
        heard = self._sound.samples[heard_from * FRAME_SAMPLES : heard_to * FRAME_SAMPLES]
        values = torch.from_numpy(np.array(heard))
        values = (values - values.mean()) / torch.sqrt(values.var(unbiased=False) + _NORM_EPSILON)
        num_frames = heard_to - heard_from
        values = F.pad(values, (0, num_frames * FRAME_SAMPLES - len(values)))
        layers = hidden_states(self._model, values, num_frames, self._check)
        return layers[start - heard_from : stop - heard_from].cpu()


@torch.inference_mode()
def hidden_states(model: Any, values: Tensor, num_frames: int, check: Callable[[], None]) -> Tensor:
    """(num_frames, layers, channels) of samples (L,): every layer's output, convolutions at the frame rate.

    `check` is called before each layer.
    """
    kept: list[Tensor] = []
    with ExitStack() as stack:
        for layer in model.encoder.layers:
            stack.enter_context(layer.register_forward_pre_hook(lambda _layer, _inputs: check()))
            stack.enter_context(layer.register_forward_hook(lambda _layer, _inputs, out: kept.append(out)))
        parameter = next(model.parameters())
        heard = model.feature_extractor(values[None].to(parameter))  # (1, C, T)
        heard = F.interpolate(heard, size=num_frames, mode="linear", align_corners=True)
        projected, _ = model.feature_projection(heard.transpose(1, 2))  # (1, num_frames, D)
        model.encoder(projected)
    return torch.stack([out[0] for out in kept], dim=1).float()
