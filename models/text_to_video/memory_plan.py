"""How a pipeline is laid out on a device so that one clip fits: arithmetic first, then the calls that do it.

The ladder, each rung slower than the one before: everything resident; the VAE decodes in tiles; the text
encoder waits in main memory and is streamed through the device for each new prompt; the denoising network is
streamed block by block. Estimates are for the largest moment of three: encode, denoise, decode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import torch
from diffusers.hooks.group_offloading import _is_group_offload_enabled, apply_group_offloading
from torch import nn

from models.engine import InvalidInput, PermanentFailure
from models.text_to_video.presets import Clip

# What an allocator loses to blocks of the wrong size, and libraries to their workspaces.
_USABLE_SHARE = 0.9
# Copies of the tokens (half precision) that attention holds at once, counted in diffusers 0.42.1's Wan block:
# input, normed input, q, k, v, rotated q and k, result; and two in float32, which count double.
_ATTENTION_COPIES = 12
# The feed-forward holds input, normed input, residual, and its inner layer before and after the activation.
_FEED_FORWARD_COPIES, _INNER_COPIES = 3, 2
# Copies at the decoder's full size, in units of its last channels: the last enlargement holds twice as many
# channels, as input of the convolution and in float32 (2 x 3), beside its output (1).
_DECODER_COPIES = 7
_CACHED_FRAMES = 2  # what a convolution of 3 frames keeps of the frames before
# A clip that is put together from tiles is held twice: its rows, and the picture that they are joined into.
_JOINED_COPIES = 2
# The largest leaf of a streamed text encoder: umT5-XXL's token table is 2.1 of its 11.4 GB.
_LARGEST_LEAF_SHARE = 0.25
_STREAMED_BLOCKS = 3  # the block that runs, the one that arrives, the one that leaves


class Placement(StrEnum):
    """Where a text encoder's weights are between prompts."""

    RESIDENT = "resident"
    OFFLOADED = "offloaded"


