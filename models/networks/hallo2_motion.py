"""Hallo2's motion modules: attention between the frames of a clip at each place of the picture.

They are AnimateDiff's (arXiv 2307.04725). Facts: fudan-generative-vision/hallo, hallo/models/motion_module.py
at 5fed0e6050db9e10e7379e00a73acccdbcb77e80; the frames in front: hallo/models/unet_3d_blocks.py at
6a3e6e355b4ad006d08ed78bdfe85493febe92d3.
"""

from __future__ import annotations

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from models.networks.hallo2_config import Hallo2Config
from models.networks.hallo2_layers import attend


class MotionModule(nn.Module):
    """The module as the weight file nests it."""

    def __init__(self, width: int, config: Hallo2Config) -> None:
        super().__init__()
        self.temporal_transformer = TemporalTransformer(width, config)

    def forward(self, frames: Tensor, motion: Tensor) -> Tensor:
        """See TemporalTransformer."""
        return self.temporal_transformer(frames, motion)


class TemporalTransformer(nn.Module):
    """Frames of a clip see each other and the last frames of the clip before."""

    def __init__(self, width: int, config: Hallo2Config) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.norm_groups, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(width, config)])
        self.proj_out = nn.Linear(width, width)

    def forward(self, frames: Tensor, motion: Tensor) -> Tensor:
        """Frames (B*F, C, h, w) and the reference UNet's features (B, M, h*w, C) of earlier ones, to frames.

        Raises RuntimeError where M + F is beyond the positions that were trained.
        """
        batch, num_motion = motion.shape[:2]
        height, width = frames.shape[2:]
        clip = frames.reshape(batch, -1, *frames.shape[1:])  # (B, F, C, h, w)
        earlier = motion.transpose(2, 3).reshape(batch, num_motion, *frames.shape[1:])  # (B, M, C, h, w)
        film = torch.cat([earlier, clip], dim=1)  # (B, T, C, h, w), T = M + F
        normed = self.norm(film.flatten(0, 1)).unflatten(0, (batch, -1))
        tokens = normed.flatten(3).permute(0, 3, 1, 2).flatten(0, 1)  # (B*h*w, T, C)
        tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens, num_motion)  # (B*h*w, F, C)
        change = self.proj_out(tokens).unflatten(0, (batch, height, width))  # (B, h, w, F, C)
        return frames + change.permute(0, 3, 4, 1, 2).flatten(0, 1)


class TemporalBlock(nn.Module):
    """Two attentions over time and a feed-forward, each behind its norm."""

    def __init__(self, width: int, config: Hallo2Config) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList([TemporalAttention(width, config) for _ in range(2)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])
        self.ff = FeedForward(width, activation_fn="geglu")
        self.ff_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, num_motion: int) -> Tensor:
        """(N, M + F, C) to (N, F, C): earlier frames are cut off once no later frame looks at them."""
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            tokens = tokens + attention(norm(tokens))
        tokens = tokens[:, num_motion:]
        return tokens + self.ff(self.ff_norm(tokens))


class TemporalAttention(Attention):
    """Self-attention over time whose tokens know their place in it."""

    def __init__(self, width: int, config: Hallo2Config) -> None:
        super().__init__(query_dim=width, heads=config.heads, dim_head=width // config.heads)
        self.pos_encoder = Positions(width, config.motion_positions)

    def forward(self, tokens: Tensor) -> Tensor:  # type: ignore[override]
        """(N, T, C) to (N, T, C)."""
        placed = self.pos_encoder(tokens)
        return attend(self, placed, placed)


class Positions(nn.Module):
    """One vector for each place in time, as it is in the weight file."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.pe: Tensor
        self.register_buffer("pe", torch.zeros(1, count, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T, C) to (N, T, C)."""
        return tokens + self.pe[:, : tokens.shape[1]]
