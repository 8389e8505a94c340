"""FlashVSR's transformer: Wan2.1's blocks as a stream of chunks, each in one step at time 1000.

Chunk 0 is 6 latent frames (three slices, which see each other in both directions), every later one 2, which
see themselves and the three slices before. A clip is as long as it likes: what a stream holds is taken at its
start and in its first step.

The blocks are diffusers' `WanTransformer3DModel`'s, with its names, and differ in what they need to do:
* Time is the same for all steps, so a block's scale and shift are one layer norm's weight and bias.
* Tokens are in window order from first to last: only the 64 numbers of a token's latents, and the projector's
  tokens, are ever rearranged. Nothing but attention looks across tokens.
* The prompt is fixed, so its keys and values are made once.
* All that follows self-attention goes slice by slice, which holds the largest tensor to one slice's.

Where upstream's inference works in bfloat16 throughout, the time embedding and the rotation of queries and
keys are float32 here, as are sums inside norms and attention.

Facts: OpenImagingLab/FlashVSR, diffsynth/models/wan_video_dit.py at 11af50bc57fc603cd339766835de2cfd30e79d17
and diffsynth/pipelines/flashvsr_tiny.py at 0a4ff08ab04bd24b745804befe32803ae53b5208.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from diffusers.models.transformers.transformer_wan import WanTimeTextImageEmbedding, WanTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks.flashvsr_attention import BACKENDS, Attention
from models.networks.flashvsr_config import PATCH, FlashVsrConfig
from models.networks.flashvsr_windows import (
    WINDOW_SIDE,
    KeyArena,
    KeySlices,
    WindowGrid,
    kept_pairs,
    window_means,
)

FIRST_FRAMES, NEXT_FRAMES = 6, 2  # latent frames of chunk 0, and of every later one
_TIME = 1000
_EPSILON = 1e-6
_THETA = 10_000.0


class FlashVsrTransformer(nn.Module):
    """Predicts the noise of chunk after chunk. Its parameters are named as `WanTransformer3DModel`'s."""

    def __init__(self, config: FlashVsrConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patch_embedding = nn.Conv3d(config.latent_channels, width, PATCH, stride=PATCH)
        self.condition_embedder = WanTimeTextImageEmbedding(
            dim=width,
            time_freq_dim=config.time_width,
            time_proj_dim=6 * width,
            text_embed_dim=config.text_width,
        )
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.layers))
        self.proj_out = nn.Linear(width, config.latent_channels * math.prod(PATCH))
        self.scale_shift_table = nn.Parameter(torch.empty(1, 2, width))
        self._prepared: _Prepared | None = None

    @torch.no_grad()
    def start(
        self,
        prompt_embedding: Tensor,
        height_tokens: int,
        width_tokens: int,
        *,
        sparse_ratio: float,
        local_range: int,
        backend: str,
    ) -> TransformerStream:
        """A clip from its beginning. `prompt_embedding` is (1, 512, 4096), `backend` a name of `BACKENDS`.

        What is made of the weights and the prompt is kept for further streams of the same prompt tensor.
        Raises ValueError when the size is not one of whole windows (multiples of 8 tokens).
        """
        grid = WindowGrid.of(height_tokens, width_tokens)
        table = self.scale_shift_table
        choice = _Choice(
            neighbours=grid.neighbours(local_range, table.device),
            most=grid.most_kept(sparse_ratio),
            attention=BACKENDS[backend],
        )
        if self._prepared is None or self._prepared.prompt is not prompt_embedding:
            self._prepared = self._prepare(prompt_embedding)
        arena = KeyArena(grid, self.config.layers, self.config.heads, self.config.head_width, table)
        return TransformerStream(self, grid, arena, self._prepared, choice)

    def _prepare(self, prompt_embedding: Tensor) -> _Prepared:
        table = self.scale_shift_table
        time, time_of_blocks = self._time()
        prompt = self.condition_embedder.text_embedder(prompt_embedding.to(table))  # (1, 512, C)
        layers = [
            _Layer.of(cast("WanTransformerBlock", block), time_of_blocks, prompt) for block in self.blocks
        ]
        shift, scale = (table.float() + time[:, None])[0]
        return _Prepared(prompt_embedding, tuple(layers), _Norm.at_time(scale, shift, table))

    def _time(self) -> tuple[Tensor, Tensor]:
        """Of step 1000, float32: the embedding (1, C), and what blocks add their own scales to (1, 6, C)."""
        half = self.config.time_width // 2
        angles = _TIME * _THETA ** (-torch.arange(half, dtype=torch.float64) / half)
        waves = torch.cat([angles.cos(), angles.sin()]).to(self.scale_shift_table.device, torch.float32)[None]
        embedder = self.condition_embedder.time_embedder
        time = _exactly(embedder.linear_2, F.silu(_exactly(embedder.linear_1, waves)))
        shared = _exactly(self.condition_embedder.time_proj, F.silu(time))
        return time, shared.view(1, 6, -1)


