"""CAM++ (arXiv 2303.00332): the voice of a stretch of speech as one vector, and its Kaldi filter bank.

The layout and names are those of the 3D-Speaker checkpoints, whose state dict loads strictly. Vectors of
one voice (3 s of telephone speech) have a cosine of 0.7 to 0.85, those of two women 0.34 to 0.44.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

RATE_HZ = 16_000
EMBEDDING_SIZE = 192
FRAME_STEP_SAMPLES = 160
FRAME_SAMPLES = 400
MIN_SAMPLES = FRAME_SAMPLES + 9 * FRAME_STEP_SAMPLES  # ten frames: less has no statistics to pool

_NUM_BANDS = 80
_FFT_SIZE = 512
_LOWEST_HZ = 20.0
_PREEMPHASIS = 0.97
_FLOOR = float(np.finfo(np.float32).eps)
_SEGMENT_FRAMES = 100
_GROWTH = 32
_BLOCKS = ((12, 1), (24, 2), (16, 2))  # dense layers and their dilation


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut; `stride` thins out the bands, never time."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, (stride, 1), padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1:
            thin = nn.Conv2d(channels, channels, 1, (stride, 1), bias=False)
            self.shortcut = nn.Sequential(thin, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))  # (B, C, bands / stride, T)
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class _Head(nn.Module):
    """The front end over the picture of bands and time; 80 bands become 32 channels of 10."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.layer1 = nn.Sequential(_Residual(channels, 2), _Residual(channels, 1))
        self.layer2 = nn.Sequential(_Residual(channels, 2), _Residual(channels, 1))
        self.conv2 = nn.Conv2d(channels, channels, 3, (2, 1), padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, bands: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(bands.unsqueeze(1))))  # (B, 32, 80, T)
        x = self.layer2(self.layer1(x))  # (B, 32, 20, T)
        x = F.relu(self.bn2(self.conv2(x)))  # (B, 32, 10, T)
        return x.flatten(1, 2)  # (B, 320, T)


def _normalised(channels: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(batchnorm=nn.BatchNorm1d(channels), relu=nn.ReLU()))


class _ContextMask(nn.Module):
    """A convolution whose output is gated by what the whole stretch, and each second of it, sound like."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.linear_local = nn.Conv1d(channels, _GROWTH, 3, padding=dilation, dilation=dilation, bias=False)
        self.linear1 = nn.Conv1d(channels, channels // 2, 1)
        self.linear2 = nn.Conv1d(channels // 2, _GROWTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        num_frames = x.shape[-1]
        seconds = F.avg_pool1d(x, _SEGMENT_FRAMES, ceil_mode=True)  # (B, C, ceil(T / 100))
        context = x.mean(-1, keepdim=True) + seconds  # (B, C, ceil(T / 100))
        gate = torch.sigmoid(self.linear2(F.relu(self.linear1(context))))  # (B, 32, ceil(T / 100))
        gate = gate.repeat_interleave(_SEGMENT_FRAMES, dim=-1)[..., :num_frames]  # (B, 32, T)
        return self.linear_local(x) * gate


class _DenseLayer(nn.Module):
    """Appends `_GROWTH` channels to its input."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        inner = 4 * _GROWTH
        self.nonlinear1 = _normalised(channels)
        self.linear1 = nn.Conv1d(channels, inner, 1, bias=False)
        self.nonlinear2 = _normalised(inner)
        self.cam_layer = _ContextMask(inner, dilation)

    def forward(self, x: Tensor) -> Tensor:
        new = self.cam_layer(self.nonlinear2(self.linear1(self.nonlinear1(x))))  # (B, 32, T)
        return torch.cat([x, new], dim=1)


