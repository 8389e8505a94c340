"""PyanNet of pyannote's segmentation-3.0 (arXiv 2310.13025): who of up to three voices speaks when, in 10 s.

A SincNet front end, four bidirectional LSTM layers and a powerset classifier. Names are those of the
published checkpoint, whose state dict loads strictly and without executing what else is pickled in it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

RATE_HZ = 16_000
WINDOW_SAMPLES = 160_000
FRAME_STEP_SAMPLES = 270
FRAME_SAMPLES = 991  # what one frame hears; frame 0 begins at sample 0
WINDOW_FRAMES = 589
MAX_VOICES = 3
_POWERSET = ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2))
_MIN_LOW_HZ = 50.0
_MIN_BAND_HZ = 50.0
_HALF_KERNEL = 125
_NUM_FILTERS = 40
# What the checkpoint pickles beside its tensors; read as inert objects, since none of it is needed.
_PICKLED_EXTRAS = ("Problem", "Resolution", "Specifications")


class _Inert:
    """Stands for a pickled object of another package: takes its arguments and does nothing."""

    def __init__(self, *_: object) -> None:
        pass


class _SincFilters(nn.Module):
    """40 band-pass filters and their quadratures, each known by its lowest frequency and its width."""

    window_: Tensor
    n_: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.low_hz_ = nn.Parameter(torch.zeros(_NUM_FILTERS, 1))
        self.band_hz_ = nn.Parameter(torch.zeros(_NUM_FILTERS, 1))
        times = torch.arange(-_HALF_KERNEL, 0).unsqueeze(0)  # (1, 125)
        self.register_buffer("window_", torch.hamming_window(2 * _HALF_KERNEL, periodic=False)[:_HALF_KERNEL])
        self.register_buffer("n_", 2 * math.pi * times / RATE_HZ)

    def forward(self) -> Tensor:
        """The kernels, (80, 1, 251): even ones first, then odd ones."""
        low = _MIN_LOW_HZ + self.low_hz_.abs()  # (40, 1)
        high = (low + _MIN_BAND_HZ + self.band_hz_.abs()).clamp(_MIN_LOW_HZ, RATE_HZ / 2)
        width = 2 * (high - low)  # (40, 1)
        shape = 2 * self.window_ / self.n_  # (1, 125)
        even = ((high * self.n_).sin() - (low * self.n_).sin()) * shape  # (40, 125)
        odd = ((low * self.n_).cos() - (high * self.n_).cos()) * shape
        evens = torch.cat([even, width, even.flip(1)], dim=1) / width  # (40, 251)
        odds = torch.cat([odd, torch.zeros_like(width), -odd.flip(1)], dim=1) / width
        return torch.cat([evens, odds]).unsqueeze(1)


class _Filtered(nn.Module):
    """The first convolution, every 10 samples."""

    def __init__(self) -> None:
        super().__init__()
        self.filterbank = _SincFilters()

    def forward(self, samples: Tensor) -> Tensor:
        return F.conv1d(samples, self.filterbank(), stride=10).abs()  # (B, 80, (L - 251) // 10 + 1)


class _SincNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wav_norm1d = nn.InstanceNorm1d(1, affine=True)
        self.conv1d = nn.ModuleList([_Filtered(), nn.Conv1d(80, 60, 5), nn.Conv1d(60, 60, 5)])
        self.norm1d = nn.ModuleList([nn.InstanceNorm1d(size, affine=True) for size in (80, 60, 60)])

    def forward(self, samples: Tensor) -> Tensor:
        x = self.wav_norm1d(samples)  # (B, 1, L)
        for convolution, norm in zip(self.conv1d, self.norm1d, strict=True):
            x = F.leaky_relu(norm(F.max_pool1d(convolution(x), 3)))
        return x  # (B, 60, T)


class PyanNet(nn.Module):
    """(B, L) samples at 16 kHz to (B, T, 7) log probabilities of the sets in `_POWERSET`."""

    def __init__(self) -> None:
        super().__init__()
        self.sincnet = _SincNet()
        self.lstm = nn.LSTM(60, 128, num_layers=4, bidirectional=True, batch_first=True)
        self.linear = nn.ModuleList([nn.Linear(256, 128), nn.Linear(128, 128)])
        self.classifier = nn.Linear(128, len(_POWERSET))

    def forward(self, samples: Tensor) -> Tensor:
        x = self.sincnet(samples.unsqueeze(1))  # (B, 60, T)
        x, _ = self.lstm(x.transpose(1, 2))  # (B, T, 256)
        for linear in self.linear:
            x = F.leaky_relu(linear(x))  # (B, T, 128)
        return self.classifier(x).log_softmax(dim=-1)


def load_pyannet(path: Path) -> PyanNet:
    """The network with the weights at `path`, in fp32, for inference.

    Raises RuntimeError when they belong to another network, pickle.UnpicklingError when the file holds
    anything that the published one does not.
    """
    inert: list[Any] = [(_Inert, f"pyannote.audio.core.task.{name}") for name in _PICKLED_EXTRAS]
    with torch.serialization.safe_globals([torch.torch_version.TorchVersion, *inert]):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    network = PyanNet()
    network.load_state_dict(checkpoint["state_dict"], strict=True)
    return network.eval().requires_grad_(False)


def voices(network: nn.Module, windows: np.ndarray) -> np.ndarray:
    """Who speaks in each frame of (B, WINDOW_SAMPLES) float32 windows: (B, WINDOW_FRAMES, 3) bool.

    Voices are numbered within a window: voice 0 of one is not voice 0 of the next.
    """
    device = next(network.parameters()).device
    with torch.inference_mode():
        chosen = network(torch.from_numpy(windows).to(device)).argmax(dim=-1)  # (B, T)
    return _members()[chosen.cpu().numpy()]


def _members() -> np.ndarray:
    """Which voices each set of the powerset has: (7, 3) bool."""
    members = np.zeros((len(_POWERSET), MAX_VOICES), bool)
    for row, chosen in enumerate(_POWERSET):
        members[row, list(chosen)] = True
    return members
