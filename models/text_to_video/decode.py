"""Latents to pictures: a stream where the VAE is causal in time, else all at once.

Frames are (H, W, 3) uint8 RGB. They are made on the device, and a GPU computes the next ones while the last
are copied to the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, unpatchify
from torch import Tensor

from models.engine import PermanentFailure

Check = Callable[[], None]

# Pipelines whose latents are AutoencoderKLWan's, normalised by its mean and deviation and by nothing else.
_WAN_LATENTS = frozenset({"WanPipeline", "SkyReelsV2Pipeline"})
_PICTURES_PER_COPY = 4


def gives_latents(pipeline: Any) -> bool:
    """Whether `decoded_frames` knows this pipeline's latents; else the pipeline decodes them itself."""
    return type(pipeline).__name__ in _WAN_LATENTS and isinstance(pipeline.vae, AutoencoderKLWan)


def decoded_frames(pipeline: Any, latents: Tensor, check: Check) -> Iterator[np.ndarray]:
    """Frames of latents (1, C, T, h, w) as a pipeline with `gives_latents` returns them.

    Held on the device: the frames of two latent ones and the decoder's cache, whatever the length; a tiled
    VAE decodes the whole clip. `check` is called for each part and may raise to stop. Raises
    PermanentFailure for pictures that are not numbers.
    """
    codes = _unscaled(pipeline.vae, latents)  # (1, C, T, h, w)
    decode = _tiled if _needs_tiles(pipeline.vae, codes) else _streamed
    return _landed(decode(pipeline.vae, codes, check))


def picture_frames(pictures: Tensor, check: Check) -> Iterator[np.ndarray]:
    """Frames of pictures (1, T, 3, H, W) in 0..1 that a pipeline decoded; raises like `decoded_frames`."""
    return _landed(_in_parts(pictures, check))


def watched(module: torch.nn.Module | None, check: Check) -> AbstractContextManager[object]:
    """Calls `check` before each forward pass of `module` while the block lasts."""
    if module is None:
        return nullcontext()
    return module.register_forward_pre_hook(lambda _module, _inputs: check())


def _unscaled(vae: Any, latents: Tensor) -> Tensor:
    codes = latents.to(vae.device, vae.dtype)
    mean, deviation = (
        torch.tensor(values).view(1, -1, 1, 1, 1).to(codes)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return codes * deviation + mean


def _needs_tiles(vae: Any, codes: Tensor) -> bool:
    """As `vae.decode` decides it."""
    height_px, width_px = (side * vae.spatial_compression_ratio for side in codes.shape[-2:])
    return bool(
        vae.use_tiling and (width_px > vae.tile_sample_min_width or height_px > vae.tile_sample_min_height)
    )


def _streamed(vae: Any, codes: Tensor, check: Check) -> Iterator[Tensor]:
    """Parts (1, 3, 1 or 4, H, W) in -1..1: what `AutoencoderKLWan.decode` joins (diffusers 0.42.1)."""
    cache: list[Any] = [None] * sum(isinstance(part, WanCausalConv3d) for part in vae.decoder.modules())
    for index in range(codes.shape[2]):
        check()
        yield _next_part(vae, codes[:, :, index : index + 1], cache, is_first=index == 0)


@torch.no_grad()
def _next_part(vae: Any, code: Tensor, cache: list[Any], *, is_first: bool) -> Tensor:
    """The frames of one latent frame (1, C, 1, h, w); `cache` has what each layer saw last."""
    part = vae.decoder(vae.post_quant_conv(code), feat_cache=cache, feat_idx=[0], first_chunk=is_first)
    if vae.config.patch_size is not None:
        part = unpatchify(part, patch_size=vae.config.patch_size)  # type: ignore[no-untyped-call]
    return part


@torch.no_grad()
def _tiled(vae: Any, codes: Tensor, check: Check) -> Iterator[Tensor]:
    with watched(vae.decoder, check):
        pictures = vae.decode(codes, return_dict=False)[0]  # (1, 3, T, H, W) in -1..1
    yield from pictures.split(_PICTURES_PER_COPY, dim=2)


def _in_parts(pictures: Tensor, check: Check) -> Iterator[Tensor]:
    for part in torch.split(pictures, _PICTURES_PER_COPY, dim=1):
        check()
        yield part.transpose(1, 2).float().mul(2).sub(1)


class _Copy:
    """Pictures (1, 3, T, H, W) in -1..1 as bytes on their way to the host."""

    def __init__(self, pictures: Tensor) -> None:
        scaled = pictures[0].permute(1, 2, 3, 0).float().add(1).mul(127.5)  # (T, H, W, 3) in 0..255
        self._are_numbers = _to_host(torch.isfinite(scaled).all())
        self._bytes = _to_host(scaled.round_().clamp_(0, 255).byte())
        self._arrival = torch.cuda.Event() if pictures.is_cuda else None  # type: ignore[no-untyped-call]
        if self._arrival is not None:
            self._arrival.record()

    def frames(self) -> Iterator[np.ndarray]:
        if self._arrival is not None:
            self._arrival.synchronize()
        if not self._are_numbers:
            raise PermanentFailure(
                "the model made pictures that are not numbers (NaN or infinite): its weights are damaged, "
                "or do not bear this precision or guidance_scale"
            )
        yield from self._bytes.numpy()


def _to_host(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor
    host = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def _landed(parts: Iterator[Tensor]) -> Iterator[np.ndarray]:
    """The frames of all parts; a part is asked for before the frames of the one before are waited for."""
    under_way: _Copy | None = None
    for part in parts:
        copy = _Copy(part)
        if under_way is not None:
            yield from under_way.frames()
        under_way = copy
    if under_way is not None:
        yield from under_way.frames()