class _Transit(nn.Module):
    """Halves the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.nonlinear = _normalised(channels)
        self.linear = nn.Conv1d(channels, channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.nonlinear(x))


class _Tdnn(nn.Module):
    """The first convolution in time; halves the frame rate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(320, channels, 5, stride=2, padding=2, bias=False)
        self.nonlinear = _normalised(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.nonlinear(self.linear(x))


class _Statistics(nn.Module):
    """Mean and deviation over time: (B, C, T) to (B, 2C)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean(-1), x.std(-1)], dim=1)


class _Dense(nn.Module):
    """The last layer: statistics to the voice vector."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(channels, EMBEDDING_SIZE, 1, bias=False)
        norm = nn.BatchNorm1d(EMBEDDING_SIZE, affine=False)
        self.nonlinear = nn.Sequential(OrderedDict(batchnorm=norm))

    def forward(self, x: Tensor) -> Tensor:
        return self.nonlinear(self.linear(x.unsqueeze(-1)).squeeze(-1))


class CamPlusPlus(nn.Module):
    """(B, T, 80) mean-normalised bands to (B, 192); T frames of 10 ms, at least 10."""

    def __init__(self) -> None:
        super().__init__()
        self.head = _Head()
        channels = 128
        layers: list[tuple[str, nn.Module]] = [("tdnn", _Tdnn(channels))]
        for number, (size, dilation) in enumerate(_BLOCKS, start=1):
            block = [
                (f"tdnnd{index + 1}", _DenseLayer(channels + index * _GROWTH, dilation))
                for index in range(size)
            ]
            channels += size * _GROWTH
            layers += [
                (f"block{number}", nn.Sequential(OrderedDict(block))),
                (f"transit{number}", _Transit(channels)),
            ]
            channels //= 2
        layers += [("out_nonlinear", _normalised(channels)), ("stats", _Statistics())]
        layers += [("dense", _Dense(2 * channels))]
        self.xvector = nn.Sequential(OrderedDict(layers))

    def forward(self, bands: Tensor) -> Tensor:
        return self.xvector(self.head(bands.transpose(1, 2)))


def load_campplus(path: Path) -> CamPlusPlus:
    """The network with the weights at `path`, in fp32, for inference.

    Raises RuntimeError when they belong to another network: every key must fit, and none be left.
    """
    network = CamPlusPlus()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
    return network.eval().requires_grad_(False)


def embed(network: nn.Module, samples: np.ndarray) -> np.ndarray:
    """The voice of (L,) float32 samples at 16 kHz: (192,) of length 1.

    Raises ValueError for less than `MIN_SAMPLES`; a second and more is needed for a vector worth comparing.
    """
    if len(samples) < MIN_SAMPLES:
        raise ValueError(f"{len(samples)} samples; a voice needs at least {MIN_SAMPLES}")
    device = next(network.parameters()).device
    bands = filter_bank(torch.from_numpy(samples).to(device))  # (T, 80)
    return embed_bands(network, bands)


def embed_bands(network: nn.Module, bands: Tensor) -> np.ndarray:
    """The voice of (T, 80) bands as `filter_bank` makes them: (192,) of length 1. T is at least 10."""
    with torch.inference_mode():
        centred = bands - bands.mean(dim=0)  # (T, 80)
        vector = F.normalize(network(centred.unsqueeze(0))[0], dim=0)  # (192,)
    return vector.cpu().numpy()


def filter_bank(samples: Tensor) -> Tensor:
    """Kaldi's log mel energies of (L,) samples at 16 kHz: (T, 80), 25 ms frames every 10 ms, no dither."""
    frames = samples.unfold(0, FRAME_SAMPLES, FRAME_STEP_SAMPLES)  # (T, 400)
    frames = frames - frames.mean(dim=1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)  # (T, 400)
    frames = (frames - _PREEMPHASIS * before) * _povey_window().to(samples.device)
    power = torch.fft.rfft(frames, n=_FFT_SIZE).abs().square()  # (T, 257)
    return (power @ _mel_weights().to(samples.device)).clamp(min=_FLOOR).log()  # (T, 80)


@lru_cache(maxsize=1)
def _povey_window() -> Tensor:
    return torch.hann_window(FRAME_SAMPLES, periodic=False).pow(0.85)  # (400,)


@lru_cache(maxsize=1)
def _mel_weights() -> Tensor:
    """Triangles of equal width on the mel scale, (257, 80); Kaldi measures their slopes in mel too."""
    bins_hz = torch.arange(_FFT_SIZE // 2 + 1) * (RATE_HZ / _FFT_SIZE)
    bins = (1127.0 * (1.0 + bins_hz / 700.0).log()).unsqueeze(1)  # (257, 1)
    lowest, highest = (1127.0 * math.log1p(hz / 700.0) for hz in (_LOWEST_HZ, RATE_HZ / 2))
    edges = torch.linspace(lowest, highest, _NUM_BANDS + 2)  # (82,)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)  # (257, 80)
    return torch.minimum(rising, falling).clamp(min=0.0)
