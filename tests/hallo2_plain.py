"""Hallo2's denoising step written down as the published code does it: slowly, without any of our shortcuts.

Row by row, attention as matrix products, the reference UNet run anew in each step and its features projected
where they are read, every temporal module on all frames and cut at the end. The weights are those of our
modules; of their forwards only diffusers' residual blocks, resampling and feed-forward layers are used.

Facts: fudan-generative-vision/hallo, hallo/models/{unet_3d,mutual_self_attention}.py at
100205620348b8fb3ebd3cddc773cb77e2479d83, unet_3d_blocks.py, attention.py, transformer_3d.py at
6a3e6e355b4ad006d08ed78bdfe85493febe92d3, motion_module.py at 5fed0e6050db9e10e7379e00a73acccdbcb77e80.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks.hallo2 import ClipConditions, Hallo2Networks


@dataclass(frozen=True)
class _Row:
    """One half of the guidance; `portrait` and `earlier` are features by name of the attention."""

    time: Tensor
    tokens: Tensor  # (4, 768)
    audio: Tensor  # (F, 32, 768)
    conditions: ClipConditions
    portrait: dict[str, Tensor] | None  # (L, C); None for the unconditional half
    earlier: dict[str, Tensor]  # (M, L, C)


@torch.no_grad()
def plain_velocity(
    networks: Hallo2Networks, latents: Tensor, timestep: float, conditions: ClipConditions, pictures: Tensor
) -> Tensor:
    """What DenoisingUNet gives, with `pictures` (1 + M, 4, h, w) in place of the reference's features."""
    unet, batch = networks.denoising_unet, len(latents)
    features = plain_bank(networks.reference_unet, pictures, conditions.image_tokens)
    steps = torch.tensor([timestep], device=latents.device)
    time = unet.time_embedding(unet.time_proj(steps).to(latents.dtype))
    rows = []
    for index in range(batch):
        is_conditional = index == batch - 1
        row = _Row(
            time=time,
            tokens=conditions.image_tokens[index],
            audio=conditions.audio_tokens[0] * is_conditional,  # zeros after the projection
            conditions=conditions,
            portrait={name: bank[index, 0] for name, bank in features.items()} if is_conditional else None,
            earlier={name: bank[index, 1:] for name, bank in features.items()},
        )
        pose = conditions.pose_features[index].transpose(0, 1)
        rows.append(_row(unet, unet.conv_in(latents[index].transpose(0, 1)) + pose, row))
    return torch.stack(rows).transpose(1, 2)