class TransformerStream:
    """One clip's way through the transformer; holds each layer's keys and values of three slices."""

    def __init__(
        self,
        network: FlashVsrTransformer,
        grid: WindowGrid,
        arena: KeyArena,
        prepared: _Prepared,
        choice: _Choice,
    ) -> None:
        self._network = network
        self._grid = grid
        self._prepared = prepared
        self._slices = [KeySlices(arena) for _ in prepared.layers]
        self._choice = choice
        self._next_chunk: int | None = None

    @torch.no_grad()
    def step(self, latents: Tensor, projected: Tensor, chunk_index: int) -> Tensor:
        """The noise predicted in latents (1, 16, f, h, w), of their shape, in the network's precision.

        `projected` are the projector's tokens (1, f * h/2 * w/2, C). f is 6 for chunk 0 and 2 for the others;
        raises ValueError for another number and for a chunk out of turn. A stream may begin with any chunk:
        once each layer has seen three chunks more than the one before it, it is the stream that began with
        chunk 0.
        """
        num_frames = FIRST_FRAMES if chunk_index == 0 else NEXT_FRAMES
        expected = chunk_index if self._next_chunk is None else self._next_chunk
        if chunk_index != expected or latents.shape[2] != num_frames:
            raise ValueError(f"chunk {chunk_index} of {latents.shape[2]} frames is not chunk {expected}")
        self._next_chunk = chunk_index + 1
        first_frame = 0 if chunk_index == 0 else FIRST_FRAMES + NEXT_FRAMES * (chunk_index - 1)
        frames = range(first_frame, first_frame + num_frames)
        turns = rotations(self._network.config, self._grid, frames, self._choice.neighbours.device)
        tokens = self._embedded(latents, projected)  # (S, C)
        for layer, slices in zip(self._prepared.layers, self._slices, strict=True):
            layer.update(tokens, turns, slices, self._choice)
        return self._unpatched(self._network.proj_out(self._prepared.last(tokens)))

    def _embedded(self, latents: Tensor, projected: Tensor) -> Tensor:
        """The patch embedding as a matrix product, and the projector's tokens, in window order: (S, C)."""
        embedding, grid = self._network.patch_embedding, self._grid
        _, channels, frames, height, width = latents.shape
        split = latents[0].to(embedding.weight.dtype).reshape(channels, frames, height // 2, 2, width // 2, 2)
        patches = split.permute(1, 2, 4, 0, 3, 5).flatten(3)  # (f, h/2, w/2, 64)
        tokens = F.linear(grid.to_windows(patches), embedding.weight.flatten(1), embedding.bias)
        return tokens.add_(grid.to_windows(projected.view(*patches.shape[:3], -1)))

    def _unpatched(self, patches: Tensor) -> Tensor:
        """(S, 64) in window order to (1, 16, f, h, w)."""
        frames = self._grid.from_windows(patches)  # (f, h/2, w/2, 64)
        split = frames.view(*frames.shape[:3], 2, 2, -1)  # (f, h/2, w/2, 2, 2, 16)
        return split.permute(5, 0, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)[None]


@dataclass(frozen=True, slots=True)
class _Choice:
    """How pairs of windows are chosen, and attention over them."""

    neighbours: Tensor  # (windows, windows) bool
    most: int
    attention: Attention


@dataclass(frozen=True, slots=True)
class _Norm:
    """A layer norm; where time scales and shifts its result, that is worked in."""

    weight: Tensor  # (C,)
    bias: Tensor  # (C,)

    @classmethod
    def at_time(cls, scale: Tensor, shift: Tensor, like: Tensor) -> _Norm:
        """From float32, in `like`'s precision."""
        return cls((1 + scale).to(like), shift.to(like))

    def __call__(self, tokens: Tensor) -> Tensor:
        return F.layer_norm(tokens, self.weight.shape, self.weight, self.bias, _EPSILON)


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """One block with time and prompt worked in, for all streams."""

    block: WanTransformerBlock
    before_attention: _Norm
    before_prompt: _Norm
    before_feed_forward: _Norm
    gate: Tensor  # (C,)
    inner_gate: Tensor  # (C,)
    prompt_keys: Tensor  # (1, heads, 512, d)
    prompt_values: Tensor  # (1, heads, 512, d)

    @classmethod
    def of(cls, block: WanTransformerBlock, time_of_blocks: Tensor, prompt: Tensor) -> _Layer:
        """From the time (1, 6, C) in float32 and the prompt (1, 512, C)."""
        table, attention = block.scale_shift_table, block.attn2
        shift, scale, gate, inner_shift, inner_scale, inner_gate = (table.float() + time_of_blocks)[0]
        return cls(
            block=block,
            before_attention=_Norm.at_time(scale, shift, table),
            before_prompt=_Norm(block.norm2.get_parameter("weight"), block.norm2.get_parameter("bias")),
            before_feed_forward=_Norm.at_time(inner_scale, inner_shift, table),
            gate=gate.to(table),
            inner_gate=inner_gate.to(table),
            prompt_keys=_in_heads(attention.norm_k(attention.to_k(prompt)), attention.heads),
            prompt_values=_in_heads(attention.to_v(prompt), attention.heads),
        )

    def update(self, tokens: Tensor, turns: Tensor, slices: KeySlices, choice: _Choice) -> None:
        """The whole block on tokens (S, C), in place."""
        tokens.addcmul_(self.gate, self._attended(tokens, turns, slices, choice))
        for part in torch.split(tokens, slices.arena.tokens):
            part.add_(self._prompted(part))
            part.addcmul_(self.inner_gate, self.block.ffn(self.before_feed_forward(part)))

    def _attended(self, tokens: Tensor, turns: Tensor, slices: KeySlices, choice: _Choice) -> Tensor:
        attention = self.block.attn1
        normed = self.before_attention(tokens)
        queries = _rotated(attention.norm_q(attention.to_q(normed)), turns, attention.heads)  # (S, heads, d)
        keys = _rotated(attention.norm_k(attention.to_k(normed)), turns, attention.heads)
        slices.push(keys, attention.to_v(normed).unflatten(-1, (attention.heads, -1)))
        del keys, normed
        kept = kept_pairs(window_means(queries), slices.means, choice.neighbours, choice.most)
        attended = choice.attention(queries, slices.arena.keys, slices.arena.values, kept, slices.windows)
        slices.forget()
        return attention.to_out[0](attended.flatten(1))

    def _prompted(self, tokens: Tensor) -> Tensor:
        attention = self.block.attn2
        queries = attention.norm_q(attention.to_q(self.before_prompt(tokens)))  # (S, C)
        queries = _in_heads(queries[None], attention.heads)  # (1, heads, S, d)
        attended = F.scaled_dot_product_attention(queries, self.prompt_keys, self.prompt_values)
        return attention.to_out[0](attended[0].transpose(0, 1).flatten(1))


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    """The network for one prompt."""

    prompt: Tensor
    layers: tuple[_Layer, ...]
    last: _Norm


def _in_heads(tokens: Tensor, heads: int) -> Tensor:
    """(1, n, C) to (1, heads, n, d)."""
    return tokens.view(1, tokens.shape[1], heads, -1).transpose(1, 2)


def rotations(config: FlashVsrConfig, grid: WindowGrid, frames: range, device: torch.device) -> Tensor:
    """What position turns each token's channel pairs by: (S, 1, d / 2) complex64, in window order.

    A head's channels belong to time, rows and columns (44, 42 and 42 of 128). Angles are taken in float64, so
    that they stay true however far into a clip `frames` are.
    """
    side_width = 2 * (config.head_width // 6)
    widths = (config.head_width - 2 * side_width, side_width, side_width)
    axes = (frames, range(grid.rows * WINDOW_SIDE), range(grid.columns * WINDOW_SIDE))
    sizes = [len(axis) for axis in axes]
    angles = []
    for place, (axis, width) in enumerate(zip(axes, widths, strict=True)):
        rates = _THETA ** (-torch.arange(0, width, 2, dtype=torch.float64, device=device) / width)
        positions = torch.arange(axis.start, axis.stop, dtype=torch.float64, device=device)
        shape = [size if other == place else 1 for other, size in enumerate(sizes)]
        angles.append(torch.outer(positions, rates).view(*shape, -1).expand(*sizes, -1))
    turns = grid.to_windows(torch.cat(angles, dim=-1))  # (S, d / 2)
    return torch.polar(torch.ones_like(turns), turns).to(torch.complex64)[:, None]


def _rotated(tokens: Tensor, turns: Tensor, heads: int) -> Tensor:
    """(S, C) to (S, heads, d), each pair of channels turned; float32 in place."""
    pairs = torch.view_as_complex(tokens.float().view(len(tokens), heads, -1, 2))  # (S, heads, d / 2)
    return torch.view_as_real(pairs.mul_(turns)).flatten(-2).to(tokens.dtype)


def _exactly(layer: nn.Linear, inputs: Tensor) -> Tensor:
    """The layer in float32."""
    return F.linear(inputs, layer.weight.float(), layer.bias.float())


def _block(config: FlashVsrConfig) -> WanTransformerBlock:
    return WanTransformerBlock(
        config.width, config.feed_forward_width, config.heads, cross_attn_norm=True, eps=_EPSILON
    )
