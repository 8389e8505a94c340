"""FlashVSR's tiny conditional decoder: latents and the low-quality frames to frames, as a stream.

A TAEHV-style decoder (github.com/madebyollin/taehv): convolutions on single frames, and blocks that also see
the frame before. Eight times as wide and high and four times as many frames as latents; a clip's first three
frames have no past of their own and are left out. Facts: OpenImagingLab/FlashVSR,
examples/WanVSR/utils/TCDecoder.py at 3f857d6c27daace2b8ec436b859d923980549893.

All is channels-last, which spares cuDNN a change of layout at every convolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks.flashvsr_config import (
    DECODER_CALL_VALUES,
    LATENT_FRAMES,
    LATENT_SIDE_PX,
    FlashVsrConfig,
)

_CONDITION_CHANNELS = 3 * LATENT_FRAMES * LATENT_SIDE_PX**2
_TRIMMED_FRAMES = LATENT_FRAMES - 1


class MemoryBlock(nn.Module):
    """Three convolutions on a frame and the one before it, added to the frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * width, width),
            nn.ReLU(inplace=True),
            _conv(width, width),
            nn.ReLU(inplace=True),
            _conv(width, width),
        )

    def forward(self, frames: Tensor, past: Tensor) -> Tensor:
        """Frames (n, C, h, w) and those one step before them, of the same shape."""
        return F.relu_(self.conv(torch.cat([frames, past], dim=1)).add_(frames))


class Grow(nn.Module):
    """Makes `factor` frames of one, and each twice as wide and high.

    The original enlarges first. Repeating pixels and a convolution of 1 x 1 may change places, which is a
    quarter of the work.
    """

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(width, factor * width, 1, bias=False)

    def forward(self, frames: Tensor) -> Tensor:
        """(n, C, h, w) to (n * factor, C, 2 h, 2 w)."""
        grown = self.conv(frames).permute(0, 2, 3, 1).unflatten(3, (self.factor, -1))  # (n, h, w, factor, C)
        grown = grown.permute(0, 3, 1, 2, 4).flatten(0, 1)  # (n * factor, h, w, C)
        return F.interpolate(grown.permute(0, 3, 1, 2), scale_factor=2.0, mode="nearest")


@dataclass(frozen=True, slots=True)
class _Stage:
    """The numbers that one stage's layers have in the weight file; `opening` 0: none."""

    opening: int
    memory: tuple[int, int, int]
    grow: int
    factor: int


_HEAD = (1, 3)
_STAGES = (_Stage(0, (5, 6, 7), 9, 1), _Stage(10, (11, 12, 13), 15, 2), _Stage(16, (17, 18, 19), 21, 2))
_TAIL = (22, 24, 26)


class TinyDecoder(nn.Module):
    """The 66 tensors of TCDecoder, under the names they have there."""

    def __init__(self, config: FlashVsrConfig) -> None:
        super().__init__()
        widths = config.decoder_widths
        layers: dict[int, nn.Module] = {
            1: _conv(_CONDITION_CHANNELS + config.latent_channels, widths[0]),
            3: _conv(widths[0], widths[0], has_bias=False),
            10: _conv(widths[0], widths[1], has_bias=False),
            16: _conv(widths[1], widths[2], has_bias=False),
            22: _conv(widths[2], widths[3], has_bias=False),
            24: _conv(widths[3], widths[3], has_bias=False),
            26: _conv(widths[3], 3),
        }
        for stage, width in zip(_STAGES, widths[:3], strict=True):
            layers |= {number: MemoryBlock(width) for number in stage.memory}
            layers[stage.grow] = Grow(width, stage.factor)
        self.decoder = nn.ModuleDict({str(number): layers[number] for number in sorted(layers)})

    def arrange(self) -> None:
        """Lays the weights out for speed; call it once they are in place. The results stay the same."""
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's types

    def stream(self) -> DecoderStream:
        """A clip from its beginning."""
        return DecoderStream(self)

    def layer(self, number: int) -> nn.Module:
        """The layer of this number in the weight file."""
        return self.decoder[str(number)]

    def head(self, latents: Tensor) -> Tensor:
        """Condition and latents (n, 768 + 16, h, w) to features (n, C, h, w)."""
        latents = torch.tanh(latents / 3) * 3
        for number in _HEAD:
            latents = F.relu_(self.layer(number)(latents))
        return latents

    def tail(self, features: Tensor) -> Tensor:
        """(n, C, H, W) to pictures (n, 3, H, W) of -1..1."""
        first, second, last = (self.layer(number) for number in _TAIL)
        pictures: Tensor = last(F.relu_(second(F.relu_(first(features)))))
        return pictures.mul_(2).sub_(1)


