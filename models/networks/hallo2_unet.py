"""Hallo2's denoising UNet: Stable Diffusion 1.5's layers on a clip's frames, with sound and motion between.

Frames are folded into the batch, (B*F, C, h, w). In a layer with attention: residual block, attention with
the portrait's features, audio module, motion module (in the middle the residual block comes last).

The deepest blocks, which have no attention, carry motion modules in the weight file that are never run:
upstream infers through its training path, which leaves them out, and the published results are made so.

Facts: fudan-generative-vision/hallo, hallo/models/unet_3d.py and configs/unet/unet.yaml at
100205620348b8fb3ebd3cddc773cb77e2479d83, unet_3d_blocks.py and resnet.py at
6a3e6e355b4ad006d08ed78bdfe85493febe92d3; the same blocks in NevermoreCY/hallo2,
hallo/models/unet_3d_blocks.py at 9ad8e16fe45d5296aa5ab5836305aad1692afd17.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks.hallo2_audio import AudioModule
from models.networks.hallo2_conditions import ClipConditions
from models.networks.hallo2_config import Hallo2Config
from models.networks.hallo2_motion import MotionModule
from models.networks.hallo2_reference import BlockReference, ReferenceAttention, ReferenceFeatures


@dataclass(frozen=True, slots=True)
class Step:
    """What every layer gets in one denoising step."""

    time: Tensor  # (B*F, time_width)
    audio: Tensor  # (F, 32, 768) of the last F frames, or (0, 32, 768)
    conditions: ClipConditions
    reference: ReferenceFeatures


@dataclass(frozen=True, slots=True)
class _BlockShape:
    """Widths of one block: what each of its residual blocks gets and, with attention, the audio modules'."""

    resnet_widths: tuple[int, ...]
    width: int
    depth: int
    audio_widths: tuple[int, ...] = ()


class _Block(nn.Module):
    """Layers that a block has one of each per residual block; the weight file lists them by kind."""

    def __init__(self, shape: _BlockShape, config: Hallo2Config) -> None:
        super().__init__()
        self.depth = shape.depth
        self.resnets = nn.ModuleList(
            _resnet(incoming, shape.width, config) for incoming in shape.resnet_widths
        )
        if shape.audio_widths:
            self.attentions = nn.ModuleList(
                ReferenceAttention(shape.width, config) for _ in shape.audio_widths
            )
            self.audio_modules = nn.ModuleList(
                AudioModule(shape.width, inner, config) for inner in shape.audio_widths
            )
        self.has_attention = bool(shape.audio_widths)
        count = len(shape.audio_widths) or len(shape.resnet_widths)
        self.motion_modules = nn.ModuleList(MotionModule(shape.width, config) for _ in range(count))

    def layer(self, index: int, frames: Tensor, step: Step) -> Tensor:
        frames = self.resnets[index](frames, step.time)
        return self.attend(index, frames, step) if self.has_attention else frames

    def attend(self, index: int, frames: Tensor, step: Step) -> Tensor:
        """To the portrait, to the sound, to the other frames."""
        conditions = step.conditions
        frames, motion = self.attentions[index](frames, conditions.image_tokens, step.reference)
        masks = conditions.masks.at(self.depth)
        frames = self.audio_modules[index](frames, step.audio, masks, conditions.motion_scale)
        return self.motion_modules[index](frames, motion)


class DownBlock(_Block):
    """Layers, then half the size unless it is the deepest."""

    def __init__(self, shape: _BlockShape, config: Hallo2Config, *, is_last: bool) -> None:
        super().__init__(shape, config)
        if not is_last:
            halve = Downsample2D(shape.width, use_conv=True, out_channels=shape.width, padding=1, name="op")
            self.downsamplers = nn.ModuleList([halve])
        self.is_last = is_last

    def forward(self, frames: Tensor, step: Step) -> list[Tensor]:
        """Every state the up path comes back to; the last one is the block's output."""
        states = []
        for index in range(len(self.resnets)):
            frames = self.layer(index, frames, step)
            states.append(frames)
        if not self.is_last:
            states.append(self.downsamplers[0](frames))
        return states


class MidBlock(_Block):
    """A residual block, then attention and a residual block."""

    def forward(self, frames: Tensor, step: Step) -> Tensor:
        frames = self.resnets[0](frames, step.time)
        for index, resnet in enumerate(self.resnets[1:]):
            frames = resnet(self.attend(index, frames, step), step.time)
        return frames


class UpBlock(_Block):
    """Layers that each take back a state of the down path, then twice the size unless it is the last."""

    def __init__(self, shape: _BlockShape, config: Hallo2Config, *, is_last: bool) -> None:
        super().__init__(shape, config)
        if not is_last:
            double = Upsample2D(shape.width, use_conv=True, out_channels=shape.width)
            self.upsamplers = nn.ModuleList([double])
        self.is_last = is_last

    def forward(self, frames: Tensor, states: list[Tensor], step: Step) -> Tensor:
        """Takes its states off the end of `states`."""
        for index in range(len(self.resnets)):
            frames = self.layer(index, torch.cat([frames, states.pop()], dim=1), step)
        return frames if self.is_last else self.upsamplers[0](frames)


