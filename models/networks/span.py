"""SPAN, the Swift Parameter-free Attention Network for super-resolution (arXiv 2311.12770).

The three-branch convolutions of the paper are stored merged into one 3x3 convolution each, as used
for inference. Frames come and go as (B, 3, H, W) RGB of 0..1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks.ncnn import NcnnFormatError, NcnnLayer, read_ncnn

RECEPTIVE_RADIUS_PX = 21  # 3x3 convolutions on the longest path: 1 + 6 blocks of 3 + 1 + 1
_INPUT_RANGE = 255.0


class SpanBlock(nn.Module):
    """Three convolutions whose output gates itself: attention without parameters."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_3 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output, and the activation after its first convolution."""
        first = F.silu(self.conv_1(x), inplace=True)  # (B, C, H, W)
        second = F.silu(self.conv_2(first), inplace=True)  # (B, C, H, W)
        third = self.conv_3(second)  # (B, C, H, W)
        gate = torch.sigmoid(third).sub_(0.5)  # (B, C, H, W) of -0.5..0.5
        return third.add_(x).mul_(gate), first


class Span(nn.Module):
    """Enlarges a frame `factor` times; C is `channels` throughout."""

    mean: Tensor

    def __init__(self, factor: int, channels: int = 48, num_blocks: int = 6) -> None:
        super().__init__()
        self.factor = factor
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.conv_1 = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList(SpanBlock(channels) for _ in range(num_blocks))
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_cat = nn.Conv2d(4 * channels, channels, 1)
        self.upsampler = nn.Conv2d(channels, 3 * factor**2, 3, padding=1)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, 3, H, W) of 0..1 to (B, 3, factor*H, factor*W), which may leave 0..1 a little."""
        dtype = self.conv_1.weight.dtype
        shallow = self.conv_1(((frames - self.mean) * _INPUT_RANGE).to(dtype))  # (B, C, H, W)
        x, after_first_block, last_activation = shallow, shallow, shallow
        for index, block in enumerate(self.blocks):
            x, last_activation = block(x)  # (B, C, H, W) each
            after_first_block = x if index == 0 else after_first_block
        deep = self.conv_2(x)  # (B, C, H, W)
        gathered = torch.cat([shallow, deep, after_first_block, last_activation], dim=1)  # (B, 4C, H, W)
        pixels = self.upsampler(self.conv_cat(gathered))  # (B, 3*factor^2, H, W)
        return F.pixel_shuffle(pixels, self.factor)  # (B, 3, factor*H, factor*W)


def load_span(param: Path, weights: Path, factor: int) -> Span:
    """A fp32 Span filled from ncnn files. Raises NcnnFormatError when they hold another network."""
    layers = [layer for layer in read_ncnn(param, weights) if layer.weight is not None]
    constants = [layer for layer in layers if layer.kind == "MemoryData"]
    convolutions = [layer for layer in layers if layer.kind == "Convolution"]
    network = Span(factor)
    targets = list(_convolutions_in_order(network))
    if len(constants) != 1 or len(convolutions) != len(targets):
        raise NcnnFormatError(f"{param.name}: {len(convolutions)} convolutions, SPAN has {len(targets)}")
    with torch.no_grad():
        _fill(network.mean, constants[0].weight, constants[0])
        for target, layer in zip(targets, convolutions, strict=True):
            _fill(target.get_parameter("weight"), layer.weight, layer)
            _fill(target.get_parameter("bias"), layer.bias, layer)
    return network.eval()


def _convolutions_in_order(network: Span) -> Iterator[nn.Module]:
    """The convolutions in the order of evaluation, which is the order of the file."""
    yield network.conv_1
    for block in network.blocks:
        yield from (block.get_submodule(f"conv_{number}") for number in (1, 2, 3))
    yield network.conv_2
    yield network.conv_cat
    yield network.upsampler


def _fill(target: Tensor, source: Tensor | None, layer: NcnnLayer) -> None:
    if source is None or target.shape != source.shape:
        found = None if source is None else tuple(source.shape)
        raise NcnnFormatError(f"{layer.name}: shape {found} does not fit {tuple(target.shape)}")
    target.copy_(source)