class DecoderStream:
    """One clip's way through the decoder; holds the last frame that each memory block has seen."""

    def __init__(self, decoder: TinyDecoder) -> None:
        self._decoder = decoder
        self._past: dict[int, Tensor] = {}  # by the block's number: (1, C, h, w)
        self._to_trim = _TRIMMED_FRAMES

    @torch.no_grad()
    def push(self, latents: Tensor, frames: Tensor) -> Tensor:
        """Latents (1, 16, n, h, w) and their low-quality frames (1, 3, m, 8 h, 8 w) to m frames like those.

        Frames are of -1..1, results may lie a little outside. A clip's first push has m = 4 n - 3 frames,
        later ones 4 n. How a clip is cut into pushes changes nothing.
        """
        if self._to_trim:
            frames = torch.cat([frames[:, :, :1].expand(-1, -1, self._to_trim, -1, -1), frames], dim=2)
        joined = torch.cat([unshuffled(frames), latents[0].transpose(0, 1)], dim=1)  # (n, 784, h, w)
        features = self._decoder.head(joined.contiguous(memory_format=torch.channels_last))
        pictures = torch.cat(list(self._pictures(features, 0)))[self._to_trim :]  # (m, 3, H, W)
        self._to_trim = 0
        return pictures.transpose(0, 1)[None]

    def _pictures(self, frames: Tensor, depth: int) -> Iterator[Tensor]:
        """What the stages from `depth` on make of these frames, a few of them at a time all the way."""
        if depth == len(_STAGES):
            for part in torch.split(frames, _frames_of_a_call(frames, 1)):
                yield self._decoder.tail(part)
            return
        for part in torch.split(frames, _frames_of_a_call(frames, 4 * _STAGES[depth].factor)):
            yield from self._pictures(self._stage(part, _STAGES[depth]), depth + 1)

    def _stage(self, frames: Tensor, stage: _Stage) -> Tensor:
        """(n, C, h, w) to (n * factor, C', 2 h, 2 w)."""
        layer = self._decoder.layer
        if stage.opening:
            frames = layer(stage.opening)(frames)
        for number in stage.memory:
            frames = layer(number)(frames, self._one_step_back(number, frames))
        return layer(stage.grow)(frames)

    def _one_step_back(self, number: int, frames: Tensor) -> Tensor:
        last = self._past[number] if number in self._past else torch.zeros_like(frames[:1])
        if len(frames) == 1:
            self._past[number] = frames
            return last
        self._past[number] = frames[-1:].clone()  # not a view, which would keep all of them
        return torch.cat([last, frames[:-1]])


def unshuffled(frames: Tensor) -> Tensor:
    """(1, 3, 4 n, H, W) to (n, 768, H/8, W/8): channel, frame, row, column within a latent."""
    _, channels, count, height_px, width_px = frames.shape
    step, side = LATENT_FRAMES, LATENT_SIDE_PX
    grid = frames.reshape(channels, count // step, step, height_px // side, side, width_px // side, side)
    return grid.permute(1, 0, 2, 4, 6, 3, 5).flatten(1, 4)


def _conv(in_width: int, width: int, *, has_bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(in_width, width, 3, padding=1, bias=has_bias)


def _frames_of_a_call(frames: Tensor, growth: int) -> int:
    """How many of these frames a stage may take at once that gives `growth` times as many values."""
    return max(1, DECODER_CALL_VALUES // (growth * frames[0].numel()))
