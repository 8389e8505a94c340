"""Hallo2's audio modules: each region of the picture attends to the sound in its own way.

Facts: fudan-generative-vision/hallo, hallo/models/attention.py (AudioTemporalBasicTransformerBlock) and
transformer_3d.py at 6a3e6e355b4ad006d08ed78bdfe85493febe92d3; the same in NevermoreCY/hallo2,
hallo/models/attention.py at 4e38e36ab6d8e786948a5c334aafc232ef3ef23a.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.models.attention import FeedForward
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks.hallo2_conditions import MotionScale
from models.networks.hallo2_config import Hallo2Config
from models.networks.hallo2_layers import attend, attention, unasked

_Regions = tuple[Tensor, Tensor, Tensor]


class AudioModule(nn.Module):
    """A transformer over the places of each frame, `inner` wide, that adds what its sound asks for."""

    def __init__(self, width: int, inner: int, config: Hallo2Config) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.norm_groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, inner, 1)
        self.transformer_blocks = nn.ModuleList([AudioBlock(inner, config)])
        self.proj_out = nn.Conv2d(inner, width, 1)

    def forward(self, frames: Tensor, audio: Tensor, masks: _Regions, scale: MotionScale) -> Tensor:
        """Frames (N, C, h, w) and masks (h*w,) to frames.

        `audio` (up to N, 32, 768) are the tokens of the last frames; those before hear zeros.
        """
        tokens = self.proj_in(self.norm(frames)).flatten(2).transpose(1, 2)  # (N, h*w, D)
        for block in self.transformer_blocks:
            tokens = block(tokens, audio, masks, scale)
        return frames + self.proj_out(tokens.transpose(1, 2).unflatten(2, frames.shape[2:]))


class AudioBlock(nn.Module):
    """Self-attention, one attention to the sound per region, feed-forward."""

    def __init__(self, width: int, config: Hallo2Config) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = attention(width, config)
        self.norm2 = nn.LayerNorm(width)
        self.attn2_0 = attention(width, config, context_width=config.context_width)
        self.attn2_1 = attention(width, config, context_width=config.context_width)
        self.attn2_2 = attention(width, config, context_width=config.context_width)
        self.zero_conv_full = nn.Conv2d(width, width, 1)
        self.zero_conv_face = nn.Conv2d(width, width, 1)
        self.zero_conv_lip = nn.Conv2d(width, width, 1)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width, activation_fn="geglu")

    def forward(self, tokens: Tensor, audio: Tensor, masks: _Regions, scale: MotionScale) -> Tensor:
        """Tokens (N, L, D), audio of the last frames among them, masks (L,) each."""
        normed = self.norm1(tokens)
        tokens = tokens + attend(self.attn1, normed, normed)
        tokens = tokens + self._heard(tokens, audio, masks, scale)
        return tokens + self.ff(self.norm3(tokens))

    def _heard(self, tokens: Tensor, audio: Tensor, masks: _Regions, scale: MotionScale) -> Tensor:
        """What the sound changes, (N, L, D).

        The unconditional half is given zeros, and these have one answer for all its frames.
        """
        attentions = (self.attn2_0, self.attn2_1, self.attn2_2)
        num_silent = len(tokens) - len(audio)
        changes = []
        if num_silent:
            silence = self._weighted([unasked(attn) for attn in attentions], masks, scale)  # (L, D)
            changes.append(silence.expand(num_silent, -1, -1))
        if len(audio):
            query = self.norm2(tokens[num_silent:])
            answers = [attend(attn, query, audio) for attn in attentions]
            changes.append(self._weighted(answers, masks, scale))
        return torch.cat(changes)

    def _weighted(self, answers: Sequence[Tensor], masks: _Regions, scale: MotionScale) -> Tensor:
        """The regions' answers together; a region's bias acts outside its mask too, as it was trained."""
        convs = (self.zero_conv_full, self.zero_conv_face, self.zero_conv_lip)
        parts = (
            weight * _pointwise(conv, answer * mask[:, None])
            for answer, conv, mask, weight in zip(answers, convs, masks, scale, strict=True)
        )
        return sum(parts, masks[0].new_zeros(()))


def _pointwise(conv: nn.Conv2d, tokens: Tensor) -> Tensor:
    """A 1x1 convolution on tokens (N, L, D), without the way to a picture and back."""
    return F.linear(tokens, conv.weight.flatten(1), conv.bias)