class Offload(StrEnum):
    """Whether the denoising network is streamed block by block."""

    NONE = "none"
    GROUP = "group"


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The sizes of a pipeline's networks that decide how much memory a clip takes; as of Wan2.1-1.3B.

    `patch` is (frames, height, width) in latents; `decoder_channels` are those of the decoder's last layers,
    whose features cover `decoder_side` pixels a side; `decoded_frames` is how many frames it makes at once,
    None: all of them. `passes` is 2 where guidance doubles the batch.
    """

    vae_side: int = 8
    vae_frames: int = 4
    patch: tuple[int, int, int] = (1, 2, 2)
    width: int = 1536
    inner_width: int = 8960
    blocks: int = 30
    passes: int = 1
    decoder_channels: int = 96
    decoder_side: int = 1
    decoded_frames: int | None = 4
    tile_px: int = 256 * 256
    number_bytes: int = 2

    def tokens(self, clip: Clip) -> int:
        """How many tokens the denoising network sees of a clip."""
        frames = (clip.num_frames - 1) // self.vae_frames + 1
        height, width = clip.height_px // self.vae_side, clip.width_px // self.vae_side
        return -(-frames // self.patch[0]) * (height // self.patch[1]) * (width // self.patch[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """How the components are laid out. `needs_bytes` is the estimate at its largest moment."""

    text_encoder: Placement = Placement.RESIDENT
    vae_tiling: bool = False
    offload: Offload = Offload.NONE
    can_offload: bool = True
    needs_bytes: int = 0

    @property
    def words(self) -> str:
        """What is not as it would be with enough memory; empty for the first rung."""
        parts = {
            "the VAE decodes in tiles": self.vae_tiling,
            "the text encoder waits in main memory": self.text_encoder is Placement.OFFLOADED,
            "the network is streamed block by block": self.offload is Offload.GROUP,
        }
        return ", ".join(words for words, holds in parts.items() if holds)


def plan_memory(
    component_bytes: Mapping[str, int],
    free_bytes: int,
    clip: Clip,
    geometry: Geometry | None = None,
    *,
    can_offload: bool = True,
) -> MemoryPlan:
    """The first rung that fits `free_bytes`: what the device has before any component is on it.

    `can_offload` is false where the device is main memory itself. Raises InvalidInput when only a smaller
    clip would fit, PermanentFailure when the weights alone do not.
    """
    geometry = geometry or Geometry()
    usable_bytes = int(free_bytes * _USABLE_SHARE)
    plan: MemoryPlan | None = MemoryPlan(can_offload=can_offload)
    cheapest = MemoryPlan(can_offload=can_offload)
    while plan is not None:
        cheapest = replace(plan, needs_bytes=_needed_bytes(plan, component_bytes, clip, geometry))
        if cheapest.needs_bytes <= usable_bytes:
            return cheapest
        plan = degraded(plan)
    raise _too_large(cheapest, _weight_bytes(cheapest, component_bytes, geometry), usable_bytes, clip)


def degraded(plan: MemoryPlan) -> MemoryPlan | None:
    """The next rung of the ladder; None below the last."""
    if not plan.vae_tiling:
        return replace(plan, vae_tiling=True)
    if not plan.can_offload:
        return None
    if plan.text_encoder is Placement.RESIDENT:
        return replace(plan, text_encoder=Placement.OFFLOADED)
    return replace(plan, offload=Offload.GROUP) if plan.offload is Offload.NONE else None


def _too_large(plan: MemoryPlan, weight_bytes: int, usable_bytes: int, clip: Clip) -> Exception:
    has = f"the device has {_gib(usable_bytes)} for it"
    if weight_bytes >= usable_bytes:
        return PermanentFailure(f"the weights alone need {_gib(weight_bytes)}; {has}")
    size = f"{clip.num_frames} frames of {clip.width_px}x{clip.height_px}"
    text = f"{size} need {_gib(plan.needs_bytes)}; {has}: ask for fewer frames or a smaller size"
    return InvalidInput(text, field="num_frames")


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"


def _needed_bytes(
    plan: MemoryPlan, component_bytes: Mapping[str, int], clip: Clip, geometry: Geometry
) -> int:
    weights = _weight_bytes(plan, component_bytes, geometry)
    encode = 0
    if plan.text_encoder is Placement.OFFLOADED:
        encode = int(_LARGEST_LEAF_SHARE * _part(component_bytes, "text_encoder"))
    return weights + max(
        encode, _denoise_bytes(clip, geometry), _decode_bytes(clip, geometry, is_tiled=plan.vae_tiling)
    )


def _weight_bytes(plan: MemoryPlan, component_bytes: Mapping[str, int], geometry: Geometry) -> int:
    """What stays on the device from one step to the next."""
    total = sum(component_bytes.values())
    if plan.text_encoder is Placement.OFFLOADED:
        total -= _part(component_bytes, "text_encoder")
    if plan.offload is Offload.GROUP:
        network = _part(component_bytes, "transformer")
        total -= int(network * max(0.0, 1 - _STREAMED_BLOCKS / geometry.blocks))
    return total


def _part(component_bytes: Mapping[str, int], prefix: str) -> int:
    """The bytes of a component and its namesakes: transformer, transformer_2."""
    return sum(size for name, size in component_bytes.items() if name.startswith(prefix))


def _denoise_bytes(clip: Clip, geometry: Geometry) -> int:
    attention = _ATTENTION_COPIES * geometry.width
    feed_forward = _FEED_FORWARD_COPIES * geometry.width + _INNER_COPIES * geometry.inner_width
    numbers = geometry.passes * geometry.tokens(clip) * max(attention, feed_forward)
    return numbers * geometry.number_bytes


def _decode_bytes(clip: Clip, geometry: Geometry, *, is_tiled: bool) -> int:
    area_px = clip.width_px * clip.height_px
    decoded_px = min(area_px, geometry.tile_px) if is_tiled else area_px
    frames = geometry.decoded_frames
    frames = clip.num_frames if frames is None else min(clip.num_frames, frames + _CACHED_FRAMES)
    features = _DECODER_COPIES * geometry.decoder_channels * decoded_px * frames // geometry.decoder_side**2
    is_whole = is_tiled or geometry.decoded_frames is None
    pictures = 3 * area_px * (clip.num_frames * _JOINED_COPIES if is_whole else frames)
    return (features + pictures) * geometry.number_bytes


def component_bytes_of(pipeline: Any) -> dict[str, int]:
    """The bytes of the weights of each network of a pipeline."""
    return {
        name: sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
        for name, module in _networks(pipeline)
    }


def geometry_of(pipeline: Any, *, passes: int = 1) -> Geometry:
    """The geometry that a pipeline's configurations tell; what they do not tell is as in Wan2.1-1.3B."""
    found = (getattr(pipeline, name, None) for name in ("transformer", "transformer_2", "unet"))
    network = next(network for network in found if network is not None)
    return Geometry(passes=passes, **_network_sizes(network), **_vae_sizes(pipeline.vae))


