"""How Hallo2's frames look at the portrait: the reference UNet's features, and the attention that reads them.

Facts: fudan-generative-vision/hallo, hallo/models/{mutual_self_attention,unet_2d_condition}.py at
100205620348b8fb3ebd3cddc773cb77e2479d83 and transformer_3d.py at 6a3e6e355b4ad006d08ed78bdfe85493febe92d3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks.hallo2_config import Hallo2Config
from models.networks.hallo2_layers import attend, attention, joined, keys_and_values, queries


@dataclass(frozen=True, slots=True)
class BlockReference:
    """What one transformer block of the denoising UNet is given for a clip."""

    key: Tensor  # (1, heads, L, C / heads): the portrait's keys
    value: Tensor  # (1, heads, L, C / heads)
    motion: Tensor  # (B, M, L, C): features of the earlier frames


@dataclass(frozen=True, slots=True)
class ReferenceFeatures:
    """Features of the portrait and of the earlier frames by name of the attention ("mid_block.attentions.0").

    The first `unconditional_rows` of the batch do not see the portrait's keys.
    """

    blocks: Mapping[str, BlockReference]
    unconditional_rows: int

    def row(self, index: int) -> ReferenceFeatures:
        """What one row of the batch alone is given."""
        one = slice(index, index + 1)
        blocks = {
            name: BlockReference(block.key, block.value, block.motion[one])
            for name, block in self.blocks.items()
        }
        return ReferenceFeatures(blocks, int(index < self.unconditional_rows))


class ReferenceAttention(nn.Module):
    """The spatial transformer of a layer of the denoising UNet; `name` is its place in it."""

    name: str

    def __init__(self, width: int, config: Hallo2Config) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.norm_groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([ReferenceBlock(width, config)])
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(
        self, frames: Tensor, image_tokens: Tensor, reference: ReferenceFeatures
    ) -> tuple[Tensor, Tensor]:
        """Frames (B*F, C, h, w) and tokens (B, 4, 768) to frames; also what the motion module is to see."""
        own = reference.blocks[self.name]
        num_frames = frames.shape[0] // image_tokens.shape[0]
        tokens = self.proj_in(self.norm(frames)).flatten(2).transpose(1, 2)  # (B*F, L, C)
        tokens = self._block(tokens, image_tokens, own, reference.unconditional_rows * num_frames)
        change = self.proj_out(tokens.transpose(1, 2).unflatten(2, frames.shape[2:]))
        return frames + change, own.motion

    def given(self, features: Tensor) -> BlockReference:
        """(B, 1 + M, L, C) of the reference UNet, portrait first, as this attention uses it."""
        portrait = features[-1:, 0]  # (1, L, C): the conditional row, the only one that is looked at
        key, value = keys_and_values(self._block.attn1, portrait)
        return BlockReference(key, value, features[:, 1:])

    @property
    def _block(self) -> ReferenceBlock:
        return cast("ReferenceBlock", self.transformer_blocks[0])


class ReferenceBlock(nn.Module):
    """Self-attention that also sees the portrait, attention to the face's tokens, feed-forward."""

    def __init__(self, width: int, config: Hallo2Config) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = attention(width, config)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = attention(width, config, context_width=config.context_width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width, activation_fn="geglu")

    def forward(
        self, tokens: Tensor, image_tokens: Tensor, reference: BlockReference, num_blind: int
    ) -> Tensor:
        """Tokens (B*F, L, C); the first `num_blind` frames do not see the portrait."""
        tokens = tokens + self._seen(self.norm1(tokens), reference, num_blind)
        # One long query per row: its frames share the tokens, so that these are projected once.
        rows = self.norm2(tokens).reshape(image_tokens.shape[0], -1, tokens.shape[2])  # (B, F*L, C)
        tokens = tokens + attend(self.attn2, rows, image_tokens).view_as(tokens)
        return tokens + self.ff(self.norm3(tokens))

    def _seen(self, tokens: Tensor, reference: BlockReference, num_blind: int) -> Tensor:
        attn = self.attn1
        query = queries(attn, tokens)  # (B*F, heads, L, C / heads)
        key, value = keys_and_values(attn, tokens)
        blind, sees = slice(0, num_blind), slice(num_blind, None)
        parts = []
        if num_blind:
            parts.append(F.scaled_dot_product_attention(query[blind], key[blind], value[blind]))
        if num_blind < len(tokens):
            keys, values = _beside(key[sees], reference.key), _beside(value[sees], reference.value)
            parts.append(F.scaled_dot_product_attention(query[sees], keys, values))
        return joined(attn, torch.cat(parts))


def _beside(own: Tensor, portrait: Tensor) -> Tensor:
    """(N, heads, L, d) and (1, heads, L, d) to (N, heads, 2 L, d)."""
    return torch.cat([own, portrait.expand(len(own), -1, -1, -1)], dim=2)


def reference_unet(config: Hallo2Config) -> UNet2DConditionModel:
    """Stable Diffusion 1.5's UNet without its last norm and convolution: only what is inside is used."""
    depth = len(config.block_widths)
    unet = UNet2DConditionModel(
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        down_block_types=("CrossAttnDownBlock2D",) * (depth - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (depth - 1),
        block_out_channels=config.block_widths,
        layers_per_block=config.layers_per_block,
        attention_head_dim=config.heads,  # the count, in spite of the name
        norm_num_groups=config.norm_groups,
        cross_attention_dim=config.context_width,
    )
    unet.conv_norm_out = None
    unet.conv_out = nn.Identity()
    return unet


def bank(unet: UNet2DConditionModel, latents: Tensor, image_tokens: Tensor) -> dict[str, Tensor]:
    """What enters each self-attention of `unet`, (B, S, L, C) by name of the attention.

    Latents (S, 4, h, w) are the portrait and the earlier frames, tokens (B, 4, 768).
    """
    batch, num_pictures = len(image_tokens), len(latents)
    rows = latents.repeat(batch, 1, 1, 1)  # (B*S, 4, h, w): all pictures of a row one after another
    # The tokens, however, alternate: with B = 2 and S = 3 the rows u u u c c c get u c u c u c. The weights
    # were trained and are used with this order upstream.
    tokens = image_tokens.repeat(num_pictures, 1, 1)  # (B*S, 4, 768)
    timestep = torch.zeros((), dtype=torch.long, device=latents.device)
    with _recorded_norms(unet) as seen:
        unet(rows, timestep, encoder_hidden_states=tokens, return_dict=False)
    return {name: row.reshape(batch, num_pictures, *row.shape[1:]) for name, row in seen.items()}


@contextmanager
def _recorded_norms(unet: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Fills a dict with the output of each transformer block's first norm, by name of the attention."""
    seen: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for path, module in unet.named_modules():
            if isinstance(module, BasicTransformerBlock):
                name = path.removesuffix(".transformer_blocks.0")
                hook = module.norm1.register_forward_hook(
                    lambda _module, _inputs, output, name=name: seen.__setitem__(name, output)
                )
                hooks.callback(hook.remove)
        yield seen