@torch.no_grad()
def plain_bank(unet: nn.Module, pictures: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """(B, S, L, C) by name: each picture of each row by itself, with the tokens that fall to it upstream."""
    found: dict[str, list[Tensor]] = {}
    place = 0
    for _ in tokens:
        for picture in pictures:
            alone = _one_picture(unet, picture, tokens[place % len(tokens)])
            for name, feature in alone.items():
                found.setdefault(name, []).append(feature)
            place += 1
    return {name: torch.stack(rows).unflatten(0, (len(tokens), -1)) for name, rows in found.items()}


def _one_picture(unet: nn.Module, picture: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """What enters the self-attentions, taken from the attentions' side."""
    found: dict[str, Tensor] = {}
    hooks = []
    for path, module in unet.named_modules():
        if path.endswith(".attn1"):
            name = path.removesuffix(".transformer_blocks.0.attn1")

            def keep(_module: Any, inputs: tuple[Tensor, ...], name: str = name) -> None:
                found[name] = inputs[0][0]

            hooks.append(module.register_forward_pre_hook(keep))
    unet(picture[None], 0, encoder_hidden_states=tokens[None])
    for hook in hooks:
        hook.remove()
    return found


def _row(unet: nn.Module, frames: Tensor, row: _Row) -> Tensor:
    time = row.time.repeat(len(frames), 1)
    states = _down(unet.down_blocks, frames, time, row)
    frames = unet.mid_block.resnets[0](states[-1], time)
    frames = _attend(unet.mid_block, 0, "mid_block", frames, row)
    frames = unet.mid_block.resnets[1](frames, time)
    frames = _up(unet.up_blocks, frames, states, time, row)
    return unet.conv_out(F.silu(unet.conv_norm_out(frames)))


def _down(blocks: nn.ModuleList, frames: Tensor, time: Tensor, row: _Row) -> list[Tensor]:
    states, last = [frames], len(blocks) - 1
    for number, block in enumerate(blocks):
        for index, resnet in enumerate(block.resnets):
            frames = resnet(frames, time)
            if number < last:
                frames = _attend(block, index, f"down_blocks.{number}", frames, row)
            states.append(frames)
        if number < last:
            frames = block.downsamplers[0](frames)
            states.append(frames)
    return states


def _up(blocks: nn.ModuleList, frames: Tensor, states: list[Tensor], time: Tensor, row: _Row) -> Tensor:
    for number, block in enumerate(blocks):
        for index, resnet in enumerate(block.resnets):
            frames = resnet(torch.cat([frames, states.pop()], dim=1), time)
            if number > 0:
                frames = _attend(block, index, f"up_blocks.{number}", frames, row)
        if number < len(blocks) - 1:
            frames = block.upsamplers[0](frames)
    return frames


def _attend(block: nn.Module, index: int, path: str, frames: Tensor, row: _Row) -> Tensor:
    name = f"{path}.attentions.{index}"
    frames = _spatial(block.attentions[index], frames, row, name)
    frames = _heard(block.audio_modules[index], frames, row)
    motion = block.motion_modules[index].temporal_transformer
    return plain_motion(motion, frames, row.earlier[name])


def _spatial(module: nn.Module, frames: Tensor, row: _Row, name: str) -> Tensor:
    block = module.transformer_blocks[0]
    made = []
    for entering in module.proj_in(module.norm(frames)).flatten(2).transpose(1, 2):  # (L, C) of each frame
        normed = block.norm1(entering)
        visible = normed if row.portrait is None else torch.cat([normed, row.portrait[name]])
        seen = entering + _attention(block.attn1, normed, visible)
        known = seen + _attention(block.attn2, block.norm2(seen), row.tokens)
        made.append(known + block.ff(block.norm3(known)))
    picture = torch.stack(made).transpose(1, 2).reshape(frames.shape)
    return frames + module.proj_out(picture)


def _heard(module: nn.Module, frames: Tensor, row: _Row) -> Tensor:
    block, conditions = module.transformer_blocks[0], row.conditions
    inner = module.proj_in(module.norm(frames))  # (F, D, h, w)
    depth = [len(mask) for mask in conditions.masks.full].index(frames.shape[2] * frames.shape[3])
    regions = (
        (block.attn2_0, block.zero_conv_full, conditions.masks.full[depth]),
        (block.attn2_1, block.zero_conv_face, conditions.masks.face[depth]),
        (block.attn2_2, block.zero_conv_lip, conditions.masks.lip[depth]),
    )
    made = []
    for entering, audio in zip(inner.flatten(2).transpose(1, 2), row.audio, strict=True):
        normed = block.norm1(entering)
        heard = entering + _attention(block.attn1, normed, normed)
        query = block.norm2(heard)
        for weight, (attention, conv, mask) in zip(conditions.motion_scale, regions, strict=True):
            answer = _attention(attention, query, audio) * mask[:, None]  # (L, D)
            picture = answer.T.reshape(1, -1, *frames.shape[2:])
            heard = heard + weight * conv(picture)[0].flatten(1).T
        made.append(heard + block.ff(block.norm3(heard)))
    return frames + module.proj_out(torch.stack(made).transpose(1, 2).reshape(inner.shape))


@torch.no_grad()
def plain_motion(module: nn.Module, frames: Tensor, earlier: Tensor) -> Tensor:
    """TemporalTransformer on one row: frames (F, C, h, w), earlier (M, L, C)."""
    block = module.transformer_blocks[0]
    before = earlier.transpose(1, 2).reshape(-1, *frames.shape[1:])  # (M, C, h, w)
    film = torch.cat([before, frames])  # (T, C, h, w)
    tokens = module.proj_in(module.norm(film).flatten(2).transpose(1, 2))  # (T, L, C)
    tracks = tokens.transpose(0, 1)  # (L, T, C)
    for attention, norm in zip(block.attention_blocks, block.norms, strict=True):
        placed = norm(tracks) + attention.pos_encoder.pe[:, : len(film)]
        tracks = tracks + _attention(attention, placed, placed)
    tracks = tracks + block.ff(block.ff_norm(tracks))
    made = module.proj_out(tracks).permute(1, 2, 0).reshape(film.shape)
    return (film + made)[len(before) :]


def _attention(attn: nn.Module, query: Tensor, context: Tensor) -> Tensor:
    """(..., L, C) attends to (..., K, C'): softmax of matrix products, head by head."""
    q, k, v = attn.to_q(query), attn.to_k(context), attn.to_v(context)
    heads = zip(*(part.chunk(attn.heads, dim=-1) for part in (q, k, v)), strict=True)
    seen = [(a @ b.mT / a.shape[-1] ** 0.5).softmax(dim=-1) @ c for a, b, c in heads]
    return attn.to_out[0](torch.cat(seen, dim=-1))