def _network_sizes(network: Any) -> dict[str, Any]:
    config = network.config
    heads, head_width = config.get("num_attention_heads"), config.get("attention_head_dim")
    blocks = (config.get("num_layers") or 0) + (config.get("num_single_layers") or 0)
    width = heads * head_width if heads and head_width else Geometry().width
    return {
        "patch": _patch(config),
        "width": width,
        "inner_width": config.get("ffn_dim") or 4 * width,  # what transformers use where they do not say
        "blocks": blocks or Geometry().blocks,
        "number_bytes": network.dtype.itemsize,
    }


def _patch(config: Mapping[str, Any]) -> tuple[int, int, int]:
    size = config.get("patch_size")
    if isinstance(size, int):
        return (config.get("patch_size_t") or 1, size, size)
    return (size[0], size[1], size[2]) if size else Geometry().patch


# Frames that a VAE class decodes at once, by itself or in our stream; others decode all of them.
_DECODED_FRAMES = {"AutoencoderKLWan": 4, "AutoencoderKLCogVideoX": 8}


def _vae_sizes(vae: Any) -> dict[str, Any]:
    config, usual = vae.config, Geometry()
    wide = config.get("block_out_channels") or [usual.decoder_channels]
    channels = config.get("decoder_base_dim") or config.get("base_dim") or wide[0]
    patch = config.get("patch_size")
    tile = [getattr(vae, f"tile_sample_min_{name}", 256) for name in ("height", "width")]
    return {
        "vae_side": _reduction(vae, "spatial", usual.vae_side),
        "vae_frames": _reduction(vae, "temporal", usual.vae_frames),
        "decoder_channels": int(channels),
        "decoder_side": patch if isinstance(patch, int) else 1,
        "decoded_frames": _DECODED_FRAMES.get(type(vae).__name__),
        "tile_px": int(tile[0] * tile[1]),
    }


def _reduction(vae: Any, kind: str, usual: int) -> int:
    """How many pixels or frames a latent covers: classes say it in their configuration or compute it."""
    names = (f"scale_factor_{kind}", f"{kind}_compression_ratio")
    told: Any = next((vae.config[name] for name in names if vae.config.get(name)), None)
    return int(told or getattr(vae, names[1], usual))


def apply_plan(pipeline: Any, plan: MemoryPlan, device: torch.device) -> None:
    """Lays the pipeline out; may be called again with a cheaper plan, never with a dearer one."""
    _set_tiling(pipeline.vae, is_on=plan.vae_tiling)
    for name, module in _networks(pipeline):
        if name.startswith("text_encoder") and plan.text_encoder is Placement.OFFLOADED:
            _stream(module, device, {"offload_type": "leaf_level"})
        elif name.startswith("transformer") and plan.offload is Offload.GROUP:
            _stream(module, device, {"offload_type": "block_level", "num_blocks_per_group": 1})
        else:
            module.to(device)


def _networks(pipeline: Any) -> Iterator[tuple[str, nn.Module]]:
    for name, component in pipeline.components.items():
        if isinstance(component, nn.Module):
            yield name, component


def _set_tiling(vae: Any, *, is_on: bool) -> None:
    if is_on and hasattr(vae, "use_tiling"):
        vae.enable_tiling()
    elif not is_on and getattr(vae, "use_tiling", False):
        vae.disable_tiling()


def _stream(module: nn.Module, device: torch.device, how: Mapping[str, Any]) -> None:
    """Keeps the weights in main memory and brings the next ones while the last are at work."""
    if not _is_group_offload_enabled(module):
        apply_group_offloading(module, onload_device=device, use_stream=device.type == "cuda", **how)