class DenoisingUNet(nn.Module):
    """Predicts the velocity of a clip's latents; its sizes h and w are multiples of 8."""

    def __init__(self, config: Hallo2Config) -> None:
        super().__init__()
        widths, last = config.block_widths, len(config.block_widths) - 1
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.time_proj = Timesteps(widths[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(widths[0], config.time_width)
        self.down_blocks = nn.ModuleList(
            DownBlock(_down_shape(index, config), config, is_last=index == last) for index in range(last + 1)
        )
        self.mid_block = MidBlock(
            _BlockShape((widths[-1],) * 2, widths[-1], last, audio_widths=(widths[-1],)), config
        )
        self.up_blocks = nn.ModuleList(
            UpBlock(_up_shape(index, config), config, is_last=index == last) for index in range(last + 1)
        )
        self.conv_norm_out = nn.GroupNorm(config.norm_groups, widths[0], eps=1e-5)
        self.conv_out = nn.Conv2d(widths[0], config.latent_channels, 3, padding=1)
        for name, module in self.named_modules():
            if isinstance(module, ReferenceAttention):
                module.name = name

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor | float,
        conditions: ClipConditions,
        reference: ReferenceFeatures,
    ) -> Tensor:
        """Latents (B, 4, F, h, w) to as much; `timestep` is one for all."""
        batch, _, num_frames = latents.shape[:3]
        frames = self.conv_in(latents.transpose(1, 2).flatten(0, 1))  # (B*F, 320, h, w)
        frames = frames.unflatten(0, (batch, num_frames)) + conditions.pose_features.transpose(1, 2)
        step = Step(
            self._time(timestep, latents).expand(batch * num_frames, -1),
            conditions.audio_tokens.flatten(0, 1),
            conditions,
            reference,
        )
        frames = self._through_blocks(frames.flatten(0, 1), step)
        frames = self.conv_out(F.silu(self.conv_norm_out(frames)))  # (B*F, 4, h, w)
        return frames.unflatten(0, (batch, num_frames)).transpose(1, 2)

    def given(self, features: dict[str, Tensor]) -> dict[str, BlockReference]:
        """Features (B, 1 + M, L, C) of the reference UNet, as each attention uses them."""
        attentions = (module for module in self.modules() if isinstance(module, ReferenceAttention))
        return {attention.name: attention.given(features[attention.name]) for attention in attentions}

    def drop_idle(self) -> None:
        """Forgets the modules that never run (180 million parameters at full size)."""
        for block in (*self.down_blocks, *self.up_blocks):
            if not block.has_attention:
                block.motion_modules = nn.ModuleList()

    def _time(self, timestep: Tensor | float, latents: Tensor) -> Tensor:
        """(1, time_width)."""
        if isinstance(timestep, Tensor) and timestep.device == latents.device:
            one = timestep.reshape(1)
        else:  # filled, not copied: a copy to the device would wait for it
            one = torch.full((1,), float(timestep), device=latents.device)
        return self.time_embedding(self.time_proj(one).to(latents.dtype))

    def _through_blocks(self, frames: Tensor, step: Step) -> Tensor:
        states = [frames]
        for block in self.down_blocks:
            states += block(states[-1], step)
        frames = self.mid_block(states[-1], step)
        for block in self.up_blocks:
            frames = block(frames, states, step)
        return frames


def _resnet(incoming: int, width: int, config: Hallo2Config) -> ResnetBlock2D:
    return ResnetBlock2D(
        in_channels=incoming,
        out_channels=width,
        temb_channels=config.time_width,
        groups=config.norm_groups,
        eps=1e-5,
    )


def _down_shape(index: int, config: Hallo2Config) -> _BlockShape:
    widths = config.block_widths
    incoming = (widths[max(index - 1, 0)],) + (widths[index],) * (config.layers_per_block - 1)
    is_deepest = index == len(widths) - 1
    # An audio module is as wide as what its layer gets, not as what the layer gives: so it was trained.
    return _BlockShape(incoming, widths[index], index, audio_widths=() if is_deepest else incoming)


def _up_shape(index: int, config: Hallo2Config) -> _BlockShape:
    depth = len(config.block_widths) - 1 - index
    widths, count = config.block_widths, config.layers_per_block + 1
    width, shallower = widths[depth], widths[max(depth - 1, 0)]
    before = (widths[min(depth + 1, len(widths) - 1)],) + (width,) * (count - 1)
    skipped = (width,) * (count - 1) + (shallower,)
    audio_widths = () if index == 0 else (shallower,) * count
    return _BlockShape(_sums(before, skipped), width, depth, audio_widths)


def _sums(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    return tuple(left + right for left, right in zip(first, second, strict=True))
